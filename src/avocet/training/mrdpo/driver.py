"""The rounds as a loop: sample -> judge -> select -> train -> merge -> gate, each arrow resumable.

    run_mrdpo(plan, Path("runs/mrdpo"), CaptionScorer(ExactEventJudge(), theatre_item))

Every round has a folder, and every arrow a file in it that appears at once when the arrow is done; a run that was
killed goes on at the first missing one. The result is the best model that the gate kept: `best.json` names its folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from avocet.models.registry import load_model
from avocet.records import Record, TrainingExample
from avocet.training.checkpoints import checkpoints
from avocet.training.finetune.export import export_merged
from avocet.training.finetune.inputs import ClipReader
from avocet.training.finetune.loop import fine_tune
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.data import read_round_data
from avocet.training.mrdpo.gate import GateDecision, HeldOutScores, evaluate_held_out, gate
from avocet.training.mrdpo.rounds import check_from_round, close_run, open_run, round_folder
from avocet.training.mrdpo.sampling import sample_captions
from avocet.training.mrdpo.scoring import CaptionScorer
from avocet.training.mrdpo.selection import SelectionReport, select_pairs, write_pairs

Say = Callable[[str], None]
_R = TypeVar("_R", bound=Record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundResult(Record):
    """What a round came to. Round 0 is the model before the first one."""

    number: int
    model: str
    """Folder of the merged model."""
    scores: HeldOutScores
    selection: SelectionReport | None = None
    decision: GateDecision | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MrDpoResult(Record):
    """All rounds that were run."""

    rounds: tuple[RoundResult, ...]
    best: int
    """Number of the best round that was kept."""
    stopped: str
    """Why there is no further round."""

    def to_markdown(self) -> str:
        """One line per round (Table 2 and figure 4 of the paper as numbers)."""
        lines = [
            "| round | pairs | Total | Miss | Hall | repetition | unnatural | collapse | QA | words | decision |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for one in self.rounds:
            scores = one.scores
            decision = "start" if one.decision is None else one.decision.decision
            mark = " (best)" if one.number == self.best else ""
            rates = (scores.miss, scores.hall, scores.repetition, scores.unnatural, scores.collapse, scores.qa_accuracy)
            cells = (
                str(one.number),
                "-" if one.selection is None else str(one.selection.num_pairs),
                f"{_percent(scores.total)} ± {_percent(scores.total_standard_error)}",
                *map(_percent, rates),
                "-" if scores.words is None else f"{scores.words:.1f}",
                decision + mark,
            )
            lines.append("| " + " | ".join(cells) + " |")
        reasons = [
            f"- round {one.number} was refused: {reason}"
            for one in self.rounds
            if one.decision is not None
            for reason in one.decision.reasons
        ]
        return "\n".join([*lines, "", *reasons, f"- stopped: {self.stopped}"]) + "\n"


def run_mrdpo(
    plan: MrDpo, run_dir: Path, scorer: CaptionScorer, *, from_round: int | None = None, say: Say = print
) -> MrDpoResult:
    """Run all rounds, or what is missing of them.

    Args:
        plan: the rounds.
        run_dir: their folder; going on there needs the same plan and judge.
        scorer: judges sampled and held-out captions.
        from_round: do this round and those after it anew. A run that was killed meanwhile goes on when it is asked for
            the same once more.
        say: what is told of the progress.

    Raises `ConfigError` for a folder of another plan, judge or fewer rounds, for data that rounds cannot use, and what
    sampling, judging and training raise.
    """
    examples, held_out = read_round_data(plan)
    open_run(run_dir, plan, scorer, from_round)
    rounds = [_first(plan, run_dir, held_out, scorer)]
    best = 0
    running = "not yet: the next round is under way"
    stopped = f"all {plan.rounds} rounds are done"
    _tell(run_dir, rounds, best, running, say)
    for number in range(1, plan.rounds + 1):
        one = _round(plan, run_dir, number, rounds, best, examples, held_out, scorer, say)
        if isinstance(one, str):
            stopped = one
            break
        rounds.append(one)
        assert one.decision is not None
        if one.decision.decision == "refused":
            stopped = f"round {number} was refused"
            break
        best = number
        if number < plan.rounds:
            _tell(run_dir, rounds, best, running, say)
    close_run(run_dir)
    return _tell(run_dir, rounds, best, stopped, say)


def dry_run(plan: MrDpo, run_dir: Path, from_round: int | None = None) -> str:
    """What a run would do, without doing it. Raises `ConfigError` for a `from_round` or data that it would refuse."""
    check_from_round(plan, from_round)
    examples, held_out = read_round_data(plan)
    per_round = min(plan.clips_per_round or len(examples), len(examples))
    done = [number for number in range(plan.rounds + 1) if (round_folder(run_dir, number) / "result.json").exists()]
    anew = [str(number) for number in done if from_round is not None and number >= from_round]
    verdicts = per_round * plan.samples_per_clip
    captions = sum(example.task != "qa" for example in held_out)
    return "\n".join(
        [
            f"{plan.name}: {plan.rounds} rounds from {plan.model}",
            f"each samples {per_round} clips x {plan.samples_per_clip} captions ({verdicts} verdicts), trains a "
            f"{plan.adapter} adapter of rank {plan.lora.rank}, and is gated on {captions} captions and "
            f"{len(held_out) - captions} questions",
            f"finished: {', '.join(map(str, done)) or 'nothing'}" + (f"; done anew: {', '.join(anew)}" if anew else ""),
        ]
    )


def _first(plan: MrDpo, run_dir: Path, held_out: Sequence[TrainingExample], scorer: CaptionScorer) -> RoundResult:
    """The model before the first round, on the held-out clips."""
    folder = round_folder(run_dir, 0)
    known = _read(folder / "result.json", RoundResult)
    if known is not None:
        return known
    scores = _held_out_scores(plan, plan.model, held_out, scorer, folder / "held_out")
    return _write(folder / "result.json", RoundResult(number=0, model=plan.model, scores=scores))


def _round(
    plan: MrDpo,
    run_dir: Path,
    number: int,
    rounds: Sequence[RoundResult],
    best: int,
    examples: Sequence[TrainingExample],
    held_out: Sequence[TrainingExample],
    scorer: CaptionScorer,
    say: Say,
) -> RoundResult | str:
    """One round, or why it cannot be."""
    folder = round_folder(run_dir, number)
    known = _read(folder / "result.json", RoundResult)
    if known is not None:
        return known
    folder.mkdir(parents=True, exist_ok=True)
    start = rounds[best].model
    selection = _pairs(plan, folder, number, start, examples, scorer)
    unread = f", {selection.num_failed} of them could not be read" if selection.num_failed else ""
    say(f"round {number}: {selection.num_pairs} pairs of {selection.num_examples} clips{unread}")
    if selection.num_pairs < plan.min_pairs:
        return f"round {number} has {selection.num_pairs} pairs, fewer than {plan.min_pairs}"
    model = _train(plan, run_dir, number, start)
    scores = _held_out_scores(plan, str(model), held_out, scorer, folder / "held_out")
    decision = gate(scores, rounds[0].scores, rounds[best].scores, plan.stop)
    result = RoundResult(number=number, model=str(model), scores=scores, selection=selection, decision=decision)
    return _write(folder / "result.json", result)


def _pairs(
    plan: MrDpo, folder: Path, number: int, model: str, examples: Sequence[TrainingExample], scorer: CaptionScorer
) -> SelectionReport:
    """Sample, judge and select; the pairs are in `pairs.jsonl`."""
    known = _read(folder / "selection.json", SelectionReport)
    if known is not None:
        return known
    drawn = _drawn(examples, plan.clips_per_round, plan.seed, number)
    loaded = load_model(model, device="auto", dtype=plan.precision)
    reader = ClipReader(loaded.model, plan.read)
    try:
        candidates, _ = sample_captions(
            loaded,
            reader,
            drawn,
            folder / "samples.jsonl",
            samples_per_clip=plan.samples_per_clip,
            sampling=dataclasses.replace(plan.sampling, seed=plan.seed * 1000 + number),
            batch_size=plan.sampling_batch,
            broken=plan.read.broken,
        )
    finally:
        reader.close()
    scores = scorer.score(drawn, candidates, folder / "judged")
    pairs, report = select_pairs(drawn, candidates, scores, plan.thresholds_of(number), number)
    write_pairs(folder / "pairs.jsonl", pairs)
    return _write(folder / "selection.json", report)


def _train(plan: MrDpo, run_dir: Path, number: int, start: str) -> Path:
    """Guided DPO on the pairs, merged into a folder of its own.

    In float32 whatever the precision of the training: a round may change weights by less than bfloat16 can tell, and
    rounding the result of each would lose that for good.
    """
    folder = round_folder(run_dir, number)
    merged = folder / "model"
    if merged.is_dir():
        return merged
    initial = None
    if plan.adapter == "direct" and number > 1:
        # Not merged: the same adapter on the first model, where the last round left it.
        start, initial = plan.model, str(checkpoints(round_folder(run_dir, number - 1) / "dpo")[-1][1])
    config = plan.stage_of(number, start, str(folder / "pairs.jsonl"), initial)
    fine_tune(config, folder, resume=True)
    partial = folder / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    export_merged(config, (config,), folder, partial, precision="float32")
    partial.rename(merged)
    return merged


def _held_out_scores(
    plan: MrDpo, model: str, held_out: Sequence[TrainingExample], scorer: CaptionScorer, folder: Path
) -> HeldOutScores:
    loaded = load_model(model, device="auto", dtype=plan.precision)
    reader = ClipReader(loaded.model, plan.read)
    try:
        return evaluate_held_out(
            loaded,
            reader,
            held_out,
            scorer,
            folder,
            max_new_tokens=plan.sampling.max_new_tokens,
            batch_size=plan.sampling_batch,
            broken=plan.read.broken,
        )
    finally:
        reader.close()


def _drawn(examples: Sequence[TrainingExample], count: int | None, seed: int, number: int) -> list[TrainingExample]:
    """The clips of a round, in the order of the data: a function of seed and round."""
    if count is None or count >= len(examples):
        return list(examples)
    chosen = random.Random(f"mrdpo {seed} round {number}").sample(range(len(examples)), count)
    return [examples[place] for place in sorted(chosen)]


def _tell(run_dir: Path, rounds: Sequence[RoundResult], best: int, stopped: str, say: Say) -> MrDpoResult:
    """Write the state of the run for people and programs."""
    result = MrDpoResult(rounds=tuple(rounds), best=best, stopped=stopped)
    _write(run_dir / "rounds.json", result)
    (run_dir / "rounds.md").write_text(result.to_markdown(), encoding="utf-8")
    (run_dir / "best.json").write_text(json.dumps({"round": best, "model": rounds[best].model}) + "\n")
    last = rounds[-1]
    decision = "" if last.decision is None else f", {last.decision.decision}"
    say(f"round {last.number}: Total {_percent(last.scores.total)} on held-out clips{decision}")
    return result


def _read(path: Path, kind: type[_R]) -> _R | None:
    return kind.from_json(path.read_text(encoding="utf-8")) if path.exists() else None


def _write(path: Path, record: _R) -> _R:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(record.to_json_line() + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return record


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}"
