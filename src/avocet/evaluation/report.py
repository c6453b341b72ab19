"""Reports: what was measured, on what, with counts and errors beside every mean."""

from __future__ import annotations

import dataclasses

from avocet.records import Failure, Record, Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class KindReport(Record):
    """The events of one kind in all scored clips."""

    num_events: int
    missed: int
    incorrect: int
    hallucinated: int
    miss: float | None
    """missed / events; None without events."""
    not_right: float | None
    """(missed + incorrect) / events; None without events."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TheatreReport(Record):
    """A captioner's figures on the theatre. Rates are fractions, times seconds; None: nothing to divide by."""

    level: int
    model: str
    revision: str
    num_clips: int
    seed: int
    """The scripts are those of seeds `seed` ... `seed + num_clips - 1`."""
    control: str
    instruction: str
    sampling: Sampling
    miss: float | None
    """Mean over captions of missed / events."""
    miss_standard_error: float | None
    hall: float | None
    """Mean over captions of (incorrect + hallucinated) / events."""
    hall_standard_error: float | None
    total: float | None
    """miss + hall."""
    total_standard_error: float | None
    pooled_miss: float | None
    """Missed events of all captions / events of all captions; likewise the next two."""
    pooled_hall: float | None
    pooled_total: float | None
    pooled_total_standard_error: float | None
    num_events: int
    """In the scored clips."""
    num_scored: int
    num_unscored: int
    """Clips without a caption; `unscored` says why."""
    num_cut_off: int
    """Captions that reached the token limit; they are scored as they are."""
    perfect: float | None
    """Share of captions with no wrong event and no error of order or binding."""
    perfect_standard_error: float | None
    repetition: float | None
    """Mean over captions of words in repeated phrases / all words."""
    repetition_standard_error: float | None
    dialogue_f1: float | None = None
    """Mean over captions of F1 of their dialogue, speakers included: the dialogue reward of AVoCaDO."""
    dialogue_f1_standard_error: float | None = None
    collapse: float | None = None
    """Share of captions that ran into a loop (`avocet.metrics.is_collapsed`)."""
    collapse_standard_error: float | None = None
    dialogue_word_accuracy: float | None
    """1 - word errors / reference words over all speech together, at least 0."""
    dialogue_word_accuracy_interval: tuple[float, float] | None
    """Bootstrap 95 % interval over captions; likewise for the speakers."""
    num_reference_words: int
    speaker_accuracy: float | None
    """Share of utterances told with the right speaker."""
    speaker_accuracy_interval: tuple[float, float] | None
    num_utterances: int
    order_errors: int
    binding_errors: int
    per_kind: dict[str, KindReport]
    warnings: dict[str, int]
    """Each warning of the captions and how many captions carry it."""
    unscored: tuple[Failure, ...]
    seconds: dict[str, float]
    """Wall time of staging, and of captioning with judging."""

    def to_text(self) -> str:
        """The report for people: a few lines."""
        control = "" if self.control == "none" else f", control: {self.control}"
        lines = [
            f"{self.model} ({self.revision}) on theatre level {self.level}, "
            f"{self.num_clips} clips from seed {self.seed}{control}",
            f"  total error     {_mean(self.total, self.total_standard_error)} (pooled {_percent(self.pooled_total)})",
            f"  missed          {_mean(self.miss, self.miss_standard_error)}",
            f"  hallucinated    {_mean(self.hall, self.hall_standard_error)}",
            f"  dialogue words  {_percent(self.dialogue_word_accuracy)} right"
            f"{_interval(self.dialogue_word_accuracy_interval)} of {self.num_reference_words}",
            f"  dialogue F1     {_mean(self.dialogue_f1, self.dialogue_f1_standard_error)} (words and speakers)",
            f"  speakers        {_percent(self.speaker_accuracy)} right"
            f"{_interval(self.speaker_accuracy_interval)} of {self.num_utterances}",
            f"  repetition      {_mean(self.repetition, self.repetition_standard_error)}",
            f"  collapsed       {_mean(self.collapse, self.collapse_standard_error)} of the captions",
            f"  perfect         {_mean(self.perfect, self.perfect_standard_error)} of the captions; "
            f"{self.order_errors} order errors, {self.binding_errors} binding errors",
            f"  events          {self.num_events} in {self.num_scored} scored captions; "
            f"{self.num_unscored} unscored, {self.num_cut_off} cut off",
        ]
        lines += [
            f"  {kind:<15} {_percent(report.not_right)} of {report.num_events} not right, "
            f"{report.hallucinated} hallucinated"
            for kind, report in self.per_kind.items()
        ]
        lines += [f"  warning on {count} captions: {warning}" for warning, count in self.warnings.items()]
        lines += [f"  unscored: {failure.error}" for failure in self.unscored]
        lines.append("  " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items()))
        return "\n".join(lines)


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f} %"


def _mean(mean: float | None, standard_error: float | None) -> str:
    if mean is None or standard_error is None:
        return _percent(mean)
    return f"{100 * mean:.1f} ± {100 * standard_error:.1f} %"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({_percent(interval[0])} to {_percent(interval[1])})"
