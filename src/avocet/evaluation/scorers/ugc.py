"""Grades of the UGC-VideoCap rubric: published are means in percent of the best grade, and their mean."""

from __future__ import annotations

from collections.abc import Sequence

from avocet.evaluation.items import BenchmarkItem
from avocet.evaluation.scorers.base import Finding, Judged, Scorer
from avocet.evaluation.scores import Scores, mean_over_runs, mean_score
from avocet.judging.client import JudgeClient
from avocet.judging.judge import Judge
from avocet.judging.messages import CallParameters
from avocet.judging.ugc import DIMENSIONS, MAX_GRADE, UgcFindings, UgcItem, UgcJudge
from avocet.metrics.events import Protocol
from avocet.records import Verdict


class UgcScorer(Scorer[UgcItem]):
    """For `ugc`."""

    def judge(self, client: JudgeClient | None, parameters: CallParameters | None = None) -> Judge[UgcItem]:
        assert client is not None
        return UgcJudge(client, parameters=parameters)

    def judge_item(self, item: BenchmarkItem, caption: str) -> UgcItem | str:
        if not item.reference:
            return "no reference caption"
        return UgcItem(clip_id=item.id, caption=caption, reference=item.reference)

    def scores(self, judged: Sequence[Judged], protocol: Protocol) -> Scores:
        items = {one.item.id: _item_values(one.verdicts) for one in judged}
        scores = []
        for name in ("average", *DIMENSIONS):
            values = [value for one in items.values() if (value := one[name]) is not None]
            note = "mean of the three" if name == "average" else f"mean grade / {MAX_GRADE}; the lowest grade is 20 %"
            scores.append(mean_score(name, values, better="higher", note=note))
        return Scores(headline="average", scores=tuple(scores), items=items)

    def findings(self, verdict: Verdict) -> list[Finding]:
        found = UgcFindings.from_verdict(verdict)
        grades = ", ".join(f"{name} {getattr(found, name)}" for name in DIMENSIONS)
        return [Finding(kind="grades", text=f"{grades} of {MAX_GRADE}: {found.reasoning}", is_good=True)]


def _item_values(verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    """Fractions of the best grade, means over the runs that scored the caption."""
    runs = [UgcFindings.from_verdict(verdict) for verdict in verdicts if verdict.status == "scored"]
    values = {name: mean_over_runs(getattr(run, name) / MAX_GRADE for run in runs) for name in DIMENSIONS}
    return {"average": mean_over_runs(values.values()), **values}
