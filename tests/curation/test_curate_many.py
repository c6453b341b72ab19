"""Both pipelines on 24 staged plays, the clips that have something wrong, and the real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from curation_runs import card, command, dropped, examples, make_corpus, teaching
from scripted_teachers import USD_PER_CALL, Faults

from avocet.cli import main
from avocet.curation import read_manifest
from avocet.curation.checks import check_sentences

pytestmark = pytest.mark.slow

SPOKEN = (0, 2, 5, 6, 8, 9, 10, 11, 12, 14, 16, 18, 19, 23, 24, 25, 26, 27, 28, 29)
SPEECHLESS = (1, 3, 4, 7)


SEEDS = (*SPOKEN, *SPEECHLESS)
DROPS = dict.fromkeys(
    ("h265_video.mp4", "nasa_13013_rotated.mp4", "test_non_zero_start.mp4", "testsrc2_vp9.webm"), "length:too_short"
)
DROPS |= {"corrupt": "probe:media_error", "silent": "sound:silent", "static": "picture:static"}
DROPS |= {"play02": "duplicates:exact_duplicate", "jfk.flac": "format:no_video", "av1_video.mkv": "sound:no_audio"}
"""Before any teacher is asked. Of 36 clips 26 are left: 24 plays (one as "duplicate") and two real ones, of 30 s (three
segments) and of more than 10 s (two)."""


@pytest.fixture
def corpus(tmp_path: Path, stage_play: Callable[..., Path], static_play: Path, media_dir: Path) -> Path:
    path = make_corpus(tmp_path / "corpus", stage_play, static_play, SEEDS)
    with path.open("a") as lines:
        for media in sorted(media_dir.iterdir()):
            lines.write(json.dumps({"id": media.name, "path": str(media)}) + "\n")
    return path


def test_vs2(corpus: Path, tmp_path: Path) -> None:
    faults = Faults(
        generic=frozenset({10}),
        nonsense=frozenset({11}),
        no_speech=frozenset({16}),
        misheard=frozenset({9}),
        invents_sound=frozenset({23}),
        contradicts=frozenset({28}),
        unread_once=frozenset({28}),
    )
    out = tmp_path / "out"
    with teaching(faults, SEEDS) as (server, teachers):
        assert main(command("vs2", corpus, out, server, "--max-seconds", "60")) == 0
    speechless = {f"play{seed:02d}": "transcript:transcript_too_short" for seed in (16, *SPEECHLESS)}
    assert dropped(out) == DROPS | speechless | {
        "play10": "generic_speech:generic_speech",
        "play11": "transcript:transcript_nonsense",
    }
    # 26 clips have 29 segments. 25 and 28 after the generic one; 19 and 22 after six transcripts. Three of the 19 last
    # 4 s (2, 24 and 26), too short for a local part of 3 s.
    calls = {"audio_caption": 29, "asr": 28, "visual_caption": 22, "fuse_vs2": 19, "events": 19 + 1}
    calls |= {"local_intervals": 16, "local_caption": 16, "sound_names": 19, "contradiction": 19}
    assert Counter(prompt for prompt, _ in teachers.asked) == calls
    found = card(out)
    assert (found.num_clips_in, found.num_clips_out, found.cost.num_calls) == (36, 19, sum(calls.values()))
    assert found.cost.usd == pytest.approx(sum(calls.values()) * USD_PER_CALL, abs=1e-9)
    # What the teachers say of the two real files quotes nothing of their transcripts.
    flags = {"sound_not_heard": 1, "sources_contradict": 1, "words_not_heard": 1, "speech_not_told": 2}
    assert found.findings.flags == flags
    rows = [*examples(out / "train.jsonl"), *examples(out / "val.jsonl")]
    assert Counter(one.task for one in rows) == {"caption": 19, "local_caption": 16}
    assert main(["data", "check", str(out / "train.jsonl"), "--decode"]) == 0


def test_avocado(corpus: Path, tmp_path: Path) -> None:
    faults = Faults(
        loses_once=frozenset({6}),
        loses_always=frozenset({9}),
        incomplete=frozenset({10}),
        repeats=frozenset({11}),
        unread_always=frozenset({16}),
        unread_once=frozenset({28}),
        invents_sound=frozenset({23}),
        contradicts=frozenset({28}),
    )
    out = tmp_path / "out"
    with teaching(faults, SEEDS) as (server, teachers):
        assert main(command("avocado", corpus, out, server, "--max-seconds", "60")) == 0
    assert dropped(out) == DROPS | {
        "play09": "caption:sentence_lost",
        "play10": "completeness:incomplete",
        "play11": "caption_filter:repetitive",
    }
    calls = {"visual_caption": 26, "audio_caption": 26, "fuse_avocado": 26 + 1 + 2, "completeness": 24}
    calls |= {"checklist": 23 + 2 + 1, "dialogue": 23, "qa": 23, "sound_names": 23, "contradiction": 23}
    assert Counter(prompt for prompt, _ in teachers.asked) == calls
    found = card(out)
    assert (found.num_clips_in, found.num_clips_out, found.cost.num_calls) == (36, 23, sum(calls.values()))
    assert found.cost.usd == pytest.approx(sum(calls.values()) * USD_PER_CALL, abs=1e-9)
    clips = list(read_manifest(out / "stages/contradiction_check/clips.jsonl"))
    for clip in clips:
        for source in ("visual", "audio"):
            text = clip.facts[source]["segments"][0]["text"]
            assert check_sentences(text, clip.facts["caption"]["text"]).kept
    assert len(clips) == 23
    assert main(["data", "check", str(out / "train.jsonl"), "--decode"]) == 0


def test_the_result_trains_nano_further_as_it_is(
    tmp_path: Path, stage_play: Callable[..., Path], static_play: Path
) -> None:
    corpus, out = make_corpus(tmp_path / "corpus", stage_play, static_play), tmp_path / "out"
    with teaching(Faults()) as (server, _):
        assert (
            main(
                command(
                    "vs2",
                    corpus,
                    out,
                    server,
                    "--val-fraction",
                    "0",
                    "--tasks",
                    "caption",
                    "local_caption",
                    "qa",
                    "asr",
                    "audio_caption",
                )
            )
            == 0
        )
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    settings = ["--set", f"data={out / 'train.jsonl'}", "--run-dir", str(tmp_path / "run")]
    for stage in ("align", "sft"):
        words = [sys.executable, "-m", "avocet", "train", stage, "nano_finetune", *settings]
        done = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
