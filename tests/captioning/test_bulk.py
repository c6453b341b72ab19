"""Bulk captioning: finding clips, batches, resuming, settings, failures beside the captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from avocet.captioning import Captioner, caption_clips, find_clips, open_caption_ledger
from avocet.captioning.bulk import failures_path, write_failures
from avocet.errors import ConfigError, RecordError
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
