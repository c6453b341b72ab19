"""Four staged clips with their captions, and a tiny model folder of every family, shared by the fine-tuning tests."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from avocet.models.qwen_omni.tiny import tiny_model, tiny_tokenizer
from avocet.models.salmonn2 import Salmonn2Config, Salmonn2Model, build_word_tokenizer
from avocet.models.salmonn2.config import AudioSettings, DecoderSettings, QFormerSettings, VisionSettings
from avocet.models.salmonn2.plus import PlusModel
from avocet.models.salmonn2.tiny import tiny_plus, tiny_plus_config
from avocet.models.salmonn2.v1 import V1Model
from avocet.models.salmonn2.v1_config import V1Config
from avocet.theatre.language import reference_caption, vocabulary_text
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.data import DataSource
from avocet.training.finetune import (
    BatchSettings,
    FineTune,
    FineTuneOptimizer,
    LoraSettings,
    ReadSettings,
)
from avocet.training.finetune.parts import AVOCADO_SFT, PAPER_SFT, PLUS_SFT, V1_SFT
from avocet.training.finetune.watch import METRICS_FILE, read_metrics

FAMILIES = ("paper", "v1", "plus", "omni")
LORA = LoraSettings(rank=4, alpha=8, dropout=0.1, targets=("q_proj", "k_proj", "v_proj"))
TRAINABLE = {"paper": PAPER_SFT, "v1": V1_SFT, "plus": PLUS_SFT, "omni": AVOCADO_SFT}
INSTRUCTION = "Describe the video and its sound."


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Handing matrices this small from thread to thread takes longer than multiplying them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train.jsonl` with four clips of different length, the third without sound track."""
    return stage_clips(tmp_path_factory.mktemp("staged"), 4)


@pytest.fixture(scope="session")
def staged_eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with eight clips."""
    return stage_clips(tmp_path_factory.mktemp("staged-eight"), 8)


def stage_clips(folder: Path, count: int) -> Path:
    lines = []
    for seed in range(count):
        script = make_script(seed, 1)
        stage(script, folder / f"{seed}.mp4", with_audio_track=seed != 2)
        lines.append(
            {
                "clip": {"id": f"clip-{seed}", "path": f"{seed}.mp4", "end_seconds": 2.0 + 0.5 * (seed % 4)},
                "task": "caption",
                "instruction": INSTRUCTION,
                "target": reference_caption(script),
            }
        )
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def tiny_v1() -> V1Model:
    """6 visual tokens per frame; 4 audio tokens per segment of 2 s, 4 segments."""
    tokenizer = tiny_tokenizer("qwen3-omni")
    small = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
    config = V1Config(
        vision=VisionSettings(image_size=32, patch_size=6, **small),
        audio=AudioSettings(
            num_mel_bins=16,
            hop_length=160,
            n_fft=400,
            segment_seconds=2,
            max_segments=4,
            window_seconds=0.5,
            **small,
        ),
        qformer=QFormerSettings(**small),
        decoder=DecoderSettings(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            intermediate_size=128,
            max_positions=1024,
        ),
        turn_end_id=tokenizer.get_vocab()["<|im_end|>"],
        max_new_tokens=200,
    )
    torch.manual_seed(0)
    model = V1Model(config, tokenizer).eval()
    with torch.no_grad():
        for parameter in (model.newline, model.audio.query_tokens):
            parameter.normal_()
    return model


def tiny_paper() -> Salmonn2Model:
    """nano's settings at width 32 and 64; it knows the theatre's words only."""
    tokenizer = build_word_tokenizer(vocabulary_text())
    small = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64}
    config = Salmonn2Config.nano(vocab_size=len(tokenizer))
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, **small, image_size=48, stem_channels=(4, 8)),
        audio=dataclasses.replace(config.audio, **small, num_mel_bins=16),
        qformer=dataclasses.replace(config.qformer, **small),
        decoder=dataclasses.replace(config.decoder, **small | {"hidden_size": 64}, num_kv_heads=2),
    )
    torch.manual_seed(0)
    return Salmonn2Model(config, tokenizer).eval()


def small_plus() -> PlusModel:
    """`tiny_plus` with a decoder of width 64, and weights from which it learns quickly."""
    config = tiny_plus_config()
    text = config.text | {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    model = tiny_plus(text=text, vision=config.vision | {"out_hidden_size": 64})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.fill_(1.0)
            elif name.startswith("decoder."):
                parameter.mul_(0.4)
    return model


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> folder of a tiny random model."""
    root = tmp_path_factory.mktemp("tiny")
    makers = {"paper": tiny_paper, "v1": tiny_v1, "plus": small_plus, "omni": lambda: tiny_model("qwen2.5-omni")}
    for name, maker in makers.items():
        maker().save(root / name)
    return {name: root / name for name in makers}


@pytest.fixture(scope="session")
def make_stage(staged: Path, model_folders: dict[str, Path]) -> Callable[..., FineTune]:
    """A stage of two steps of two micro-batches each for a family, with what its SFT trains; `changes` replace."""

    def make(family: str, **changes: Any) -> FineTune:
        name = f"avocado@{model_folders[family]}" if family == "omni" else str(model_folders[family])
        settings: dict[str, Any] = {
            "name": "sft",
            "stage": "sft",
            "model": name,
            "sources": (DataSource(path=str(staged / "train.jsonl")),),
            "trainable": TRAINABLE[family],
            "lora": None if family == "omni" else LORA,
            "optimizer": FineTuneOptimizer(learning_rate=2e-3, weight_decay=0.01),
            "batch": BatchSettings(max_examples=3, micro_examples=2),
            "read": ReadSettings(num_workers=0),
            "max_steps": 2,
            "precision": "float32",
            "save_every": 1,
            "keep": 10,
        }
        return FineTune(**settings | changes)

    return make


@pytest.fixture
def losses() -> Callable[[Path], list[tuple[int, float]]]:
    """(step, loss) of every step that a stage's folder logged."""

    def read(folder: Path) -> list[tuple[int, float]]:
        return [(line["step"], line["loss"]) for line in read_metrics(folder / METRICS_FILE) if "loss" in line]

    return read


@pytest.fixture
def write_recipe() -> Callable[[Path, FineTune], Path]:
    """A recipe file whose only stage is this one, for other processes."""

    def write(path: Path, config: FineTune) -> Path:
        names = ("LoraSettings", "FineTuneOptimizer", "BatchSettings", "ReadSettings", "FineTune")
        text = "from avocet.training.config import Recipe\nfrom avocet.training.data import DataSource\n"
        text += f"from avocet.training.finetune import {', '.join(names)}\n\n"
        text += f"def recipe():\n    return Recipe(name='tiny', sft=({config!r},))\n"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def run_processes(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`avocet train` under torchrun."""

    def run(count: int, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={port}"]
        command = "import sys; from avocet.cli import main; sys.exit(main(sys.argv[1:]))"
        script = tmp_path / "avocet_train.py"
        script.write_text(command)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        return subprocess.run(
            [*launcher, str(script), "train", *arguments], capture_output=True, text=True, env=environment, timeout=110
        )

    return run
