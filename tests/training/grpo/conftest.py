"""Four staged clips, and a plan of a run of nano on them, a few tokens per caption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from avocet.records import Sampling
from avocet.theatre.language import reference_caption
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.grpo.config import Grpo


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def staged_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grpo-clips")
    lines = []
    for seed in range(4):
        script = make_script(seed, 1)
        stage(script, folder / f"{seed}.mp4")
        clip = {"id": f"clip-{seed}", "path": f"{seed}.mp4", "meta": {"theatre": {"seed": seed, "level": 1}}}
        example = {"clip": clip, "task": "caption", "instruction": "", "target": reference_caption(script)}
        lines.append(json.dumps(example) + "\n")
    (folder / "train.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def plan(staged_clips: Path) -> Grpo:
    return Grpo(
        name="grpo",
        model="nano",
        sources=(DataSource(path=str(staged_clips / "train.jsonl")),),
        trainable=("audio_aligner",),
        lora=LoraSettings(rank=4, alpha=8),
        optimizer=FineTuneOptimizer(learning_rate=1e-3),
        batch=BatchSettings(max_examples=2, micro_examples=1),
        rewards={"vowels": 1.0},
        group_size=3,
        sampling=Sampling(temperature=1.0, max_new_tokens=12, repetition_guard="off"),
        max_steps=4,
        precision="float32",
        read=ReadSettings(num_workers=0),
        save_every=1,
    )
