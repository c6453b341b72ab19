"""The one captioning call: records, failures as values, warnings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from avocet.captioning import Captioner, Instruction, InstructionFile, StyleRule, choose_instruction, load_captioner
from avocet.errors import ConfigError, LayoutError, MediaError
from avocet.media import open_clip
from avocet.models.interface import Prompt
from avocet.models.registry import ModelOptions
from avocet.records import Caption, Clip, ClipRef, Failure, Sampling
from avocet.theatre.language import INSTRUCTIONS

WORLD_WARNING = "nano knows only the procedural theatre; on any other video its caption is not to be trusted"


def test_a_caption_says_how_it_came_about(media_folder: Path, scripted_model: Callable) -> None:
    captioner = Captioner(scripted_model(lambda clip_id: "A bell rings."), "toy", "rev1")
    path = media_folder / "sub" / "c.mp4"
    caption = captioner.caption(path, sampling=Sampling(max_new_tokens=7, temperature=0.5, seed=3))
    assert (caption.text, caption.model, caption.revision) == ("A bell rings.", "toy", "rev1")
    assert caption.path == str(path)
    assert (caption.instruction, caption.instruction_source) == ("Describe the video.", "default")
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
    assert (caption.instruction, caption.instruction_source) == ("What is heard?", "given")
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


def test_a_model_of_few_instructions_warns_about_others(media_folder: Path, scripted_model: Callable) -> None:
    captioner = Captioner(scripted_model(world="theatre"), "nano", "rev1")
    for task, texts in INSTRUCTIONS.items():
        for text in texts:
            known = text.format(start=1, end=2, question="Which sound is heard?")
            if not text.startswith("{question}"):
                assert captioner.instruction_warning(known) is None, task
    other = "Provide a thorough account."
    (warning,) = (one for one in captioner.caption(media_folder / "a.mp4", other).warnings if "instructions" in one)
    assert "nano knows only instructions like 'Describe" in warning
    assert Captioner(scripted_model(), "big", "rev1").instruction_warning(other) is None


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


def test_one_batch_may_hold_different_instructions(media_folder: Path, scripted_model: Callable) -> None:
    class Remembering(scripted_model):  # type: ignore[misc, valid-type]
        def prepare(self, clip: Clip, instruction: str) -> Prompt:
            self.asked = [*getattr(self, "asked", []), (clip.id, instruction)]
            return super().prepare(clip, instruction)

    model = Remembering()
    refs = [ClipRef(id=name, path=str(media_folder / "a.mp4")) for name in ("x", "y", "z")]
    seen: list[ClipRef] = []

    def rule(clip: ClipRef) -> Instruction:
        seen.append(clip)
        return Instruction(text=f"About {clip.id}?", source=f"rule {clip.id}")

    outcomes = Captioner(model, "toy", "rev1").caption_batch(refs, rule)
    assert model.batches == [["x", "y", "z"]]
    assert model.asked == [("x", "About x?"), ("y", "About y?"), ("z", "About z?")]
    assert seen == refs
    assert [(one.instruction, one.instruction_source) for one in outcomes if isinstance(one, Caption)] == [
        *(("About x?", "rule x"), ("About y?", "rule y"), ("About z?", "rule z"))
    ]


def test_instructions_of_every_kind(media_folder: Path, scripted_model: Callable) -> None:
    captioner = Captioner(scripted_model(), "toy", "rev1")
    ref = ClipRef(id="x", path=str(media_folder / "a.mp4"))
    mine = captioner.caption(ref, Instruction(text="Why?", source="study 2"))
    assert (mine.instruction, mine.instruction_source) == ("Why?", "study 2")
    styled = captioner.caption(ref, StyleRule(style="ugc", seed=4))
    wanted = choose_instruction("ugc", 4, "x")
    assert (styled.instruction, styled.instruction_source) == (wanted.text, wanted.source)
    with pytest.raises(ConfigError, match="is empty"):
        captioner.caption(ref, "")
    with pytest.raises(ConfigError, match="is empty"):
        captioner.caption_batch([ref], "")


def test_a_clip_without_instruction_is_a_failure_and_does_not_disturb_the_others(
    media_folder: Path, scripted_model: Callable
) -> None:
    model = scripted_model()
    rule = InstructionFile(name="f.json", by_key={"a.mp4": "First?", "c.mp4": "Third?"})
    paths = [media_folder / "a.mp4", media_folder / "b.mp4", media_folder / "sub" / "c.mp4"]
    captioner = Captioner(model, "toy", "rev1")
    first, second, third = captioner.caption_batch(paths, rule)
    assert isinstance(first, Caption)
    assert isinstance(third, Caption)
    assert (first.instruction, third.instruction) == ("First?", "Third?")
    assert isinstance(second, Failure)
    assert (second.stage, second.clip_id) == ("model", str(paths[1]))
    assert "f.json has no instruction for clip" in second.error
    assert model.batches == [[str(paths[0]), str(paths[2])]]
    with pytest.raises(ConfigError, match=r"f\.json has no instruction for clip"):
        captioner.caption(paths[1], rule)


def test_the_record_says_what_the_model_read(media_folder: Path, tiny_model_folder: Path) -> None:
    captioner = load_captioner(str(tiny_model_folder), device="cpu")
    path = media_folder / "sub" / "c.mp4"
    caption, prompt = captioner.caption(path), captioner.model.prepare(captioner.open(path).clip, "Describe.")
    # 2 s at 2 frames per second; the tiny model has 5 audio tokens per second and frames of 48 x 48.
    assert caption.media["num_visual_tokens"] == prompt.layout.num_visual_tokens > 0
    assert caption.media["num_visual_tokens"] % 4 == 0
    assert caption.media["num_audio_tokens"] == prompt.layout.num_audio_tokens == 10
    assert caption.media["num_prompt_tokens"] > caption.media["num_visual_tokens"] + 10
    assert (caption.media["frame_width"], caption.media["frame_height"]) == (48, 48)
    assert (caption.media["sampling_fps"], caption.media["max_frames"]) == (2.0, captioner.model.max_frames)
    assert (caption.media["is_image"], caption.media["options"]) == (False, {})
    assert caption.token_logps == ()


def test_what_the_model_says_of_the_prompt_is_recorded(media_folder: Path, scripted_model: Callable) -> None:
    class Budgeted(scripted_model):  # type: ignore[misc, valid-type]
        def prepare(self, clip: Clip, instruction: str) -> Prompt:
            return dataclasses.replace(super().prepare(clip, instruction), media={"max_video_tokens": 25_600})

    caption = Captioner(Budgeted(), "toy", "rev1").caption(media_folder / "a.mp4")
    assert caption.media["max_video_tokens"] == 25_600
    # 2 frames in 1 s, one token each, of 64 x 48 pixels; 5 audio tokens a second
    assert (caption.media["num_visual_tokens"], caption.media["num_audio_tokens"]) == (2, 5)
    assert (caption.media["frame_width"], caption.media["frame_height"]) == (64, 48)


def test_sound_alone_has_no_frame_size(
    tmp_path: Path, clip_writer: Callable[..., Path], scripted_model: Callable
) -> None:
    clip = open_clip(clip_writer(tmp_path / "a.mp4"), fps=2.0)
    heard = dataclasses.replace(clip, frames=clip.frames[:0], frame_times_seconds=clip.frame_times_seconds[:0])
    caption = Captioner(scripted_model(), "toy", "rev1").caption(heard)
    assert (caption.media["frame_width"], caption.media["frame_height"]) == (None, None)
    assert Caption.from_json(caption.to_json_line()) == caption


def test_log_probabilities_are_those_of_the_model(media_folder: Path) -> None:
    captioner = load_captioner("nano", device="cpu")
    opened = captioner.open(media_folder / "a.mp4")
    caption = captioner.caption(opened, keep_logps=True)
    assert len(caption.token_logps) == caption.num_tokens > 1
    model = captioner.model
    prefix = model.encode([model.prepare(opened.clip, caption.instruction)])
    [[completion]] = model.generate(prefix, 1, caption.sampling)
    [[scored]] = model.score(prefix, [[completion.token_ids]])
    assert caption.token_logps == pytest.approx(scored.tolist(), abs=1e-4)
    assert captioner.caption_batch([opened], keep_logps=True)[0].token_logps == pytest.approx(caption.token_logps)


def test_a_model_without_log_probabilities(media_folder: Path, scripted_model: Callable) -> None:
    captioner = Captioner(scripted_model(), "toy", "rev1")
    with pytest.raises(ConfigError, match="model 'toy' gives no log-probabilities of its tokens"):
        captioner.caption(media_folder / "a.mp4", keep_logps=True)


def test_options_reach_the_model_and_the_record(tmp_path: Path, media_folder: Path) -> None:
    from avocet.models.qwen_omni.tiny import tiny_model

    folder = tmp_path / "omni"
    tiny_model().save(folder)
    options = ModelOptions(fps=5.0, max_frames=4, layout="released")
    captioner = load_captioner(str(folder), "cpu", options=options)
    caption = captioner.caption(media_folder / "a.mp4")
    assert caption.num_frames == 4  # 5 in the second, at most 4
    assert caption.layout_rule == "tmrope_released"
    assert (caption.media["sampling_fps"], caption.media["max_frames"]) == (5.0, 4)
    assert caption.media["options"] == {"fps": 5.0, "max_frames": 4, "layout": "released"}
    plain = load_captioner(str(folder), "cpu").caption(media_folder / "a.mp4")
    assert (plain.num_frames, plain.media["options"]) == (4, {})  # 2 in the second, at least 4
    with pytest.raises(ConfigError, match="model 'nano' has no settings fps"):
        load_captioner("nano", "cpu", options=ModelOptions(fps=1.0))


def test_a_still_image(tmp_path: Path, scripted_model: Callable) -> None:
    Image.new("RGB", (40, 30), (200, 20, 20)).save(tmp_path / "p.png")
    caption = Captioner(scripted_model(), "toy", "rev1").caption(tmp_path / "p.png")
    assert caption.media["is_image"] is True
    assert (caption.media["frame_width"], caption.media["num_audio_tokens"]) == (40, 0)
