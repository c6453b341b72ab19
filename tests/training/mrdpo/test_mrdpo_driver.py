"""Whole rounds at tiny size on the theatre: what is left behind, what is refused, what a kill costs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from avocet.errors import ConfigError
from avocet.evaluation.exact_judge import ExactEventJudge
from avocet.models.interface import Completion
from avocet.models.registry import load_model
from avocet.records import ClipRef, Sampling
from avocet.theatre.language import reference_caption
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.data import DataSource
from avocet.training.data.examples import read_examples
from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.inputs import ClipReader
from avocet.training.mrdpo import driver
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.driver import dry_run, run_mrdpo
from avocet.training.mrdpo.gate import HeldOutScores, StopRules, evaluate_held_out, gate
from avocet.training.mrdpo.scoring import CaptionScorer, theatre_item
from avocet.training.pairs import RoundThresholds, Thresholds

ANY_GAP = Thresholds(error_rate=0.01, repetition_rate=-1.0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
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


def test_two_rounds_and_what_a_cut_changes(plan: MrDpo, scorer: CaptionScorer, tmp_path: Path, monkeypatch) -> None:
    said: list[str] = []
    whole = run_mrdpo(plan, tmp_path / "whole", scorer, say=said.append)
    assert [one.number for one in whole.rounds] == [0, 1, 2]
    assert whole.best == 2
    assert whole.stopped == "all 2 rounds are done"
    # The second round starts from the merged first one, which is another model than the start.
    run = json.loads((tmp_path / "whole" / "round-2" / "dpo" / "run.json").read_text())
    assert run["config"]["model"] == whole.rounds[1].model
    before, after = (load_model(one.model, device="cpu", dtype="float32").model for one in whole.rounds[:2])
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert "| 2 |" in (tmp_path / "whole" / "rounds.md").read_text()
    assert json.loads((tmp_path / "whole" / "best.json").read_text())["round"] == 2

    # Cut off at each arrow of the second round in turn, and gone on with.
    class Cut(Exception):
        pass

    for place in ("select_pairs", "fine_tune", "export_merged", "gate"):
        with monkeypatch.context() as patch:

            def cut(*args: object, **kwargs: object) -> None:
                raise Cut

            if (tmp_path / "cut" / "round-1" / "result.json").exists() or place != "select_pairs":
                patch.setattr(driver, place, cut)
                with pytest.raises(Cut):
                    run_mrdpo(plan, tmp_path / "cut", scorer, say=said.append)
            else:
                run_mrdpo(dataclasses.replace(plan, rounds=1), tmp_path / "cut", scorer, say=said.append)
    parts = run_mrdpo(plan, tmp_path / "cut", scorer, say=said.append)
    strip = [dataclasses.replace(one, model="") for one in parts.rounds]
    assert strip == [dataclasses.replace(one, model="") for one in whole.rounds]
    for name in ("samples.jsonl", "pairs.jsonl"):
        assert (tmp_path / "cut" / "round-2" / name).read_bytes() == (
            tmp_path / "whole" / "round-2" / name
        ).read_bytes()


def test_from_round_does_later_rounds_anew(plan: MrDpo, scorer: CaptionScorer, tmp_path: Path) -> None:
    whole = run_mrdpo(plan, tmp_path, scorer, say=lambda text: None)
    first = (tmp_path / "round-1" / "result.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "round-2" / "judged")
    again = run_mrdpo(plan, tmp_path, scorer, from_round=2, say=lambda text: None)
    assert (tmp_path / "round-1" / "result.json").stat().st_mtime_ns == first
    assert (tmp_path / "round-2" / "judged").is_dir()
    assert again == whole
    with pytest.raises(ConfigError, match="from-round"):
        run_mrdpo(plan, tmp_path, scorer, from_round=3)
    with pytest.raises(ConfigError, match="another plan"):
        run_mrdpo(dataclasses.replace(plan, seed=1), tmp_path, scorer)


def test_too_few_pairs_end_the_run(plan: MrDpo, scorer: CaptionScorer, tmp_path: Path) -> None:
    never = Thresholds(error_rate=50.0, repetition_rate=1.0)
    result = run_mrdpo(
        dataclasses.replace(plan, thresholds={1: RoundThresholds(global_=never, local=never)}),
        tmp_path,
        scorer,
        say=lambda text: None,
    )
    assert result.best == 0
    assert result.stopped == "round 1 has 0 pairs, fewer than 1"


def test_a_harmful_round_is_refused_and_the_best_model_kept(plan: MrDpo, scorer: CaptionScorer, tmp_path: Path) -> None:
    strict = dataclasses.replace(plan, stop=StopRules(max_unnatural=1.0, max_repetition=-1.0))
    result = run_mrdpo(strict, tmp_path, scorer, say=lambda text: None)
    assert result.best == 0
    assert result.rounds[-1].decision is not None
    assert result.rounds[-1].decision.decision == "refused"
    assert result.stopped == "round 1 was refused"
    assert json.loads((tmp_path / "best.json").read_text())["model"] == plan.model
    assert "was refused: repetition" in result.to_markdown()


@pytest.mark.parametrize("rounds", [2])
def test_direct_adapter_goes_on_where_it_was(plan: MrDpo, scorer: CaptionScorer, tmp_path: Path, rounds: int) -> None:
    direct = dataclasses.replace(plan, adapter="direct", rounds=rounds)
    run_mrdpo(direct, tmp_path, scorer, say=lambda text: None)
    config = json.loads((tmp_path / "round-2" / "dpo" / "run.json").read_text())["config"]
    assert config["model"] == plan.model
    assert config["initial"].endswith("round-1/dpo/checkpoint-2")


def test_held_out_questions_are_answered_once_and_counted(
    clips: Path, tiny_model_folder: Path, scorer: CaptionScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(tiny_model_folder), device="cpu", dtype="float32").model
    caption = read_examples(clips / "held_out.jsonl").examples[0]
    question = dataclasses.replace(caption, task="qa", instruction="Which sound is heard?", target="a bell")
    other = dataclasses.replace(question, target="a dog")
    gone = dataclasses.replace(question, clip=ClipRef(id="gone", path=str(tmp_path / "gone.mp4")))
    generate, calls = model.generate, []

    def ring(*arguments: Any) -> list[list[Completion]]:
        calls.append(arguments)
        return [[dataclasses.replace(one, text="A bell.") for one in some] for some in generate(*arguments)]

    monkeypatch.setattr(model, "generate", ring)
    reader = ClipReader(model, ReadSettings(num_workers=0))
    try:
        for _ in range(2):  # one batch of captions, one of questions; what was answered is not asked again
            scores = evaluate_held_out(
                model,
                reader,
                [caption, question, other, gone],
                scorer,
                tmp_path / "gate",
                max_new_tokens=6,
                batch_size=2,
            )
            assert scores.qa_accuracy == 0.5  # of the two that could be read
            assert (scores.num_questions, scores.num_captions, scores.num_failed) == (3, 1, 1)
            assert len(calls) == 2
    finally:
        reader.close()


def test_dry_run_counts(plan: MrDpo, tmp_path: Path) -> None:
    text = dry_run(plan, tmp_path)
    assert "4 clips x 3 captions (12 verdicts)" in text
    assert "2 captions and 0 questions" in text
    assert "finished: nothing" in text
    assert not any(tmp_path.iterdir())


def scores(**changes: float | None) -> HeldOutScores:
    given: dict[str, float | None] = {
        "total": 0.3,
        "miss": 0.2,
        "hall": 0.1,
        "repetition": 0.01,
        "unnatural": 0.0,
        "collapse": 0.0,
        "words": 30.0,
        "qa_accuracy": 0.8,
        "total_standard_error": 0.01,
    }
    counts = {"num_captions": 10, "num_unscored": 0, "num_failed": 0, "num_questions": 5}
    return HeldOutScores(**{**given, **changes}, **counts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"total": 0.25}, None),
        ({"total": 0.31}, "Total error 0.310"),
        ({"total": None}, "could not be measured"),
        ({"unnatural": 0.12}, "unnatural captions: 0.120"),
        ({"qa_accuracy": 0.76}, "QA accuracy 0.760"),
        ({"qa_accuracy": 0.78}, None),
        ({"qa_accuracy": None}, "QA accuracy not measured"),
    ],
)
def test_gate(changes: dict[str, float | None], reason: str | None) -> None:
    decision = gate(scores(**changes), scores(), scores(), StopRules())
    assert (decision.decision == "kept") == (reason is None)
    assert reason is None or reason in decision.reasons[0]
