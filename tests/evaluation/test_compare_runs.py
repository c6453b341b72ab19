"""`avocet evaluate --compare`: the figures of the reports, on the items that both runs scored, worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from avocet import cli
from avocet.errors import ConfigError, RecordError
from avocet.evaluation.benchmarks import load_benchmark
from avocet.evaluation.captions import CaptionSet, ImportedCaption
from avocet.evaluation.compare import compare_runs
from avocet.evaluation.evaluate import BenchmarkRun
from avocet.evaluation.items import BenchmarkItem, Question
from avocet.judging.dream import DreamFindings, LabelledEvent
from avocet.judging.judge import Judge
from avocet.judging.qa import QaAnswer, QaFindings
from avocet.metrics import EventFindings
from avocet.metrics.events import Protocol
from avocet.records import Record, Verdict


class Scripted(Judge[Any]):
    """Gives each clip its findings, or is silent about it."""

    name = "scripted"

    def __init__(self, script: Mapping[str, Record | None]) -> None:
        self.script = script

    async def judge(self, item: Any, run_index: int = 0) -> Verdict:
        found = self.script[item.clip_id]
        facts = {"clip_id": item.clip_id, "judge": self.name, "run_index": run_index}
        if found is None:
            return Verdict(**facts, status="unscored", reason="no reply: x")
        return Verdict(**facts, findings=json.loads(found.to_json_line()))


def evaluate(
    folder: Path,
    name: str,
    items: list[BenchmarkItem],
    script: Mapping[str, Record | None],
    protocol: Protocol = "paper",
) -> dict[str, Any]:
    """Run it, and return the values of the report's scores by name."""
    captions = CaptionSet(
        captions=tuple(ImportedCaption(video=item, text="x", where="c:1") for item in script), files=("c",)
    )
    run = BenchmarkRun(benchmark=load_benchmark(name), items=items, runs=1, protocol=protocol)
    report = run.evaluate(captions, None, judge=Scripted(script), folder=folder).report
    return {score.name: score.value for score in report.scores}


def events(num_events: int, num_missed: int) -> EventFindings:
    return EventFindings(
        num_events=num_events, missed=tuple(map(str, range(num_missed))), incorrect=(), hallucinated=()
    )


EVENT_ITEMS = [
    BenchmarkItem(id=name, video=name, events=tuple(map(str, range(count)))) for name, count in (("a", 2), ("b", 8))
]


def test_pooled_rates_are_compared_as_pooled(tmp_path: Path) -> None:
    # A misses 1 of 2 and 2 of 8: pooled 3 / 10, per caption (0.5 + 0.25) / 2. B misses 0 of 2 and 4 of 8: 4 / 10, 0.25.
    a = evaluate(tmp_path / "a", "vs2", EVENT_ITEMS, {"a": events(2, 1), "b": events(8, 2)}, "released")
    b = evaluate(tmp_path / "b", "vs2", EVENT_ITEMS, {"a": events(2, 0), "b": events(8, 4)}, "released")
    scores = compare_runs(tmp_path / "a", tmp_path / "b", "vs2").scores
    assert (scores["total"].mean_a, scores["total"].mean_b) == (a["total"], b["total"]) == (0.3, 0.4)
    assert scores["total"].difference == pytest.approx(-0.1)
    assert scores["total (per caption)"].mean_a == a["total (per caption)"] == 0.375
    assert scores["total (per caption)"].mean_b == b["total (per caption)"] == 0.25


def test_protocols_are_not_mixed(tmp_path: Path) -> None:
    script = {"a": events(2, 1), "b": events(8, 2)}
    evaluate(tmp_path / "a", "vs2", EVENT_ITEMS, script, "paper")
    evaluate(tmp_path / "b", "vs2", EVENT_ITEMS, script, "released")
    comparison = compare_runs(tmp_path / "a", tmp_path / "b")
    assert not any(name.startswith(("total", "miss", "hall")) for name in comparison.scores)
    assert "protocol is 'paper' of A and 'released' of B" in comparison.warnings


def answers(*right: bool) -> QaFindings:
    return QaFindings(
        answers={
            f"q{number}": QaAnswer(answer="A" if one else "B", reference="A", right=one)
            for number, one in enumerate(right)
        }
    )


def question_item(name: str, count: int) -> BenchmarkItem:
    questions = tuple(
        Question(id=f"q{number}", text="What?", choices=("A. x", "B. y"), answer="A") for number in range(count)
    )
    return BenchmarkItem(id=name, video=name, questions=questions)


