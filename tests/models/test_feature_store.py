"""The feature store with every model family: same values with it and without, hits equal to misses to the bit."""

from __future__ import annotations

import copy
import dataclasses
import logging
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from v1_models import build, tiny_config

from avocet.errors import ConfigError, LayoutError
from avocet.media import open_clip
from avocet.models.base import DecoderModel
from avocet.models.features import FeatureStore, content_key
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.models.salmonn2 import Salmonn2Model
from avocet.models.salmonn2.tiny import tiny_plus
from avocet.models.trunks import Trunk

FAMILIES = ["nano", "nano, whole segments", "v1", "plus", "qwen2.5-omni", "qwen3-omni"]
ASKED = "Describe the video."


@pytest.fixture
def make_model(request, tokenizer, tiny_config) -> Callable[[str], DecoderModel]:
    def make(name: str) -> DecoderModel:
        if name.startswith("nano"):
            torch.manual_seed(0)
            audio = dataclasses.replace(tiny_config.audio, pad_segments="whole" in name)
            return Salmonn2Model(dataclasses.replace(tiny_config, audio=audio), tokenizer).eval()
        if name == "v1":
            return build(v1_config(len(tokenizer)), tokenizer)
        return tiny_plus() if name == "plus" else tiny_model(name)

    return make


v1_config = tiny_config


@pytest.fixture(params=FAMILIES)
def family_model(request, make_model) -> DecoderModel:
    return make_model(request.param)


@pytest.fixture
def model(make_model) -> DecoderModel:
    return make_model("nano")


@pytest.fixture
def make_store(tmp_path) -> Callable[..., FeatureStore]:
    def make(name: str = "store", **arguments: Any) -> FeatureStore:
        return FeatureStore(tmp_path / name, **{"max_bytes": 10**8, "mode": "on"} | arguments)

    return make


def freeze(model: DecoderModel, *names: str) -> None:
    """Freeze the towers up to their aligners; everything else stays trainable."""
    for name in names or ("vision", "audio"):
        for _, tensor in model.trunks()[name].tensors:
            tensor.requires_grad_(False)


def encode_and_learn(model: DecoderModel, prompts) -> tuple[Any, list[torch.Tensor], dict[str, torch.Tensor]]:
    """Prefix, log-probabilities of a made-up completion, and the gradients of their mean."""
    model.zero_grad()
    prefix = model.encode(prompts)
    scores = [row[0] for row in model.score(prefix, [[[5, 6, 7]]] * len(prompts))]
    (-torch.cat(scores).mean()).backward()
    gradients = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    return prefix, [score.detach() for score in scores], gradients


def assert_same(one, other, tolerance: float = 0.0) -> None:
    (prefix, scores, gradients), (other_prefix, other_scores, other_gradients) = one, other
    assert len(prefix.deepstack) == len(other_prefix.deepstack)
    exact = {"atol": tolerance, "rtol": tolerance}
    torch.testing.assert_close(prefix.embeddings, other_prefix.embeddings, **exact)
    torch.testing.assert_close(prefix.deepstack, other_prefix.deepstack, **exact)
    torch.testing.assert_close(scores, other_scores, **exact)
    assert gradients.keys() == other_gradients.keys()
    torch.testing.assert_close(gradients, other_gradients, atol=20 * tolerance, rtol=20 * tolerance)


# Values.


def test_the_same_with_and_without_the_store(family_model, mixed, make_store):
    """Sound, no track, silence, sound only, image, one frame: a miss, a hit, and no store at all."""
    model = family_model
    freeze(model)
    prompts = [model.prepare(clip, ASKED) for clip in mixed]
    bare = encode_and_learn(model, prompts)
    model.feature_store = store = make_store()
    missed = encode_and_learn(model, prompts)
    pictures, sounds = (
        sum(map(bool, each)) for each in ([len(p.frames) for p in prompts], [p.mel is not None for p in prompts])
    )
    assert (pictures, sounds) == (6, 5)
    assert (store.counts("vision").misses, store.counts("audio").misses, store.counts().hits) == (6, 5, 0)
    hit = encode_and_learn(model, prompts)
    assert (store.counts("vision").hits, store.counts("audio").hits, store.counts().misses) == (6, 5, 11)
    assert_same(missed, hit)
    # Only the paper's model runs its towers on whole batches without a store; then sums are taken in another order.
    assert_same(bare, hit, 1e-6 if isinstance(model, Salmonn2Model) else 0.0)
    trained = set(hit[2])
    for name, trunk in model.trunks().items():
        assert not trained & {name_of(model, tensor) for _, tensor in trunk.tensors}, name
    assert any("merger" in name or "aligner" in name or "projection" in name for name in trained)


