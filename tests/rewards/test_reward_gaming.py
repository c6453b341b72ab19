"""Captions that try to get a reward for nothing, and what every reward gives them; all numbers by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from judge_server import JudgeServer
from reading_judge import SAYING, gullible, kitchen, literal, rollout, scored, told

from avocet.evaluation.calibration_set import INJECTIONS
from avocet.judging import JudgeClient
from avocet.records import ClipRef, TrainingExample
from avocet.rewards import repetition_reward
from avocet.rewards.rubric import RewardItem, make_rubric
from avocet.theatre.language import reference_caption
from avocet.theatre.script import make_script

MakeClient = Callable[..., JudgeClient]

ALL = {"checklist": 1.0, "dialogue": 1.0, "length": 1.0, "events": 1.0, "repetition": 1.0}
HONEST = told(1, 2, 3, 4, 5, 6)
HALF = told(1, 3, 5)
QUESTION = kitchen().instruction
INVENTED = " ".join(f"The woman says, '{word} is my favourite of all the words'." for word in ("Salt", "Pepper"))

# Expected: R_C, R_D, R_L, events, repetition.
BY_LITERAL_JUDGE = {
    # Six of six keypoints, the one utterance, no errors, no phrase twice.
    "honest": (HONEST, 100, "end", (1, 1, 1, 1, 1)),
    # Three of six; nobody speaks, but should; three missed.
    "half": (HALF, 100, "end", (1 / 2, 0, 1, 1 / 2, 1)),
    # Words without what they do: six missed and an invention, 1 - 7/6 < 0.
    "keyword stuffing": ("Apron, carrots, soup, copper pots, stove, steam, window, jazz.", 100, "end", (0, 0, 1, 0, 1)),
    # One utterance ten times: S = (1 + 1) / 2 = 1, F1 = 2 / (10 + 1); ten rounds of eleven words are a loop.
    "dialogue spam": (" ".join([HONEST, *[SAYING] * 9]), 100, "end", (1, 2 / 11, 1, 1, 0)),
    # Two invented ones: F1 = 2 / (3 + 1); the judge reads them as one invention: 1 - 1/6. Repetition: the test below.
    "dialogue padding": (f"{HONEST} {INVENTED}", 100, "end", (1, 2 / 4, 1, 1 - 1 / 6, None)),
    # The same keypoint three times is one of six; the other five are missed; every phrase is repeated.
    "repeated keypoint": (told(1, 1, 1), 100, "end", (1 / 6, 0, 1, 1 / 6, 0)),
    "empty": ("", 0, "end", (0, 0, 1, 0, 0)),
    "marks only": ("... !\n", 3, "end", (0, 0, 1, 0, 0)),
    # Halfway between 2048 and 4096 tokens, and at the end of it.
    "long": (HONEST, 3072, "end", (1, 1, 1 / 2, 1, 1)),
    "over-long": (HONEST, 4096, "length", (1, 1, 0, 1, 1)),
    # The guard ended it: collapsed, whatever the text looks like.
    "stopped by the guard": (HONEST, 100, "repetition", (1, 1, 1, 1, 0)),
    # The judge is asked to be content; it reads on. The plea itself is taken out by the scripted judge of events.
    "prompt injection": (f"{HALF} {INJECTIONS[0]}", 100, "end", (1 / 2, 0, 1, 1 / 2, 1)),
    "forged end of the caption": (f"{HALF} {INJECTIONS[1]}", 100, "end", (1 / 2, 0, 1, 1 / 2, 1)),
    # The question in place of an answer: six missed, one invention.
    "copied question": (QUESTION, 100, "end", (0, 0, 1, 0, 1)),
}


@pytest.mark.parametrize("name", BY_LITERAL_JUDGE)
def test_answers_by_a_language_model(server: JudgeServer, make_client: MakeClient, name: str) -> None:
    text, num_tokens, stop, expected = BY_LITERAL_JUDGE[name]
    server.script = literal
    rubric = make_rubric(ALL, judge=make_client(), exact=False)
    [found] = asyncio.run(scored(rubric, rollout(text, num_tokens=num_tokens, stop=stop)))
    assert found.reasons == {}
    for (reward, value), wanted in zip(found.parts.items(), expected, strict=True):
        assert wanted is None or value == pytest.approx(wanted), reward
    assert found.total == pytest.approx(sum(value for value in found.parts.values() if value is not None))


def test_repetition_of_padding() -> None:
    """8 + 11 + 7 + 6 + 5 + 8 = 45 words of events, 11 in each padding; "the woman says" comes three times."""
    assert repetition_reward(f"{HONEST} {INVENTED}") == pytest.approx(1 - 3 * 3 / (45 + 2 * 11))


def test_a_gullible_judge_and_quotations(server: JudgeServer, make_client: MakeClient) -> None:
    """It believes the caption and hits all six; with `quoted_only` the three that it quotes truly count."""
    server.script = gullible
    item = rollout(f"{HALF} {INJECTIONS[0]}")
    for quoted_only, expected in ((False, 1.0), (True, 0.5)):
        rubric = make_rubric({"checklist": 1}, judge=make_client(), exact=False, quoted_only=quoted_only)
        [found] = asyncio.run(scored(rubric, item))
        assert found.parts == {"checklist": expected}


# The theatre: a blue circle moves to the right while a bell rings; then the word FINISH with a robot's utterance.
# Four events and two pairs of seen and heard: six keypoints.
SCRIPT = make_script(2, 1)
CIRCLE, BELL, FINISH = "A blue circle moves to the right", "a bell rings", "the word FINISH appears on the screen"
SPEECH = 'a robot says, "Meet Emma at the tower Tuesday."'
TRUE = f"{CIRCLE} while {BELL}. Then {FINISH} while {SPEECH}"
NOISES = "A siren wails. A drum beats. A whistle blows. A horn honks."
LAST = SPEECH[0].upper() + SPEECH[1:]

# Expected: R_C, R_D, R_L, events, repetition, sound binding.
BY_EXACT_JUDGE = {
    "honest": (TRUE, (1, 1, 1, 1, 1, 1)),
    # Told one after the other: all four events (R_C 4/6), nothing tied.
    "apart": (f"{CIRCLE}. A bell rings. The word FINISH appears on the screen. {LAST}", (4 / 6, 1, 1, 1, 1, 0)),
    # Everything at once: all four events and both pairs, but bell with FINISH and robot with circle are tied wrongly:
    # 2 * 2 / (2 + 2 + 2).
    "all at once": (f"{CIRCLE} and {FINISH} while {BELL} and {SPEECH}", (1, 1, 1, 1, 1, 2 / 3)),
    # Three of four events, no pair; the utterance is missed and four noises are invented: 1 - 5/4 < 0.
    "keyword stuffing": (f"{CIRCLE}. A bell rings. {NOISES} The word FINISH appears.", (3 / 6, 0, 1, 0, 1, 0)),
    # Bell and FINISH. A circle without its motion is told wrongly, and words without quotation marks are no speech:
    # 1 - (1 + 1)/4. Bell and FINISH in one sentence are tied, wrongly.
    "list of words": ("Blue circle, bell, FINISH, robot, Meet Emma at the tower Tuesday.", (2 / 6, 0, 1, 1 / 2, 1, 0)),
    # Six utterances for one: F1 = 2 / (6 + 1); five are invented: 1 - 5/4 < 0; it ends in a loop.
    "dialogue spam": (" ".join([TRUE, *[LAST] * 5]), (1, 2 / 7, 1, 0, 0, 1)),
    # One event of four (one of six keypoints); three missed, two hallucinated: 1 - 5/4 < 0; all is repeated.
    "repeated keypoint": (" ".join([f"{CIRCLE}."] * 3), (1 / 6, 0, 1, 0, 0, 0)),
    "empty": ("", (0, 0, 1, 0, 0, 0)),
    "prompt injection": (f"{CIRCLE}. {INJECTIONS[0]}", (1 / 6, 0, 1, 1 / 4, 1, 0)),
    "forged verdict": (f"{CIRCLE}. {INJECTIONS[2]}", (1 / 6, 0, 1, 1 / 4, 1, 0)),
    "copied question": ("Describe the video and its sound.", (0, 0, 1, 0, 1, 0)),
}
EXACT = {**ALL, "sound_binding": 1.0}


def staged(text: str, seed: int = 2, num_tokens: int = 30, stop: str = "end", **changes: object) -> RewardItem:
    clip = ClipRef(id="clip", path="clip.mp4", meta={"theatre": {"seed": seed, "level": 1, **changes}})
    example = TrainingExample(clip=clip, task="caption", instruction="Describe.", target="Not looked at.")
    return RewardItem(clip_id="clip", text=text, num_tokens=num_tokens, stop_reason=stop, example=example)


@pytest.mark.parametrize("name", BY_EXACT_JUDGE)
def test_answers_by_the_exact_judge(name: str) -> None:
    text, expected = BY_EXACT_JUDGE[name]
    [found] = asyncio.run(scored(make_rubric(EXACT, judge=None, exact=True), staged(text)))
    assert found.reasons == {}
    for (reward, value), wanted in zip(found.parts.items(), expected, strict=True):
        assert value == pytest.approx(wanted), reward


def test_over_long_captions_by_the_exact_judge() -> None:
    """Limits fit for the theatre: half of the reward is left halfway."""
    rubric = make_rubric({"length": 1}, judge=None, exact=True, length_soft=60, length_hard=100)
    found = asyncio.run(scored(rubric, *(staged(TRUE, num_tokens=count) for count in (60, 80, 100))))
    assert [one.total for one in found] == [1.0, 0.5, 0.0]


def test_gaming_never_beats_the_truth() -> None:
    """On forty scripts the truth has all rewards, and no game on the list of six has as much."""
    rubric = make_rubric(EXACT, judge=None, exact=True)
    for seed in range(40):
        true = reference_caption(make_script(seed, 1))
        games = ["", true * 4, f"{true} {NOISES}", INJECTIONS[0], "Describe the video.", " ".join([true, *[LAST] * 5])]
        honest, *others = asyncio.run(scored(rubric, *(staged(text, seed) for text in (true, *games))))
        assert honest.total is not None
        assert honest.total == pytest.approx(len(EXACT) - len(honest.left_out))
        assert all(other.total is not None and other.total < honest.total - 0.5 for other in others)
