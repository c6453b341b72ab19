"""Tiny rounds on the theatre."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from avocet.evaluation.exact_judge import ExactEventJudge
from avocet.records import Sampling
from avocet.theatre.language import reference_caption
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.data import DataSource
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.gate import StopRules
from avocet.training.mrdpo.scoring import CaptionScorer, theatre_item
from avocet.training.pairs import RoundThresholds, Thresholds

ANY_GAP = Thresholds(error_rate=0.01, repetition_rate=-1.0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips to train on and two to hold out, with what the exact judge needs."""
    folder = tmp_path_factory.mktemp("mrdpo-clips")
    for name, seeds in (("train", range(4)), ("held_out", range(4, 6))):
        lines = []
        for seed in seeds:
            script = make_script(seed, 1)
            stage(script, folder / f"{seed}.mp4")
            clip = {"id": f"clip-{seed}", "path": f"{seed}.mp4", "meta": {"theatre": {"seed": seed, "level": 1}}}
            example = {"clip": clip, "task": "caption", "instruction": "", "target": reference_caption(script)}
            lines.append(json.dumps(example) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def plan(clips: Path, tiny_model_folder: Path) -> MrDpo:
    return MrDpo(
        name="tiny",
        model=str(tiny_model_folder),
        sources=(DataSource(path=str(clips / "train.jsonl")),),
        held_out=(DataSource(path=str(clips / "held_out.jsonl")),),
        trainable=("audio_aligner",),
        lora=LoraSettings(rank=4, alpha=8, targets=("q_proj", "v_proj")),
        optimizer=FineTuneOptimizer(learning_rate=1e-3),
        batch=BatchSettings(max_examples=4, micro_examples=4),
        rounds=2,
        samples_per_clip=3,
        sampling=Sampling(temperature=1.0, max_new_tokens=10),
        thresholds={1: RoundThresholds(global_=ANY_GAP, local=ANY_GAP)},
        max_steps=2,
        stop=StopRules(max_unnatural=1.0, max_total_rise=10.0),
        min_pairs=1,
        precision="float32",
        read=ReadSettings(num_workers=0),
    )


@pytest.fixture
def scorer() -> CaptionScorer:
    return CaptionScorer(ExactEventJudge(), theatre_item)
