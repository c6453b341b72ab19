"""The audibility probe, on the shipped model: hearing and seeing, and models that were made deaf or blind."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avocet.captioning.captioner import Captioner, load_captioner
from avocet.captioning.probe import (
    ProbeReport,
    black,
    divergence_bits,
    drop_picture,
    drop_sound,
    freeze,
    mute,
    probe_clip,
    reverse_picture,
    shift_sound,
    swap_sound,
)
from avocet.cli import main
from avocet.errors import AvocetError, ConfigError
from avocet.records import SAMPLE_RATE, Clip
from avocet.theatre import make_script, stage


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return load_captioner("nano", "cpu")


@pytest.fixture(scope="module")
def clip(captioner, tmp_path_factory) -> Clip:
    path = tmp_path_factory.mktemp("probe") / "theatre.mp4"
    stage(make_script(990_001, level=1), path)
    return captioner.open(path).clip


class Impaired:
    """A model that drops a stream on its way in, as a broken pipeline would."""

    def __init__(self, model: Any, change: Any) -> None:
        self._model, self._change = model, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def prepare(self, clip: Clip, instruction: str) -> Any:
        return self._model.prepare(self._change(clip), instruction)


def test_nano_hears_and_sees(captioner, clip):
    report = probe_clip(captioner, clip)
    assert (report.sound_used, report.picture_used, report.unused) == (True, True, ())
    effects = {effect.intervention: effect for effect in report.effects}
    names = ["repeat", "mute", "no_sound", "shuffle_sound", "shift_sound", "black", "no_picture", "freeze"]
    assert list(effects) == [*names, "reverse_picture"]
    assert effects["repeat"].max_bits == 0
    for name in ("mute", "no_sound", "black", "no_picture"):
        # The model says something else about what is gone, and finds its own answer less likely.
        assert effects[name].max_bits > 0.5
        assert effects[name].mean_logp_change < -0.1
        assert 0 < effects[name].changed_choices < 1
    assert report == probe_clip(captioner, clip)


@pytest.mark.parametrize(("change", "unused"), [(drop_sound, "sound"), (drop_picture, "picture")])
def test_a_dropped_stream_is_found(captioner, clip, change, unused):
    impaired = Captioner(Impaired(captioner.model, change), "broken", "rev")
    report = probe_clip(impaired, clip, max_tokens=8)
    assert report.unused == (unused,)
    touched = [effect for effect in report.effects if effect.stream == unused]
    assert len(touched) >= 3
    for effect in touched:
        # Dropping the other stream too leaves nothing to lay out; every other change does nothing at all.
        assert effect.skipped is not None or effect.max_bits == 0


@pytest.mark.parametrize(("constant", "stream"), [(mute, "sound"), (black, "picture")])
def test_a_stream_whose_content_is_lost_is_found_although_its_tokens_are_there(captioner, clip, constant, stream):
    """An encoder that always says the same still takes up places, so that taking the stream away moves the answer."""

    def lose_content(given: Clip) -> Clip:
        present = given.waveform is not None if stream == "sound" else given.num_frames > 0
        return constant(given) if present else given

    report = probe_clip(Captioner(Impaired(captioner.model, lose_content), "broken", "rev"), clip, max_tokens=12)
    assert report.unused == (stream,)
    assert report.largest_bits(stream, "content", "time") == 0
    assert report.largest_bits(stream, "presence") > 0.005


def skipped(report: ProbeReport) -> dict[str, str]:
    return {effect.intervention: effect.skipped for effect in report.effects if effect.skipped is not None}


def test_what_is_not_there_is_skipped_with_its_reason(captioner, clip):
    silent = probe_clip(captioner, drop_sound(clip), max_tokens=4)
    assert (silent.sound_used, silent.picture_used, silent.sound_time_used) == (None, True, None)
    no_sound = "the clip has no sound (audio is absent)"
    assert skipped(silent) == {
        **dict.fromkeys(["mute", "no_sound", "shuffle_sound", "shift_sound"], no_sound),
        "no_picture": "nothing of the clip would be left",
    }
    radio = probe_clip(captioner, drop_picture(clip), max_tokens=4)
    assert (radio.sound_used, radio.picture_used, radio.picture_order_used) == (True, None, None)
    assert skipped(radio) == {
        **dict.fromkeys(["black", "no_picture", "freeze", "reverse_picture"], "the clip has no picture"),
        "no_sound": "nothing of the clip would be left",
    }
    # What a clip does not have is no failure.
    assert silent.unused == silent.untested == radio.unused == radio.untested == ()
    assert silent.effects[1].max_bits is None


def test_a_change_that_leaves_the_clip_as_it_is_says_nothing(captioner, clip):
    same = "it leaves this clip as it is"
    still = probe_clip(captioner, freeze(clip), max_tokens=12)
    assert skipped(still) == {"freeze": same, "reverse_picture": same}
    assert (still.picture_used, still.picture_order_used, still.untested) == (True, None, ())
    around = probe_clip(captioner, clip, max_tokens=12, shift_seconds=len(clip.waveform) / SAMPLE_RATE)
    assert skipped(around) == {"shift_sound": same}
    quiet = probe_clip(captioner, mute(clip), max_tokens=12)
    assert skipped(quiet) == dict.fromkeys(["mute", "shuffle_sound", "shift_sound"], same)
    # Silence is a stream, but it cannot show whether sound is heard.
    assert (quiet.sound_used, quiet.unused, quiet.untested) == (None, (), ("sound",))


class Noisy(Impaired):
    """A deaf model whose arithmetic does not repeat: each answer is tilted a little further than the last."""

    def __init__(self, model: Any, tilts: list[float]) -> None:
        super().__init__(model, drop_sound)
        self._tilts = iter(tilts)

    def next_token_log_probs(self, prefix: Any, completion: Any) -> torch.Tensor:
        logits = self._model.next_token_log_probs(prefix, completion).clone()
        logits[:, completion[0]] += next(self._tilts)
        return logits.log_softmax(-1)


def test_noise_is_not_taken_for_hearing(captioner, clip):
    # Divergence grows with the square of a tilt: twice the repetition's is 4 times its noise, 5 times it 25 times.
    steady = [0.0, 0.01, *[0.02] * 8]
    report = probe_clip(Captioner(Noisy(captioner.model, steady), "noisy", "rev"), clip, max_tokens=6)
    noise = report.effects[0].max_bits
    assert noise > 0
    assert report.threshold_bits == max(10 * noise, 1e-6)
    assert report.largest_bits("sound", "content", "time") == pytest.approx(4 * noise, rel=0.1)
    assert report.sound_used is False
    moved = Captioner(Noisy(captioner.model, [0.0, 0.01, *[0.05] * 8]), "noisy", "rev")
    assert probe_clip(moved, clip, max_tokens=6).sound_used is True


class Told(Impaired):
    """A model of two words with given distributions: the first for the unchanged clip and its repetition."""

    def __init__(self, model: Any, changed: torch.Tensor) -> None:
        super().__init__(model, lambda clip: clip)
        first = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        self._answers = iter([first, first, *[changed] * 8])

    def next_token_log_probs(self, prefix: Any, completion: Any) -> torch.Tensor:
        return next(self._answers).log()


def test_numbers_by_hand(captioner, clip):
    changed = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    report = probe_clip(Captioner(Told(captioner.model, changed), "told", "rev"), clip, completion=[0, 1])
    effect = report.effects[1]
    # First token: the middle of (3/4, 1/4) and (1/4, 3/4) is (1/2, 1/2): 3/4 log2(3/2) + 1/4 log2(1/2) bits.
    bits = 0.75 * math.log2(1.5) - 0.25
    assert effect.max_bits == pytest.approx(bits)
    assert effect.mean_bits == pytest.approx(bits / 2)
    assert effect.changed_choices == 0.5
    # Word 0 falls from 3/4 to 1/4, word 1 stays: (ln(1/3) + 0) / 2.
    assert effect.mean_logp_change == pytest.approx(-math.log(3) / 2)


def test_what_is_not_a_number_is_no_verdict(captioner, clip):
    broken = torch.full((2, 2), math.nan)
    report = probe_clip(Captioner(Told(captioner.model, broken), "told", "rev"), clip, completion=[0, 1])
    assert (report.sound_used, report.untested) == (None, ("sound", "picture"))
    assert "not numbers (NaN)" in skipped(report)["mute"]

    class Broken(Impaired):
        def next_token_log_probs(self, prefix: Any, completion: Any) -> torch.Tensor:
            return broken

    with pytest.raises(AvocetError, match=r"not numbers \(NaN\)"):
        probe_clip(Captioner(Broken(captioner.model, lambda clip: clip), "broken", "rev"), clip, max_tokens=2)


def test_a_change_that_the_model_refuses_is_recorded(captioner, clip):
    class Picky(Impaired):
        def prepare(self, clip: Clip, instruction: str) -> Any:
            if clip.waveform is None:
                raise ConfigError("no clip without sound, please")
            return self._model.prepare(clip, instruction)

    picky = Captioner(Picky(captioner.model, None), "picky", "rev")
    effects = {effect.intervention: effect for effect in probe_clip(picky, clip, max_tokens=4).effects}
    assert effects["no_sound"].skipped == "no clip without sound, please"
    assert effects["mute"].skipped is None


def test_a_given_completion_and_another_sound(captioner, clip):
    other = dataclasses.replace(clip, id="other", waveform=np.ones(SAMPLE_RATE, np.float32) * 0.1)
    tokens = captioner.model.encode_text("A red star moves up.", end=True)
    report = probe_clip(captioner, clip, other=other, completion=tokens)
    assert (report.answer.strip(), report.num_tokens) == ("A red star moves up.", len(tokens))
    assert "swap_sound" in [effect.intervention for effect in report.effects]
    assert (report.other_id, report.shift_seconds) == ("other", 2.0)
    with pytest.raises(ConfigError, match="'mute' has no sound to swap in"):
        probe_clip(captioner, drop_sound(clip), other=dataclasses.replace(drop_sound(clip), id="mute"))
    with pytest.raises(ConfigError, match="max_tokens must be >= 1"):
        probe_clip(captioner, clip, max_tokens=0)


def test_a_clip_made_in_memory_and_of_another_world(captioner, clip):
    stranger = dataclasses.replace(clip, source=dataclasses.replace(clip.source, path="", tags={}))
    report = probe_clip(captioner, stranger, instruction="What is heard?", max_tokens=2)
    assert report.instruction == "What is heard?"
    assert any("knows only the procedural theatre" in warning for warning in report.warnings)
    assert probe_clip(captioner, clip, max_tokens=2).warnings == ()


def test_changes_of_the_picture(clip):
    grey = np.arange(1, 4, dtype=np.uint8)[:, None, None, None] * np.ones((3, 3, 2, 2), np.uint8)
    marked = dataclasses.replace(clip, frames=grey, frame_times_seconds=np.arange(3.0))
    for change, levels in ((black, [0, 0, 0]), (freeze, [1, 1, 1]), (reverse_picture, [3, 2, 1])):
        changed = change(marked)
        assert changed.frames[:, 0, 0, 0].tolist() == levels
        assert changed.frame_times_seconds.tolist() == [0, 1, 2]
    assert drop_picture(marked).frames.shape == (0, 3, 2, 2)


def test_changes_of_the_sound(clip):
    second = np.arange(SAMPLE_RATE, dtype=np.float32) / SAMPLE_RATE
    marked = dataclasses.replace(clip, waveform=np.concatenate([second + k for k in range(4)]))
    shifted = shift_sound(marked, 1.0).waveform
    assert [int(shifted[k * SAMPLE_RATE]) for k in range(4)] == [3, 0, 1, 2]
    shuffled = swap_sound(marked, None).waveform
    order = [int(shuffled[k * SAMPLE_RATE]) for k in range(4)]
    assert sorted(order) == [0, 1, 2, 3]
    assert order != [0, 1, 2, 3]
    short = dataclasses.replace(clip, waveform=second[:100])
    repeated = swap_sound(marked, short).waveform
    assert (len(repeated), repeated[100]) == (4 * SAMPLE_RATE, 0)


def test_divergence_by_hand():
    same = torch.tensor([[0.5, 0.5]]).log()
    # No common outcome: 1 bit. (1, 0) against (1/2, 1/2): the middle is (3/4, 1/4);
    # (log2(4/3) + (log2(2/3) + log2(2)) / 2) / 2 = (0.41504 + 0.20752) / 2 = 0.31128.
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]).log()
    second = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.5, 0.5]]).log()
    expected = torch.tensor([1.0, (math.log2(4 / 3) + (math.log2(2 / 3) + 1) / 2) / 2, 0.0], dtype=torch.float64)
    torch.testing.assert_close(divergence_bits(first, second), expected)
    torch.testing.assert_close(divergence_bits(second, first), expected)
    assert float(divergence_bits(same, same)) == 0


def test_the_report_is_one_json_line(captioner, clip, tmp_path: Path):
    report = probe_clip(captioner, clip, max_tokens=3)
    assert type(report).from_json(report.to_json_line()) == report


def test_command_line_tells_lost_content_from_a_lost_stream(clip, capsys, monkeypatch):
    from avocet.models.salmonn2.modeling import Salmonn2Model

    prepare = Salmonn2Model.prepare

    def always_silent(self: Salmonn2Model, given: Clip, instruction: str) -> Any:
        return prepare(self, given if given.waveform is None else mute(given), instruction)

    monkeypatch.setattr(Salmonn2Model, "prepare", always_silent)
    assert main(["probe", "nano", clip.source.path, "--max-tokens", "12"]) == 2
    out, err = capsys.readouterr()
    assert "sound: NOT USED" in out
    assert "picture: used" in out
    assert err.startswith("avocet probe: the sound changes nothing: nano answers the same whatever its content, only")
    assert err.count("\n") == 1


def test_command_line_on_clips_that_lack_something(captioner, clip_writer, tmp_path, capsys):
    mute_clip = clip_writer(tmp_path / "mute.mp4", tone_hertz=None)
    assert main(["probe", "nano", str(mute_clip), "--max-tokens", "3"]) == 0
    out, err = capsys.readouterr()
    assert "sound: not in the clip" in out
    assert "shift_sound was skipped: the clip has no sound (audio is absent)" in out
    assert "warning: nano knows only the procedural theatre" in out
    assert not err
    # One second of a steady tone goes around in one second, and is shuffled into itself: only muting is left.
    tone = clip_writer(tmp_path / "tone.mp4", seconds=1.0)
    samples = len(captioner.open(str(tone)).clip.waveform)
    arguments = ["--max-tokens", "3", "--shift-seconds", str(samples / SAMPLE_RATE)]
    assert main(["probe", "nano", str(tone), *arguments]) == 0
    assert "time of the sound: could not be tested" in capsys.readouterr().out


def test_command_line_says_what_could_not_be_tested(captioner, clip_writer, tmp_path, capsys, monkeypatch):
    path = str(clip_writer(tmp_path / "clip.mp4"))
    opened = captioner.open(path)
    quiet = dataclasses.replace(opened, clip=mute(opened.clip))
    monkeypatch.setattr(Captioner, "open", lambda self, source, audio="auto": quiet)
    assert main(["probe", "nano", path, "--max-tokens", "3", "--json"]) == 2
    out, err = capsys.readouterr()
    assert ProbeReport.from_json(out).untested == ("sound",)
    assert err == "avocet probe: the sound could not be tested: it leaves this clip as it is; try another clip\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nano", "x.mp4", "--model", "nano"], "--model belongs to --parity"),
        (["--parity", "--max-tokens", "3", "--fps", "1"], "--fps, --max-tokens: not with --parity"),
        (["nano", "x.mp4", "--patch-pixels", "100"], "patch_pixels"),
        (["nano", "x.mp4", "--total-pixels", "100"], "total_pixels"),
    ],
)
def test_command_line_refuses_flags_that_would_do_nothing(arguments, message, capsys):
    assert main(["probe", *arguments]) == 2
    assert message in capsys.readouterr().err
