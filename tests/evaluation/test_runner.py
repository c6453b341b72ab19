"""What benchmarks share: caption, judge, one line per item, resume."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from avocet.captioning import Captioner
from avocet.errors import ConfigError
from avocet.evaluation.runner import caption_and_judge
from avocet.records import Caption, ClipRef, Failure


@dataclasses.dataclass(frozen=True)
class Length:
    """A judge's finding for these tests: how many characters the caption has."""

    characters: int


def judge(text: str, clip: ClipRef) -> Length:
    return Length(len(text) + len(clip.id))


@pytest.fixture
def clips(media_folder: Path) -> list[ClipRef]:
    refs = [ClipRef(id=name, path=str(media_folder / f"{name}.mp4")) for name in ("a", "b")]
    return [refs[0], ClipRef(id="gone", path=str(media_folder / "gone.mp4")), refs[1]]


def test_every_clip_has_an_outcome_in_order(clips: list[ClipRef], scripted_model: Callable) -> None:
    steps: list[tuple[int, int]] = []
    captioner = Captioner(scripted_model(lambda clip_id: "12345"), "toy", "rev1")
    items = caption_and_judge(captioner, clips, judge, progress=lambda done, total: steps.append((done, total)))
    assert [item.clip.id for item in items] == ["a", "gone", "b"]
    assert [item.findings for item in items] == [Length(6), None, Length(6)]
    assert [type(item.outcome) for item in items] == [Caption, Failure, Caption]
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_a_second_run_captions_only_what_is_missing(
    clips: list[ClipRef], tmp_path: Path, scripted_model: Callable, clip_writer: Callable[..., Path]
) -> None:
    path = tmp_path / "items.jsonl"
    model = scripted_model(lambda clip_id: "12345")
    captioner = Captioner(model, "toy", "rev1")
    first = caption_and_judge(captioner, clips, judge, items_path=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["clip_id"], line["findings"]) for line in lines] == [
        ("a", {"characters": 6}),
        ("b", {"characters": 6}),
    ]
    model.batches.clear()
    clip_writer(Path(clips[1].path))
    second = caption_and_judge(captioner, clips, judge, items_path=path)
    assert model.batches == [["gone"]]
    assert [item.findings for item in second] == [Length(6), Length(9), Length(6)]
    assert (second[0], second[2]) == (first[0], first[2])


def test_items_of_another_model_are_refused(clips: list[ClipRef], tmp_path: Path, scripted_model: Callable) -> None:
    path = tmp_path / "items.jsonl"
    caption_and_judge(Captioner(scripted_model(), "toy", "rev1"), clips, judge, items_path=path)
    with pytest.raises(ConfigError, match="with revision 'rev1', this run has 'rev2'"):
        caption_and_judge(Captioner(scripted_model(), "toy", "rev2"), clips, judge, items_path=path)
