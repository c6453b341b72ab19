"""The shipped weights: what the model card claims still holds, in small."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open

from avocet.captioning import Captioner, load_captioner
from avocet.evaluation.benchmarks.theatre import evaluate_theatre
from avocet.theatre import judge, make_script, stage_arrays

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "src" / "avocet" / "assets" / "nano"
FRESH_SEED = 993_000


@pytest.fixture(scope="module")
def nano() -> Captioner:
    return load_captioner("nano")


@pytest.fixture(scope="module")
def card() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nano_card", ROOT / "benchmarks" / "nano_card.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_weights_are_float16_and_small() -> None:
    path = NANO / "model.safetensors"
    assert path.stat().st_size <= 20_000_000
    with safe_open(path, "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118


def test_the_model_card_is_made_from_the_committed_measurements(card: ModuleType) -> None:
    assert (NANO / "README.md").read_text(encoding="utf-8") == card.card_text()


def test_the_measurements_are_of_these_weights(card: ModuleType, nano: Captioner) -> None:
    import json

    for run in card.RUNS:
        report = json.loads(card.result_path(*run).read_text(encoding="utf-8"))
        assert report["revision"] == nano.revision, run
        assert report["num_clips"] == 200
        assert report["seed"] == 990_000


def test_nano_captions_fresh_clips_that_went_through_a_real_mp4(nano: Captioner, tmp_path: Path) -> None:
    """24 clips: the bounds leave room for their standard error of about 3 points above the card's 5 %."""
    report = evaluate_theatre(nano, 1, 24, FRESH_SEED, out_dir=tmp_path, workers=1)
    assert report.num_scored == 24
    assert report.total <= 0.20
    assert report.dialogue_word_accuracy is not None
    assert report.dialogue_word_accuracy >= 0.9
    assert report.warnings == {}


def test_nano_hears_and_sees(nano: Captioner) -> None:
    """Without sound nobody is quoted, without picture no figure is told."""
    scripts = [make_script(FRESH_SEED + offset, 1) for offset in range(100, 130)]
    script = next(s for s in scripts if {"visual", "speech"} <= {event.kind for event in s.events})
    muted = nano.caption(stage_arrays(script, muted=True)).text
    assert '"' not in muted
    assert judge(muted, script, hear=False).hallucinated == ()
    black = nano.caption(stage_arrays(script, black=True)).text
    assert '"' in black
    assert judge(black, script, see=False).hallucinated == ()


def test_nano_warns_outside_of_its_world(nano: Captioner, media_folder: Path) -> None:
    caption = nano.caption(media_folder / "a.mp4")
    assert any("knows only the procedural theatre" in warning for warning in caption.warnings)


@pytest.mark.slow
def test_each_control_costs_what_its_stream_carried(nano: Captioner, tmp_path: Path) -> None:
    reports = {
        control: evaluate_theatre(nano, 1, 60, FRESH_SEED, control=control, out_dir=tmp_path / control)  # type: ignore[arg-type]
        for control in ("none", "muted", "black", "swapped")
    }
    plain = reports["none"].per_kind
    for control, lost, kept in (
        ("muted", ("sound", "speech"), ("visual", "text")),
        ("swapped", ("sound", "speech"), ("visual", "text")),
        ("black", ("visual", "text"), ("sound", "speech")),
    ):
        spoiled = reports[control].per_kind
        for kind in lost:
            assert spoiled[kind].not_right >= 0.8, (control, kind)
        for kind in kept:
            assert spoiled[kind].not_right <= plain[kind].not_right + 0.15, (control, kind)
