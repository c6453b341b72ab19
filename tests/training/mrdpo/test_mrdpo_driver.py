"""Whole rounds at tiny size on the theatre: what is left behind, what is refused, what a kill costs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from avocet.errors import AvocetError, ConfigError
from avocet.models.interface import Completion
from avocet.models.registry import load_model
from avocet.records import ClipRef
from avocet.training.data.examples import read_examples
from avocet.training.finetune import FineTuneOptimizer, ReadSettings
from avocet.training.finetune.inputs import ClipReader
from avocet.training.mrdpo import driver
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.driver import dry_run, run_mrdpo
from avocet.training.mrdpo.gate import StopRules, evaluate_held_out
from avocet.training.mrdpo.scoring import CaptionScorer
from avocet.training.pairs import RoundThresholds, Thresholds


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
    loaded = load_model(str(tiny_model_folder), device="cpu", dtype="float32")
    model: Any = loaded.model
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
                loaded,
                reader,
                [caption, question, other, gone],
                scorer,
                tmp_path / "gate",
                max_new_tokens=6,
                batch_size=2,
                broken="leave_out",
            )
            assert scores.qa_accuracy == 0.5  # of the two that could be read
            assert (scores.num_questions, scores.num_captions, scores.num_failed) == (3, 1, 1)
            assert (scores.num_unanswered, scores.num_to_caption) == (1, 1)
            assert scores.clip_totals == {caption.clip.id: scores.total}
            assert len(calls) == 2
    finally:
        reader.close()


def test_a_start_that_did_nothing_does_not_hold_the_folder(plan: MrDpo, scorer: CaptionScorer, tmp_path: Path) -> None:
    with pytest.raises(AvocetError, match="unknown name and no such folder"):
        run_mrdpo(dataclasses.replace(plan, model=str(tmp_path / "nowhere")), tmp_path / "run", scorer)
    result = run_mrdpo(dataclasses.replace(plan, rounds=1), tmp_path / "run", scorer, say=lambda text: None)
    assert len(result.rounds) == 2
    with pytest.raises(ConfigError, match="another plan"):
        run_mrdpo(dataclasses.replace(plan, model=str(tmp_path / "nowhere")), tmp_path / "run", scorer)


def test_dry_run_counts(plan: MrDpo, tmp_path: Path) -> None:
    text = dry_run(plan, tmp_path)
    assert "4 clips x 3 captions (12 verdicts)" in text
    assert "2 captions and 0 questions" in text
    assert "finished: nothing" in text
    assert not any(tmp_path.iterdir())


def test_rounds_in_bfloat16_keep_what_they_learnt(plan: MrDpo, scorer: CaptionScorer, tmp_path: Path) -> None:
    """A short training at a small learning rate changes weights by less than bfloat16 can tell."""
    small = dataclasses.replace(
        plan,
        rounds=1,
        precision="bfloat16",
        trainable=(),
        optimizer=FineTuneOptimizer(learning_rate=5e-6),
        max_steps=3,
    )
    run_mrdpo(small, tmp_path, scorer, say=lambda text: None)
    assert small.lora is not None
    before = load_file(Path(small.model) / "model.safetensors")
    after = load_file(tmp_path / "round-1" / "model" / "model.safetensors")
    learnt = load_file(tmp_path / "round-1" / "dpo" / "checkpoint-3" / "weights.safetensors")
    assert {value.dtype for value in after.values()} == {torch.float32}
    changed, total = 0, 0
    for name in (name for name in learnt if ".lora_A." in name):
        adapter = small.lora.alpha / small.lora.rank * (learnt[name.replace("lora_A", "lora_B")] @ learnt[name])
        weight = name.split(".lora_A.")[0] + ".weight"
        torch.testing.assert_close(after[weight], before[weight] + adapter, atol=1e-9, rtol=1e-6)
        rounded = before[weight].bfloat16()
        changed += int(((rounded.float() + adapter).bfloat16() != rounded).sum())
        total += rounded.numel()
        assert float(adapter.abs().max()) > 0
    assert changed < 0.05 * total  # what merging in bfloat16 would have kept
