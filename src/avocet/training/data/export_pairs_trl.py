"""TRL's conversational preference data: {prompt, chosen, rejected} as messages, and the media in a column of their own.

    {"id": "a", "prompt": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Describe."}]}],
     "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "..."}]}], "rejected": [...],
     "videos": ["a.mp4"]}

Parts name their kind only: a key `video` with the path would, in a table, be there as null in the text parts as well,
and chat templates that ask `'video' in part` would then take each of these for a video. TRL itself (1.16) reads images
and no videos or sound; with a collator of one's own that reads `videos`, its DPOTrainer trains on these rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avocet.errors import RecordError
from avocet.records import PreferencePair
from avocet.training.data.export_pairs import NO_GROUND_TRUTH
from avocet.training.data.formats_common import (
    Context,
    clean_answer,
    clean_question,
    clip_of,
    make_pair,
    media_kind,
    take_media,
)
from avocet.training.data.formats_conversations import item_id
from avocet.training.data.formats_json import Item
from avocet.training.data.records import Outcome

_MEDIA = {"video": "videos", "audio": "audios", "image": "images"}
_TURNS = ("prompt", "chosen", "rejected")
_KNOWN = frozenset({"id", *_TURNS, *_MEDIA, *_MEDIA.values()})


def trl_item(pair: PreferencePair, instruction: str, path: str) -> dict[str, Any]:
    """The row of a pair.

    Args:
        instruction: what is asked.
        path: of the clip, as it is to be written.
    """
    kind = media_kind(pair.clip)
    return {
        "id": pair.clip.id,
        "prompt": [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": instruction}]}],
        **{
            name: [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
            for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected))
        },
        _MEDIA[kind]: [path],
    }


def is_trl(value: Mapping[str, Any]) -> bool:
    """Whether an object has the shape of this format."""
    return all(isinstance(value.get(name), list | str) for name in _TURNS)


def read_trl(item: Item, context: Context) -> list[Outcome]:
    """The pair of one row. Raises `RecordError` with the reason when it cannot be used."""
    value = item.value
    media_fields: dict[str, Any] = {kind: value.get(name, value.get(kind)) for kind, name in _MEDIA.items()}
    question, system = _question(value.get("prompt"), media_fields)
    answers = [_answer(name, value.get(name)) for name in ("chosen", "rejected")]
    media = take_media(context, media_fields)
    meta: dict[str, Any] = {}
    if system is not None:
        meta["system"] = system
        context.notes["a system text is kept in the clip's meta; models keep their own"] += 1
    if rest := {name: field for name, field in value.items() if name not in _KNOWN}:
        meta["fields"] = rest
    if media.separate_sound is not None:
        context.notes["a separate sound file is named; what is read is the sound of the video file itself"] += 1
    context.notes[NO_GROUND_TRUTH] += 1
    clip = clip_of(context, media, clip_id=item_id(value), meta=meta)
    return [make_pair(clip, clean_question(question, context), answers[0], answers[1], "")]


def _question(prompt: Any, media_fields: dict[str, Any]) -> tuple[str, str | None]:
    """The one question, and the system text."""
    if isinstance(prompt, str):
        return prompt, None
    messages = _messages("prompt", prompt)
    system = _text("prompt", messages.pop(0)[1], {}) if messages and messages[0][0] == "system" else None
    roles = [role for role, _ in messages]
    if roles != ["user"]:
        raise RecordError(f"the prompt must be one question without history, got the roles {', '.join(roles[:8])}")
    return _text("prompt", messages[0][1], media_fields), system


def _answer(name: str, turns: Any) -> str:
    if isinstance(turns, str):
        return clean_answer(turns, f"{name!r}")
    messages = _messages(name, turns)
    roles = [role for role, _ in messages]
    if roles != ["assistant"]:
        raise RecordError(
            f"{name!r} must be one answer of the assistant, got the roles {', '.join(roles[:8])}; a prompt inside of "
            "it (implicit prompt) is not read"
        )
    return clean_answer(_text(name, messages[0][1], {}), f"{name!r}")


def _messages(name: str, turns: Any) -> list[tuple[str, Any]]:
    messages = []
    for turn in turns if isinstance(turns, list) else [turns]:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise RecordError(f"{name!r} must hold messages with 'role' and 'content', got {turn!r:.60}")
        messages.append((turn["role"], turn.get("content")))
    return messages


def _text(name: str, content: Any, media_fields: dict[str, Any]) -> str:
    """The text of a message; media that its parts name go to `media_fields`, where no column names them."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in _MEDIA and name == "prompt":
            if isinstance(path := part.get(kind), str):
                known = media_fields.get(kind) or []
                media_fields[kind] = [*(known if isinstance(known, list) else [known]), path]
        else:
            raise RecordError(f"a part of {name!r} must be text (of the prompt also a medium), got {part!r:.60}")
    return "\n".join(texts)
