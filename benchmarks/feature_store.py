"""What the feature store saves: training epochs of nano with frozen towers, with the store and without.

    python benchmarks/feature_store.py --out benchmarks/results/feature_store.json

Theatre clips as mp4 files: as the theatre stages them (192 x 192 pixels, 8 frames per second, which decode faster than
any film), and a quarter of them as files of an ordinary size (the same play, 1280 x 720 at 24 frames per second). Every
epoch opens the files, prepares, encodes, scores the reference caption and takes AdamW steps, in batches, in the same
order. Three ways: no store at all (towers on whole batches), a store that is off (towers clip by clip, nothing kept),
and a store. Two parts of the model are trained in turn: the audio aligner alone (stage `align`), and both aligners with
LoRA on the decoder (stage `sft`).

The losses of the last two ways must be equal to the last bit. Those without a store may differ in the last digits,
since sums over a batch are taken in another order.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch

from avocet.evaluation.benchmarks.theatre_staging import stage_scripts
from avocet.media import open_clip
from avocet.models.features import FeatureStore, content_key
from avocet.models.interface import Prompt
from avocet.models.lora import add_lora
from avocet.models.registry import load_model
from avocet.models.salmonn2 import Salmonn2Model
from avocet.theatre.language import reference_caption
from avocet.theatre.script import Script, make_script

STAGES = ("align", "sft")
WAYS = ("no store", "store off", "store")


class Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began


def build_model(stage: str) -> Salmonn2Model:
    """nano with everything frozen but what the stage trains."""
    model = load_model("nano", device="cpu", dtype="float32").model
    assert isinstance(model, Salmonn2Model)
    model.requires_grad_(False)
    trained = ["segment_embedding", "qformer", "audio_projection"] + ["visual_aligner"] * (stage == "sft")
    for name in trained:
        model.get_submodule(name).requires_grad_(True)
    model.query_tokens.requires_grad_(True)
    if stage == "sft":
        torch.manual_seed(0)
        add_lora(model, rank=8, alpha=16)
    return model


def enlarge(source: Path, target: Path) -> None:
    """The same play as a 720p file of 24 frames per second (each frame three times), the sound untouched."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        video = write.add_stream("libx264", rate=24, options={"preset": "veryfast"})
        video.width, video.height, video.pix_fmt = 1280, 720, "yuv420p"
        audio = write.add_stream_from_template(read.streams.audio[0])
        for packet in read.demux(read.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = audio
                write.mux(packet)
        read.seek(0)
        for number, frame in enumerate(read.decode(video=0)):
            large = frame.reformat(width=1280, height=720)
            for copy in range(3):
                large.pts, large.time_base = 3 * number + copy, Fraction(1, 24)
                write.mux(video.encode(large))
        write.mux(video.encode(None))


def prepare(model: Salmonn2Model, path: Path) -> Prompt:
    store = model.feature_store
    arguments: dict[str, Any] = {"fps": model.clip_fps, "max_frames": model.max_frames, "min_frames": model.min_frames}
    if store is None:
        return model.prepare(open_clip(path, **arguments, clip_id=path.stem), model.default_instruction)
    key = content_key(model, path, arguments)
    media = store.find(model, key, path.stem)
    if media is None:
        began = time.perf_counter()
        media = model.read_clip(open_clip(path, **arguments, clip_id=path.stem))
        media = store.keep(model, key, media, time.perf_counter() - began)
    return model.write_prompt(media, model.default_instruction)


def train(
    model: Salmonn2Model, paths: Sequence[Path], scripts: Sequence[Script], epochs: int, batch_size: int
) -> list[dict[str, Any]]:
    """Per epoch: seconds, where they went, the losses."""
    targets = [model.encode_text(reference_caption(script), end=True) for script in scripts]
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=1e-4)
    results = []
    for _ in range(epochs):
        watch, losses = Stopwatch(), []
        began = time.perf_counter()
        for start in range(0, len(paths), batch_size):
            batch = slice(start, start + batch_size)
            with watch("media"):
                prompts = [prepare(model, path) for path in paths[batch]]
            with watch("towers, aligners"):
                prefix = model.encode(prompts)
            with watch("decoder, backward, step"):
                scores = model.score(prefix, [[target] for target in targets[batch]])
                loss = -torch.cat([row[0] for row in scores]).mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            losses.append(loss.item())
        parts = {name: round(seconds, 2) for name, seconds in watch.seconds.items()}
        results.append({"seconds": round(time.perf_counter() - began, 2), "of which": parts, "losses": losses})
    return results


def store_facts(store: FeatureStore) -> dict[str, Any]:
    facts = {kind: store.counts(kind).to_dict() for kind in ("clip", "vision", "audio")}
    return {"summary": store.summary(), "megabytes": round(store.files.num_bytes / 1e6, 2), "counts": facts}


def measure(stage: str, paths: Sequence[Path], scripts: Sequence[Script], arguments: Any) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for way in WAYS:
        model = build_model(stage).eval()
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            if way != "no store":
                model.feature_store = FeatureStore(folder, 2**33, mode="auto" if way == "store" else "off")
            epochs = train(model, paths, scripts, arguments.epochs, arguments.batch_size)
            results[way] = {"epochs": epochs}
            if model.feature_store is not None and way == "store":
                results[way] |= store_facts(model.feature_store)
                print(stage, model.feature_store.summary(), flush=True)
        seconds = [epoch["seconds"] for epoch in epochs]
        print(stage, len(paths), way, seconds, epochs[-1]["of which"], flush=True)
    losses = {way: [epoch["losses"] for epoch in results[way]["epochs"]] for way in WAYS}
    first, second = (epoch["seconds"] for epoch in results["store"]["epochs"][:2])
    return {
        "clips": len(paths),
        "losses equal to the bit, store and store off": losses["store"] == losses["store off"],
        "largest difference of a loss, store and no store": max(
            abs(mine - theirs)
            for ours, others in zip(losses["store"], losses["no store"], strict=True)
            for mine, theirs in zip(ours, others, strict=True)
        ),
        "second epoch faster than first": round(first / second, 2),
        "second epoch faster than without store": round(results["no store"]["epochs"][1]["seconds"] / second, 2),
        "ways": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where clips and features lie while this runs")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scripts = [make_script(seed) for seed in range(880_000, 880_000 + arguments.clips)]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        paths = stage_scripts(scripts, Path(folder), workers=1)
        large = [Path(folder) / f"{path.stem}-720p.mp4" for path in paths[: -(-len(paths) // 4)]]
        for path, target in zip(paths, large, strict=False):
            enlarge(path, target)
        files = {"192 x 192, 8 fps": paths, "1280 x 720, 24 fps": large}
        stages = {
            f"{stage}, {size}": measure(stage, chosen, scripts[: len(chosen)], arguments)
            for size, chosen in files.items()
            for stage in STAGES
        }
    facts = {
        "clip_seconds": round(sum(script.duration_seconds for script in scripts) / len(scripts), 2),
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "runs": stages,
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
