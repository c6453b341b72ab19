"""Lists of {video|audio|image, conversations}: video-SALMONN 2 v1, video-SALMONN 2 plus, LLaVA.

The trap: in files of preference pairs the role `gpt` means two different things.

    v1     human, gpt = chosen answer,  reject_gpt = rejected answer,  gt = ground truth
    plus   human, gpt = ground truth,   chosen,                        reject

So the two are told apart by their other roles, for the whole file, and a file with roles of both is refused. A file
without pairs is the same in all three but for the sound:

    v1     `audio` beside `video`: with sound; else without        `timestamps: [start, end]` cuts the clip
    plus   `use_audio: true`: with sound; else without             `should_use: false` marks copies that fill up a batch
    llava  nothing is said: the sound is used where there is some

What an item itself says with `use_audio` counts in all three: one odd item, which gives a file another name, must not
take the sound of the others away.

Avocet reads the sound of the video file itself; the path of a separate sound file is kept in the clip's meta.

A conversation of several questions becomes one example per answer, each with its own question only (an example has
no history): right for lists of independent questions, which is what such data sets hold, and counted in the notes.
Where the format itself marks answers as history (v1: `history_gpt`) the item is rejected, and so is a conversation
of several questions with preference roles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from avocet.errors import RecordError
from avocet.records import AudioPolicy, ClipRef
from avocet.training.data.formats_common import (
    Context,
    ItemMedia,
    clean_answer,
    clean_question,
    clip_of,
    make_example,
    make_pair,
    read_interval,
    take_media,
    task_of,
)
from avocet.training.data.formats_json import Item
from avocet.training.data.records import Outcome, Rejected

Flavour = Literal["v1", "plus", "llava"]

ROLES: Mapping[Flavour, frozenset[str]] = {
    "v1": frozenset({"human", "gpt", "reject_gpt", "gt", "history_gpt"}),
    "plus": frozenset({"human", "gpt", "chosen", "reject"}),
    "llava": frozenset({"human", "gpt"}),
}
_COMMON = frozenset({"human", "gpt", "system"})
_V1_ROLES = ROLES["v1"] - _COMMON
_PLUS_ROLES = ROLES["plus"] - _COMMON
_SYNONYMS = {"user": "human", "assistant": "gpt"}
_KNOWN = frozenset(
    {
        *("id", "task", "video", "audio", "image", "conversations", "timestamps"),
        *("use_audio", "should_use", "ce_only", "num_tokens", "events"),
    }
)

Turn = tuple[str, str]
"""Role and text."""


def is_conversation(value: Mapping[str, Any]) -> bool:
    """Whether an object has the shape of these formats."""
    return isinstance(value.get("conversations"), list)


def recognise_flavour(values: Iterable[Mapping[str, Any]], where: str) -> Flavour:
    """Which of the three the items of one file are.

    Raises `RecordError` when the file has preference roles of v1 and of plus: `gpt` would mean two things.
    """
    v1_roles: set[str] = set()
    plus_roles: set[str] = set()
    signs: set[Flavour] = set()
    for value in values:
        turns = value.get("conversations")
        for turn in turns if isinstance(turns, list) else []:
            if isinstance(turn, dict) and isinstance(role := turn.get("from", turn.get("role")), str):
                v1_roles |= {role} & _V1_ROLES
                plus_roles |= {role} & _PLUS_ROLES
                text = turn.get("value", turn.get("content"))
                if role == "human" and isinstance(text, str) and ("<video>" in text or "<audio>" in text):
                    signs.add("plus")
        if "use_audio" in value or "should_use" in value:
            signs.add("plus")
        if "ce_only" in value or "timestamps" in value or ("video" in value and "audio" in value):
            signs.add("v1")
    if v1_roles and plus_roles:
        raise RecordError(
            f"{where}: has roles of v1 ({', '.join(sorted(v1_roles))}) and of plus ({', '.join(sorted(plus_roles))}), "
            "in which 'gpt' means the chosen answer and the ground truth; split the file, or name format v1 or plus"
        )
    if v1_roles or plus_roles:
        return "v1" if v1_roles else "plus"
    return "v1" if "v1" in signs else "plus" if "plus" in signs else "llava"


def read_conversation(item: Item, context: Context, flavour: Flavour) -> list[Outcome]:
    """The examples or the pair of one item. Raises `RecordError` with the reason when it cannot be used."""
    value = item.value
    if _flag(value, "should_use", True) is False:
        return [Rejected(where=item.where, reason="should_use is false: a copy that fills up a batch")]
    turns, system = _turns(value, flavour)
    media = take_media(context, value)
    clip = _clip(value, context, media, flavour, system)
    roles = {role for role, _ in turns}
    preference = roles & ({"reject_gpt", "gt"} | _PLUS_ROLES)
    if preference and _flag(value, "ce_only", False):
        context.notes["ce_only: the answer of the role 'gpt' is learnt, the other roles are not read"] += 1
        turns = [turn for turn in turns if turn[0] in ("human", "gpt")]
    elif preference:
        return [_pair(turns, clip, context, flavour)]
    return _examples(turns, value, clip, context, media)


def _examples(
    turns: list[Turn], value: Mapping[str, Any], clip: ClipRef, context: Context, media: ItemMedia
) -> list[Outcome]:
    if len(turns) % 2 or [role for role, _ in turns] != ["human", "gpt"] * (len(turns) // 2):
        raise RecordError(f"questions and answers must alternate, got the roles {_roles(turns)}")
    found: list[Outcome] = []
    for (_, question), (_, answer) in zip(turns[::2], turns[1::2], strict=True):
        asked = clean_question(question, context)
        example = make_example(clip, task_of(context, value, asked, media.kind), asked, clean_answer(answer))
        found.append(dataclasses.replace(example, events=_events(value)))
    if len(found) > 1:
        context.notes["several questions: each became an example of its own, without the turns before it"] += 1
    return found


def _events(value: Mapping[str, Any]) -> tuple[str, ...]:
    """The atomic events of a clip, which the released test set of video-SALMONN 2 lists beside its captions."""
    events = value.get("events", [])
    if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
        raise RecordError(f"'events' must be a list of texts, got {events!r:.60}")
    return tuple(events)


def _pair(turns: list[Turn], clip: ClipRef, context: Context, flavour: Flavour) -> Outcome:
    roles = [role for role, _ in turns]
    if len(set(roles)) < len(roles):
        raise RecordError(f"a preference item holds one question and each answer once, got the roles {_roles(turns)}")
    texts = dict(turns)
    # The trap of the module's description.
    chosen, rejected, truth = ("gpt", "reject_gpt", "gt") if flavour == "v1" else ("chosen", "reject", "gpt")
    for role in ("human", chosen, rejected):
        if role not in texts:
            raise RecordError(f"a preference item without the role {role!r} (it has {_roles(turns)})")
    if roles[0] != "human":
        raise RecordError(f"the question must come first, got the roles {_roles(turns)}")
    if truth not in texts:
        context.notes["pairs without a ground truth: it is empty, so losses with a term on it cannot use them"] += 1
    return make_pair(
        clip,
        clean_question(texts["human"], context),
        clean_answer(texts[chosen], f"the answer {chosen!r}"),
        clean_answer(texts[rejected], f"the answer {rejected!r}"),
        clean_answer(texts[truth], f"the answer {truth!r}") if truth in texts else "",
    )


def _turns(value: Mapping[str, Any], flavour: Flavour) -> tuple[list[Turn], str | None]:
    """The turns and the system text."""
    raw = value.get("conversations")
    if not isinstance(raw, list) or not raw:
        raise RecordError("'conversations' must be a list with at least one turn")
    turns: list[Turn] = []
    for turn in raw:
        role = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
        text = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
        if not isinstance(role, str) or not isinstance(text, str):
            raise RecordError(f"a turn must be an object with the texts 'from' and 'value', got {turn!r:.60}")
        turns.append((_SYNONYMS.get(role, role), text))
    system = None
    if turns[0][0] == "system":
        system = turns.pop(0)[1]
    for role, _ in turns:
        if role == "history_gpt" and flavour == "v1":
            raise RecordError("answers marked as history: examples hold one question and no history")
        if role not in ROLES[flavour]:
            raise RecordError(f"unknown role {role!r:.40}; the roles of {flavour} are {', '.join(ROLES[flavour])}")
    return turns, system


def _clip(
    value: Mapping[str, Any], context: Context, media: ItemMedia, flavour: Flavour, system: str | None
) -> ClipRef:
    meta: dict[str, Any] = {}
    if system is not None:
        meta["system"] = system
        context.notes["a system text is kept in the clip's meta; models keep their own"] += 1
    if rest := {name: field for name, field in value.items() if name not in _KNOWN}:
        meta["fields"] = rest
    policy = _policy(value, media, flavour)
    if policy == "ignore":
        context.notes[f"{flavour}: the item asks for no sound (its audio_policy is 'ignore')"] += 1
    if media.separate_sound is not None:
        context.notes["a separate sound file is named; what is read is the sound of the video file itself"] += 1
    return clip_of(
        context,
        media,
        clip_id=item_id(value),
        policy=policy,
        interval=read_interval(value.get("timestamps")),
        meta=meta,
    )


def item_id(value: Mapping[str, Any]) -> str | None:
    """The field `id` as a text. Raises `RecordError` when it is neither a text nor a whole number."""
    name = value.get("id")
    if name is None or name == "":
        return None
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise RecordError(f"'id' must be a text or a whole number, got {name!r:.60}")
    return str(name)


def _policy(value: Mapping[str, Any], media: ItemMedia, flavour: Flavour) -> AudioPolicy:
    use_audio = _flag(value, "use_audio", None)
    if media.kind != "video":
        return "auto"
    if use_audio is None and flavour == "llava":
        return "auto"
    if use_audio is None:
        use_audio = flavour == "v1" and media.separate_sound is not None
    return "require" if use_audio else "ignore"


def _flag(value: Mapping[str, Any], name: str, default: bool | None) -> bool | None:
    flag = value.get(name, default)
    if flag is not None and not isinstance(flag, bool):
        raise RecordError(f"{name!r} must be true or false, got {flag!r:.40}")
    return flag


def _roles(turns: list[Turn]) -> str:
    shown = ", ".join(role for role, _ in turns[:8])
    return shown + (", ..." if len(turns) > 8 else "") if turns else "(none)"
