"""Teachers of the curation pipelines: roles, and who fills them.

    with load_teachers({"visual": "gpt-4o@https://host/v1", "asr": "whisper:openai/whisper-large-v3"}) as teachers:
        answer = teachers["visual"].ask(TeacherTask(prompt="visual_caption", clip=ref, media="frames", fps=1.0))

Names are imported on first use.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avocet.curation.teachers.bindings import load_teachers, parse_bindings
    from avocet.curation.teachers.captioner import CaptionerTeacher
    from avocet.curation.teachers.endpoint import EndpointTeacher
    from avocet.curation.teachers.media_parts import MediaSettings
    from avocet.curation.teachers.preview import preview_lines
    from avocet.curation.teachers.replies import prompt_version, read_reply
    from avocet.curation.teachers.roles import (
        NO_SPEECH,
        ROLES,
        Answer,
        Preview,
        Role,
        SpokenSegment,
        Teacher,
        TeacherError,
        Teachers,
        TeacherTask,
        numbered,
        segment_lines,
    )
    from avocet.curation.teachers.whisper import WhisperTeacher

__all__ = [
    "NO_SPEECH",
    "ROLES",
    "Answer",
    "CaptionerTeacher",
    "EndpointTeacher",
    "MediaSettings",
    "Preview",
    "Role",
    "SpokenSegment",
    "Teacher",
    "TeacherError",
    "TeacherTask",
    "Teachers",
    "WhisperTeacher",
    "load_teachers",
    "numbered",
    "parse_bindings",
    "preview_lines",
    "prompt_version",
    "read_reply",
    "segment_lines",
]

_HOMES = MappingProxyType(
    {
        **dict.fromkeys(("load_teachers", "parse_bindings"), "bindings"),
        "CaptionerTeacher": "captioner",
        "EndpointTeacher": "endpoint",
        "MediaSettings": "media_parts",
        "preview_lines": "preview",
        **dict.fromkeys(("prompt_version", "read_reply"), "replies"),
        "WhisperTeacher": "whisper",
    }
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'avocet.curation.teachers' has no attribute {name!r}")
    return getattr(importlib.import_module(f"avocet.curation.teachers.{_HOMES.get(name, 'roles')}"), name)