def name_of(model: nn.Module, tensor: torch.Tensor) -> str:
    return next((name for name, part in model.named_parameters() if part is tensor), "a buffer")


def test_values_do_not_depend_on_the_batch_or_the_order(family_model, mixed, make_store):
    model = family_model
    freeze(model)
    prompts = [model.prepare(clip, ASKED) for clip in mixed]
    model.feature_store = make_store()
    model.encode(prompts[::-1])
    together = model.encode(prompts)
    model.feature_store = make_store("another")
    for place, prompt in enumerate(prompts):
        alone = model.encode([prompt])
        length = int(alone.lengths[0])
        # Aligners of the paper's model still run on the batch.
        tolerance = 1e-6 if isinstance(model, Salmonn2Model) else 0.0
        row = together.embeddings[place, :length]
        torch.testing.assert_close(row, alone.embeddings[0], atol=tolerance, rtol=tolerance)


def test_a_store_that_is_off_gives_the_same_bits(model, mixed, make_store):
    """Switching itself off in the middle of a training must not change what is trained."""
    freeze(model)
    prompts = [model.prepare(clip, ASKED) for clip in mixed]
    model.feature_store = make_store()
    on = encode_and_learn(model, prompts)
    model.feature_store = off = make_store("off", mode="off")
    assert_same(on, encode_and_learn(model, prompts))
    assert off.files.num_bytes == off.counts().misses == 0


