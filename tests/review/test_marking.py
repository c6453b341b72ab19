"""Findings marked where the caption says them: every example is made by hand."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avocet.evaluation.scorers.base import Finding
from avocet.review._marking import Segment, mark_findings

CAPTION = (
    "A man in a green coat enters the kitchen. He opens the fridge, takes out a carton of milk and closes it again. "
    "Outside, rain falls on the tin roof."
)


def hallucinated(text: str) -> Finding:
    return Finding(kind="hallucinated", text=text)


def incorrect(text: str) -> Finding:
    return Finding(kind="incorrect", text=text)


def marks(caption: str, *findings: Finding) -> list[tuple[str, str | None, tuple[int, ...]]]:
    """The marked pieces as (text, kind, findings); all pieces together must be the caption."""
    segments = mark_findings(caption, findings)
    assert "".join(segment.text for segment in segments) == caption
    assert all((segment.kind is None) == (not segment.findings) for segment in segments)
    return [(segment.text, segment.kind, segment.findings) for segment in segments if segment.kind is not None]


def test_words_as_they_stand_are_marked_alone() -> None:
    assert mark_findings(CAPTION, [hallucinated("Takes out a carton of milk.")]) == [
        Segment(text="A man in a green coat enters the kitchen. He opens the fridge, "),
        Segment(text="takes out a carton of milk", kind="hallucinated", findings=(0,)),
        Segment(text=" and closes it again. Outside, rain falls on the tin roof."),
    ]


def test_words_in_another_order_mark_their_sentence() -> None:
    """A judge puts it in its own words; the sentence that has them all is the first."""
    assert marks(CAPTION, hallucinated("kitchen: man enters in a green coat")) == [
        ("A man in a green coat enters the kitchen.", "hallucinated", (0,))
    ]


def test_what_the_caption_does_not_say_is_not_marked() -> None:
    assert marks(CAPTION, hallucinated("A dog chases a ball across the beach"), hallucinated("!?")) == []


@pytest.mark.parametrize("kind", ["missed", "wrong", "right", "unscored"])
def test_findings_that_are_no_statements_of_the_caption_are_not_searched(kind: str) -> None:
    assert marks(CAPTION, Finding(kind=kind, text="rain falls on the tin roof")) == []


def test_an_incorrect_event_is_searched_as_it_was_described() -> None:
    """The event's own words stand in the first sentence, but the caption's mistake in the last."""
    finding = incorrect("A man in a green coat enters the kitchen: described as rain falls on the tin roof")
    assert marks(CAPTION, finding) == [("rain falls on the tin roof", "incorrect", (0,))]


def test_an_incorrect_event_is_searched_itself_where_its_description_is_not_found() -> None:
    finding = incorrect("Rain falls on the tin roof: described as wrong material of something overhead")
    assert marks(CAPTION, finding) == [("rain falls on the tin roof", "incorrect", (0,))]


def test_a_sentence_does_not_stand_for_a_finding_that_says_more() -> None:
    """All words of "A man." are in the finding, but the caption says nothing of a hat."""
    assert marks("A man. A street.", hallucinated("A man wears a red hat")) == []


def test_short_findings_are_found_as_whole_words_only() -> None:
    assert marks("The train arrives. The rain falls.", hallucinated("rain")) == [
        ("The rain falls.", "hallucinated", (0,))
    ]


def test_half_words_are_completed() -> None:
    """The stretch as long as the finding ends inside "walks"."""
    assert marks("A boy slowly walks.", hallucinated("boy slowly walk")) == [("boy slowly walks", "hallucinated", (0,))]


def test_overlapping_findings_are_cut_and_the_first_gives_the_kind() -> None:
    caption = "A small dog barks at the red car."
    found = marks(caption, hallucinated("dog barks at the red car"), incorrect("a car: described as a small dog barks"))
    assert found == [
        ("A small ", "incorrect", (1,)),
        ("dog barks", "hallucinated", (0, 1)),
        (" at the red car", "hallucinated", (0,)),
    ]


def test_a_sentence_is_marked_wherever_it_is_repeated() -> None:
    caption = "A bell rings twice! Then silence.\nA bell rings twice.\n"
    assert marks(caption, hallucinated("a bell rings twice")) == [
        ("A bell rings twice", "hallucinated", (0,)),
        ("A bell rings twice", "hallucinated", (0,)),
    ]


def test_repetitions_side_by_side() -> None:
    assert marks("钟响了。钟响了。", hallucinated("钟响了")) == [
        ("钟响了", "hallucinated", (0,)),
        ("钟响了", "hallucinated", (0,)),
    ]


def test_chinese_is_searched_without_spaces() -> None:
    caption = "一个男人走进厨房。他手里拿着一把红色的雨伞，外面在下雨。画面结束。"
    assert marks(caption, hallucinated("拿着一把红色的雨伞"), hallucinated("一只狗追着球跑过沙滩")) == [
        ("拿着一把红色的雨伞", "hallucinated", (0,))
    ]
    assert marks(caption, hallucinated("雨")) == [("雨", "hallucinated", (0,))]


def test_letters_whose_lower_case_is_longer_keep_their_places() -> None:
    """İ (dotted capital I) becomes two characters in lower case."""
    assert marks("İİİİ says nothing. The clock strikes ten.", hallucinated("the clock strikes ten")) == [
        ("The clock strikes ten", "hallucinated", (0,))
    ]


def test_an_empty_caption_has_no_pieces() -> None:
    assert mark_findings("", [hallucinated("rain falls on the roof")]) == []
    assert mark_findings(" \n", [hallucinated("rain falls on the roof")]) == [Segment(text=" \n")]


def test_a_sentence_without_end_is_searched_in_parts() -> None:
    """A caption of one sentence of 7,000 characters: the mark is no longer than the finding."""
    filler = "the camera moves slowly along the river bank, " * 75
    caption = f"{filler}a woman sells oranges from a cart, {filler}"
    assert marks(caption, hallucinated("A woman sells oranges from a cart")) == [
        ("a woman sells oranges from a cart", "hallucinated", (0,))
    ]


def random_caption(num_characters: int, between: str) -> str:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 8))) for _ in range(500)]
    sentences = (" ".join(rng.choices(words, k=14)) for _ in range(num_characters // 14))
    return between.join(sentences)[:num_characters]


@pytest.mark.parametrize(
    "caption",
    [
        random_caption(60_000, ". "),
        random_caption(60_000, " "),
        "A bell rings. " * 4_300,
        "." * 60_000 + "x",
        '."' * 30_000 + "x",
        "a" * 60_000,
        "钟" * 60_000,
    ],
    ids=["sentences", "no ends", "loop", "full stops", "quotes", "one word", "chinese"],
)
def test_a_very_long_caption_takes_less_than_a_second(caption: str) -> None:
    findings = [hallucinated(random_caption(80, " ")[start:] + " at last") for start in range(30)]
    start_seconds = time.process_time()
    segments = mark_findings(caption, [*findings, hallucinated("a bell rings")])
    assert time.process_time() - start_seconds < 1.0
    assert "".join(segment.text for segment in segments) == caption


WORDS = st.text(alphabet="ab钟 .!?\n\"'’。,:-İß\U0001f600\x00", max_size=60)


@given(caption=WORDS, findings=st.lists(st.builds(hallucinated, WORDS) | st.builds(incorrect, WORDS), max_size=4))
def test_pieces_are_the_caption_whatever_it_holds(caption: str, findings: list[Finding]) -> None:
    segments = mark_findings(caption, findings)
    assert "".join(segment.text for segment in segments) == caption
    assert all(segment.text for segment in segments)
    for segment in segments:
        assert list(segment.findings) == sorted(set(segment.findings))
        assert segment.kind == (findings[segment.findings[0]].kind if segment.findings else None)
