"""Checks by program, with their numbers worked out by hand."""

from __future__ import annotations

import pytest

from avocet.curation.checks import (
    TranscriptRules,
    check_sentences,
    is_generic_speech,
    passage_error_rate,
    quoted_passages,
    sentences,
    transcript_nonsense,
    word_error_rate,
)
from avocet.errors import ConfigError

SOURCE = 'A dog runs in. It barks. A man says, "Stay here. I will be back."'


def test_sentences() -> None:
    assert sentences(SOURCE) == ["A dog runs in.", "It barks.", 'A man says, "Stay here.', 'I will be back."']
    assert sentences("一只狗。它叫！ Fine…  \n\n!!") == ["一只狗。", "它叫！", "Fine…"]
    assert sentences('He says, "Go." Then 3.5 men go.') == ['He says, "Go."', "Then 3.5 men go."]


def test_every_sentence_is_kept_in_other_punctuation_and_inside_of_longer_ones() -> None:
    fused = "Meanwhile, a dog runs in, and then it barks; a man says, “Stay here. I will be back.” The end."
    assert check_sentences(SOURCE, fused).kept
    assert check_sentences(SOURCE, fused).num_sentences == 4


def test_what_is_lost_and_what_is_out_of_order() -> None:
    lost = check_sentences(SOURCE, 'A dog runs in. A man says, "Stay here. I will be back."')
    assert (lost.lost, lost.out_of_order, lost.kept) == (("It barks.",), (), False)
    swapped = check_sentences("One cat sits. Two dogs run.", "Two dogs run. One cat sits.")
    assert (swapped.lost, swapped.out_of_order) == ((), ("Two dogs run.",))
    twice = check_sentences("It barks. It barks.", "It barks.")
    assert (twice.lost, twice.out_of_order) == (("It barks.",), ()), "what comes twice must be there twice"
    # Both dogs are there, the second before the man.
    early = check_sentences("A dog barks. A man runs. A dog barks.", "A dog barks. A dog barks. A man runs.")
    assert (early.lost, early.out_of_order) == ((), ("A dog barks.",))
    gone = check_sentences("A dog barks. A man runs. A dog barks.", "A dog barks. A man runs.")
    assert (gone.lost, gone.out_of_order) == (("A dog barks.",), ())
    # A part of a longer sentence that stands before it: there, but not in order.
    inside = check_sentences("A dog barks. A dog barks loudly.", "A dog barks loudly. A dog barks.")
    assert (inside.lost, inside.out_of_order) == ((), ("A dog barks loudly.",))


def test_similar_is_enough_for_long_sentences_only() -> None:
    # Ten words: one may differ. Nine words: none (0.9 of them, rounded down).
    ten = "The old man in the red coat opens the door."
    assert check_sentences(ten, "The old man in the blue coat opens the door.").kept
    assert not check_sentences(ten, "The young man in the blue coat opens the door.").kept
    assert not check_sentences(
        "The man in the red coat opens the door.", "The man in the blue coat opens the door."
    ).kept
    assert check_sentences(ten, "The old man in the red coat slowly opens the door.").kept, "a word in between"


def test_an_early_altered_passage_does_not_hide_the_order() -> None:
    first = "The old man in the red coat opens the door."
    altered = first.replace("red", "blue")
    fused = f"{altered} A bell rings. {first}"
    assert check_sentences(f"{first} A bell rings. {first}", fused).kept
    with pytest.raises(ConfigError, match="similarity must be above 0"):
        check_sentences(first, fused, similarity=0.0)


def test_word_errors() -> None:
    assert word_error_rate("bring me the keys", "Bring me five keys!") == 1 / 4
    assert word_error_rate("anything", "") is None
    transcript = "Good morning. Bring four hats to Anna. Thank you."
    assert passage_error_rate("Bring four hats to Anna.", transcript) == 0.0
    assert passage_error_rate("bring five hats to Anna", transcript) == 1 / 5
    assert passage_error_rate("never mind", transcript) == 1.0
    assert passage_error_rate("...", transcript) == 0.0


def test_quotes() -> None:
    assert quoted_passages('He says, "Hello there," and “Goodbye.” It\'s a sign: "EXIT"') == [
        *("Hello there,", "Goodbye.", "EXIT")
    ]
    assert quoted_passages("Nothing is said.") == []


@pytest.mark.parametrize(
    ("text", "generic"),
    [
        ("A man is speaking.", True),
        ("A woman talks, and then another person can be heard speaking.", True),
        ("", True),
        ("A man is speaking while a dog barks.", False),
        ("A man says, “Bring the hats.”", False),
        ("一个男人在说话", False),
    ],
)
def test_generic_speech(text: str, generic: bool) -> None:
    assert is_generic_speech(text) is generic


@pytest.mark.parametrize(
    ("text", "seconds", "problem"),
    [
        ("Bring four hats to Anna.", 2.0, None),
        ("one two three four five six seven eight", 1.0, "8 words in 1 s, at most 7"),
        ("Thank you. " * 8, 10.0, "1.00 of it are repetitions"),
        ("ha " * 30, 10.0, "compresses"),
        ("♪ ♪ ♪ ♪ ♪ la la ~~~", 10.0, "4 of 12 characters are letters"),
        ("नमस्ते, आप कैसे हैं?", 3.0, None),
    ],
)
def test_nonsense(text: str, seconds: float, problem: str | None) -> None:
    found = transcript_nonsense(text, seconds, TranscriptRules())
    assert found is None if problem is None else problem in str(found)


def test_rules_check_themselves() -> None:
    with pytest.raises(ConfigError, match="min_letters is a share"):
        TranscriptRules(min_letters=60)
    with pytest.raises(ConfigError, match="min_words >= 0"):
        TranscriptRules(min_words=-1)
