"""Reports: what was measured, on what, with counts and errors beside every mean."""

from __future__ import annotations

import dataclasses

from avocet.records import Record, Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class KindReport(Record):
    """One kind of event in all scored clips."""

    num_events: int
    miss: float
    """Share of them that the caption does not have right: missed or told wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TheatreReport(Record):
    """A captioner's figures on the theatre. Rates are fractions, times seconds."""

    level: int
    model: str
    revision: str
    num_clips: int
    seed: int
    """The scripts are those of seeds `seed` ... `seed + num_clips - 1`."""
    control: str
    instruction: str
    sampling: Sampling
    miss: float
    """Mean over captions of missed / events."""
    miss_standard_error: float
    hall: float
    """Mean over captions of (incorrect + hallucinated) / events."""
    hall_standard_error: float
    total: float
    total_standard_error: float
    pooled_miss: float
    """Missed events of all captions / events of all captions; likewise the next two."""
    pooled_hall: float
    pooled_total: float
    num_events: int
    num_scored: int
    num_unscored: int
    """Clips without a caption: unreadable, or refused by the model."""
    num_cut_off: int
    """Captions that reached the token limit; they are scored as they are."""
    perfect: float
    """Share of captions without any finding."""
    repetition: float
    """Mean over captions."""
    repetition_standard_error: float
    dialogue_word_accuracy: float | None
    """1 - word errors / reference words over all speech together, at least 0; None without speech."""
    dialogue_word_accuracy_interval: tuple[float, float] | None
    """Bootstrap 95 % interval over captions."""
    num_reference_words: int
    speaker_accuracy: float | None
    """Share of utterances given to the right speaker; None without speech."""
    num_utterances: int
    order_errors: int
    binding_errors: int
    per_kind: dict[str, KindReport]
    seconds: dict[str, float]
    """Wall time of staging and of captioning with judging."""
    warnings: dict[str, int] = dataclasses.field(default_factory=dict)
    """Each warning of the captions and how many captions carry it."""

    def to_text(self) -> str:
        """The report for people: a few lines."""
        interval = self.dialogue_word_accuracy_interval
        words = "no speech" if interval is None else f"{_percent(interval[0])} to {_percent(interval[1])}"
        control = "" if self.control == "none" else f", control: {self.control}"
        lines = [
            f"{self.model} ({self.revision}) on theatre level {self.level}, "
            f"{self.num_clips} clips from seed {self.seed}{control}",
            f"  total error     {_mean(self.total, self.total_standard_error)} (pooled {_percent(self.pooled_total)})",
            f"  missed          {_mean(self.miss, self.miss_standard_error)}",
            f"  hallucinated    {_mean(self.hall, self.hall_standard_error)}",
            f"  dialogue words  {_percent(self.dialogue_word_accuracy)} right ({words}; "
            f"{self.num_reference_words} words)",
            f"  speakers        {_percent(self.speaker_accuracy)} right ({self.num_utterances} utterances)",
            f"  repetition      {_mean(self.repetition, self.repetition_standard_error)}",
            f"  perfect         {_percent(self.perfect)} of the captions; {self.order_errors} order errors, "
            f"{self.binding_errors} binding errors",
            f"  events          {self.num_events} in {self.num_scored} scored captions; {self.num_unscored} unscored, "
            f"{self.num_cut_off} cut off",
        ]
        lines += [
            f"  {kind:<15} {_percent(report.miss)} of {report.num_events} not right"
            for kind, report in self.per_kind.items()
        ]
        lines += [f"  warning on {count} captions: {warning}" for warning, count in self.warnings.items()]
        lines.append("  " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items()))
        return "\n".join(lines)


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f} %"


def _mean(mean: float, standard_error: float) -> str:
    return f"{100 * mean:.1f} ± {100 * standard_error:.1f} %"
