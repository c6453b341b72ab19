"""Events told wrongly in one respect, only where that is beyond doubt."""

from __future__ import annotations

import random

import pytest

from avocet.evaluation import _event_texts as texts


def rng() -> random.Random:
    return random.Random(7)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ("man waves", "Man waves."),
        ("A  bell\nrings.", "A bell rings."),
        ("He asks, 'Why?'", "He asks, 'Why?'"),
        ("Text '55 ft.²' appears", "Text '55 ft.²' appears."),
        ("é", "É."),
    ],
)
def test_sentences(event: str, told: str) -> None:
    assert texts.as_sentence(event) == told


def test_events_that_stand_alone() -> None:
    others = ["Man in yellow shirt gestures", "A grid of faces appears"]
    assert texts.stands_alone("Cars drive across a steep bridge", others)
    # Three of its four own words (man, yellow, shirt, points) are in another event.
    assert not texts.stands_alone("The man in the yellow shirt points", others)
    assert not texts.stands_alone("Music plays", others)
    assert not texts.stands_alone("Coherent indoor setting is maintained throughout", others)


def test_foreign_events() -> None:
    events = ["Man in yellow shirt gestures", "A grid of faces appears"]
    assert texts.is_foreign("Firefighters rescue a kitten from the roof", events)
    assert not texts.is_foreign("A man holds yellow flowers", events)
    assert not texts.is_foreign("He rescues a kitten from the roof", events)
    assert not texts.is_foreign("The scene shows kittens sleeping on a roof", events)


@pytest.mark.parametrize(
    ("event", "quoted"),
    [
        ("He says, 'It's mine.'", "It's mine."),
        ('She says, "Go home"', "Go home"),
        ("He says “Stop it”", "Stop it"),
        ("The players' bench is empty", None),
        ("Text 'A' and text 'B'", None),
        ("He says, 'No end", None),
        ("Man: \\'No\\'", None),
        ("A woman's voice is heard", None),
    ],
)
def test_quotations(event: str, quoted: str | None) -> None:
    found = texts.quotation(event)
    assert (None if found is None else found[found.lastgroup or 0]) == quoted


def test_kinds() -> None:
    assert texts.event_kind("Audio: 'Read the sign on the screen'") == "speech"
    assert texts.event_kind("Text reads 'She said yes'") == "text"
    assert texts.event_kind("A dog runs") == "other"


def test_colours() -> None:
    assert texts.with_other_colour("Green onions", rng()) in ("Red onions", "Blue onions", "Yellow onions")
    # Blue and red are there already.
    assert texts.with_other_colour("A red, blue and blue flag", rng()) is None
    # Quotations, people, hedges and what is no colour stay.
    for event in ("Text 'red'", "A black man sings", "It is blue or gray", "An orange", "A hundred cats"):
        assert texts.with_other_colour(event, rng()) is None


def test_numbers() -> None:
    changed = texts.with_other_number("Two dogs", rng())
    assert changed is not None
    assert changed.removesuffix(" dogs") in ("Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")
    changed = texts.with_other_number("The player with number 25 runs", rng())
    assert changed is not None
    assert 27 <= int(changed.split()[4]) <= 34
    for event in ("Text '2 left'", "A 3D model", "It is 5:30", "It costs $20", "1,000 dogs", "About two dogs", "5.2 m"):
        assert texts.with_other_number(event, rng()) is None


def test_speakers() -> None:
    assert texts.with_other_speaker("Woman says: 'He is a man'", rng()) == "Man says: 'He is a man'"
    assert texts.with_other_speaker("A man's voice explains it", rng()) == "A woman's voice explains it"
    assert texts.with_other_speaker("AUDIO: MALE VOICE SAYS NO", rng()) == "AUDIO: FEMALE VOICE SAYS NO"
    # Somebody of unknown sex, two people, nobody who speaks, writing, a word without a counterpart.
    for event in ("A child says 'Yes'", "A man asks her", "A man runs", "Text says 'a man'", "Her voice is heard"):
        assert texts.with_other_speaker(event, rng()) is None


def test_words() -> None:
    words = ["apricot", "bridge", "copper", "desert"]
    changed = texts.with_other_words("He says, 'Bridge traffic stops, every morning!'", words, rng())
    assert changed is not None
    assert changed.startswith("He says, '")
    # Two of five words (5 // 3 + 1), by words that the quotation does not have; capitals and marks stay.
    said = changed.removeprefix("He says, '").removesuffix("!'").replace(",", "").split()
    before = ["Bridge", "traffic", "stops", "every", "morning"]
    kept = [word for word, old in zip(said, before, strict=True) if word == old]
    assert len(kept) == 3
    assert {word.casefold() for word in said} - {word.casefold() for word in kept} < {"apricot", "copper", "desert"}
    assert said[0][0].isupper()
    # Too short, written, hardly a word that says something, too few words to choose from.
    assert texts.with_other_words("He says, 'Bridge traffic stops'", words, rng()) is None
    assert texts.with_other_words("Text reads 'Bridge traffic stops every morning'", words, rng()) is None
    assert texts.with_other_words("He says, 'I do not have to go'", words, rng()) is None
    assert texts.with_other_words("He says, 'Bridge traffic stops every morning'", words[:2], rng()) is None


def test_words_that_are_said() -> None:
    assert texts.spoken_words(["He says, 'Green pears, 20 €!'", "Text 'Apples'", "He sleeps"]) == ["green", "pears"]
