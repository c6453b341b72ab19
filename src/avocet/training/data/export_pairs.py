"""Preference pairs in files of other trainers, without loss for the one who reads them again.

No foreign format has a place for metrics, rounds and the like, and some have none for the ground truth. What a reader
would miss or get otherwise stands, as a JSON text, in one additional field of the item, `avocet`, which the trainers do
not read; a text and not an object, since tables of columns (Hugging Face datasets) need one type for all rows. It is
found by reading: a written item is read as anybody would read it, and every difference goes into the field.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from avocet.errors import RecordError
from avocet.records import PreferencePair
from avocet.training.data.formats_common import Context
from avocet.training.data.formats_json import Item
from avocet.training.data.records import Outcome

KEPT_FIELD = "avocet"
NO_GROUND_TRUTH = "pairs without a ground truth: it is empty, so losses with a term on it cannot use them"
"""The note of readers on a pair that has none."""

_TEXTS = ("instruction", "chosen", "rejected", "ground_truth")
_OTHERS = ("chosen_metrics", "rejected_metrics", "round")
_META = "meta"
"""Of the clip."""

Reader = Callable[[Item, Context], Sequence[Outcome]]


def keep_rest(item: Mapping[str, Any], pair: PreferencePair, read: Reader, context: Context) -> dict[str, Any]:
    """The item with what its format has no place for in `KEPT_FIELD`, where there is anything.

    Args:
        item: of `pair` in the foreign format.
        read: the reader of that format.
        context: as if the item stood in its file.

    Raises `RecordError` when the item would be refused, or read as anything but this pair.
    """
    found = read(Item(where=pair.clip.id, value=dict(item)), context)
    if len(found) != 1 or not isinstance(plain := found[0], PreferencePair):
        raise RecordError("the format would read the pair as something else")
    rest = {name: getattr(pair, name) for name in (*_TEXTS, *_OTHERS) if getattr(pair, name) != getattr(plain, name)}
    if pair.clip.meta != plain.clip.meta:
        rest[_META] = pair.clip.meta
    if not rest:
        return dict(item)
    written = {**item, KEPT_FIELD: json.dumps(rest, ensure_ascii=False, sort_keys=True)}
    again = restored(read(Item(where=pair.clip.id, value=written), context), context)
    if again != [dataclasses.replace(pair, clip=dataclasses.replace(pair.clip, path=plain.clip.path))]:
        raise RecordError("the pair could not be read again as it is")
    return written


def restored(outcomes: Sequence[Outcome], context: Context) -> list[Outcome]:
    """Outcomes of one item, a pair with what `KEPT_FIELD` says of it.

    Raises `RecordError` for a field that is damaged, or that contradicts the item: somebody edited one of them.
    """
    return [_restored(outcome, context) if isinstance(outcome, PreferencePair) else outcome for outcome in outcomes]


def _restored(pair: PreferencePair, context: Context) -> PreferencePair:
    fields = pair.clip.meta.get("fields")
    if not isinstance(fields, dict) or KEPT_FIELD not in fields:
        return pair
    rest = _parsed(fields[KEPT_FIELD])
    others = {name: value for name, value in fields.items() if name != KEPT_FIELD}
    meta = {name: value for name, value in pair.clip.meta.items() if name != "fields"}
    if others:
        meta["fields"] = others
    for name in _TEXTS:
        # A format may cut white space, or lack the text; anything else was changed by hand.
        if name in rest and getattr(pair, name) != "" and _plain(rest[name]) not in ("", getattr(pair, name)):
            raise RecordError(
                f"the field {KEPT_FIELD!r} holds another {name} than the item; take {name!r} out of it, or the field"
            )
    record = {**pair.to_dict(), **{name: value for name, value in rest.items() if name != _META}}
    record["clip"] = {**pair.clip.to_dict(), "meta": rest.get(_META, meta)}
    whole = PreferencePair.from_dict(record)
    context.notes[f"what the format has no place for was taken from the field {KEPT_FIELD!r}"] += 1
    if whole.ground_truth and not pair.ground_truth:
        # The reader of the format missed the ground truth and said so.
        context.notes.subtract([NO_GROUND_TRUTH])
        if context.notes[NO_GROUND_TRUTH] <= 0:
            del context.notes[NO_GROUND_TRUTH]
    return whole


def _parsed(kept: Any) -> dict[str, Any]:
    try:
        rest = json.loads(kept) if isinstance(kept, str) else kept
    except ValueError as error:
        raise RecordError(f"the field {KEPT_FIELD!r} is no JSON text: {error}") from error
    allowed = {*_TEXTS, *_OTHERS, _META}
    if not isinstance(rest, dict) or not rest.keys() <= allowed:
        raise RecordError(
            f"the field {KEPT_FIELD!r} must be an object of {', '.join(sorted(allowed))}, got {rest!r:.80}"
        )
    return rest


def _plain(text: Any) -> str:
    return text.strip() if isinstance(text, str) else ""