def test_a_tower_in_training_mode_runs_without_dropout(make_model, mixed, make_store, tokenizer):
    model = make_model("nano")
    freeze(model)
    for module in model.vision.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.5
    model.audio_encoder.dropout = 0.5
    prompts = [model.prepare(clip, ASKED) for clip in mixed]
    model.feature_store = make_store("a")
    evaluated = model.encode(prompts).features
    model.feature_store = make_store("b")
    model.audio_encoder.train()
    model.vision.train()
    trained = model.encode(prompts).features
    assert model.audio_encoder.training
    assert torch.equal(evaluated["vision"], trained["vision"])
    assert all(map(torch.equal, evaluated["audio"], trained["audio"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_round_hits_and_misses_alike(family_model, mixed, make_store, dtype):
    model = family_model
    freeze(model)
    prompts = [model.prepare(clip, ASKED) for clip in mixed]
    model.feature_store = exact = make_store("exact")
    precise = model.encode(prompts)
    model.feature_store = store = make_store("short", dtype=dtype)
    missed, hit = (model.encode(prompts) for _ in range(2))
    assert store.counts().hits == 11
    assert torch.equal(missed.embeddings, hit.embeddings)
    assert hit.embeddings.dtype == torch.float32
    assert not torch.equal(precise.embeddings, hit.embeddings)
    torch.testing.assert_close(precise.embeddings, hit.embeddings, atol=0.5, rtol=0.1)
    assert store.files.num_bytes < exact.files.num_bytes


def test_float16_refuses_what_it_cannot_hold(model, mixed, make_store):
    freeze(model)
    with torch.no_grad():
        model.vision.post_layernorm.weight.mul_(1e6)
    model.feature_store = make_store(dtype=torch.float16)
    with pytest.raises(ConfigError, match="does not fit float16; store bfloat16"):
        model.encode([model.prepare(mixed[0], ASKED)])


# Trainable towers and changing weights.


@pytest.mark.parametrize(("frozen", "trained"), [("vision", "audio"), ("audio", "vision")])
def test_a_trainable_tower_bypasses_the_store(family_model, mixed, make_store, frozen, trained):
    model = family_model
    freeze(model)
    tensor = next(part for _, part in model.trunks()[trained].tensors if part.ndim > 1 and part.is_leaf)
    tensor.requires_grad_()
    prompts = [model.prepare(clip, ASKED) for clip in mixed]
    bare = encode_and_learn(model, prompts)
    model.feature_store = store = make_store()
    missed, hit = (encode_and_learn(model, prompts) for _ in range(2))
    assert store.counts(frozen).hits == store.counts(frozen).misses > 0
    assert (store.counts(trained).hits, store.counts(trained).misses) == (0, 0)
    assert_same(missed, hit)
    assert_same(bare, hit, 1e-6 if isinstance(model, Salmonn2Model) else 0.0)
    assert hit[2][name_of(model, tensor)].abs().max() > 0


class Sharded(nn.Parameter):
    """Looks like a share of a weight that FSDP2 has spread over processes."""

    device_mesh = "two processes"


def test_a_sharded_tower_bypasses_the_store(model, mixed, make_store, caplog):
    freeze(model)
    norm = model.vision.post_layernorm
    norm.weight = Sharded(norm.weight.detach(), requires_grad=False)
    model.feature_store = store = make_store()
    with caplog.at_level(logging.WARNING):
        for clip in mixed[:2]:
            model.encode([model.prepare(clip, ASKED)])
    assert store.counts("vision").misses == 0
    assert store.counts("audio").misses == 1
    assert [record.message for record in caplog.records if "sharded" in record.message] == [
        "feature store: the frozen vision tower is sharded over processes, so its outputs are not stored: all "
        "processes must run it together. Keep frozen towers whole (leave them out of the sharding)"
    ]


def misses(model: DecoderModel, prompts) -> tuple[int, int]:
    """New misses (vision, audio) of one encode."""
    store = model.feature_store
    before = store.counts("vision").misses, store.counts("audio").misses
    model.encode(prompts)
    return store.counts("vision").misses - before[0], store.counts("audio").misses - before[1]


def test_changed_weights_are_another_revision(family_model, mixed, make_store):
    model = family_model
    freeze(model)
    prompts = [model.prepare(mixed[0], ASKED)]
    model.feature_store = make_store()
    assert misses(model, prompts) == (1, 1)
    weights = copy.deepcopy(model.state_dict())
    first = model.encode(prompts)
    audio = [part for _, part in model.trunks()["audio"].tensors if part.is_floating_point() and part.ndim > 1]
    with torch.no_grad():
        audio[0].mul_(1.5)
    assert misses(model, prompts) == (0, 1)
    assert not torch.equal(first.embeddings, model.encode(prompts).embeddings)
    model.load_state_dict(weights)
    assert misses(model, prompts) == (0, 0)
    assert torch.equal(first.embeddings, model.encode(prompts).embeddings)
    aligner = next(part for name, part in model.named_parameters() if "merger" in name or "project" in name)
    with torch.no_grad():
        aligner.mul_(1.5)
    assert misses(model, prompts) == (0, 0)


def test_a_write_past_pytorchs_count_needs_refresh(model, mixed, make_store):
    freeze(model)
    prompts = [model.prepare(mixed[0], ASKED)]
    model.feature_store = make_store()
    model.encode(prompts)
    model.vision.post_layernorm.weight.data.mul_(2)
    assert misses(model, prompts) == (0, 0)
    model.feature_store.refresh(model)
    assert misses(model, prompts) == (1, 0)


def test_settings_types_and_children_belong_to_the_revision():
    def revision(**changes: Any) -> str:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        module.register_buffer("scale", torch.ones(3))
        if "config" in changes:
            module.config = type("Config", (), {"to_dict": lambda self: changes["config"]})()
        if "dtype" in changes:
            module[0].to(changes["dtype"])
        if "scale" in changes:
            module.scale = changes["scale"]
        aligners = ("1",) if "aligned" in changes else ()
        return Trunk(name="vision", module=module, aligners=aligners, reading=changes.get("reading", "")).revision()

    kinds: list[dict[str, Any]] = [
        {},
        {"config": {"heads": 2}},
        {"config": {"heads": 4}},
        {"dtype": torch.bfloat16},
        {"scale": torch.zeros(3)},
        {"scale": torch.ones(1, 3)},
        {"aligned": True},
        {"reading": "mean 0.5"},
    ]
    assert len({revision(**kind) for kind in kinds}) == len(kinds)
    assert revision() == revision()
    moved = {"heads": 2, "_name_or_path": "elsewhere", "transformers_version": "6"}
    assert revision(config=moved) == revision(config={"heads": 2})


def test_any_change_of_the_input_is_another_key(model, make_store):
    freeze(model)
    store = make_store()
    trunk = model.trunks()["vision"]
    frames = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    other = frames.clone()
    other[0, 2, 15, 15] = 1
    asked: list[tuple[torch.Tensor, dict[str, Any]]] = [
        (frames, {}),
        (other, {}),
        (frames.to(torch.int8), {}),
        (frames.reshape(3, 1, 16, 16), {}),
        (frames, {"detail": "cut to 3"}),
        (frames, {"content_key": "a"}),
        (frames, {"content_key": "b"}),
    ]

    def run(place: int, media: torch.Tensor, more: dict[str, Any], **changes: Any) -> float:
        chosen = changes.get("trunk", trunk)
        return float(store.output(chosen, media, lambda: (torch.tensor([float(place)]),), **more)[0])

    assert [run(place, *each) for place, each in enumerate(asked)] == list(range(len(asked)))
    assert [run(99, *each) for each in asked] == list(range(len(asked)))
    assert run(50, *asked[0], trunk=dataclasses.replace(trunk, name="audio")) == 50
    assert run(51, *asked[0], trunk=dataclasses.replace(trunk, reading="other")) == 51
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(52, *asked[0]) == 52
    assert run(53, *asked[0]) == 0


# Damage, cap, switching off.


def test_a_damaged_file_is_a_miss_and_is_made_anew(model, mixed, make_store, caplog):
    freeze(model)
    prompts = [model.prepare(mixed[0], ASKED)]
    model.feature_store = store = make_store()
    first = model.encode(prompts)
    for path in store.files.folder.rglob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-3] ^= 16
        path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        again = model.encode(prompts)
    assert torch.equal(first.embeddings, again.embeddings)
    assert (store.counts().damaged, store.counts().misses, store.counts().hits) == (2, 4, 0)
    assert sum("damaged file" in record.message for record in caplog.records) == 2
    assert torch.equal(first.embeddings, model.encode(prompts).embeddings)
    assert store.counts().hits == 2
    assert "2 damaged" in store.summary()


def test_the_cap_evicts_and_training_goes_on(model, media_clip, make_store):
    freeze(model)
    clips = [media_clip(f"c{seed}", 2.0, seed=seed) for seed in range(8)]
    prompts = [model.prepare(clip, ASKED) for clip in clips]
    model.feature_store = store = make_store("probe")
    wanted = [model.encode([prompt]).embeddings for prompt in prompts]
    model.feature_store = capped = make_store(max_bytes=store.files.num_bytes // 2)
    for _ in range(2):
        for prompt, expected in zip(prompts, wanted, strict=True):
            assert torch.equal(model.encode([prompt]).embeddings, expected)
    assert capped.files.num_evicted > 0
    assert capped.files.num_bytes <= capped.files.max_bytes
    assert f"{capped.files.num_evicted} evicted" in capped.summary()


def test_a_disk_that_cannot_be_written_is_reported_once(model, mixed, make_store, monkeypatch, caplog):
    freeze(model)
    model.feature_store = store = make_store()

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.files, "write", full)
    with caplog.at_level(logging.WARNING):
        for clip in mixed:
            model.encode([model.prepare(clip, ASKED)])
    assert sum("No space left" in record.message for record in caplog.records) == 1
    assert store.counts().misses == 11


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def paying(store: FeatureStore, clock: FakeClock, trunk: Trunk, compute: float, read: float, count: int) -> None:
    """`count` clips, each computed in `compute` seconds and then read in `read` seconds."""
    parse = store.files.read

    def slow_read(key: str):
        found = parse(key)
        clock.now += read if found is not None else 0.0
        return found

    store.files.read = slow_read

    def outputs() -> tuple[torch.Tensor, ...]:
        clock.now += compute
        return (torch.ones(2),)

    for _ in range(2):
        for place in range(count):
            store.output(trunk, torch.zeros(1), outputs, content_key=f"{trunk.name} {place}")


@pytest.mark.parametrize(
    ("mode", "compute", "read", "count", "stays_on"),
    [
        ("auto", 1.0, 1.5, 5, False),
        ("auto", 1.0, 1.5, 4, True),
        ("auto", 1.5, 1.0, 9, True),
        ("auto", 1.0, 1.0, 9, True),
        ("on", 1.0, 1.5, 9, True),
    ],
)
def test_it_switches_itself_off_when_reading_is_slower(model, make_store, caplog, mode, compute, read, count, stays_on):
    """Five hits decide: with 5 x 1.5 s of reading for 5 x 1.0 s of computing, the fifth hit switches off."""
    freeze(model)
    clock = FakeClock()
    store = make_store(mode=mode, window=5, clock=clock)
    trunk = model.trunks()["vision"]
    with caplog.at_level(logging.WARNING):
        paying(store, clock, trunk, compute, read, count)
    assert store.is_on("vision") == stays_on
    assert store.counts("vision").hits == count
    message = (
        "feature store: switched off for vision: the last 5 hits took 7.5 s to read, computing them took 5 s. Put the "
        "folder on a faster disk, store bfloat16, or force it with mode 'on'"
    )
    assert [record.message for record in caplog.records] == [message] * (not stays_on)
    assert ("off for: vision" in store.summary()) != stays_on
    if not stays_on:
        paying(store, clock, trunk, compute, read, count)
        assert (store.counts("vision").hits, len(caplog.records)) == (count, 1)
    assert store.is_on("audio")


def test_how_long_a_computation_took_survives_the_process(model, make_store):
    """A second run that never misses can still tell that reading does not pay."""
    freeze(model)
    clock = FakeClock()
    trunk = model.trunks()["audio"]
    paying(make_store(mode="on", clock=clock), clock, trunk, 1.0, 0.0, 5)
    later = make_store(mode="auto", window=5, clock=clock)
    paying(later, clock, trunk, 1.0, 2.0, 5)
    assert later.counts("audio").hits == 5
    assert not later.is_on("audio")


def test_the_summary_by_hand(model, make_store):
    freeze(model)
    clock = FakeClock()
    store = make_store(clock=clock, max_bytes=2_000_000)
    paying(store, clock, model.trunks()["vision"], 2.0, 0.5, 4)
    counts = store.counts()
    assert (counts.hits, counts.misses, counts.hit_rate) == (4, 4, 0.5)
    assert (counts.compute_seconds, counts.read_seconds) == (8.0, 2.0)
    assert counts.bytes_read == counts.bytes_written == store.files.num_bytes > 0
    megabytes = f"{store.files.num_bytes / 1e6:.1f}"
    assert store.summary() == (
        "feature store: 4 of 8 tower outputs found (50 %), 0 of 0 clips not decoded; "
        f"{megabytes} MB read in 2.0 s, {megabytes} MB written, 8.0 s of computing; "
        f"{megabytes} of 2.0 MB in use, 0 evicted, 0 damaged"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "maybe"}, "mode must be one of auto, on, off, got 'maybe'"),
        ({"dtype": torch.int8}, "dtype must be None"),
        ({"window": 0}, "window must be >= 1, got 0"),
        ({"max_bytes": 0}, "max_bytes must be >= 1, got 0"),
    ],
)
def test_wrong_arguments(make_store, arguments, message):
    with pytest.raises(ConfigError, match=message):
        make_store(**arguments)