def test_accuracies_are_those_over_questions(tmp_path: Path) -> None:
    items = [question_item("a", 3), question_item("b", 1), question_item("c", 2)]
    # A: 3 of 3 and 0 of 1 are 3 / 4 over questions (1 / 2 over videos); B has no score for c, A none at all.
    a = evaluate(tmp_path / "a", "daily-omni", items[:2], {"a": answers(True, True, True), "b": answers(False)})
    script = {"a": answers(True, False, False), "b": answers(True), "c": None}
    b = evaluate(tmp_path / "b", "daily-omni", items, script)
    comparison = compare_runs(tmp_path / "a", tmp_path / "b")
    found = comparison.scores["accuracy"]
    assert (found.mean_a, found.mean_b) == (a["accuracy"], b["accuracy"]) == (0.75, 0.5)
    assert (found.num_pairs, found.num_only_a, found.num_only_b, found.num_unscored) == (2, 0, 1, 0)
    row = next(line for line in comparison.to_markdown().splitlines() if line.startswith("| accuracy |"))
    assert "| 2 | 0 / 1 / 0 | 1 / 1 |" in row


def test_single_questions_have_mcnemar(tmp_path: Path) -> None:
    items = [question_item(name, 1) for name in "ab"]
    evaluate(tmp_path / "a", "videomme", items, {"a": answers(True), "b": answers(True)})
    evaluate(tmp_path / "b", "videomme", items, {"a": answers(False), "b": None})
    found = compare_runs(tmp_path / "a", tmp_path / "b").scores["accuracy"]
    assert (found.mcnemar_p_value, found.num_pairs, found.num_unscored) == (1.0, 1, 1)


def dream(recall: float) -> DreamFindings:
    def labelled(share: float) -> tuple[LabelledEvent, ...]:
        labels = ("entailment" if number < 4 * share else "neutral" for number in range(4))
        return tuple(LabelledEvent(event=str(number), label=label) for number, label in enumerate(labels))

    return DreamFindings.of(labelled(recall), labelled(1.0))


def test_a_figure_that_is_not_the_reports_has_another_name(tmp_path: Path) -> None:
    items = [
        BenchmarkItem(id=name, video=name, reference="r", meta={"subset": subset})
        for name, subset in (("a", "x"), ("b", "x"), ("c", "y"))
    ]
    values = {}
    for side, recalls in (("a", (1.0, 0.5, 0.25)), ("b", (1.0, 1.0, 0.25))):
        script = {item.id: dream(recall) for item, recall in zip(items, recalls, strict=True)}
        values[side] = evaluate(tmp_path / side, "dream1k", items, script)
    scores = compare_runs(tmp_path / "a", tmp_path / "b").scores
    # Recall by parts: ((1 + 0.5) / 2 + 0.25) / 2 = 0.5; over items 1.75 / 3.
    assert values["a"]["recall"] == 0.5
    assert "recall" not in scores
    assert "f1" not in scores
    assert scores["recall (mean over items)"].mean_a == pytest.approx(1.75 / 3)


def test_other_settings_and_benchmarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = {"a": events(2, 1), "b": events(8, 2)}
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, url, temperature in zip(folders, ("http://x/v1", "http://y/v1"), (0.0, 1.0), strict=True):
        evaluate(folder, "vs2", EVENT_ITEMS, script)
        (folder / "run.json").write_text(json.dumps({"base_url": url}))
        report = json.loads((folder / "report.json").read_text())
        report["judge_settings"] = {"temperature": temperature}
        (folder / "report.json").write_text(json.dumps(report))
    assert compare_runs(*folders).warnings == (
        "judge's sampling is {'temperature': 0.0} of A and {'temperature': 1.0} of B",
        "judge's server is 'http://x/v1' of A and 'http://y/v1' of B",
    )
    with pytest.raises(ConfigError, match=r"a and .*b are of vs2, not of ugc; name that benchmark"):
        compare_runs(*folders, "ugc")
    assert cli.main(["evaluate", "ugc", "--compare", *map(str, folders)]) == 2
    assert "are of vs2, not of ugc" in capsys.readouterr().err
    (folders[0] / "run.json").write_text("{")
    with pytest.raises(RecordError, match=r"run\.json cannot be read"):
        compare_runs(*folders)


def test_reports_of_older_versions_do_not_say_what_a_score_is(tmp_path: Path) -> None:
    script = {"a": events(2, 1), "b": events(8, 2)}
    for side in ("a", "b"):
        evaluate(tmp_path / side, "vs2", EVENT_ITEMS, script, "released")
        report = json.loads((tmp_path / side / "report.json").read_text())
        for score in report["scores"]:
            del score["statistic"]
        (tmp_path / side / "report.json").write_text(json.dumps(report))
    scores = compare_runs(tmp_path / "a", tmp_path / "b").scores
    assert "total" not in scores
    assert scores["total (mean over items)"].mean_a == 0.375
