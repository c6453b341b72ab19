"""ms-swift's standard format: {messages, videos, audios, images, rejected_response} per line.

`rejected_response` makes the last answer the chosen one of a pair without a ground truth. A `system` message is kept in
the clip's meta. What would be learnt wrongly is rejected: `label` (KTO: the answer may be a bad one; classification),
messages with `loss: false` before the last answer (they are history), grounding (`objects`), `tools`,
`rejected_messages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avocet.errors import RecordError
from avocet.records import ClipRef
from avocet.training.data.formats_common import (
    PLACEHOLDERS,
    Context,
    clean_answer,
    clean_question,
    clip_of,
    make_example,
    make_pair,
    take_media,
    task_of,
)
from avocet.training.data.formats_conversations import item_id
from avocet.training.data.formats_json import Item
from avocet.training.data.records import Outcome

_MEDIA = {"video": "videos", "audio": "audios", "image": "images"}
_REFUSED = {
    "label": "answers with a label (KTO, classification) need not be good ones",
    "objects": "grounding boxes are no captions",
    "tools": "tool calls are no captions",
    "rejected_messages": "only 'rejected_response' is read",
}
_KNOWN = frozenset({"id", "task", "messages", "rejected_response", *_MEDIA, *_MEDIA.values(), *_REFUSED})


def is_swift(value: Mapping[str, Any]) -> bool:
    """Whether an object has the shape of this format."""
    return isinstance(value.get("messages"), list)


def read_swift(item: Item, context: Context) -> list[Outcome]:
    """The examples or the pair of one line. Raises `RecordError` with the reason when it cannot be used."""
    value = item.value
    for name, reason in _REFUSED.items():
        if value.get(name) not in (None, [], {}, ""):
            raise RecordError(f"has {name!r}: {reason}")
    media_fields = {kind: value.get(name, value.get(kind)) for kind, name in _MEDIA.items()}
    turns, system = _turns(value, media_fields)
    media = take_media(context, media_fields)
    meta: dict[str, Any] = {}
    if system is not None:
        meta["system"] = system
        context.notes["a system text is kept in the clip's meta; models keep their own"] += 1
    if rest := {name: field for name, field in value.items() if name not in _KNOWN}:
        meta["fields"] = rest
    if media.separate_sound is not None:
        context.notes["a separate sound file is named; what is read is the sound of the video file itself"] += 1
    clip = clip_of(context, media, clip_id=item_id(value), meta=meta)
    if (rejected := value.get("rejected_response")) is not None:
        return [_pair(turns, rejected, clip, context)]
    found: list[Outcome] = []
    for question, answer in turns:
        asked = clean_question(question, context)
        found.append(make_example(clip, task_of(context, value, asked, media.kind), asked, clean_answer(answer)))
    if len(found) > 1:
        context.notes["several questions: each became an example of its own, without the turns before it"] += 1
    return found


def _pair(turns: list[tuple[str, str]], rejected: Any, clip: ClipRef, context: Context) -> Outcome:
    if not isinstance(rejected, str):
        raise RecordError(f"'rejected_response' must be a text, got {rejected!r:.60}")
    if len(turns) > 1:
        raise RecordError(f"a pair with {len(turns)} questions: pairs hold one question and no history")
    context.notes["pairs without a ground truth: it is empty, so losses with a term on it cannot use them"] += 1
    question, answer = turns[0]
    chosen, worse = clean_answer(answer), clean_answer(rejected, "'rejected_response'")
    return make_pair(clip, clean_question(question, context), chosen, worse, "")


def _turns(value: Mapping[str, Any], media_fields: dict[str, Any]) -> tuple[list[tuple[str, str]], str | None]:
    """Questions with their answers, and the system text. Media named inside of messages go to `media_fields`."""
    raw = value.get("messages")
    if not isinstance(raw, list) or not raw:
        raise RecordError("'messages' must be a list with at least one message")
    messages = []
    for message in raw:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RecordError(f"a message must be an object with 'role' and 'content', got {message!r:.60}")
        if message.get("loss") is False:
            raise RecordError("answers marked as history (loss: false): examples hold one question and no history")
        messages.append((message["role"], _text(message.get("content"), media_fields)))
    system = messages.pop(0)[1] if messages[0][0] == "system" else None
    roles = [role for role, _ in messages]
    if not roles or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        raise RecordError(f"questions and answers must alternate, got the roles {', '.join(roles[:8]) or '(none)'}")
    texts = [text for _, text in messages]
    return list(zip(texts[::2], texts[1::2], strict=True)), system


def _text(content: Any, media_fields: dict[str, Any]) -> str:
    """The text of a message, whose content is a text or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RecordError(f"the content of a message must be a text or a list of parts, got {content!r:.60}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in _MEDIA and isinstance(part.get(kind), str):
            known = media_fields.get(kind) or []
            media_fields[kind] = [*(known if isinstance(known, list) else [known]), part[kind]]
            texts.append(PLACEHOLDERS[("video", "audio", "image").index(kind)])
        else:
            raise RecordError(f"a part of a message must be text, video, audio or image, got {part!r:.60}")
    return "\n".join(texts)
