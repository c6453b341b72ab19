"""What travels: media without loss, weights as export would write them, and answers cut where our guard would."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from avocet.errors import ConfigError
from avocet.media import open_clip
from avocet.models.lora import add_lora, lora_parameters, merge_lora
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.salmonn2.tiny import tiny_plus
from avocet.records import Clip, ClipRef, Sampling
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.finetune.export import load_adapter_folder
from avocet.training.grpo.rollouts import media
from avocet.training.grpo.rollouts.media import NotSendable, SeenMedia, matroska, png, seen_media, wav
from avocet.training.grpo.rollouts.replies import Rejected, read_rollout
from avocet.training.grpo.rollouts.server import THINKER_RENAMES
from avocet.training.grpo.rollouts.weights import write_adapter, write_merged

NOISE = np.random.default_rng(3)


def seen(num_frames: int = 4, seconds: float = 2.0, fps: float = 2.0, **changes: Any) -> SeenMedia:
    arguments: dict[str, Any] = {
        "frames": NOISE.integers(0, 256, (num_frames, 3, 56, 84), dtype=np.uint8),
        "waveform": (0.2 * NOISE.standard_normal(round(seconds * 16_000))).astype(np.float32),
        "fps": fps,
    }
    return SeenMedia(**arguments | changes)


@pytest.mark.parametrize("num_frames", [4, 5])
def test_a_lossless_file(tmp_path: Path, num_frames: int) -> None:
    sent = seen(num_frames)
    path = tmp_path / "sent.mkv"
    path.write_bytes(matroska(sent))
    clip = open_clip(str(path), fps=2.0)
    # An odd number is made even by showing the last frame twice.
    assert clip.num_frames == num_frames + num_frames % 2
    assert np.array_equal(clip.frames[:num_frames], sent.frames)
    assert np.array_equal(clip.frames[-1], sent.frames[-1])
    assert clip.waveform is not None
    assert np.array_equal(clip.waveform, sent.waveform)
    path.write_bytes(matroska(seen(waveform=None)))
    assert open_clip(str(path), fps=2.0).waveform is None


def test_sound_and_pictures_alone(tmp_path: Path) -> None:
    sent = seen()
    assert sent.waveform is not None
    path = tmp_path / "sent.wav"
    path.write_bytes(wav(sent.waveform))
    clip = open_clip(str(path))
    assert clip.waveform is not None
    assert np.array_equal(clip.waveform, sent.waveform)
    picture = tmp_path / "sent.png"
    picture.write_bytes(png(sent.frames[0]))
    assert np.array_equal(open_clip(str(picture)).frames[0], sent.frames[0])


def test_what_the_trainer_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(make_script(81, level=1), tmp_path / "a.mp4")
    ref = ClipRef(id="a", path=str(tmp_path / "a.mp4"), end_seconds=2.5)
    model = tiny_model()
    clip = open_clip(ref.path, fps=2.0, end_seconds=2.5, max_pixels=model.max_pixels)
    prompt = model.prepare(clip, "x")
    found = seen_media(model, prompt, ref)
    assert np.array_equal(found.frames, prompt.frames.numpy())
    assert clip.waveform is not None
    assert np.array_equal(found.waveform, clip.waveform)
    assert (found.fps, found.is_image) == (2.0, False)
    # With a feature store the prompt holds shapes only, and the frames are resized anew.
    stored = dataclasses.replace(prompt, frames=prompt.frames.to("meta"))
    assert np.array_equal(seen_media(model, stored, ref).frames, found.frames)
    fewer = dataclasses.replace(prompt, frames=prompt.frames[:3])
    with pytest.raises(NotSendable, match="other_number_of_frames"):
        seen_media(model, fewer, ref)

    def gappy(*_: Any, **__: Any) -> Clip:
        times = clip.frame_times_seconds.copy()
        times[-1] += 1.0
        return dataclasses.replace(clip, frame_times_seconds=times)

    monkeypatch.setattr(media, "open_clip", gappy)
    with pytest.raises(NotSendable, match="frames_not_on_a_grid"):
        seen_media(model, prompt, ref)


@pytest.mark.parametrize("make", [tiny_model, tiny_plus])
def test_merged_weights_are_those_of_the_export(make: Any, tmp_path: Path) -> None:
    model = make()
    add_lora(model, 2, 4.0)
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    layers = [id(part) for part in model.modules()]
    write_merged(model, tmp_path / "now", "bfloat16")
    assert [id(part) for part in model.modules()] == layers
    exported = copy.deepcopy(model)
    merge_lora(exported)
    exported.save(tmp_path / "later", torch.bfloat16)
    now, later = (load_file(tmp_path / name / "model.safetensors") for name in ("now", "later"))
    prefix = "thinker." if make is tiny_model else ""
    assert now.keys() == {prefix + name for name in later}
    assert all(torch.equal(now[prefix + name], value) for name, value in later.items())
    with pytest.raises(ConfigError, match="exists; give each run its own folder"):
        write_merged(model, tmp_path / "now", "bfloat16")
    with pytest.raises(ConfigError, match="unknown dtype 'int8'"):
        write_merged(model, tmp_path / "other", "int8")


def test_an_adapter_goes_back_onto_its_base(tmp_path: Path) -> None:
    model = tiny_model()
    model.requires_grad_(False)
    add_lora(model, 2, 4.0)
    for parameter in lora_parameters(model):
        torch.nn.init.normal_(parameter)
    write_adapter(model, tmp_path / "a", "base")
    again = tiny_model()
    load_adapter_folder(again, tmp_path / "a")
    merge_lora(model)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-6, rtol=0)
    assert THINKER_RENAMES[0] == ("thinker.model.language_model.", "thinker.model.")


def read(model: Any, ids: list[int], **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "text": model.decode(ids),
        "token_ids": ids,
        "tokens": None,
        "log_probs": [-1.0] * len(ids),
        "finish_reason": "length",
        "sampling": Sampling(),
    }
    return read_rollout(model, **arguments | changes)


def test_a_loop_is_cut_where_our_generation_would_stop() -> None:
    model = tiny_model()
    block = model.encode_text(" ball")
    assert len(block) == 1
    # A loop of period 1 counts from 64 tokens on; 5 others stand before it, and it is looked for every 16 tokens: 80.
    ids = [*model.encode_text("dog a dog a dog")[:5], *block * 120]
    cut = read(model, ids)
    assert (len(cut.token_ids), len(cut.log_probs), cut.stop_reason) == (80, 80, "repetition")
    assert cut.text == model.decode(ids[:80])
    whole = read(model, ids, sampling=Sampling(repetition_guard="off"))
    assert (len(whole.token_ids), whole.stop_reason) == (125, "length")


def test_answers() -> None:
    model = tiny_model()
    text, end = model.encode_text("a dog barks"), model.stop_ids[0]
    ended = read(model, [*text, end], finish_reason="stop", text=" a dog barks ")
    assert (ended.text, ended.stop_reason, ended.token_ids[-1]) == ("a dog barks", "end", end)
    spelt = [model.tokenizer.decode([token]) for token in [*text, end]]
    again = read(model, [*text, end], finish_reason="stop", token_ids=None, tokens=spelt)
    assert again.token_ids == ended.token_ids
    assert read(model, text, log_probs=None).log_probs is None
    assert read(model, text, log_probs=[5e-5] * len(text)).log_probs == (0.0,) * len(text)
    # One token cut into two spells the same text and is not what the tokenizer would say.
    halves = [spelt[0], *spelt[1], *spelt[2:]]
    for changes, reason in (
        ({"token_ids": None, "tokens": halves}, "text_differs_from_tokens"),
        ({"text": "a dog"}, "text_differs_from_tokens"),
        ({"token_ids": [*text[:1], end, *text[1:]]}, "end_token_inside"),
        ({"log_probs": [float("nan")] * len(text)}, "log_probs_do_not_fit"),
        ({"log_probs": [0.1] * len(text)}, "log_probs_do_not_fit"),
        ({"token_ids": None}, "no_token_ids"),
        ({"finish_reason": "stop"}, "no_end_token"),
        ({"finish_reason": None}, "finish_reason"),
    ):
        with pytest.raises(Rejected) as refused:
            read(model, text, **changes)
        assert refused.value.reason == reason