def test_a_copied_model_shares_the_store(model, make_store):
    model.feature_store = make_store()
    assert copy.deepcopy(model).feature_store is model.feature_store


# Whole clips: neither decoder nor towers.


@pytest.fixture
def films(clip_writer, tmp_path) -> list[Path]:
    """With sound, silent, without a sound track; a picture."""
    import av
    import numpy as np

    folder = tmp_path / "films"
    folder.mkdir()
    still = folder / "still.png"
    with av.open(str(still), "w", format="image2") as output:
        stream = output.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 60, 44, "rgb24"
        pixels = np.random.default_rng(0).integers(0, 256, (44, 60, 3), dtype=np.uint8)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode(None))
    return [
        clip_writer(folder / "sound.mp4", 2.0),
        clip_writer(folder / "mute.mp4", 1.5, tone_hertz=0.0),
        clip_writer(folder / "no_track.mp4", 1.0, tone_hertz=None),
        still,
    ]


def arguments_of(model: DecoderModel) -> dict[str, Any]:
    return {"fps": model.clip_fps, "max_frames": model.max_frames, "min_frames": model.min_frames}


def cached_prompt(model: DecoderModel, path: Path, instruction: str, read: Callable[..., Any] = open_clip):
    """The loop of the module's docstring."""
    store, arguments = model.feature_store, arguments_of(model)
    key = content_key(model, path, arguments)
    media = store.find(model, key, path.stem)
    if media is None:
        clip = read(path, **arguments, max_pixels=model.max_pixels, clip_id=path.stem)
        media = store.keep(model, key, model.read_clip(clip), seconds=10.0)
    return model.write_prompt(media, instruction)


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a clip was decoded although everything about it was stored")


