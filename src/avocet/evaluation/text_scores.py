"""What can be said of captions without any judge: length, repetition, collapse, unnatural patterns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from avocet.evaluation.captions import ImportedCaption
from avocet.evaluation.scores import Score, mean_score, number
from avocet.metrics import collapse_sign, repetition_rate, share, unnatural_patterns
from avocet.records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFacts(Record):
    """One caption as a text."""

    num_words: int
    repetition_rate: float
    collapse_sign: str | None
    """What shows that it ran into a loop; None for a caption that did not."""
    unnatural: tuple[str, ...]
    """Kinds of unnatural patterns, each once."""
    is_cut_off: bool | None
    """Whether it reached the token limit; None when the file does not say."""


def text_facts(caption: ImportedCaption, duration_seconds: float | None = None) -> TextFacts:
    """Measure one caption. `duration_seconds` of the clip reveals time ranges that cannot be."""
    record = caption.record
    if duration_seconds is None and record is not None and record.end_seconds > record.start_seconds:
        duration_seconds = record.end_seconds - record.start_seconds
    stop_reason = None if record is None else record.stop_reason
    patterns = unnatural_patterns(caption.text, duration_seconds=duration_seconds, instruction=caption.instruction)
    return TextFacts(
        num_words=len(caption.text.split()),
        repetition_rate=repetition_rate(caption.text),
        collapse_sign=collapse_sign(caption.text, stop_reason),
        unnatural=tuple(dict.fromkeys(pattern.kind for pattern in patterns)),
        is_cut_off=None if stop_reason is None else stop_reason == "length",
    )


def text_scores(facts: Sequence[TextFacts]) -> list[Score]:
    """The figures of all captions."""
    return [
        mean_score(
            "repetition", [one.repetition_rate for one in facts], better="lower", note="words in recurring phrases"
        ),
        _share("collapse", [one.collapse_sign is not None for one in facts], "captions that ran into a loop"),
        _share("unnatural", [bool(one.unnatural) for one in facts], "captions with an unnatural pattern"),
        _share("cut off", [one.is_cut_off for one in facts], "captions that reached the token limit"),
        mean_score("words", [float(one.num_words) for one in facts], unit="words", note="words per caption"),
    ]


def _share(name: str, hits: Sequence[bool | None], what: str) -> Score:
    found = share(hits)
    unknown = f"; not known of {found.num_unscored}" if found.num_unscored else ""
    return Score(
        name=name,
        value=number(found.rate),
        standard_error=number(found.standard_error),
        low=number(found.low),
        high=number(found.high),
        num=found.num_values,
        statistic="mean",
        better="lower",
        note=f"{what}: {found.num_hits} of {found.num_values}{unknown}",
    )
