"""Judges that are language models: the client and its cache, prompts, strict parsing, costs.

Names are imported on first use; the OpenAI SDK is loaded by the first call that is really sent.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avocet.judging.cache import ReplyCache
    from avocet.judging.calibration import CalibrationItem, calibrate, event_findings
    from avocet.judging.calibration_report import JudgeCalibration
    from avocet.judging.checklist import CaptionWithChecklist, ChecklistFindings, ChecklistJudge, Keypoint
    from avocet.judging.client import ClientSettings, JudgeClient
    from avocet.judging.completeness import CompletenessJudge, FusedCaption
    from avocet.judging.costs import Price, RunSummary, Usage, find_price, parse_price
    from avocet.judging.dialogue import (
        DialogueCaption,
        DialogueExtractor,
        DialogueFindings,
        DialogueItem,
        DialogueJudge,
        ExtractedDialogue,
    )
    from avocet.judging.dream import DreamFindings, DreamItem, DreamJudge
    from avocet.judging.errors import CallFailed, JudgeError, JudgeStop, ParseError
    from avocet.judging.events import (
        CaptionWithEvents,
        DescribedClip,
        EventJudge,
        EventSplit,
        EventSplitter,
        SplitEvent,
    )
    from avocet.judging.judge import Examination, Job, Judge, LlmJudge, Unscorable
    from avocet.judging.letters import read_letter
    from avocet.judging.limits import CostCeiling
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
    from avocet.judging.qa import (
        CaptionQaJudge,
        CaptionQuestions,
        ChoiceQuestion,
        DirectAnswer,
        DirectAnswerJudge,
        QaFindings,
    )
    from avocet.judging.speakers import (
        LabelSpeakerJudge,
        SpeakerFindings,
        SpeakerJudge,
        SpeakerPairs,
        TextSpeakerJudge,
        WatchingSpeakerJudge,
    )
    from avocet.judging.ugc import UgcFindings, UgcItem, UgcJudge
    from avocet.judging.vdc import ShortQuestion, VdcFindings, VdcItem, VdcJudge

_NAMES_OF_MODULES = {
    "calibration": (
        "CalibrationItem",
        "calibrate",
        "event_findings",
    ),
    "calibration_report": ("JudgeCalibration",),
    "checklist": (
        "CaptionWithChecklist",
        "ChecklistFindings",
        "ChecklistJudge",
        "Keypoint",
    ),
    "dialogue": (
        "DialogueCaption",
        "DialogueExtractor",
        "DialogueFindings",
        "DialogueItem",
        "DialogueJudge",
        "ExtractedDialogue",
    ),
    "dream": (
        "DreamFindings",
        "DreamItem",
        "DreamJudge",
    ),
    "events": (
        "CaptionWithEvents",
        "DescribedClip",
        "EventJudge",
        "EventSplit",
        "EventSplitter",
        "SplitEvent",
    ),
    "letters": ("read_letter",),
    "limits": ("CostCeiling",),
    "qa": (
        "CaptionQaJudge",
        "CaptionQuestions",
        "ChoiceQuestion",
        "DirectAnswer",
        "DirectAnswerJudge",
        "QaFindings",
    ),
    "speakers": (
        "LabelSpeakerJudge",
        "SpeakerFindings",
        "SpeakerJudge",
        "SpeakerPairs",
        "TextSpeakerJudge",
        "WatchingSpeakerJudge",
    ),
    "ugc": (
        "UgcFindings",
        "UgcItem",
        "UgcJudge",
    ),
    "vdc": (
        "ShortQuestion",
        "VdcFindings",
        "VdcItem",
        "VdcJudge",
    ),
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
    "CalibrationItem",
    "CallFailed",
    "CallParameters",
    "CaptionQaJudge",
    "CaptionQuestions",
    "CaptionWithChecklist",
    "CaptionWithEvents",
    "ChatRequest",
    "ChecklistFindings",
    "ChecklistJudge",
    "ChoiceQuestion",
    "ClientSettings",
    "CompletenessJudge",
    "CostCeiling",
    "DescribedClip",
    "DialogueCaption",
    "DialogueExtractor",
    "DialogueFindings",
    "DialogueItem",
    "DialogueJudge",
    "DirectAnswer",
    "DirectAnswerJudge",
    "DreamFindings",
    "DreamItem",
    "DreamJudge",
    "EventJudge",
    "EventSplit",
    "EventSplitter",
    "Examination",
    "ExtractedDialogue",
    "FusedCaption",
    "ImagePart",
    "Job",
    "Judge",
    "JudgeCalibration",
    "JudgeClient",
    "JudgeError",
    "JudgeStop",
    "Keypoint",
    "LabelSpeakerJudge",
    "LlmJudge",
    "Message",
    "ParseError",
    "Price",
    "Prompt",
    "QaFindings",
    "RenderedPrompt",
    "Reply",
    "ReplyCache",
    "ReplySchema",
    "RunSummary",
    "ShortQuestion",
    "SpeakerFindings",
    "SpeakerJudge",
    "SpeakerPairs",
    "SplitEvent",
    "TextPart",
    "TextSpeakerJudge",
    "UgcFindings",
    "UgcItem",
    "UgcJudge",
    "Unscorable",
    "Untrusted",
    "Usage",
    "VdcFindings",
    "VdcItem",
    "VdcJudge",
    "VideoPart",
    "WatchingSpeakerJudge",
    "calibrate",
    "event_findings",
    "find_price",
    "last_integer",
    "last_json",
    "last_record",
    "last_yes_no",
    "load_prompt",
    "neutralise",
    "parse_price",
    "read_letter",
    "schema_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'avocet.judging' has no attribute {name!r}")
    return getattr(importlib.import_module(f"avocet.judging.{_HOMES[name]}"), name)
