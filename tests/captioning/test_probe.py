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
from avocet.captioning.probe import divergence_bits, drop_picture, drop_sound, probe_clip, shift_sound, swap_sound
from avocet.errors import ConfigError
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


def test_what_is_not_there_is_not_tested(captioner, clip):
    silent = probe_clip(captioner, drop_sound(clip), max_tokens=4)
    assert (silent.sound_used, silent.picture_used, silent.sound_time_used) == (None, True, None)
    radio = probe_clip(captioner, drop_picture(clip), max_tokens=4)
    assert (radio.sound_used, radio.picture_used, radio.picture_order_used) == (True, None, None)
    assert radio.unused == ()


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
    with pytest.raises(ConfigError, match="'mute' has no sound to swap in"):
        swap_sound(clip, dataclasses.replace(drop_sound(clip), id="mute"))
    with pytest.raises(ConfigError, match="max_tokens must be >= 1"):
        probe_clip(captioner, clip, max_tokens=0)


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
