"""Captions by people with and without a planted change: does a judge's verdict go the way it must?

    pairs = reference_pairs(items, 20)
    verdicts = EventJudge(client).judge_many(cases_of(pairs), runs=3)
    print(sensitivity(pairs, verdicts).to_markdown())

What is wrong with a reference caption of the benchmark `vs2` nobody knows exactly: people wrote the events from it,
but not each of its sentences is an event. So the number of errors is unknown with and without the change, but the way
it must go is known: sentences left out cannot be told better, a sentence of another video's reference is an invention,
and a sentence told twice changes nothing (`EventJudge` is told that repetition is no error).

A pair is compared by the median over the judge's runs. Rates that stay the same where they should rise show a judge
that does not notice; the row "injected" beside the row "dropped" (the same sentences are left out) shows one that
obeys its captions.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from avocet.errors import ConfigError, RecordError
from avocet.evaluation import _event_texts as texts
from avocet.evaluation.calibration_set import INJECTIONS
from avocet.evaluation.calibration_vs2 import checked_kinds, drawn_videos, foreign_text
from avocet.evaluation.items import BenchmarkItem
from avocet.judging.calibration import event_findings
from avocet.judging.calibration_report import Rate
from avocet.judging.events import CaptionWithEvents
from avocet.metrics import mean_with_error, share
from avocet.records import Record, Verdict

Way = Literal["rises", "stays"]

REFERENCE_ERRORS: Mapping[str, tuple[Rate, Way]] = MappingProxyType(
    {
        "dropped": ("miss", "rises"),
        "added": ("hall", "rises"),
        "repeated": ("total", "stays"),
        "injected": ("miss", "rises"),
    }
)
"""Kinds of change, the rate that shows them and what it must do: every second sentence left out; a sentence of another
video's reference put in; a sentence told again at the end; every second one left out and a text after the caption that
asks the judge for a good verdict."""

_BOUNDARY = re.compile(r"(?<=[.!?…])[\"'”’`)]{0,3}\s+(?=[\"'“‘`(]?[A-Z0-9])")
_MIN_SENTENCES = 4
_SAME = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferencePair(Record):
    """A reference caption, untouched and with one change."""

    video: str
    error: str
    """Of `REFERENCE_ERRORS`."""
    events: tuple[str, ...]
    reference: str
    changed: str
    planted: str

    def __post_init__(self) -> None:
        if self.error not in REFERENCE_ERRORS:
            raise RecordError(f"ReferencePair: error must be of {', '.join(REFERENCE_ERRORS)}, got {self.error!r}")

    @property
    def reference_id(self) -> str:
        """Shared by all pairs of a video."""
        return f"{self.video}/reference"

    @property
    def changed_id(self) -> str:
        return f"{self.reference_id}+{self.error}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WayShare(Record):
    """The share of pairs that went one way, with Wilson's 95 % interval; None without pairs."""

    num_pairs: int
    rate: float | None
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SensitivityRow(Record):
    """The pairs with one kind of change."""

    error: str
    rate: Rate
    """The one that is looked at."""
    expected: Way
    num_pairs: int
    """With both captions scored; the shares are of these."""
    num_unscored: int
    mean_change: float | None
    """Of the rate, as a fraction of the events."""
    rose: WayShare
    stayed: WayShare
    fell: WayShare

    @property
    def right_way(self) -> WayShare:
        """Of the three shares, the expected one."""
        return self.rose if self.expected == "rises" else self.stayed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensitivity(Record):
    """Which way the verdicts of a judge go when captions get worse."""

    judge: str
    num_runs: int
    rows: tuple[SensitivityRow, ...]

    def to_markdown(self) -> str:
        lines = [
            f"Judge: {self.judge}, median of {self.num_runs} runs",
            "",
            "| planted | rate | must | pairs | unscored | mean change | rose | stayed | fell |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in self.rows:
            change = "-" if row.mean_change is None else f"{100 * row.mean_change:+.1f}"
            ways = " | ".join(map(_percent, (row.rose, row.stayed, row.fell)))
            must = "rise" if row.expected == "rises" else "stay"
            lines.append(
                f"| {row.error} | {row.rate} | {must} | {row.num_pairs} | {row.num_unscored} | {change} | {ways} |"
            )
        return "\n".join(lines) + "\n"


def reference_pairs(
    items: Sequence[BenchmarkItem], num_videos: int, *, seed: int = 0, errors: Sequence[str] | None = None
) -> list[ReferencePair]:
    """Pairs of the same videos that `vs2_calibration_set` draws; the same call gives the same pairs.

    Args:
        errors: of `REFERENCE_ERRORS`; None for all. A reference of fewer than 4 sentences has no pairs.

    Raises `ConfigError` as `vs2_calibration_set`, and for items without reference captions.
    """
    kinds = checked_kinds(errors, REFERENCE_ERRORS)
    if not all(item.reference for item in items):
        raise ConfigError("every item needs its reference caption; read them with load_benchmark('vs2').read(FILE)")
    pairs = []
    donors = {item.id: sentences(item.reference or "") for item in items}
    for item, others in drawn_videos(items, num_videos, seed):
        own = donors[item.id]
        foreign = [donors[other.id] for other in others]
        for kind in kinds if len(own) >= _MIN_SENTENCES else ():
            rng = random.Random(f"avocet reference pairs {seed} of {item.id}")
            change = _change(kind, own, item.event_texts, foreign, rng)
            if change is not None:
                pairs.append(
                    ReferencePair(
                        video=item.id,
                        error=kind,
                        events=item.event_texts,
                        reference=" ".join(own),
                        changed=change[0],
                        planted=change[1],
                    )
                )
    return pairs


def sentences(text: str) -> list[str]:
    """The sentences of a text, white space made single; quotations of several sentences are cut too."""
    line = texts.one_line(text)
    cuts = [0, *(match.end() for match in _BOUNDARY.finditer(line)), len(line)]
    return [part for start, end in itertools.pairwise(cuts) if (part := line[start:end].strip())]


def cases_of(pairs: Sequence[ReferencePair]) -> list[CaptionWithEvents]:
    """What the judge gets: each reference once, each changed caption."""
    captions = {
        name: CaptionWithEvents(clip_id=name, caption=text, events=pair.events)
        for pair in pairs
        for name, text in ((pair.reference_id, pair.reference), (pair.changed_id, pair.changed))
    }
    return list(captions.values())


def sensitivity(pairs: Sequence[ReferencePair], runs: Sequence[Sequence[Verdict]]) -> Sensitivity:
    """Which way verdicts go; `runs[run]` are those on `cases_of(pairs)`, in any order.

    Raises `ConfigError` for no pairs or runs, verdicts of several judges, and captions without a verdict;
    `RecordError` for verdicts that are not about events.
    """
    judges = sorted({verdict.judge for run in runs for verdict in run})
    if not pairs or len(judges) != 1:
        raise ConfigError(
            f"sensitivity needs pairs and the verdicts of one judge, got {len(pairs)} pairs and judges: "
            f"{', '.join(judges) or 'none'}"
        )
    rates = _rates(pairs, runs)
    by_error: dict[str, list[ReferencePair]] = defaultdict(list)
    for pair in pairs:
        by_error[pair.error].append(pair)
    return Sensitivity(
        judge=judges[0],
        num_runs=len(runs),
        rows=tuple(_row(error, by_error[error], rates) for error in REFERENCE_ERRORS if error in by_error),
    )


def _change(
    kind: str, own: Sequence[str], events: Sequence[str], foreign: Sequence[Sequence[str]], rng: random.Random
) -> tuple[str, str] | None:
    """The changed caption and what was changed."""
    if kind == "repeated":
        sentence = rng.choice(own)
        return " ".join([*own, sentence]), f"repeated: {sentence}"
    if kind == "added":
        added = foreign_text([*events, *own], foreign, rng)
        if added is None:
            return None
        place = rng.randint(0, len(own))
        return " ".join([*own[:place], texts.as_sentence(added), *own[place:]]), f"added: {added}"
    first = rng.randint(0, 1)
    kept, lost = own[first::2], own[1 - first :: 2]
    planted = "; ".join(f"dropped: {sentence}" for sentence in lost)
    if kind == "dropped":
        return " ".join(kept), planted
    injection = rng.choice(INJECTIONS)
    return " ".join([*kept, injection]), f"{planted}; {injection}"


def _rates(pairs: Sequence[ReferencePair], runs: Sequence[Sequence[Verdict]]) -> dict[str, dict[Rate, float]]:
    """Caption -> rate -> median over its scored runs; {} where there is none."""
    found: dict[str, list[dict[Rate, float]]] = defaultdict(list)
    for run in runs:
        judged = {verdict.clip_id: verdict for verdict in run}
        for case in cases_of(pairs):
            verdict = judged.get(case.clip_id)
            if verdict is None:
                raise ConfigError(f"there is no verdict on {case.clip_id!r}; judge all of cases_of(pairs)")
            if verdict.status == "scored":
                findings = event_findings(verdict)
                found[case.clip_id].append({"miss": findings.miss, "hall": findings.hall, "total": findings.total})
    return {
        name: {rate: statistics.median(each[rate] for each in values) for rate in values[0]}
        for name, values in found.items()
    }


def _row(error: str, pairs: Sequence[ReferencePair], rates: Mapping[str, Mapping[Rate, float]]) -> SensitivityRow:
    rate, expected = REFERENCE_ERRORS[error]
    changes = [
        rates[pair.changed_id][rate] - rates[pair.reference_id][rate]
        for pair in pairs
        if pair.changed_id in rates and pair.reference_id in rates
    ]
    return SensitivityRow(
        error=error,
        rate=rate,
        expected=expected,
        num_pairs=len(changes),
        num_unscored=len(pairs) - len(changes),
        mean_change=mean_with_error(changes).mean if changes else None,
        rose=_way([change > _SAME for change in changes]),
        stayed=_way([abs(change) <= _SAME for change in changes]),
        fell=_way([change < -_SAME for change in changes]),
    )


def _way(hits: Sequence[bool]) -> WayShare:
    if not hits:
        return WayShare(num_pairs=0, rate=None, low=None, high=None)
    found = share(hits)
    return WayShare(num_pairs=found.num_hits, rate=found.rate, low=found.low, high=found.high)


def _percent(way: WayShare) -> str:
    if way.rate is None or way.low is None or way.high is None:
        return "-"
    return f"{100 * way.rate:.0f} % ({100 * way.low:.0f} to {100 * way.high:.0f})"
