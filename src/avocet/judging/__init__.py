"""Judges that are language models: the client and its cache, prompts, strict parsing, costs.

Names are imported on first use; the OpenAI SDK is loaded by the first call that is really sent.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avocet.judging.cache import ReplyCache
    from avocet.judging.client import ClientSettings, JudgeClient
    from avocet.judging.completeness import CompletenessJudge, FusedCaption
    from avocet.judging.costs import Price, RunSummary, Usage, find_price, parse_price
    from avocet.judging.errors import CallFailed, JudgeError, JudgeStop, ParseError
    from avocet.judging.judge import Examination, Job, Judge, LlmJudge, Unscorable
    from avocet.judging.messages import (
        AudioPart,
        CallParameters,
        ChatRequest,
        ImagePart,
        Message,
        Reply,
        ReplySchema,
        TextPart,
        VideoPart,
    )
    from avocet.judging.parsing import last_integer, last_json, last_record, last_yes_no, schema_of
    from avocet.judging.prompts import Prompt, RenderedPrompt, Untrusted, load_prompt, neutralise

_NAMES_OF_MODULES = {
    "cache": ("ReplyCache",),
    "client": ("ClientSettings", "JudgeClient"),
    "completeness": ("CompletenessJudge", "FusedCaption"),
    "costs": ("Price", "RunSummary", "Usage", "find_price", "parse_price"),
    "errors": ("CallFailed", "JudgeError", "JudgeStop", "ParseError"),
    "judge": ("Examination", "Job", "Judge", "LlmJudge", "Unscorable"),
    "messages": (
        *("AudioPart", "CallParameters", "ChatRequest", "ImagePart", "Message", "Reply", "ReplySchema", "TextPart"),
        "VideoPart",
    ),
    "parsing": ("last_integer", "last_json", "last_record", "last_yes_no", "schema_of"),
    "prompts": ("Prompt", "RenderedPrompt", "Untrusted", "load_prompt", "neutralise"),
}
_HOMES = MappingProxyType({name: module for module, names in _NAMES_OF_MODULES.items() for name in names})

__all__ = [
    "AudioPart",
    "CallFailed",
    "CallParameters",
    "ChatRequest",
    "ClientSettings",
    "CompletenessJudge",
    "Examination",
    "FusedCaption",
    "ImagePart",
    "Job",
    "Judge",
    "JudgeClient",
    "JudgeError",
    "JudgeStop",
    "LlmJudge",
    "Message",
    "ParseError",
    "Price",
    "Prompt",
    "RenderedPrompt",
    "Reply",
    "ReplyCache",
    "ReplySchema",
    "RunSummary",
    "TextPart",
    "Unscorable",
    "Untrusted",
    "Usage",
    "VideoPart",
    "find_price",
    "last_integer",
    "last_json",
    "last_record",
    "last_yes_no",
    "load_prompt",
    "neutralise",
    "parse_price",
    "schema_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'avocet.judging' has no attribute {name!r}")
    return getattr(importlib.import_module(f"avocet.judging.{_HOMES[name]}"), name)
