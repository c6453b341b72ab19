"""Both pipelines end to end: staged plays, a real server whose teachers know the truth, faults planted by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from curation_runs import (
    AVOCADO_FAULTS,
    VS2_FAULTS,
    card,
    command,
    dropped,
    examples,
    files_of,
    make_corpus,
    teaching,
)
from scripted_teachers import PRICE, USD_PER_CALL, Faults

from avocet.cli import main
from avocet.curation import read_manifest
from avocet.curation.checks import check_sentences
from avocet.curation.outputs import read_parquet
from avocet.records import TrainingExample
from avocet.training.data import read_examples


@pytest.fixture
def corpus(tmp_path: Path, stage_play: Callable[..., Path], static_play: Path) -> Path:
    return make_corpus(tmp_path / "corpus", stage_play, static_play)


FRONT_DROPS = {
    "corrupt": "probe:media_error",
    "silent": "sound:silent",
    "static": "picture:static",
    # Of equals the one with the smaller id is kept.
    "play02": "duplicates:exact_duplicate",
}


def test_vs2(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with teaching(VS2_FAULTS) as (server, teachers):
        assert main(command("vs2", corpus, out, server, "--val-fraction", "0.3", "--format", "parquet")) == 0
    assert dropped(out) == FRONT_DROPS | {
        "play10": "generic_speech:generic_speech",
        "play11": "transcript:transcript_nonsense",
        "play16": "transcript:transcript_too_short",
    }
    # 8 clips reach the teachers (play02 goes under the name "duplicate"), one segment each: 8 audio captions, 7
    # transcripts without the generic one, and 5 of everything after these. One list of events comes twice. All five
    # last 4 s or more, but only those of 4.5 s and more have a local part: play06 (5 s), play09 (5), play23 (5),
    # play28 (7).
    calls = {"audio_caption": 8, "asr": 7, "visual_caption": 5, "fuse_vs2": 5, "events": 6, "local_intervals": 4}
    calls |= {"local_caption": 4, "sound_names": 5, "contradiction": 5}
    assert Counter(prompt for prompt, _ in teachers.asked) == calls
    found = card(out)
    assert (found.num_clips_in, found.num_clips_out, found.num_failed) == (12, 5, 0)
    assert found.cost.num_calls == sum(calls.values()) == 49
    assert found.cost.usd == pytest.approx(49 * USD_PER_CALL, abs=1e-9)
    by_stage = {stage.stage: (stage.num_in, stage.num_out, stage.cost.num_calls) for stage in found.stages}
    expected = {"probe": (12, 11, 0), "format": (11, 11, 0), "length": (11, 11, 0), "measure": (11, 11, 0)}
    expected |= {"picture": (11, 10, 0), "sound": (10, 9, 0), "duplicates": (9, 8, 0)}
    expected |= {"audio": (8, 8, 8), "generic_speech": (8, 7, 0), "asr": (7, 7, 7), "transcript": (7, 5, 0)}
    expected |= {"visual": (5, 5, 5), "caption": (5, 5, 5), "caption_filter": (5, 5, 0), "events": (5, 5, 6)}
    expected |= {"local": (5, 5, 8), "local_filter": (5, 5, 0), "dialogue_check": (5, 5, 0), "sound_check": (5, 5, 5)}
    assert by_stage == expected | {"contradiction_check": (5, 5, 5)}
    flags = {clip.id: clip.facts for clip in read_manifest(out / "stages/contradiction_check/clips.jsonl")}
    assert found.findings.flags == {"sound_not_heard": 1, "sources_contradict": 1, "words_not_heard": 1}
    assert flags["play09"]["dialogue_check"]["flags"] == ["words_not_heard"]
    assert flags["play06"]["dialogue_check"]["flags"] == []
    assert flags["play23"]["sound_check"]["not_heard"] == ["gong"]
    assert found.findings.licences == {"CC0-1.0": 5}
    printed = capsys.readouterr()
    assert "| generic_speech | 8 | 7 | 1 generic_speech |" in printed.out
    assert "8 clips would be asked about" in printed.err
    assert printed.err.index("would be asked about") < printed.err.index("audio: 8 in, 8 out")
    check_vs2_output(out)


def check_vs2_output(out: Path) -> None:
    train, val = examples(out / "train.jsonl"), examples(out / "val.jsonl")
    tasks = Counter(example.task for example in (*train, *val))
    assert tasks == {"caption": 5, "local_caption": 4}
    assert not {one.clip.meta["source_id"] for one in train} & {one.clip.meta["source_id"] for one in val}
    by_task = {(one.clip.id, one.task): one for one in (*train, *val)}
    caption = by_task["play06", "caption"]
    assert caption.events
    assert (caption.clip.meta["licence"], caption.clip.meta["url"]) == ("CC0-1.0", "https://example.org/6")
    assert len(caption.clip.meta["sha256"]) == 64
    assert "Bring four hats to Anna" in caption.target
    assert by_task["play09", "caption"].clip.meta["flags"] == ["words_not_heard"]
    local = by_task["play28", "local_caption"]
    assert local.start_seconds is not None
    assert local.end_seconds == local.start_seconds + 3
    assert f"{local.start_seconds:g}" in local.instruction
    assert local.end_seconds <= 7
    for name, native in (("train", train), ("val", val)):
        if native:
            assert list(read_parquet(out / f"{name}.parquet")) == native
    assert main(["data", "check", str(out / "train.jsonl")]) == 0


def test_avocado(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with teaching(AVOCADO_FAULTS) as (server, teachers):
        assert (
            main(command("avocado", corpus, out, server, "--val-fraction", "0", "--format", "webdataset", "plus")) == 0
        )
    assert dropped(out) == FRONT_DROPS | {
        "play09": "caption:sentence_lost",
        "play10": "completeness:incomplete",
        "play11": "caption_filter:repetitive",
    }
    # 8 clips; play06 is fused twice, play09 three times. Two less go to the judge (lost, repetitive), one less goes
    # on. The checklist of play16 is asked for three times in vain.
    calls = {"visual_caption": 8, "audio_caption": 8, "fuse_avocado": 8 + 1 + 2, "completeness": 6}
    calls |= {"checklist": 5 + 2, "dialogue": 5, "qa": 5, "sound_names": 5, "contradiction": 5}
    assert Counter(prompt for prompt, _ in teachers.asked) == calls
    found = card(out)
    assert (found.num_clips_in, found.num_clips_out, found.num_failed) == (12, 5, 0)
    assert found.cost.num_calls == sum(calls.values()) == 60
    assert found.cost.usd == pytest.approx(60 * USD_PER_CALL, abs=1e-9)
    assert found.findings.completeness == {"5": 5}
    assert found.findings.unread == {"checklist": 1}
    assert found.findings.flags == {"sound_not_heard": 1, "sources_contradict": 1}
    clips = {clip.id: clip for clip in read_manifest(out / "stages/contradiction_check/clips.jsonl")}
    assert clips["play06"].facts["caption"]["num_tries"] == 2
    for clip in clips.values():
        fused = clip.facts["caption"]["text"]
        for source in ("visual", "audio"):
            assert check_sentences(clip.facts[source]["segments"][0]["text"], fused).kept
    train = examples(out / "train.jsonl")
    assert Counter(example.task for example in train) == {"caption": 5, "qa": 5}
    captions = {one.clip.id: one for one in train if one.task == "caption"}
    assert captions["play16"].checklist == ()
    assert captions["play06"].checklist
    assert captions["play06"].dialogue == ({"speaker": "somebody", "text": "Bring four hats to Anna."},)
    for written in ("train-shards", "train.plus.json"):
        read = read_examples([out / written])
        assert (read.rejected, [one.target for one in read.examples]) == ((), [one.target for one in train])


def test_a_second_run_asks_nothing_and_writes_the_same(corpus: Path, tmp_path: Path) -> None:
    with teaching(AVOCADO_FAULTS) as (server, teachers):
        words = command("avocado", corpus, tmp_path / "out", server)
        assert main(words) == 0
        before, num_asked = files_of(tmp_path / "out"), len(teachers.asked)
        assert main(words) == 0
        assert (files_of(tmp_path / "out"), len(teachers.asked)) == (before, num_asked)
        # The same answers from the cache, in another folder: the card says what they cost when they were bought.
        assert main(command("avocado", corpus, tmp_path / "other", server)) == 0
        assert len(teachers.asked) == num_asked
        assert card(tmp_path / "other").cost.num_calls == num_asked
        # Another threshold asks nobody again.
        assert main([*words, "--max-repetition", "0.2"]) == 0
        assert len(teachers.asked) == num_asked
        (tmp_path / "out" / "card.json").unlink()
        assert main(["curate", "card", str(tmp_path / "out")]) == 0


def test_a_dry_run_sends_nothing_and_says_what_it_would_cost(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching(Faults()) as (server, teachers):
        assert main(command("vs2", corpus, tmp_path / "out", server, "--dry-run")) == 0
        assert teachers.asked == []
        said = capsys.readouterr().out
        # Nothing more is dropped for show: 8 clips, of which 6 are long enough for a local part (not the two of 4 s).
        assert "8 clips would be asked about" in said
        assert "audio (teacher): 8 questions" in said
        assert "asr (teacher): 8 questions" in said
        assert "visual (teacher): 14 questions" in said
        assert "fuse (teacher): 14 questions" in said
        assert "check (teacher): 24 questions" in said
        assert "in all: 68 questions" in said
        assert not (tmp_path / "out" / "train.jsonl").exists()
        assert main(command("avocado", corpus, tmp_path / "two", server, "--dry-run")) == 0
        assert "judge: completeness: 8 calls not sent" in capsys.readouterr().out
        assert teachers.asked == []


def test_a_ceiling_of_costs_stops_and_the_next_run_continues(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching(Faults()) as (server, teachers):
        words = command("avocado", corpus, tmp_path / "out", server)
        # A question with pictures is taken for up to 0.05 USD before its reply is there (4,096 tokens at 8 USD per
        # million), so the ceiling is reached before all of it is spent.
        assert main([*words, "--max-cost", "0.052"]) == 2
        assert "ceiling" in capsys.readouterr().err
        num_asked = len(teachers.asked)
        assert 0 < num_asked * USD_PER_CALL < 0.052
        assert main(words) == 0
        assert len(set(teachers.bodies)) == len(teachers.bodies), "what was answered before is not paid for again"


def test_errors_of_the_command_say_what_to_do(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    with teaching(Faults()) as (server, _):
        for more, message in (
            (["curate", "vs2", str(corpus), "--out", out], "nobody is bound to the role 'visual'"),
            (["curate", "vs2", str(corpus)], "name a folder for the output"),
            (["curate", "card", str(tmp_path)], "give the --out folder"),
            (["curate", "vs2", str(corpus), "--out", out, "--ray", "--max-cost", "1"], "leave out one of"),
            (["curate", "annotate", "a", "b", "--out", out], "give one file of captions"),
        ):
            assert main(more) == 2
            assert message in capsys.readouterr().err
        words = [
            word for word in command("avocado", corpus, tmp_path / "o", server) if word not in ("--judge", "judge")
        ]
        assert main(words) == 2
        assert "name the judge's model with --judge" in capsys.readouterr().err


def test_annotate_captions_of_both_kinds(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = tmp_path / "captions.jsonl"
    with teaching(Faults(unread_always=frozenset({9}))) as (server, teachers):
        assert main(command("avocado", corpus, tmp_path / "made", server, "--val-fraction", "0")) == 0
        made = [one for one in examples(tmp_path / "made" / "train.jsonl") if one.task == "caption"]
        captions.write_text(
            "".join(
                TrainingExample(clip=one.clip, task="caption", instruction="Tell.", target=one.target).to_json_line()
                + "\n"
                for one in made
            )
        )
        teachers.asked.clear()
        words = ["curate", "annotate", str(captions), "--out", str(tmp_path / "out")]
        words += [f"--teacher=check=teacher@{server.base_url}", "--cache", str(tmp_path / "a.sqlite")]
        assert main([*words, "--dry-run"]) == 0
        assert "32 questions" in capsys.readouterr().out
        assert main([*words, "--teacher-price", f"teacher={PRICE}"]) == 0
    # Events and checklist of play09 are asked for three times each.
    assert Counter(prompt for prompt, _ in teachers.asked) == {"events": 10, "checklist": 10, "dialogue": 8, "qa": 8}
    found = examples(tmp_path / "out" / "annotated.jsonl")
    assert [one.task for one in found] == ["caption", "qa"] * 8
    assert [one.target for one in found if one.task == "caption"] == [one.target for one in made]
    assert {one.clip.id for one in found if one.task == "caption" and not one.events} == {"play09"}
    assert card(tmp_path / "out").findings.unread == {"checklist": 1, "events": 1}
