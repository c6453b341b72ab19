"""Bulk captioning: finding clips, batches, resuming, settings, failures beside the captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from avocet.captioning import (
    Captioner,
    InstructionFile,
    StyleRule,
    caption_clips,
    find_clips,
    load_captioner,
    open_caption_ledger,
)
from avocet.captioning.bulk import failures_path, find_instructions, write_failures
from avocet.errors import ConfigError, RecordError
from avocet.models.registry import ModelOptions
from avocet.records import Caption, ClipRef, Failure, Sampling


def test_folders_are_searched_and_files_taken_as_named(media_folder: Path) -> None:
    clips, failures = find_clips([media_folder / "notes.txt", media_folder, media_folder / "a.mp4"])
    names = [Path(clip.path).name for clip in clips]
    assert names == ["notes.txt", "a.mp4", "b.mp4", "c.mp4"]
    assert [clip.id for clip in clips] == [clip.path for clip in clips]
    assert failures == []


def test_a_url_stays_as_it_is_typed() -> None:
    clips, _ = find_clips(["http://127.0.0.1:9/a//b.mp4"])
    assert clips[0].path == "http://127.0.0.1:9/a//b.mp4"


def test_an_interval_is_part_of_the_id(media_folder: Path) -> None:
    path = str(media_folder / "a.mp4")
    assert find_clips([path], 0.5, 2.25)[0][0].id == f"{path}#t=0.5,2.25"
    assert find_clips([path], None, 2)[0][0].id == f"{path}#t=,2"
    assert find_clips([path], 1.5)[0][0].id == f"{path}#t=1.5"
    with pytest.raises(RecordError, match="the interval"):
        find_clips([path], 2, 1)


def test_a_folder_without_media_is_a_failure(tmp_path: Path) -> None:
    clips, failures = find_clips([tmp_path])
    assert clips == []
    assert failures[0].path == str(tmp_path)
    assert "holds no media files" in failures[0].error


def test_links_that_lead_nowhere_are_failures_on_record(tmp_path: Path, scripted_model: Callable) -> None:
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    clips, failures = find_clips([tmp_path])
    assert ([Path(clip.path).name for clip in clips], failures) == (["gone.mp4", "loop.mp4"], [])
    outcomes = list(caption_clips(Captioner(scripted_model(), "toy", "rev1"), clips))
    assert [type(outcome) for outcome in outcomes] == [Failure, Failure]


def test_batches_keep_the_order(media_folder: Path, broken_files: list[Path], scripted_model: Callable) -> None:
    model = scripted_model()
    clips, _ = find_clips([media_folder, *broken_files])
    outcomes = list(caption_clips(Captioner(model, "toy", "rev1"), clips, batch_size=2))
    assert [outcome.path for outcome in outcomes] == [clip.path for clip in clips]
    assert [type(outcome) for outcome in outcomes] == [Caption] * 3 + [Failure] * 3
    assert [len(batch) for batch in model.batches] == [2, 1]


def test_a_second_run_does_only_what_is_missing(media_folder: Path, tmp_path: Path, scripted_model: Callable) -> None:
    out = tmp_path / "captions.jsonl"
    model = scripted_model()
    captioner = Captioner(model, "toy", "rev1")
    clips, _ = find_clips([media_folder])
    with open_caption_ledger(out, captioner) as ledger:
        stopped = caption_clips(captioner, clips, ledger=ledger, batch_size=1)
        next(stopped)
        stopped.close()
    model.batches.clear()
    with open_caption_ledger(out, captioner) as ledger:
        rest = list(caption_clips(captioner, clips, ledger=ledger, batch_size=1))
    assert [caption.clip_id for caption in rest] == [clip.id for clip in clips[1:]]
    assert model.batches == [[clip.id] for clip in clips[1:]]
    recorded = [Caption.from_json(line) for line in out.read_text().splitlines()]
    assert [caption.clip_id for caption in recorded] == [clip.id for clip in clips]
    with open_caption_ledger(out, captioner) as ledger:
        assert list(caption_clips(captioner, clips, ledger=ledger)) == []


def test_failures_are_tried_again(tmp_path: Path, clip_writer: Callable[..., Path], scripted_model: Callable) -> None:
    out = tmp_path / "captions.jsonl"
    captioner = Captioner(scripted_model(), "toy", "rev1")
    ref = ClipRef(id="late", path=str(tmp_path / "late.mp4"))
    with open_caption_ledger(out, captioner) as ledger:
        assert isinstance(next(caption_clips(captioner, [ref], ledger=ledger)), Failure)
    clip_writer(tmp_path / "late.mp4")
    with open_caption_ledger(out, captioner) as ledger:
        assert isinstance(next(caption_clips(captioner, [ref], ledger=ledger)), Caption)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"revision": "rev2"}, "revision"),
        ({"model_id": "other"}, "model"),
        ({"instruction": "What is heard?"}, "instruction"),
        ({"sampling": Sampling(seed=5)}, "sampling"),
    ],
)
def test_captions_made_differently_are_not_mixed(
    media_folder: Path, tmp_path: Path, scripted_model: Callable, change: dict[str, object], name: str
) -> None:
    out = tmp_path / "captions.jsonl"
    captioner = Captioner(scripted_model(), "toy", "rev1")
    clips, _ = find_clips([media_folder / "a.mp4"])
    with open_caption_ledger(out, captioner) as ledger:
        list(caption_clips(captioner, clips, ledger=ledger))
    settings = {"model_id": "toy", "revision": "rev1", "instruction": None, "sampling": None} | change
    other = Captioner(scripted_model(), settings["model_id"], settings["revision"])
    with pytest.raises(ConfigError, match=f"with {name} .* choose another output file"):
        open_caption_ledger(out, other, settings["instruction"], settings["sampling"])
    open_caption_ledger(out, captioner).close()  # the refusal released the file


def test_other_ways_to_read_clips_are_not_mixed(
    media_folder: Path, tmp_path: Path, scripted_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "captions.jsonl", scripted_model()
    captioner = Captioner(model, "toy", "rev1", ModelOptions(fps=1.0))
    with open_caption_ledger(out, captioner) as ledger:
        list(caption_clips(captioner, find_clips([media_folder / "a.mp4"])[0], ledger=ledger))
    open_caption_ledger(out, captioner).close()
    with pytest.raises(ConfigError, match=r"with options .'fps': 1.0., this run has {}"):
        open_caption_ledger(out, Captioner(model, "toy", "rev1"))
    monkeypatch.setattr(model, "layout_rule", "tmrope")
    with pytest.raises(ConfigError, match="with layout_rule 'salmonn2_paper', this run has 'tmrope'"):
        open_caption_ledger(out, captioner)


def test_a_resumed_run_must_ask_the_same_of_each_clip(
    media_folder: Path, tmp_path: Path, scripted_model: Callable
) -> None:
    out, captioner = tmp_path / "captions.jsonl", Captioner(scripted_model(), "toy", "rev1")
    clips = [ClipRef(id=name, path=str(media_folder / "a.mp4")) for name in ("x", "y", "z")]
    rule = StyleRule(style="full", seed=0)
    texts = [rule(clip).text for clip in clips]
    assert len(set(texts)) > 1
    with open_caption_ledger(out, captioner, rule) as ledger:
        list(caption_clips(captioner, clips[:2], ledger=ledger, instruction=rule))
    with open_caption_ledger(out, captioner, StyleRule(style="full", seed=0)) as ledger:
        [last] = caption_clips(captioner, clips, ledger=ledger, instruction=rule)
    assert isinstance(last, Caption)
    assert last.instruction == texts[2]
    others = [StyleRule(style="full", seed=seed) for seed in range(1, 3000)]
    twin = next(other for other in others if [other(clip).text for clip in clips] == texts)
    with pytest.raises(ConfigError, match="of 'x' with instruction_source"):
        open_caption_ledger(out, captioner, twin)  # another seed that happens to ask the same
    for other in (others[0], StyleRule(style="dream", seed=0), None, texts[0]):
        with pytest.raises(ConfigError, match="with instruction"):
            open_caption_ledger(out, captioner, other)


def test_a_resumed_run_must_have_the_same_instructions_file(
    media_folder: Path, tmp_path: Path, scripted_model: Callable
) -> None:
    out, captioner = tmp_path / "captions.jsonl", Captioner(scripted_model(), "toy", "rev1")
    clips, _ = find_clips([media_folder])
    rule = InstructionFile(name="f.json", by_key={"a.mp4": "First?", "b.mp4": "Second?"})
    with open_caption_ledger(out, captioner, rule) as ledger:
        list(caption_clips(captioner, clips[:2], ledger=ledger, instruction=rule))
    longer = InstructionFile(name="f.json", by_key={**rule.by_key, "c.mp4": "Third?"})
    with open_caption_ledger(out, captioner, longer) as ledger:
        assert len(list(caption_clips(captioner, clips, ledger=ledger, instruction=longer))) == 1
    with pytest.raises(ConfigError, match=r"with instruction 'Second.', this run has 'Other.'"):
        open_caption_ledger(out, captioner, InstructionFile(name="f.json", by_key={**longer.by_key, "b.mp4": "Other?"}))
    with pytest.raises(ConfigError, match=r"with instruction_source 'file:f.json', this run has 'file:g.json'"):
        open_caption_ledger(out, captioner, InstructionFile(name="g.json", by_key=longer.by_key))
    with pytest.raises(ConfigError, match=r"c.mp4', about which this run would ask nothing .f.json has no instruction"):
        open_caption_ledger(out, captioner, rule)


def test_records_with_and_without_log_probabilities_are_not_mixed(
    media_folder: Path, tmp_path: Path, scripted_model: Callable
) -> None:
    out, captioner = tmp_path / "captions.jsonl", Captioner(scripted_model(), "toy", "rev1")
    with open_caption_ledger(out, captioner, keep_logps=False) as ledger:
        list(caption_clips(captioner, find_clips([media_folder / "a.mp4"])[0], ledger=ledger))
    open_caption_ledger(out, captioner).close()
    with pytest.raises(ConfigError, match="with log-probabilities False, this run has True"):
        open_caption_ledger(out, captioner, keep_logps=True)


def test_log_probabilities_in_bulk(media_folder: Path, tiny_model_folder: Path) -> None:
    captioner = load_captioner(str(tiny_model_folder), "cpu")
    made = list(caption_clips(captioner, find_clips([media_folder])[0], keep_logps=True))
    assert len(made) == 3
    assert all(isinstance(one, Caption) and len(one.token_logps) == one.num_tokens for one in made)


def test_clips_without_instruction_are_found_before_anything_is_decoded() -> None:
    clips = [ClipRef(id=name, path=f"nowhere/{name}.mp4") for name in ("a", "b", "c")]
    rule = InstructionFile(name="f.json", by_key={"a.mp4": "First?", "c.mp4": "Third?"})
    askable, failures = find_instructions(clips, rule)
    assert [clip.id for clip in askable] == ["a", "c"]
    assert [(failure.clip_id, failure.stage) for failure in failures] == [("b", "model")]
    assert "no instruction for clip 'b'" in failures[0].error
    for anything in (None, "What?", StyleRule(style="full")):
        assert find_instructions(clips, anything) == (clips, [])


def test_batch_size_must_be_positive(scripted_model: Callable) -> None:
    with pytest.raises(ConfigError, match="batch_size must be >= 1, got 0"):
        next(caption_clips(Captioner(scripted_model(), "toy", "rev1"), [], batch_size=0))


def test_failures_lie_beside_the_captions(tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    failure = Failure(clip_id="x", path="x.mp4", stage="media", error="x.mp4: gone")
    write_failures(out, [failure])
    assert failures_path(out) == tmp_path / "captions.failures.jsonl"
    assert json.loads(failures_path(out).read_text()) == failure.to_dict()
    write_failures(out, [])
    assert not failures_path(out).exists()