def test_known_clips_need_neither_decoder_nor_towers(family_model, films, make_store, monkeypatch):
    """Another instruction in the second epoch; prompts and values as if everything had been read again."""
    model = family_model
    freeze(model)
    model.feature_store = store = make_store()
    model.encode([cached_prompt(model, path, ASKED) for path in films])
    again = [cached_prompt(model, path, "What is heard?", refuse) for path in films]
    assert (store.counts("clip").hits, store.counts("clip").misses) == (4, 4)
    assert all(prompt.frames.is_meta for prompt in again)
    model.feature_store = make_store("fresh")
    arguments = arguments_of(model) | {"max_pixels": model.max_pixels}
    anew = [model.prepare(open_clip(path, **arguments, clip_id=path.stem), "What is heard?") for path in films]
    fields = ("clip_id", "instruction", "token_ids", "is_image", "media", "warnings", "num_audio_tokens")
    for known, read in zip(again, anew, strict=True):
        assert [getattr(known, name) for name in fields] == [getattr(read, name) for name in fields]
        for name in ("positions", "audio_source"):
            mine, theirs = getattr(known, name), getattr(read, name)
            assert mine is theirs is None or (mine == theirs).all()
    expected = encode_and_learn(model, anew)
    model.feature_store = store
    for trunk in model.trunks().values():
        monkeypatch.setattr(type(trunk.module), "forward", refuse)
    assert_same(encode_and_learn(model, again), expected)
    assert "4 of 8 clips not decoded" in store.summary()


