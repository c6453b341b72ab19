"""The one captioning call: records, failures as values, warnings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from avocet.captioning import Captioner
from avocet.errors import LayoutError, MediaError
from avocet.media import open_clip
from avocet.records import Caption, ClipRef, Failure, Sampling

WORLD_WARNING = "nano knows only the procedural theatre; on any other video its caption is not to be trusted"


def test_a_caption_says_how_it_came_about(media_folder: Path, scripted_model: Callable) -> None:
    captioner = Captioner(scripted_model(lambda clip_id: "A bell rings."), "toy", "rev1")
    path = media_folder / "sub" / "c.mp4"
    caption = captioner.caption(path, sampling=Sampling(max_new_tokens=7, temperature=0.5, seed=3))
    assert (caption.text, caption.model, caption.revision) == ("A bell rings.", "toy", "rev1")
    assert caption.path == str(path)
    assert caption.instruction == "Describe the video."
    assert caption.sampling == Sampling(max_new_tokens=7, temperature=0.5, seed=3)
    assert (caption.stop_reason, caption.num_tokens) == ("end", 3)
    # 2 s at 2 frames per second: the frames at 0, 0.5, 1 and 1.5 s
    assert caption.num_frames == 4
    assert caption.fps == pytest.approx(2.0, abs=0.1)
    assert (caption.audio_used, caption.audio_status) == (True, "present")
    assert (caption.start_seconds, caption.end_seconds) == (0.0, pytest.approx(2.0, abs=0.1))
    assert set(caption.timings_seconds) == {"media", "prepare", "encode", "generate"}
    assert caption.warnings == ()
    assert Caption.from_json(caption.to_json_line()) == caption


def test_the_callers_instruction_and_interval_are_used(media_folder: Path, scripted_model: Callable) -> None:
    captioner = Captioner(scripted_model(), "toy", "rev1")
    ref = ClipRef(id="part", path=str(media_folder / "sub" / "c.mp4"), start_seconds=0.5, end_seconds=1.5)
    caption = captioner.caption(ref, "What is heard?")
    assert caption.clip_id == "part"
    assert caption.instruction == "What is heard?"
    assert (caption.start_seconds, caption.end_seconds) == (0.5, pytest.approx(1.5, abs=0.1))
    assert caption.num_frames == 2


def test_a_decoded_clip_is_taken_as_it_is(media_folder: Path, scripted_model: Callable) -> None:
    clip = open_clip(media_folder / "a.mp4", fps=5.0, clip_id="mine")
    caption = Captioner(scripted_model(), "toy", "rev1").caption(clip)
    assert caption.clip_id == "mine"
    assert caption.num_frames == 5
    assert "media" not in caption.timings_seconds


def test_ignored_and_missing_sound_is_said(media_folder: Path, scripted_model: Callable) -> None:
    captioner = Captioner(scripted_model(), "toy", "rev1")
    ignored = captioner.caption(media_folder / "a.mp4", audio="ignore")
    assert (ignored.audio_used, ignored.audio_status) == (False, "present")
    absent = captioner.caption(media_folder / "b.mp4")
    assert (absent.audio_used, absent.audio_status) == (False, "absent")
    with pytest.raises(MediaError, match=r"b\.mp4"):
        captioner.caption(media_folder / "b.mp4", audio="require")


def test_a_cut_off_caption_is_warned_about(media_folder: Path, scripted_model: Callable) -> None:
    captioner = Captioner(scripted_model(lambda clip_id: "one two three four"), "toy", "rev1")
    caption = captioner.caption(media_folder / "a.mp4", sampling=Sampling(max_new_tokens=2))
    assert (caption.text, caption.stop_reason) == ("one two", "length")
    assert "the caption was cut off after max_new_tokens=2 tokens" in caption.warnings


def test_an_empty_caption_is_warned_about(media_folder: Path, scripted_model: Callable) -> None:
    caption = Captioner(scripted_model(lambda clip_id: " "), "toy", "rev1").caption(media_folder / "a.mp4")
    assert "the caption is empty" in caption.warnings


def test_warnings_of_the_prompt_reach_the_record(media_folder: Path, scripted_model: Callable) -> None:
    ref = ClipRef(id="warned", path=str(media_folder / "a.mp4"))
    assert "prompt warning" in Captioner(scripted_model(), "toy", "rev1").caption(ref).warnings


def test_a_model_of_one_world_warns_outside_of_it(
    tmp_path: Path, clip_writer: Callable[..., Path], scripted_model: Callable
) -> None:
    inside = clip_writer(tmp_path / "in.mp4", comment="avocet theatre theatre-1-7")
    outside = clip_writer(tmp_path / "out.mp4")
    captioner = Captioner(scripted_model(world="theatre"), "nano", "rev1")
    assert WORLD_WARNING not in captioner.caption(inside).warnings
    assert WORLD_WARNING in captioner.caption(outside).warnings
    general = Captioner(scripted_model(world=None), "big", "rev1")
    assert general.caption(outside).warnings == ()


def test_bad_files_are_failures_and_do_not_disturb_the_others(
    media_folder: Path, broken_files: list[Path], scripted_model: Callable
) -> None:
    model = scripted_model()
    sources = [broken_files[0], media_folder / "a.mp4", broken_files[1], broken_files[2], media_folder / "missing.mp4"]
    outcomes = Captioner(model, "toy", "rev1").caption_batch(sources)
    assert [type(outcome) for outcome in outcomes] == [Failure, Caption, Failure, Failure, Failure]
    for source, outcome in zip(sources, outcomes, strict=True):
        assert outcome.path == str(source)
        if isinstance(outcome, Failure):
            assert outcome.stage == "media"
            assert source.name in outcome.error
            assert "\n" not in outcome.error
    assert len(model.batches) == 1


def test_a_clip_the_model_refuses_is_a_failure(media_folder: Path, scripted_model: Callable) -> None:
    model = scripted_model()
    model.refused = frozenset({"bad"})
    captioner = Captioner(model, "toy", "rev1")
    good, bad = (ClipRef(id=name, path=str(media_folder / "a.mp4")) for name in ("good", "bad"))
    first, second = captioner.caption_batch([bad, good])
    assert isinstance(first, Failure)
    assert (first.clip_id, first.stage, first.error) == ("bad", "model", "bad is refused")
    assert isinstance(second, Caption)
    with pytest.raises(LayoutError, match="bad is refused"):
        captioner.caption(bad)


def test_a_spoiled_batch_is_repeated_clip_by_clip(media_folder: Path, scripted_model: Callable) -> None:
    model = scripted_model()
    model.spoils_batch = frozenset({"large"})
    refs = [ClipRef(id=name, path=str(media_folder / "a.mp4")) for name in ("x", "large", "y")]
    outcomes = Captioner(model, "toy", "rev1").caption_batch(refs)
    assert model.batches == [["x", "large", "y"], ["x"], ["large"], ["y"]]
    assert [type(outcome) for outcome in outcomes] == [Caption, Failure, Caption]
    assert isinstance(outcomes[1], Failure)
    assert outcomes[1].error == "RuntimeError: out of memory"


def test_an_empty_batch_asks_nothing_of_the_model(scripted_model: Callable) -> None:
    model = scripted_model()
    assert Captioner(model, "toy", "rev1").caption_batch([]) == []
    assert model.batches == []


def test_failures_are_passed_through(scripted_model: Callable) -> None:
    failure = Failure(clip_id="x", path="x.mp4", stage="media", error="x.mp4: gone")
    assert Captioner(scripted_model(), "toy", "rev1").caption_batch([failure]) == [failure]
