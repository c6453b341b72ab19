"""Output formats: what people and programs read."""

from __future__ import annotations

import html
import re

import pytest

from avocet.captioning.formats import FORMATS, SUFFIXES, clock, printable
from avocet.errors import ConfigError
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


def parse_webvtt(document: str) -> tuple[list[list[str]], list[tuple[str, str, list[str]]]]:
    """Comments and cues (start, end, lines), by the rules of the W3C: blocks between blank lines after the header."""
    header, *blocks = document.rstrip("\n").split("\n\n")
    assert header == "WEBVTT"
    comments, cues = [], []
    for block in filter(None, blocks):
        first, *rest = block.split("\n")
        if first == "NOTE":
            assert not any("-->" in line for line in rest)
            comments.append(rest)
            continue
        times = re.fullmatch(r"(\d{2,}:[0-5]\d:[0-5]\d\.\d{3}) --> (\d{2,}:[0-5]\d:[0-5]\d\.\d{3})", first)
        assert times
        assert times[1] < times[2]
        assert rest
        assert not any("-->" in line or re.search(r"[<>]|&(?!amp;|lt;|gt;)", line) for line in rest)
        cues.append((times[1], times[2], rest))
    return comments, cues


def parse_subrip(document: str) -> list[tuple[int, str, str, list[str]]]:
    """Cues (number, start, end, lines): blocks between blank lines."""
    cues = []
    for block in filter(None, document.split("\n\n")):
        number, times, *lines = block.rstrip("\n").split("\n")
        found = re.fullmatch(r"(\d\d:[0-5]\d:[0-5]\d,\d{3}) --> (\d\d:[0-5]\d:[0-5]\d,\d{3})", times)
        assert found
        assert lines
        cues.append((int(number), found[1], found[2], lines))
    return cues


HOSTILE = "1\n\n00:00:01.000 --> 00:00:09.000\n<i>Salt & {\\an8}pepper</i>\u2028--->\r\nNOTE\x1b[2J &lt;b&gt;"
TIMES = {"start_seconds": 3661.5, "end_seconds": 3725.0625}


def test_webvtt_is_one_cue_over_the_interval() -> None:
    comments, cues = parse_webvtt(FORMATS["vtt"](caption(warnings=("careful",), **TIMES)))
    assert comments == [
        ["clips/x.mp4 (61:01.5-62:05.0, 12 frames at 2.00 fps, sound used, toy)", "warning: careful"],
    ]
    assert cues == [("01:01:01.500", "01:02:05.062", ["A bell rings."])]


def test_subrip_is_one_cue_over_the_interval() -> None:
    document = FORMATS["srt"](caption(**TIMES))
    assert document == "1\n01:01:01,500 --> 01:02:05,062\nA bell rings.\n"
    assert parse_subrip(document) == [(1, "01:01:01,500", "01:02:05,062", ["A bell rings."])]


def test_subtitles_are_wrapped() -> None:
    words = " ".join(["seventeen-letters"] * 5) + " " + "w" * 50
    # Two words of 17 characters and a space are 35, a third would make 53. A word that fits no line of 42 fills up the
    # fifth word's (17 + 1 + 24 = 42) and goes on in the next (50 - 24 = 26).
    pair = "seventeen-letters seventeen-letters"
    lines = [pair, pair, "seventeen-letters " + "w" * 24, "w" * 26]
    assert parse_webvtt(FORMATS["vtt"](caption(words)))[1][0][2] == lines
    assert parse_subrip(FORMATS["srt"](caption(words)))[0][3] == lines


def test_no_text_turns_into_markup_or_another_cue() -> None:
    hostile = caption(HOSTILE, path="a\n\n--> b--->c.mp4", warnings=(HOSTILE,))
    comments, cues = parse_webvtt(FORMATS["vtt"](hostile))
    assert (len(comments), len(cues)) == (1, 1)
    assert comments[0][0].startswith("a -> b->c.mp4 (")
    flat = "1 00:00:01.000 --> 00:00:09.000 <i>Salt & {\\an8}pepper</i> ---> NOTE\ufffd[2J &lt;b&gt;"
    assert " ".join(html.unescape(line) for line in cues[0][2]) == flat
    [(number, start, end, lines)] = parse_subrip(FORMATS["srt"](hostile))
    assert (number, start, end) == (1, "00:00:00,000", "00:00:06,000")
    assert " ".join(lines) == flat.replace("<", "\u2039").replace(">", "\u203a").replace("{", "(").replace("}", ")")


def test_a_cue_lasts_at_least_a_millisecond() -> None:
    short = caption(start_seconds=1.0001, end_seconds=1.0002)
    assert parse_webvtt(FORMATS["vtt"](short))[1][0][:2] == ("00:00:01.000", "00:00:01.001")


def test_nothing_to_say_is_no_cue() -> None:
    comments, cues = parse_webvtt(FORMATS["vtt"](caption(" \n", warnings=("the caption is empty",))))
    assert comments[0][1] == "warning: the caption is empty"
    assert cues == []
    assert FORMATS["srt"](caption("")) == ""


@pytest.mark.parametrize("name", ["vtt", "srt"])
def test_a_still_image_has_no_subtitles(name: str) -> None:
    image = caption(path="p.png", media={"is_image": True}, num_frames=1, end_seconds=0.5, audio_used=False)
    with pytest.raises(ConfigError, match=r"p\.png is a still image: it has no interval"):
        FORMATS[name](image)
    assert FORMATS["prose"](image).splitlines()[0] == "p.png (still image, toy)"


def test_every_format_has_an_ending() -> None:
    assert set(SUFFIXES) == set(FORMATS)
    assert len(set(SUFFIXES.values())) == len(SUFFIXES)
