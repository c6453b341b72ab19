"""Output formats: what people and programs read."""

from __future__ import annotations

import pytest

from avocet.captioning.formats import FORMATS, clock, printable
from avocet.records import Caption, Sampling


def caption(text: str = "A bell rings.", **changes: object) -> Caption:
    values = {
        "clip_id": "x",
        "path": "clips/x.mp4",
        "text": text,
        "model": "toy",
        "revision": "r",
        "instruction": "Describe.",
        "sampling": Sampling(),
        "stop_reason": "end",
        "num_tokens": 3,
        "audio_used": True,
        "audio_status": "present",
        "num_frames": 12,
        "fps": 2.0,
        "start_seconds": 0.0,
        "end_seconds": 6.0,
        "layout_rule": "salmonn2_paper",
    }
    return Caption(**(values | changes))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.0"), (6.04, "0:06.0"), (83.25, "1:23.2"), (59.99, "0:59.9"), (3600, "60:00.0")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_prose_has_path_caption_and_warnings() -> None:
    text = FORMATS["prose"](caption(warnings=("careful",), audio_used=False, audio_status="absent"))
    assert text.splitlines() == [
        "clips/x.mp4 (0:00.0-0:06.0, 12 frames at 2.00 fps, sound not used (absent), toy)",
        "A bell rings.",
        "warning: careful",
    ]


def test_json_is_the_whole_record_on_one_line() -> None:
    record = caption("two\nlines")
    line = FORMATS["json"](record)
    assert "\n" not in line
    assert Caption.from_json(line) == record


def test_markdown_never_turns_into_markup() -> None:
    text = FORMATS["markdown"](caption("# <b>*hi*</b>\n\n# new [x](y)"))
    body = text.splitlines()[2]
    assert body == r"\# \<b\>\*hi\*\</b\> \# new \[x\](y)"
    assert text.startswith("## clips/x.mp4\n")


def test_control_characters_never_reach_a_terminal() -> None:
    assert printable("a\x1b[31mb\x07\tc\nd\x9be") == "a\ufffd[31mb\ufffd\tc\nd\ufffde"
    assert "\x1b" not in FORMATS["prose"](caption("\x1b[2J"))
