"""Repetition collapse: the share of captions that fell into saying the same thing again and again.

AVoCaDO reports it as "RepCol" (table 4: 7.1 % for Qwen2.5-Omni, 3.5 % after SFT, 0.4 % at the end) without saying how
it is detected, so the definition here is our own. A text is read as units: words, casefolded, without punctuation; of
scripts that put no space between words, single characters. A *loop* is a stretch in which each unit equals the one a
period earlier. A caption is collapsed if any of these holds, looked at in this order:

1. `guard`: generation was ended by the repetition guard (stop reason "repetition"). It saw a loop in the tokens.
2. `end_loop`: it ends in a loop of at least 4 periods and 32 units; the last unit may be a stump. A caption that was
   cut off at its token limit (stop reason "length") needs only 3 periods: nothing says that it would have come out.
3. `loop`: it holds a loop of at least 4 periods and 64 units anywhere, what the guard would have stopped.
4. `repetition`: it has at least 64 units, and half or more of them stand in phrases (as in `repetition_rate`) of at
   least 5 units that occur at least 4 times: it goes round in changing order, or with small changes in between.
   Shorter phrases do not count: they are what lines of one pattern share ("The number '3' appears, rotating.").

Periods go up to 256 units, as in the guard. A refrain told three times is no loop, "ha ha ha ha" is too short for one,
and lines that share their beginning ("Step 1: ...", "Step 2: ...") differ once per period. None of the
483 reference captions of video-SALMONN 2's test set is collapsed, though one has a repetition rate of 0.44 (speech that
is also shown as text); their largest share under 4 is 0.15.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from avocet.errors import ConfigError
from avocet.metrics.repetition import phrases
from avocet.metrics.statistics import Share, share
from avocet.records import StopReason

CollapseSign = Literal["guard", "end_loop", "loop", "repetition"]

MIN_PERIODS = 4
MIN_PERIODS_CUT_OFF = 3
MIN_END_UNITS = 32
"""About 40 tokens: half of what the guard asks for, since a text that ends in a loop had no reason to."""
MIN_UNITS = 64
MAX_PERIOD = 256
MIN_SHARE_IN_REPEATS = 0.5
MIN_PHRASE_UNITS = 5

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters."""
_UNIT = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollapseRate(Share):
    """The share of collapsed captions."""

    signs: dict[str, int]
    """Sign -> number of captions that it was the first to show."""


def collapse_sign(text: str, stop_reason: StopReason | None = None) -> CollapseSign | None:
    """The first of the signs above that a caption shows; None when it is not collapsed.

    Without a `stop_reason` the text alone is looked at. Raises `ConfigError` for an unknown stop reason.
    """
    if stop_reason is not None and stop_reason not in get_args(StopReason):
        raise ConfigError(f"stop_reason must be None or one of {', '.join(get_args(StopReason))}, got {stop_reason!r}")
    if stop_reason == "repetition":
        return "guard"
    units = _units(text)
    periods = MIN_PERIODS_CUT_OFF if stop_reason == "length" else MIN_PERIODS
    if _ends_in_loop(units, periods) or _ends_in_loop(units[:-1], periods):
        return "end_loop"
    if _has_loop(units):
        return "loop"
    if len(units) >= MIN_UNITS and _share_in_repeats(text) >= MIN_SHARE_IN_REPEATS:
        return "repetition"
    return None


def is_collapsed(text: str, stop_reason: StopReason | None = None) -> bool:
    """Whether a caption fell into repetition. Raises as `collapse_sign`."""
    return collapse_sign(text, stop_reason) is not None


def collapse_rate(texts: Sequence[str | None], stop_reasons: Sequence[StopReason | None] | None = None) -> CollapseRate:
    """The share of collapsed captions; None is a missing caption, which is unscored.

    `stop_reasons` has one entry per text. Raises `ConfigError` when it has not, and as `collapse_sign`.
    """
    reasons = [None] * len(texts) if stop_reasons is None else stop_reasons
    if len(reasons) != len(texts):
        raise ConfigError(f"stop_reasons needs one entry per text, got {len(reasons)} for {len(texts)}")
    found = [collapse_sign(text, reason) for text, reason in zip(texts, reasons, strict=True) if text is not None]
    signs = Counter(sign for sign in found if sign is not None)
    missing: list[bool | None] = [None] * (len(texts) - len(found))
    counted = share([*(sign is not None for sign in found), *missing])
    return CollapseRate(**counted.to_dict(), signs={sign: signs[sign] for sign in get_args(CollapseSign)})


def _units(text: str) -> np.ndarray:
    """Ids of the units of a text: int64 (number of units,), equal for equal units."""
    ids: dict[str, int] = {}
    return np.array([ids.setdefault(unit, len(ids)) for unit in _UNIT.findall(text.casefold())], dtype=np.int64)


def _share_in_repeats(text: str) -> float:
    """Units in phrases of `MIN_PHRASE_UNITS` and more that occur `MIN_PERIODS` times and more / all units."""
    counts = Counter(phrases(text))
    sizes = {phrase: len(_UNIT.findall(phrase)) for phrase in counts}
    total = sum(sizes[phrase] * count for phrase, count in counts.items())
    repeated = sum(
        sizes[phrase] * count
        for phrase, count in counts.items()
        if count >= MIN_PERIODS and sizes[phrase] >= MIN_PHRASE_UNITS
    )
    return repeated / max(1, total)


def _ends_in_loop(units: np.ndarray, min_periods: int) -> bool:
    """... A B A B A B A B: the last (periods - 1) * 2 units equal those two before them."""
    for period in range(1, min(MAX_PERIOD, len(units) // min_periods) + 1):
        span = max(min_periods * period, MIN_END_UNITS)
        if span > len(units):
            continue
        tail = units[-span:]
        # The cheap comparison first: most periods fail on their last unit.
        if tail[-1] == tail[-1 - period] and np.array_equal(tail[period:], tail[:-period]):
            return True
    return False


def _has_loop(units: np.ndarray) -> bool:
    for period in range(1, min(MAX_PERIOD, len(units) // MIN_PERIODS) + 1):
        needed = max(MIN_PERIODS * period, MIN_UNITS) - period
        breaks = np.flatnonzero(units[period:] != units[:-period])
        # Runs of equal units lie between the breaks, with a break before the first and after the last unit.
        edges = np.concatenate(([-1], breaks, [len(units) - period]))
        if np.diff(edges).max() - 1 >= needed:
            return True
    return False
