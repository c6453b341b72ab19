"""The parser on its own language, on other wordings, and on broken text."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avocet.theatre import make_script, reference_caption
from avocet.theatre.parser import Mention, parse_caption


def told(text: str) -> list[str]:
    """Mentions in short: "kind attribute attribute ...", attributes in the order of the record."""
    names = ("colour", "shape", "motion", "word", "sound", "speaker", "utterance", "scene")
    return [
        " ".join([mention.kind, *(getattr(mention, name) for name in names if getattr(mention, name))])
        for mention in parse_caption(text)
    ]


def beats(text: str) -> list[int]:
    """Beat of every mention, counted from 0 without gaps."""
    numbers = [mention.beat for mention in parse_caption(text)]
    ranks = {number: rank for rank, number in enumerate(sorted(set(numbers)))}
    return [ranks[number] for number in numbers]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red circle slides to the left.", ["visual red circle slide left"]),
        ("a red circle is sliding left", ["visual red circle slide left"]),
        ("A RED CIRCLE MOVES LEFTWARDS.", ["visual red circle slide left"]),
        ("The blue star moves from left to right.", ["visual blue star slide right"]),
        ("A blue star glides in from the left.", ["visual blue star slide right"]),
        ("A blue star slides across the screen to the right.", ["visual blue star slide right"]),
        (
            "A green heart moves upward while a pink cross floats down.",
            ["visual green heart rise", "visual pink cross fall"],
        ),
        (
            "A spinning white triangle and a growing red square",
            ["visual white triangle spin", "visual red square grow"],
        ),
        ("A yellow star gets smaller.", ["visual yellow star shrink"]),
        ("A yellow star rotates, then it blinks.", ["visual yellow star spin", "visual yellow star blink"]),
        ("A circle appears. It is falling.", ["visual circle fall"]),
        ("A circle that is purple rises.", ["visual purple circle rise"]),
        ("A purple diamond, which is falling, blinks.", ["visual purple diamond fall", "visual purple diamond blink"]),
        ("A black ball rises.", ["visual black circle rise"]),
        ("Two red hearts spin.", ["visual red heart spin"]),
    ],
)
def test_actors(text: str, expected: list[str]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A circle.", ["visual circle"]),
        ("A red circle", ["visual red circle"]),
        ("A circle spins.", ["visual circle spin"]),
        ("A red circle moves.", ["visual red circle slide"]),
        ("A red slides to the left.", ["visual red slide left"]),
        ("A red shape falls.", ["visual red fall"]),
        ("The word appears on the screen.", ["text"]),
        ("The screen reads", ["text"]),
        ("A man says.", ["speech man"]),
        ('A child says, "', ["speech child"]),
        ("The scene changes to a", ["scene"]),
    ],
)
def test_partial_mentions(text: str, expected: list[str]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a bell rings", ["sound bell"]),
        ("The sound of a ringing bell is heard.", ["sound bell"]),
        ("Rain falls and waves crash.", ["sound rain", "sound waves"]),
        ("Birds are singing.", ["sound bird"]),
        ("Ticking is heard.", ["sound clock"]),
        ("A bell rings with a ringing sound.", ["sound bell"]),
        ("The sound of a guitar, then a violin can be heard.", ["sound guitar", "sound violin"]),
        ("A red circle spins, a horn honks.", ["visual red circle spin", "sound horn"]),
    ],
)
def test_sounds(text: str, expected: list[str]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('A man says, "Ben lost five keys."', ["speech man Ben lost five keys."]),
        ("A man shouts: 'Ben lost five keys!'", ["speech man Ben lost five keys!"]),
        ("“Ben lost five keys,” says an old woman.", ["speech old woman Ben lost five keys,"]),
        ('"Ben lost five keys," a robot says.', ["speech robot Ben lost five keys,"]),
        ("A man's voice says, «Ben lost.»", ["speech man Ben lost."]),
        ("A man says Ben lost five keys while a bell rings.", ["speech man Ben lost five keys", "sound bell"]),
        (
            "A man says Ben lost five keys and a woman says meet Anna",
            ["speech man Ben lost five keys", "speech woman meet Anna"],
        ),
        ('A girl asks, "Who?" She says, "Ben."', ["speech child Who?", "speech child Ben."]),
        ('Someone says, "Hi."', ["speech Hi."]),
        ('"Ben lost five keys."', ["speech Ben lost five keys."]),
        ('A giant green tree grows. A giant says, "Hi."', ["visual green tree grow", "speech giant Hi."]),
        ('A man says, "Ben lost. A woman says, "Anna won."', ["speech man Ben lost.", "speech woman Anna won."]),
        ('A man says, "Ben lost and a woman says, "Anna won."', ["speech man Ben lost", "speech woman Anna won."]),
        ('A man says, "Ben lost five keys. A bell rings.', ["speech man Ben lost five keys.", "sound bell"]),
        ('A man says, "A red circle rises while a bell rings', ["speech man A red circle rises while a bell rings"]),
        ("No one speaks. Nobody says a word.", []),
    ],
)
def test_speech(text: str, expected: list[str]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The word OPEN appears on the screen.", ["text OPEN"]),
        ('The word "OPEN" appears.', ["text OPEN"]),
        ("the word open is shown", ["text open"]),
        ("the screen reads open", ["text open"]),
        ("A sign says STOP. The screen shows the text: TAXI", ["text STOP", "text TAXI"]),
        ("OPEN appears, then the word banana", ["text OPEN", "text banana"]),
        ('A man says, "Hi." while the screen reads "EXIT".', ["speech man Hi.", "text EXIT"]),
        ("The screen shows a red circle.", ["visual red circle"]),
        ("A RED CIRCLE RISES. THE SCREEN READS OPEN.", ["visual red circle rise", "text OPEN"]),
        ("A MAN SAYS, “BEN LOST.” THEN A BELL RINGS.", ["speech man BEN LOST.", "sound bell"]),
    ],
)
def test_on_screen_text(text: str, expected: list[str]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The scene is a beach.", ["scene beach"]),
        ("The setting changes from a beach to a snowy field.", ["scene snowfield"]),
        ("In a forest, a fish falls across the forest.", ["scene forest", "visual fish fall"]),
        ("The background is the starry sky.", ["scene night sky"]),
        ("The scene is a kitchen.", ["scene kitchen"]),
        ("The scene is a beach. The scene is a beach.", ["scene beach", "scene beach"]),
    ],
)
def test_scenes(text: str, expected: list[str]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n ",
        "No sound is heard.",
        "The picture stays black.",
        "Nothing moves on the screen.",
        "There is no bell and no red circle.",
        "The video shows the screen without a bell.",
        "A man stands there.",
        "It falls silent and the light is white.",
        '" " “ ” \' „',
    ],
)
def test_nothing_is_read_into_ordinary_phrases(text: str) -> None:
    assert told(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red circle rises while a bell rings.", [0, 0]),
        ("As a red circle rises, a bell rings and a drum beats.", [0, 0, 0]),
        ("A red circle rises. A bell rings.", [0, 1]),
        ("A red circle rises, then a bell rings.", [0, 1]),
        ("A red circle rises before a bell rings, followed by a drum.", [0, 1, 2]),
        ("A red circle rises. At the same time, a bell rings. Meanwhile a drum beats.", [0, 0, 0]),
        ('A man says, "Ben lost." while a bell rings. A drum beats.', [0, 0, 1]),
        ('A man says, "Ben lost." a bell rings.', [0, 1]),
        ("- A red circle rises\n- A bell rings", [0, 1]),
        ("a red circle rises\nwhile a bell rings", [0, 0]),
        ("A red circle next to a blue star.", [0, 0]),
    ],
)
def test_what_is_told_as_simultaneous(text: str, expected: list[int]) -> None:
    assert beats(text) == expected


def test_words_in_quotations_are_not_seen_or_heard() -> None:
    assert told('A man says, "A red circle rises while a bell rings. STOP. The scene is a beach."') == [
        "speech man A red circle rises while a bell rings. STOP. The scene is a beach."
    ]


def test_spans_and_sentences() -> None:
    text = 'First, a red circle slides to the left. A man says, "Ben lost."'
    first, second = parse_caption(text)
    assert text[first.start : first.end] == "red circle slides to the left"
    assert text[second.start : second.end] == '"Ben lost."'
    assert (first.sentence, second.sentence) == (0, 1)


def test_mentions_describe_themselves() -> None:
    text = 'A red slides left. A word appears. A bell. Speech: "Hi." The scene is a beach.'
    descriptions = [mention.describe() for mention in parse_caption(text)]
    assert descriptions == [
        "red shape slide left",
        "a word on the screen",
        "sound of bell",
        'someone says "Hi."',
        "the scene is beach",
    ]


def test_keys_ignore_case_and_place() -> None:
    loud = parse_caption('The word OPEN. A man says, "BEN  LOST." A bell rings.')
    soft = parse_caption('A bell, and the word open appears, and a man says, "ben lost."')
    assert {mention.key for mention in loud} == {mention.key for mention in soft}
    assert len({mention.key for mention in loud}) == 3


def test_repeated_fragments_are_all_mentions() -> None:
    assert told("a bell rings " * 50) == ["sound bell"] * 50
    caption = "A red circle rises while a bell rings. "
    assert told(caption * 40) == ["visual red circle rise", "sound bell"] * 40


def long_texts() -> dict[str, str]:
    rng = random.Random(0)
    caption = reference_caption(make_script(4, 2))
    return {
        "caption": caption * 600,
        "marks": '"' * 60_000,
        "open quotations": 'a man says, "Ben lost ' * 4000,
        "one quotation": 'a man says, "' + "Ben lost " * 10_000,
        "verbs": "says: slides falls " * 5000,
        "cues": "the word that reads the screen " * 4000,
        "colours": "red " * 20_000,
        "apostrophes": "a'" * 40_000,
        "one word": "a" * 100_000,
        "newlines": "\n" * 60_000,
        "noise": "".join(chr(rng.randrange(32, 0x3000)) for _ in range(60_000)),
        "shuffled": " ".join(rng.choice(caption.split()) for _ in range(20_000)),
    }


@pytest.mark.parametrize("name", list(long_texts()))
def test_long_texts_take_linear_time(name: str) -> None:
    """Sixteen times the text may take at most 64 times as long (quadratic work would take 256 times)."""
    text = long_texts()[name]

    def seconds(part: str) -> float:
        best = float("inf")
        for _ in range(2):
            start = time.process_time()
            parse_caption(part)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(text) <= 64 * seconds(text[: len(text) // 16]) + 0.2


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("aA \"“”'’.!?\n,:-_«»„…Bbell123é世界\u200b\x00"), max_size=200))
def test_any_text_is_parsed(text: str) -> None:
    for mention in parse_caption(text):
        assert isinstance(mention, Mention)
        assert 0 <= mention.start <= mention.end <= len(text)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5000), st.sampled_from([1, 2]), st.data())
def test_any_cut_of_a_caption_is_parsed(seed: int, level: int, data: st.DataObject) -> None:
    text = reference_caption(make_script(seed, level), seed)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    whole = len(parse_caption(text))
    assert len(parse_caption(text[start:end])) <= whole + 3
