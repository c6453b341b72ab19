"""Repetition collapse: loops of every kind, what only looks like one, real references."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avocet.errors import ConfigError
from avocet.evaluation.benchmarks import load_benchmark
from avocet.metrics import collapse_rate, collapse_sign, is_collapsed
from avocet.theatre import make_script
from avocet.theatre.language import reference_caption

STORY = (
    "A woman in a red coat crosses a wet street while a siren wails far away. She stops at a stall and says, "
    '"Two of these, please." The seller, a bearded man, laughs and wraps two oranges in paper.'
)
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


LINES = ("a cat sits there", "a dog runs there", "a cow eats there", "a pig lies there", "a bird sings there")
ROUNDS = ". ".join(f"{LINES[(step * turn) % 5]} all day" for turn in (1, 2, 3, 4) for step in range(5))


def long_block(length: int) -> str:
    return " ".join(f"{WORDS[index % 12]}{index}" for index in range(length))


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        (f"{STORY} " + "The dog barks. " * 11, "end_loop"),  # 33 words
        (f"{STORY} " + "The dog barks. " * 10, None),  # 30 words
        (f"{STORY} " + "The dog barks. " * 11 + "The do", "end_loop"),  # cut inside a word
        (f"{STORY} " + "no " * 32, "end_loop"),
        (f"{STORY} " + "no " * 31, None),
        (f"{STORY} " + "no, NO! " * 20, "end_loop"),
        (f"{STORY} " + f"{long_block(200)}. " * 4, "end_loop"),
        (f"{STORY} " + f"{long_block(257)}. " * 4, "repetition"),  # past the longest period, but all said before
        ("一个男人走进房间。" + "他笑了又笑，" * 8, "end_loop"),  # 5 characters, 40 units
        ("一个男人走进房间。" + "他笑了又笑，" * 6, None),
        ("彼は笑った。" * 8, "end_loop"),
        # It comes out of the loop again: 22 * 3 = 66 words of it, of 103.
        (f"The dog barks and {STORY} " + "the dog barks " * 22 + "and then all is quiet.", "loop"),
        # Phrases return in another order each time: 4 * 25 words, no period.
        (ROUNDS, "repetition"),
    ],
)
def test_by_hand(text: str, sign: str | None) -> None:
    assert collapse_sign(text) == sign
    assert is_collapsed(text) == (sign is not None)


REFRAIN = "Oh when the saints go marching in, oh when the saints go marching in, I want to be in that number"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        STORY,
        f'{STORY} A choir sings, "{REFRAIN}", then again "{REFRAIN}", and at the end "{REFRAIN}."',
        f'{STORY} He laughs: "Ha ha ha ha ha ha ha ha!"',
        "\n".join(f"Step {number}: press the {word} button and wait." for number, word in enumerate(WORDS)),
        "\n".join(f"{word} bottles of milk standing on the wall" for word in WORDS),
        " ".join(f"The number '{number}' appears, rotating and moving." for number in range(10, 0, -1)),
        "他说：“加油，加油，加油！”" + "观众鼓掌，音乐响起，灯光变暗。",
    ],
)
def test_no_collapse(text: str) -> None:
    assert collapse_sign(text) is None


def test_why_it_stopped() -> None:
    assert collapse_sign(STORY, "repetition") == "guard"
    assert collapse_sign(STORY, "length") is None
    three = f"{STORY} " + "a bell rings and the crowd slowly walks on to the next stall " * 3  # 3 * 13 = 39 words
    assert collapse_sign(three) is None
    assert collapse_sign(three, "end") is None
    assert collapse_sign(three, "length") == "end_loop"
    with pytest.raises(ConfigError, match="one of end, length, repetition, got 'stop'"):
        collapse_sign(STORY, "stop")  # type: ignore[arg-type]


def test_rate_by_hand() -> None:
    rate = collapse_rate([STORY, "no " * 40, None, STORY], ["end", "length", None, "repetition"])
    assert (rate.num_hits, rate.num_values, rate.num_unscored) == (2, 3, 1)
    assert rate.rate == pytest.approx(2 / 3)
    assert rate.standard_error == pytest.approx((2 / 9 / 2) ** 0.5)
    assert rate.signs == {"guard": 1, "end_loop": 1, "loop": 0, "repetition": 0}
    assert collapse_rate([STORY]).rate == 0
    with pytest.raises(ConfigError, match="one entry per text, got 1 for 2"):
        collapse_rate([STORY, STORY], ["end"])


def test_theatre_captions_do_not_collapse() -> None:
    assert collapse_rate([reference_caption(make_script(seed, level=2)) for seed in range(100)]).num_hits == 0


def test_references_of_vs2_do_not_collapse(benchmark_data: Path) -> None:
    references = [item.reference for item in load_benchmark("vs2").read(benchmark_data / "video_salmonn2_test.json")]
    rate = collapse_rate(references, ["length"] * len(references))  # also under the stricter rule for cut-off texts
    assert (rate.num_hits, rate.num_values) == (0, 483)
    looped = [f"{text} {'The music continues. ' * 12}" for text in references]
    assert collapse_rate(looped).rate == 1


def test_real_collapses_among_the_captions_of_a_model(benchmark_data: Path) -> None:
    """DREAM-1K's file brings a model's captions beside the references; read by eye, these four ran in circles."""
    lines = (benchmark_data / "dream_1k_example.jsonl").read_text(encoding="utf-8").splitlines()
    contents = [json.loads(line)["messages"][1]["content"][0] for line in lines]
    assert collapse_rate([item["reference"] for item in contents]).num_hits == 0
    written = collapse_rate([item["text"] for item in contents])
    assert (written.num_hits, written.num_values) == (4, 1000)
    assert written.signs == {"guard": 0, "end_loop": 4, "loop": 0, "repetition": 0}
