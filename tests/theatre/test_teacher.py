"""Captions with the faults of a teacher: how many, of which kind, the same each time."""

from __future__ import annotations

import statistics

import pytest

from avocet.errors import ConfigError
from avocet.metrics import is_collapsed, repetition_rate
from avocet.theatre.judge import judge
from avocet.theatre.language import reference_caption
from avocet.theatre.script import make_script
from avocet.theatre.teacher import TeacherFaults, teacher_caption

NONE = TeacherFaults(leaves_out_seen=0.0, leaves_out_heard=0.0, tells_wrongly=0.0, repeats_itself=0.0)
SCRIPTS = [make_script(seed, 2) for seed in range(150)]


def test_without_faults_everything_is_told_right() -> None:
    assert all(judge(teacher_caption(script, 3, NONE), script).total == 0 for script in SCRIPTS)


def test_the_same_seed_errs_in_the_same_way() -> None:
    assert [teacher_caption(script, 1) for script in SCRIPTS] == [teacher_caption(script, 1) for script in SCRIPTS]
    assert any(teacher_caption(script, 1) != teacher_caption(script, 2) for script in SCRIPTS)


def test_events_are_left_out_as_often_as_asked() -> None:
    """Heard events only, half of them: within three standard errors of a half."""
    faults = TeacherFaults(leaves_out_seen=0.0, leaves_out_heard=0.5, tells_wrongly=0.0, repeats_itself=0.0)
    heard = missed = seen_missed = 0
    for script in SCRIPTS:
        by_kind = judge(teacher_caption(script, 0, faults), script).by_kind
        heard += by_kind["sound"].num_events + by_kind["speech"].num_events
        missed += by_kind["sound"].missed + by_kind["speech"].missed
        seen_missed += by_kind["visual"].missed + by_kind["scene"].missed + by_kind["text"].missed
    assert seen_missed == 0
    assert abs(missed / heard - 0.5) < 3 * (0.25 / heard) ** 0.5


def test_wrong_facts_are_wrong_and_repeated_sentences_repeat() -> None:
    wrong = TeacherFaults(leaves_out_seen=0.0, leaves_out_heard=0.0, tells_wrongly=1.0, repeats_itself=0.0)
    twice = TeacherFaults(leaves_out_seen=0.0, leaves_out_heard=0.0, tells_wrongly=0.0, repeats_itself=1.0)
    assert all(judge(teacher_caption(script, 0, wrong), script).hall > 0 for script in SCRIPTS)
    plain = statistics.mean(repetition_rate(reference_caption(script)) for script in SCRIPTS)
    repeated = statistics.mean(repetition_rate(teacher_caption(script, 0, twice)) for script in SCRIPTS)
    assert repeated > plain + 0.2


def test_loops_are_collapsed_captions() -> None:
    looping = TeacherFaults(loops=1.0)
    for seed in range(100):
        script = make_script(seed, 1)
        plain, text = teacher_caption(script), teacher_caption(script, faults=looping)
        assert text.startswith(plain)
        assert 60 <= len(text.split()) <= 140  # whole sentences, so not quite what was drawn
        assert is_collapsed(text, "end")
        assert not is_collapsed(plain, "end")
    shares = [teacher_caption(make_script(seed, 1), faults=TeacherFaults(loops=0.15)) for seed in range(400)]
    # 60 of 400 expected; standard deviation sqrt(400 x 0.15 x 0.85) = 7.1.
    assert 39 <= sum(is_collapsed(text, "end") for text in shares) <= 81


def test_something_is_always_told() -> None:
    silent = TeacherFaults(leaves_out_seen=1.0, leaves_out_heard=1.0, tells_wrongly=0.0, repeats_itself=0.0)
    for script in SCRIPTS:
        found = judge(teacher_caption(script, 0, silent), script)
        assert len(found.missed) < found.num_events


def test_probabilities_are_checked() -> None:
    with pytest.raises(ConfigError, match="tells_wrongly must be from 0 to 1"):
        TeacherFaults(tells_wrongly=1.5)
