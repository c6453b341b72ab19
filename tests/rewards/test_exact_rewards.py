"""Rewards by the theatre's truth: keypoints of scripts, dialogue, pairs of seen and heard."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from typing import Any

import pytest
from reading_judge import rollout, scored

from avocet.errors import ConfigError
from avocet.records import ClipRef, TrainingExample
from avocet.rewards import RewardItem, make_rubric, script_checklist
from avocet.rewards.exact import ExactBindingJudge, ExactChecklistJudge, ExactDialogueJudge, theatre_item
from avocet.theatre.language import local_caption, reference_caption, reference_captions
from avocet.theatre.script import Event, Script, make_script

EXACT = {"checklist": 1.0, "dialogue": 1.0, "length": 1.0, "events": 1.0, "repetition": 1.0, "sound_binding": 1.0}


def staged(text: str, seed: int, level: int = 1, meta: dict[str, Any] | None = None, **changes: Any) -> RewardItem:
    facts = {"theatre": {"seed": seed, "level": level, **(meta or {})}}
    example = TrainingExample(
        clip=ClipRef(id="clip", path="clip.mp4", meta=facts),
        task="local_caption" if changes else "caption",
        instruction="Describe.",
        target="Not looked at.",
        **changes,
    )
    return RewardItem(clip_id="clip", text=text, num_tokens=20, stop_reason="end", example=example)


def play(*events: tuple[str, int, dict[str, str]]) -> Script:
    placed = tuple(
        Event(kind=kind, beat=beat, start_seconds=float(beat), end_seconds=beat + 1.0, **facts)  # type: ignore[arg-type]
        for kind, beat, facts in events
    )
    return dataclasses.replace(make_script(0, 1), events=placed)


STAR = ("visual", 0, {"colour": "red", "shape": "star", "motion": "spin"})
BELL = ("sound", 0, {"sound": "bell"})
MOON = ("visual", 1, {"colour": "blue", "shape": "heart", "motion": "blink"})
BELL_AGAIN = ("sound", 1, {"sound": "bell"})


def test_checklist_of_a_script() -> None:
    """Script 2: a blue circle with a bell, then FINISH with a robot's words. Script 2 of level 2 has a scene."""
    keypoints = [(keypoint.dimension, keypoint.text) for keypoint in script_checklist(make_script(2, 1))]
    assert keypoints == [
        ("action", "blue circle slides to the right"),
        ("audio", "bell rings"),
        ("entity", "the word FINISH"),
        ("audio", 'robot says "Meet Emma at the tower Tuesday"'),
        ("narrative_logic", "bell rings while blue circle slides to the right"),
        ("narrative_logic", 'robot says "Meet Emma at the tower Tuesday" while the word FINISH'),
    ]
    dimensions = Counter(
        keypoint.dimension for seed in range(20) for keypoint in script_checklist(make_script(seed, 2))
    )
    assert set(dimensions) == {"action", "audio", "entity", "narrative_logic", "cinematography"}


@pytest.mark.parametrize("level", [1, 2])
def test_true_captions_have_every_reward(level: int) -> None:
    """Whatever the wording, also where one thing happens twice; without seen and heard at once there are no ties."""
    items = [
        staged(caption, seed, level)
        for seed in range(60)
        for caption in reference_captions(make_script(seed, level), 2)
    ]
    found = asyncio.run(scored(make_rubric({**EXACT, "repetition": 0}, judge=None, exact=True), *items))
    for item, one in zip(items, found, strict=True):
        values = {name: value for name, value in one.parts.items() if value is not None and name != "repetition"}
        assert set(values.values()) == {1.0}, item.text
        assert one.left_out in ((), ("sound_binding",))
    assert any(one.left_out for one in found)
    assert any(not one.left_out for one in found)


def findings(judge: Any, caption: str, script: Script) -> dict[str, Any]:
    asked = dataclasses.replace(theatre_item(staged(caption, 0)), script=script)
    verdict = asyncio.run(judge.judge(asked))
    assert verdict.status == "scored"
    assert verdict.judge.startswith(f"{judge.name}/")
    return dict(verdict.findings)


