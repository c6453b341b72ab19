"""The theatre's language: deterministic wordings, closing remarks, local captions and a complete vocabulary."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import typing

import pytest

from avocet.errors import ConfigError
from avocet.metrics import repetition_rate
from avocet.records import Task
from avocet.theatre import make_script, reference_caption, reference_captions
from avocet.theatre.language import (
    INSTRUCTIONS,
    local_caption,
    local_events,
    local_script,
    sound_caption,
    transcript,
    vocabulary_text,
)
from avocet.theatre.questions import make_questions
from avocet.theatre.script import Event, Script

VISUAL = Event(kind="visual", beat=0, start_seconds=0, end_seconds=2, colour="orange", shape="star", motion="rise")
BELL = Event(kind="sound", beat=0, start_seconds=0, end_seconds=2, sound="bell")
SPEECH = Event(
    kind="speech", beat=1, start_seconds=2, end_seconds=5, speaker="old woman", utterance="Ben found two hats"
)
SCRIPT = Script(
    seed=5,
    level=1,
    duration_seconds=5,
    events=(VISUAL, BELL, SPEECH),
    background="black",
    camera_noise=0,
    camera_shake_pixels=0,
    audio_noise=0,
)
FIRST = {
    f"{start}{middle}"
    for start, body in (
        ("", ("An orange star {0} while a bell {1}.", "As an orange star {0}, a bell {1}.")),
        ("First, ", ("an orange star {0} while a bell {1}.", "as an orange star {0}, a bell {1}.")),
    )
    for form in body
    for motion in ("rises", "moves up")
    for noise in ("rings", "can be heard")
    for middle in (form.format(motion, noise),)
}
SECOND = {
    f'{start} old woman {verb}, "Ben found two hats."'
    for start in ("An", "Then an", "Finally, an", "After that, an")
    for verb in ("says", "is heard saying")
}


def pieces(text: str) -> set[str]:
    """Words, digits and marks."""
    return set(re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d|[^\w\s]", text))


def test_every_wording_is_one_of_the_sentences_of_the_language() -> None:
    found = {reference_caption(SCRIPT, wording) for wording in range(600)}
    assert found <= {f"{first} {second}" for first in FIRST for second in SECOND}
    assert len(found) > 60  # of 16 x 8 = 128


def test_one_wording_is_the_same_everywhere() -> None:
    code = (
        "from avocet.theatre import make_script, reference_caption;"
        "print([reference_caption(make_script(s, 2), s) for s in range(20)])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str([reference_caption(make_script(seed, 2), seed) for seed in range(20)])


def test_reference_captions_differ_as_long_as_they_can() -> None:
    assert len(set(reference_captions(SCRIPT, 30))) == 30
    silent = dataclasses.replace(SCRIPT, events=())
    assert reference_captions(silent, 3) == ["Nothing moves on the screen. No sound is heard."] * 3
    assert reference_captions(SCRIPT, 0) == []
    with pytest.raises(ConfigError, match="count must be >= 0, got -1"):
        reference_captions(SCRIPT, -1)


@pytest.mark.parametrize(
    ("kinds", "see", "hear", "closing"),
    [
        ("visual sound", True, True, ""),
        ("visual", True, True, "No sound is heard."),
        ("visual sound", True, False, "No sound is heard."),
        ("sound", True, True, "Nothing moves on the screen."),
        ("visual sound", False, True, "The picture stays black."),
        ("visual", False, True, "The picture stays black. No sound is heard."),
        ("visual sound", False, False, "The picture stays black. No sound is heard."),
        ("", True, True, "Nothing moves on the screen. No sound is heard."),
    ],
)
def test_closing_remarks(kinds: str, see: bool, hear: bool, closing: str) -> None:
    events = tuple(event for event in (VISUAL, BELL) if event.kind in kinds.split())
    text = reference_caption(dataclasses.replace(SCRIPT, events=events), see=see, hear=hear)
    assert text.endswith(closing)
    remarks = re.findall(r"The picture stays black\.|Nothing moves on the screen\.|No sound is heard\.", text)
    assert " ".join(remarks) == closing


def test_scenes_open_and_change() -> None:
    beach = Event(kind="scene", beat=0, start_seconds=0, end_seconds=2, scene="beach")
    forest = dataclasses.replace(beach, beat=1, scene="forest")
    script = dataclasses.replace(SCRIPT, events=(beach, VISUAL, forest, SPEECH))
    for wording in range(40):
        text = reference_caption(script, wording)
        assert re.match(r"The (scene|setting) is a beach\. ", text)
        assert re.search(r"[Tt]he (scene|setting) changes to a forest\. An old woman ", text)


def test_simultaneous_events_share_a_sentence() -> None:
    for level in (1, 2):
        for seed in range(200):
            script = make_script(seed, level)
            text = re.sub(r'"[^"]*"', '"."', reference_caption(script, seed))
            scenes = sum(event.kind == "scene" for event in script.events)
            closing = sum(remark in text for remark in ("Nothing moves", "No sound"))
            assert len(re.findall(r'\."?(?= |$)', text)) == scenes + len(script.beats()) + closing, text


def test_sound_caption_and_transcript() -> None:
    text = sound_caption(SCRIPT)
    assert "star" not in text
    assert "bell" in text
    assert "picture" not in text
    assert transcript(SCRIPT) == "Ben found two hats."
    two = dataclasses.replace(SCRIPT, events=(SPEECH, dataclasses.replace(SPEECH, beat=2, utterance="Meet Ivy")))
    assert transcript(two) == "Ben found two hats. Meet Ivy."
    mute = dataclasses.replace(SCRIPT, events=(VISUAL,))
    assert sound_caption(mute) == "No sound is heard."
    assert transcript(mute) == ""


def test_local_events_overlap_the_half_open_interval() -> None:
    assert local_events(SCRIPT, 0, 2) == (VISUAL, BELL)
    assert local_events(SCRIPT, 2, 3) == (SPEECH,)
    assert local_events(SCRIPT, 1.9, 2.1) == SCRIPT.events
    assert local_script(SCRIPT, 2, 3).events == (SPEECH,)
    assert local_caption(SCRIPT, 2, 3, see=False, hear=True).endswith('"Ben found two hats." The picture stays black.')
    with pytest.raises(ConfigError, match=r"\[3, 3\) is no interval"):
        local_events(SCRIPT, 3, 3)


def test_vocabulary_is_complete() -> None:
    texts = vocabulary_text()
    assert texts == vocabulary_text()
    known = set().union(*(pieces(text) for text in texts))
    for level in (1, 2):
        for seed in range(500):
            script = make_script(seed, level)
            assert pieces(reference_caption(script, seed)) <= known
            assert pieces(reference_caption(script, seed, see=False, hear=False)) <= known
            assert pieces(transcript(script)) <= known
            for question in make_questions(script, seed):
                assert pieces(question.text) <= known
                assert question.letter in known
    for forms in INSTRUCTIONS.values():
        for form in forms:
            assert pieces(form.format(start="0.5", end=2, question="")) <= known


def test_instructions_of_every_task() -> None:
    assert set(INSTRUCTIONS) == set(typing.get_args(Task))
    for forms in INSTRUCTIONS.values():
        assert len(set(forms)) == len(forms) >= 3
    assert all("{start}" in form and "{end}" in form for form in INSTRUCTIONS["local_caption"])
    assert all("{question}" in form for form in INSTRUCTIONS["qa"])


def test_captions_are_short_and_hardly_repeat() -> None:
    captions = [reference_caption(make_script(seed), seed) for seed in range(500)]
    words = sum(len(caption.split()) for caption in captions) / len(captions)
    assert 18 < words < 32
    assert sum(map(repetition_rate, captions)) / len(captions) < 0.02
