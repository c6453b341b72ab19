"""The exact judge on reference captions and on captions of altered scripts, where every count is known."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avocet.metrics import EventFindings
from avocet.theatre import TheatreFindings, judge, make_script, reference_caption, world
from avocet.theatre._assignment import best_assignment, longest_ordered
from avocet.theatre.language import local_caption, local_script, sound_caption
from avocet.theatre.script import KIND_ORDER, Event, Script

SEEDS = range(150)
WORDINGS = 3


def cases(seeds: range = SEEDS) -> Iterator[tuple[Script, random.Random, int]]:
    """Scripts of both levels with a source of choices and a wording each."""
    for level in (1, 2):
        for seed in seeds:
            yield make_script(seed, level), random.Random(f"case {level} {seed}"), seed


def with_events(script: Script, events: list[Event]) -> Script:
    ordered = sorted(events, key=lambda event: (event.beat, KIND_ORDER.index(event.kind)))
    return dataclasses.replace(script, events=tuple(ordered))


def counts(findings: TheatreFindings) -> tuple[int, int, int, int]:
    """(missed, incorrect, hallucinated, repeated)."""
    return (
        *(len(findings.missed), len(findings.incorrect)),
        *(len(findings.hallucinated), len(findings.repeated)),
    )


def is_perfect(findings: TheatreFindings) -> bool:
    return (
        counts(findings) == (0, 0, 0, 0)
        and findings.order_errors == findings.binding_errors == findings.word_errors == 0
        and findings.notes == ()
        and findings.speakers_correct == findings.exact_utterances == findings.speakers_total
        and findings.simultaneous_told == findings.simultaneous_pairs
    )


def new_event(kind: str, script: Script, rng: random.Random, beat: int) -> Event:
    """An event of `kind` that does not happen in the script."""
    keys = {event.key for event in script.events}
    plain = Event(kind="visual", beat=beat, start_seconds=0, end_seconds=1)
    while True:
        if kind == "visual":
            event = dataclasses.replace(
                plain,
                colour=rng.choice(list(world.COLOURS)),
                shape=rng.choice(world.SHAPES),
                motion=rng.choice(world.MOTIONS),
            )
        elif kind == "text":
            event = dataclasses.replace(plain, kind="text", word=rng.choice(world.SCREEN_WORDS))
        elif kind == "sound":
            event = dataclasses.replace(plain, kind="sound", sound=rng.choice(world.SOUNDS))
        elif kind == "scene":
            event = dataclasses.replace(plain, kind="scene", scene=rng.choice(world.SCENES))
        else:
            event = dataclasses.replace(
                plain, kind="speech", speaker=rng.choice(world.SPEAKERS), utterance="Nobody knows these words"
            )
        if event.key not in keys:
            return event


def test_reference_captions_are_perfect() -> None:
    for script, _, seed in cases(range(300)):
        for wording in range(WORDINGS):
            text = reference_caption(script, wording)
            findings = judge(text, script)
            assert is_perfect(findings), text
            assert findings.num_events == len(script.events)
            assert findings.reference_words == sum(len(event.utterance.split()) for event in script.events), seed


@pytest.mark.parametrize(("see", "hear"), [(True, False), (False, True), (False, False)])
def test_captions_without_a_stream_are_perfect_without_it(see: bool, hear: bool) -> None:
    for script, _, wording in cases():
        text = reference_caption(script, wording, see=see, hear=hear)
        assert is_perfect(judge(text, script, see=see, hear=hear)), text
        lost = len(script.events) - judge(text, script, see=see, hear=hear).num_events
        assert len(judge(text, script).missed) == lost


def test_what_cannot_be_perceived_is_hallucinated() -> None:
    for script, _, wording in cases():
        findings = judge(reference_caption(script, wording), script, hear=False)
        heard = [event for event in script.events if event.kind in ("sound", "speech")]
        assert counts(findings)[:3] == (0, 0, len(heard))


def test_local_and_sound_captions_are_perfect_for_their_part() -> None:
    for script, rng, wording in cases():
        start = rng.uniform(0, script.duration_seconds - 1)
        part = local_script(script, start, start + 1)
        assert is_perfect(judge(local_caption(script, start, start + 1, wording), part))
        assert is_perfect(judge(sound_caption(script, wording), script, see=False))


def test_a_dropped_event_is_missed() -> None:
    for script, rng, wording in cases():
        dropped = rng.choice(script.events)
        told = with_events(script, [event for event in script.events if event is not dropped])
        findings = judge(reference_caption(told, wording), script)
        assert counts(findings) == (1, 0, 0, 0)
        assert findings.order_errors == findings.binding_errors == 0
        assert findings.word_errors == len(dropped.utterance.split())
        assert findings.by_kind[dropped.kind].missed == 1


def test_swapped_beats_are_order_errors_only() -> None:
    for script, rng, wording in cases():
        beats = script.beats()
        if len(beats) < 2:
            continue
        first = rng.randrange(len(beats) - 1)
        swap = {first: first + 1, first + 1: first}
        told = with_events(
            script, [dataclasses.replace(event, beat=swap.get(event.beat, event.beat)) for event in script.events]
        )
        findings = judge(reference_caption(told, wording), script)
        assert counts(findings) == (0, 0, 0, 0)
        assert findings.order_errors == min(len(beats[first]), len(beats[first + 1]))
        assert findings.binding_errors == 0
        spoken = [any(event.kind == "speech" for event in beats[beat]) for beat in swap]
        if not all(spoken):  # dialogue is aligned in order, so two swapped utterances cost words as well
            assert findings.word_errors == 0


def test_an_added_event_is_hallucinated() -> None:
    for script, rng, wording in cases():
        for kind in KIND_ORDER:
            beat = rng.randrange(len(script.beats()) + 1)
            if kind == "scene" and any(event.kind == "scene" and event.beat == beat for event in script.events):
                beat = len(script.beats())
            told = with_events(script, [*script.events, new_event(kind, script, rng, beat)])
            findings = judge(reference_caption(told, wording), script)
            assert counts(findings) == (0, 0, 1, 0), reference_caption(told, wording)
            assert findings.by_kind[kind].hallucinated == 1
            assert findings.order_errors == findings.binding_errors == findings.word_errors == 0


def test_a_repeated_event_is_hallucinated_and_repeated() -> None:
    for script, rng, wording in cases():
        for beat in (len(script.beats()), None):
            event = rng.choice(script.events)
            if beat is None and event.kind == "scene":
                continue
            again = event if beat is None else dataclasses.replace(event, beat=beat)
            told = with_events(script, [*script.events, again])
            findings = judge(reference_caption(told, wording), script)
            assert counts(findings) == (0, 0, 1, 1), reference_caption(told, wording)
            assert findings.repeated == findings.hallucinated
            assert findings.order_errors == findings.binding_errors == findings.word_errors == 0


@pytest.mark.parametrize("attribute", ["colour", "shape", "motion"])
def test_a_changed_attribute_is_incorrect(attribute: str) -> None:
    values = {"colour": tuple(world.COLOURS), "shape": world.SHAPES, "motion": world.MOTIONS}[attribute]
    changed = 0
    for script, rng, wording in cases():
        actors = [event for event in script.events if event.kind == "visual"]
        if not actors:
            continue
        actor = rng.choice(actors)
        value = rng.choice([value for value in values if value != getattr(actor, attribute)])
        other = dataclasses.replace(actor, **{attribute: value})
        if other.key in {event.key for event in script.events}:
            continue
        told = with_events(script, [other if event is actor else event for event in script.events])
        findings = judge(reference_caption(told, wording), script)
        assert counts(findings) == (0, 1, 0, 0)
        assert f"{actor.colour} {actor.shape}" in findings.incorrect[0]
        assert value in findings.incorrect[0].partition("described as")[2]
        changed += 1
    assert changed > 150


def test_a_changed_speaker_is_incorrect_and_one_speaker_error() -> None:
    changed = 0
    for script, rng, wording in cases():
        said = [event for event in script.events if event.kind == "speech"]
        if not said:
            continue
        event = rng.choice(said)
        other = dataclasses.replace(
            event, speaker=rng.choice([name for name in world.SPEAKERS if name != event.speaker])
        )
        told = with_events(script, [other if item is event else item for item in script.events])
        findings = judge(reference_caption(told, wording), script)
        assert counts(findings) == (0, 1, 0, 0)
        assert findings.speakers_correct == findings.speakers_total - 1
        assert findings.exact_utterances == findings.speakers_total - 1
        assert findings.word_errors == 0
        changed += 1
    assert changed > 150


def test_changed_words_are_counted_one_by_one() -> None:
    seen = set()
    for script, rng, wording in cases():
        said = [event for event in script.events if event.kind == "speech"]
        if not said:
            continue
        event = rng.choice(said)
        words = event.utterance.split()
        wrong = rng.randint(1, len(words))
        for place in rng.sample(range(len(words)), wrong):
            words[place] = f"zebra{'abcdefgh'[place]}"
        other = dataclasses.replace(event, utterance=" ".join(words))
        told = with_events(script, [other if item is event else item for item in script.events])
        findings = judge(reference_caption(told, wording), script)
        assert findings.word_errors == wrong
        share = wrong / len(words)
        outcome = "right" if share <= 1 / 3 else "incorrect" if share <= 2 / 3 else "missed"
        expected = {"right": (0, 0, 0, 0), "incorrect": (0, 1, 0, 0), "missed": (1, 0, 1, 0)}[outcome]
        assert counts(findings) == expected
        seen.add(outcome)
    assert seen == {"right", "incorrect", "missed"}


def test_simultaneous_events_told_apart_are_a_binding_error() -> None:
    split = 0
    for script, _, wording in cases():
        for events in script.beats():
            bound = [event for event in events if event.kind != "scene"]
            if len(bound) != 2:
                continue
            # every beat number doubled makes room to tell the second event in a beat of its own
            told = [dataclasses.replace(event, beat=2 * event.beat + (event is bound[1])) for event in script.events]
            findings = judge(reference_caption(with_events(script, told), wording), script)
            assert (findings.binding_errors, findings.order_errors) == (1, 0)
            assert findings.simultaneous_told == findings.simultaneous_pairs - 1
            assert counts(findings) == (0, 0, 0, 0)
            split += 1
    assert split > 100


def test_successive_events_told_as_one_are_a_binding_error() -> None:
    joined = 0
    for script, _, wording in cases():
        for beat, (events, following) in enumerate(itertools.pairwise(script.beats())):
            if [event.kind for event in (*events, *following)] not in (["visual", "sound"], ["text", "speech"]):
                continue
            told = [dataclasses.replace(event, beat=beat) if event in following else event for event in script.events]
            findings = judge(reference_caption(with_events(script, told), wording), script)
            assert (findings.binding_errors, findings.order_errors) == (1, 0)
            assert counts(findings) == (0, 0, 0, 0)
            joined += 1
    assert joined > 5


SCRIPT = Script(
    seed=1,
    level=1,
    duration_seconds=8,
    events=(
        Event(kind="visual", beat=0, start_seconds=0, end_seconds=2, colour="red", shape="circle", motion="slide left"),
        Event(kind="sound", beat=0, start_seconds=0, end_seconds=2, sound="bell"),
        Event(kind="speech", beat=1, start_seconds=2, end_seconds=5, speaker="man", utterance="Ben lost five keys"),
        Event(kind="text", beat=2, start_seconds=5, end_seconds=8, word="OPEN"),
    ),
    background="black",
    camera_noise=0,
    camera_shake_pixels=0,
    audio_noise=0,
)


def test_the_strings_say_what_was_wrong() -> None:
    findings = judge(
        'A blue circle slides to the left. A drum beats. A woman says, "Ben lost nine eggs." The screen reads OPEM.',
        SCRIPT,
    )
    assert findings.missed == ("bell rings",)
    assert findings.incorrect == (
        "red circle slides to the left: described as blue circle slide left",
        'man says "Ben lost five keys": described as woman says "Ben lost nine eggs."',
        "the word OPEN: described as the word OPEM",
    )
    assert findings.hallucinated == ("sound of drum",)
    assert (findings.reference_words, findings.word_errors) == (4, 2)
    assert (findings.speakers_total, findings.speakers_correct, findings.exact_utterances) == (1, 0, 0)
    pair = findings.utterances[0]
    assert (pair.told_speaker, pair.told_text, pair.word_errors) == ("woman", "Ben lost nine eggs.", 2)
    assert (findings.miss, findings.hall, findings.total) == (1 / 4, 4 / 4, 5 / 4)
    assert isinstance(findings, EventFindings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (4, 0, 0, 0)),
        ("A circle.", (4, 0, 1, 0)),  # one of three attributes
        ("A red circle.", (3, 1, 0, 0)),  # two of three
        ("A red slides to the left.", (3, 1, 0, 0)),
        ("A man speaks.", (3, 1, 0, 0)),
        ("A woman speaks.", (4, 0, 1, 0)),
        ('A man says, "ben, lost FIVE keys!"', (3, 0, 0, 0)),
        ('A man says, "Ben lost five', (3, 0, 0, 0)),  # 1 of 4 words lacking
        ("A man says Ben lost five keys.", (3, 0, 0, 0)),
        ("The screen reads OP.", (3, 1, 0, 0)),  # similarity 1 - 2/4
        ("The screen reads O.", (4, 0, 1, 0)),
        ("the screen reads open", (3, 0, 0, 0)),
        ("A bell rings. A bell rings. A bell rings.", (3, 0, 2, 2)),
        ("A drum beats. A drum beats.", (4, 0, 2, 1)),
        ("No bell is heard and the screen stays black.", (4, 0, 0, 0)),
    ],
)
def test_rules_by_example(text: str, expected: tuple[int, int, int, int]) -> None:
    assert counts(judge(text, SCRIPT)) == expected


def test_simultaneous_events_have_no_order() -> None:
    findings = judge(
        'A bell rings while a red circle slides to the left. A man says, "Ben lost five keys." The screen reads OPEN.',
        SCRIPT,
    )
    assert is_perfect(findings)


def test_a_whole_caption_in_reverse() -> None:
    # told beats: 2, 1, 0 (two events): the longest ordered part is the two simultaneous events
    text = (
        'The screen reads OPEN. A man says, "Ben lost five keys." A red circle slides to the left while a bell rings.'
    )
    findings = judge(text, SCRIPT)
    assert (findings.order_errors, findings.binding_errors, counts(findings)) == (2, 0, (0, 0, 0, 0))
    assert len(findings.notes) == 2


def test_findings_travel_as_json() -> None:
    findings = judge('A blue circle slides to the left. A man says, "Ben lost a key."', SCRIPT)
    assert TheatreFindings.from_json(findings.to_json_line()) == findings


@settings(max_examples=150, deadline=None)
@given(st.text())
def test_any_text_can_be_judged(text: str) -> None:
    findings = judge(text, SCRIPT)
    assert len(findings.missed) + len(findings.incorrect) <= findings.num_events == 4


PIECES = (
    reference_caption(make_script(3, 2), 1).split() + reference_caption(SCRIPT).split() + ['"', "“", ".", "\n", "'"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=80), st.booleans(), st.booleans())
def test_any_shuffle_of_a_caption_can_be_judged(words: list[str], see: bool, hear: bool) -> None:
    findings = judge(" ".join(words), SCRIPT, see=see, hear=hear)
    matched = findings.num_events - len(findings.missed)
    assert 0 <= findings.order_errors <= max(0, matched - 1)
    assert 0 <= findings.word_errors <= findings.reference_words
    assert len(findings.repeated) <= len(findings.hallucinated)


def test_assignment_is_best_and_prefers_early_columns() -> None:
    # the row's best column each would give 5 + 0; the best sum is 4 + 5
    assert best_assignment([[5, 4], [5, 0]]) == {0: 1, 1: 0}
    assert best_assignment([[3, 3, 3]]) == {0: 0}
    assert best_assignment([[3, 3], [3, 3]]) == {0: 0, 1: 1}
    assert best_assignment([[0, 0]]) == {}
    assert best_assignment([]) == {}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=3))
def test_assignment_equals_exhaustive_search(worth: list[list[int]]) -> None:
    def best(row: int, used: frozenset[int]) -> int:
        if row == len(worth):
            return 0
        taken = [worth[row][c] + best(row + 1, used | {c}) for c in range(4) if c not in used]
        return max([best(row + 1, used), *taken])

    assert sum(worth[row][column] for row, column in best_assignment(worth).items()) == best(0, frozenset())


@pytest.mark.parametrize(
    ("values", "length"), [([], 0), ([1, 1, 1], 3), ([3, 2, 1], 1), ([0, 2, 1, 1, 3], 4), ([5, 1, 2], 2)]
)
def test_longest_ordered(values: list[int], length: int) -> None:
    chain = longest_ordered(values)
    assert len(chain) == length
    assert [values[i] for i in chain] == sorted(values[i] for i in chain)
    assert chain == sorted(set(chain))