def test_what_makes_a_clip_unknown(model, films, make_store):
    freeze(model)
    arguments = arguments_of(model)
    keys = [
        content_key(model, films[0], arguments),
        content_key(model, films[1], arguments),
        content_key(model, films[0], arguments | {"fps": 1.0}),
        content_key(model, films[0], arguments | {"start_seconds": 0.5}),
        content_key(model, films[0], arguments | {"start_seconds": 0.5, "end_seconds": 1.0}),
        content_key(model, films[0], arguments | {"audio": "ignore"}),
    ]
    model.config = dataclasses.replace(model.config, max_frames=7)
    keys.append(content_key(model, films[0], arguments))
    changed = films[0].stat().st_mtime_ns
    films[0].write_bytes(films[0].read_bytes() + b"\0")
    os.utime(films[0], ns=(changed, changed))
    keys.append(content_key(model, films[0], arguments))
    os.utime(films[0], ns=(changed, changed + 1))
    keys.append(content_key(model, films[0], arguments))
    assert "" not in keys
    assert len(set(keys)) == len(keys)
    same = content_key(model, films[0], arguments | {"timeout_seconds": 3.0, "clip_id": "x", "max_pixels": None})
    assert same == keys[-1]
    assert content_key(model, "https://example.org/film.mp4", arguments) == ""
    assert content_key(model, films[0].parent, arguments) == ""
    model.feature_store = store = make_store()
    assert store.find(model, "", "clip") is None
    media = model.read_clip(open_clip(films[1]))
    assert store.keep(model, "", media, 1.0) is media
    assert store.files.num_bytes == 0