def test_one_mention_never_serves_two_events() -> None:
    """A bell rings with the star and again with the heart; told once, one of the two and one pair are mentioned."""
    script = play(STAR, BELL, MOON, BELL_AGAIN)
    once = "A red star spins while a bell rings. A blue heart blinks."
    found = findings(ExactChecklistJudge(), once, script)
    # Events: star, bell, heart, second bell; pairs: star with the bell, heart with the second bell.
    assert found["hits"] == [True, True, True, False, True, False]
    assert found["by_dimension"] == {"narrative_logic": [1, 2], "action": [2, 2], "audio": [1, 2]}
    both = "A red star spins while a bell rings. A blue heart blinks while a bell rings."
    assert all(findings(ExactChecklistJudge(), both, script)["hits"])
    tied = findings(ExactBindingJudge(), both, script)
    assert (tied["num_ties"], len(tied["right"]), tied["wrong"]) == (2, 2, [])


def test_what_is_told_wrongly_is_neither_a_hit_nor_a_tie() -> None:
    """A green star: incorrect, so no keypoint and no tie, right or wrong."""
    script = play(STAR, BELL)
    green = "A green star spins while a bell rings."
    assert findings(ExactChecklistJudge(), green, script)["hits"] == [False, True, False]
    assert findings(ExactBindingJudge(), green, script) == {"num_ties": 1, "right": [], "wrong": []}


def test_sounds_tied_to_the_wrong_thing() -> None:
    """The bell with the heart in place of the star: no right one, one wrong one: 0. Both in one sentence: 2 / 3."""
    script = play(STAR, BELL, MOON)
    swapped = findings(ExactBindingJudge(), "A red star spins. A blue heart blinks while a bell rings.", script)
    assert swapped == {"num_ties": 1, "right": [], "wrong": ["bell rings while blue heart blinks"]}
    lumped = findings(ExactBindingJudge(), "A red star spins and a blue heart blinks while a bell rings.", script)
    assert (len(lumped["right"]), len(lumped["wrong"])) == (1, 1)


def test_dialogue_by_the_parser() -> None:
    """ "abc def" by the man, "abc" told by a woman: similarities 1 - 4/7 < 0.6; "abc deg": 6/7, the wrong speaker.

    S = (6/7 + 0) / 2 = 3/7, N = M = 1: F1 = 3/7. The full stop is not compared. A speaker without words says nothing.
    """
    script = play(("speech", 0, {"speaker": "man", "utterance": "Abc def"}))
    for caption, f1 in (
        ('A man says, "Abc def."', 1.0),
        ('A woman says, "Abc."', 0.0),
        ('A woman says, "Abc deg."', 3 / 7),
        ("A man speaks.", 0.0),
        ('A man says, "Abc def." A man speaks.', 1.0),
    ):
        assert findings(ExactDialogueJudge(), caption, script)["f1"] == pytest.approx(f1), caption


def test_copies_without_picture_or_sound_and_intervals() -> None:
    rubric = make_rubric({"checklist": 1, "dialogue": 1, "events": 1}, judge=None, exact=True)
    script = make_script(2, 1)
    muted = staged(reference_caption(script, hear=False), 2, meta={"hear": False})
    # Circle, bell: the first 1.531 s.
    local = staged(local_caption(script, 0.0, 1.0), 2, start_seconds=0.0, end_seconds=1.0)
    assert [one.total for one in asyncio.run(scored(rubric, muted, local))] == [3.0, 3.0]
    whole = staged(reference_caption(script), 2, start_seconds=0.0, end_seconds=1.0)
    [found] = asyncio.run(scored(rubric, whole))
    # Two events that the interval does not have are invented, and so is the utterance.
    assert found.parts == {"checklist": 1.0, "dialogue": 0.0, "events": 0.0}


def test_clips_without_anything_to_perceive() -> None:
    """Events and keypoints are left out; nobody speaks and nobody is said to: 1."""
    nothing = staged("Nothing.", 2, meta={"hear": False, "see": False})
    rubric = make_rubric({"checklist": 1, "dialogue": 1, "events": 1, "sound_binding": 1}, judge=None, exact=True)
    [found] = asyncio.run(scored(rubric, nothing))
    assert (found.total, found.left_out) == (1.0, ("checklist", "events", "sound_binding"))


def test_other_clips_are_refused() -> None:
    with pytest.raises(ConfigError, match="'kitchen' is not from the theatre"):
        asyncio.run(scored(make_rubric(EXACT, judge=None, exact=True), rollout("x")))
