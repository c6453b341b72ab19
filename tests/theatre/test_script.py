"""Scripts: the same for the same seed, inside the limits of their level, and with an unambiguous order."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from avocet.errors import ConfigError
from avocet.theatre import make_script, world
from avocet.theatre.script import KIND_ORDER, Script

LEVELS = (1, 2)


def scripts(level: int, count: int = 300) -> list[Script]:
    return [make_script(seed, level) for seed in range(count)]


@pytest.mark.parametrize("level", LEVELS)
def test_same_seed_same_script(level: int) -> None:
    assert scripts(level, 20) == scripts(level, 20)
    assert len({repr(script.events) for script in scripts(level, 100)}) == 100


def test_same_script_in_another_process() -> None:
    code = "from avocet.theatre import make_script; print(make_script(7, 2))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(make_script(7, 2))


@pytest.mark.parametrize(("level", "durations", "most_events"), [(1, (4, 8), 4), (2, (4, 12), 12)])
def test_limits_of_the_level(level: int, durations: tuple[int, int], most_events: int) -> None:
    for script in scripts(level):
        assert durations[0] <= script.duration_seconds <= durations[1]
        assert script.duration_seconds == int(script.duration_seconds)
        assert 2 <= len(script.events) <= most_events
        assert script.id == f"theatre-{level}-{script.seed}"


@pytest.mark.parametrize("level", LEVELS)
def test_beats_follow_each_other_without_overlap(level: int) -> None:
    for script in scripts(level):
        beats = [[event for event in beat if event.kind != "scene"] for beat in script.beats()]
        assert all(beats)
        for beat in beats:
            assert len({(event.start_seconds, event.end_seconds) for event in beat}) == 1
            assert beat[0].end_seconds - beat[0].start_seconds >= 1.5
        for before, after in itertools.pairwise(beats):
            assert before[0].end_seconds == after[0].start_seconds
        assert beats[0][0].start_seconds == 0
        assert beats[-1][0].end_seconds == script.duration_seconds


@pytest.mark.parametrize("level", LEVELS)
def test_events_are_sorted_and_different(level: int) -> None:
    for script in scripts(level):
        places = [(event.beat, KIND_ORDER.index(event.kind)) for event in script.events]
        assert places == sorted(places)
        assert len({event.key for event in script.events}) == len(script.events)


def test_level_1_has_one_actor_at_a_time_and_level_2_has_the_rest() -> None:
    for script in scripts(1):
        for beat in script.beats():
            kinds = [event.kind for event in beat]
            assert len(kinds) == len(set(kinds))
            assert "scene" not in kinds
    harder = scripts(2)
    pairs = [[event.kind for event in beat] for script in harder for beat in script.beats()]
    assert any(kinds.count("visual") == 2 for kinds in pairs)
    assert any(kinds.count("sound") == 2 for kinds in pairs)
    assert any(sum(event.kind == "scene" for event in script.events) > 1 for script in harder)
    without = [{event.kind for event in script.events} for script in harder]
    assert any(not kinds & {"sound", "speech"} for kinds in without)
    assert any(not kinds & {"visual", "text"} for kinds in without)
    assert any("sound" in kinds and "speech" not in kinds for kinds in without)


def test_two_actors_at_once_stand_in_two_lanes() -> None:
    for script in scripts(2):
        for beat in script.beats():
            lanes = [event.lane for event in beat if event.kind == "visual"]
            assert lanes in ([], [0], [1, 2])


def test_the_world_is_as_large_as_promised() -> None:
    assert len(world.spoken_words(1)) >= 60
    assert len(world.spoken_words(2)) >= 150
    assert world.spoken_words(1) < world.spoken_words(2)
    assert len(world.level_part(world.SHAPES, 1)) == 6
    assert len(world.level_part(world.SHAPES, 2)) == 12
    assert len(world.level_part(world.SOUNDS, 2)) == 12
    assert world.level_part(world.MOTIONS, 1) == world.MOTIONS


@pytest.mark.parametrize("level", LEVELS)
def test_scripts_use_only_words_of_their_level(level: int) -> None:
    for script in scripts(level):
        for event in script.events:
            assert {word.casefold() for word in event.utterance.split()} <= world.spoken_words(level)
            assert event.sound in ("", *world.level_part(world.SOUNDS, level))
            assert event.shape in ("", *world.level_part(world.SHAPES, level))
            assert event.word in ("", *world.level_part(world.SCREEN_WORDS, level))
            assert event.speaker in ("", *world.level_part(world.SPEAKERS, level))


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="level must be 1 or 2, got 3"):
        make_script(0, 3)
    with pytest.raises(ConfigError, match="seed must be >= 0, got -1"):
        make_script(-1)
    for seed in (1.5, "x", None):
        with pytest.raises(ConfigError, match=f"theatre seed must be an integer, got {seed!r}"):
            make_script(seed)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"theatre level must be an integer, got 1\.0"):
        make_script(0, 1.0)  # type: ignore[arg-type]


def test_integers_of_other_types_are_the_same_seeds() -> None:
    assert make_script(np.int64(1), np.int64(2)) == make_script(1, 2)  # type: ignore[arg-type]
    assert make_script(True, True) == make_script(1, 1)