@pytest.mark.parametrize("gone", ["clip", "vision", "audio"])
def test_a_missing_part_means_reading_the_clip_again(model, films, make_store, gone):
    freeze(model)
    model.feature_store = store = make_store()
    first = model.encode([cached_prompt(model, films[0], ASKED)])
    for path in store.files.folder.rglob("*.safetensors"):
        if store.files.read(path.stem).metadata["kind"] == gone:
            path.unlink()
    calls: list[Path] = []

    def counted(path: Path, **arguments: Any) -> Any:
        calls.append(path)
        return open_clip(path, **arguments)

    again = model.encode([cached_prompt(model, films[0], ASKED, counted)])
    assert calls == [films[0]]
    assert torch.equal(first.embeddings, again.embeddings)
    cached_prompt(model, films[0], ASKED, refuse)


def test_a_trained_tower_needs_the_media(model, films, make_store):
    freeze(model, "vision")
    model.feature_store = store = make_store()
    for _ in range(2):
        prompts = [cached_prompt(model, films[0], ASKED), cached_prompt(model, films[2], ASKED)]
        model.encode(prompts)
        assert not prompts[0].frames.is_meta
    assert prompts[1].frames.is_meta  # without sound there is nothing for the trained tower to hear
    assert (store.counts("clip").hits, store.counts("vision").hits) == (1, 2)


def test_features_of_other_weights_are_refused(model, films, make_store):
    freeze(model)
    model.feature_store = make_store()
    model.encode([cached_prompt(model, films[0], ASKED)])
    stale = cached_prompt(model, films[0], ASKED, refuse)
    with torch.no_grad():
        model.vision.post_layernorm.weight.mul_(2)
    with pytest.raises(LayoutError, match="holds no media, and no vision features of these weights"):
        model.encode([stale])
    model.feature_store = None
    with pytest.raises(LayoutError, match="holds no media"):
        model.encode([stale])


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_without_media_need_a_store(make_model, family, films, make_store):
    model = make_model(family)
    freeze(model)
    model.feature_store = make_store()
    model.encode([cached_prompt(model, films[0], ASKED)])
    bare = cached_prompt(model, films[0], ASKED, refuse)
    model.feature_store = None
    with pytest.raises(LayoutError, match="read the clip again"):
        model.encode([bare])


def test_decoding_counts_when_the_store_judges_itself(model, films, make_store):
    """Reading costs 3 s per entry and the towers 0 s, but decoding 10 s: found clips pay, single towers do not."""
    freeze(model)
    clock = FakeClock()
    model.feature_store = store = make_store(mode="auto", window=2, clock=clock)
    model.encode([cached_prompt(model, films[0], ASKED)])
    read = store.files.read

    def slow(key: str):
        clock.now += 3.0
        return read(key)

    store.files.read = slow
    for _ in range(3):
        cached_prompt(model, films[0], ASKED, refuse)
    assert store.is_on("clip")
    prompt = model.prepare(open_clip(films[0], **arguments_of(model)), ASKED)
    for _ in range(4):
        model.encode([prompt])
    assert not store.is_on("vision")
    assert not store.is_on("audio")
    assert store.find(model, content_key(model, films[0], arguments_of(model)), "sound") is None


# Several processes.


def _train_a_little(folder: Path, results: Any, place: int) -> None:
    torch.set_num_threads(1)
    model = tiny_plus()
    freeze(model)
    model.feature_store = FeatureStore(folder, 10**8, mode="on")
    generator = torch.Generator().manual_seed(0)
    trunk, total = model.trunks()["vision"], 0.0
    for number in range(20):
        frames = torch.randint(0, 256, (2, 3, 28, 56), dtype=torch.uint8, generator=generator)
        patches, grid = model.patches(frames)
        grids = torch.tensor([grid])
        (tokens,) = model.feature_store.output(trunk, frames, lambda p=patches, g=grids: (model.vision_features(p, g),))
        total += float(tokens.double().sum()) * number
    results.put((place, total, model.feature_store.counts("vision").to_dict()))


def test_two_processes_share_one_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_train_a_little, args=(tmp_path / "store", results, k)) for k in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert found[0][1] == found[1][1]
    assert all(counts["damaged"] == 0 and counts["hits"] + counts["misses"] == 20 for _, _, counts in found)
    files = list((tmp_path / "store").rglob("*.safetensors"))
    assert len(files) == 20
