"""Unnatural captions: the kinds that the paper shows, what looks like them and is fine, real references, and speed."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from avocet.errors import ConfigError
from avocet.evaluation.benchmarks import load_benchmark
from avocet.metrics import is_unnatural, unnatural_patterns, unnatural_rate
from avocet.theatre import make_script
from avocet.theatre.language import reference_caption

STORY = (
    "A woman in a red coat crosses a wet street while a siren wails far away. She stops at a stall and says, "
    '"Two of these, please." The seller, a bearded man, laughs and wraps two oranges in paper.'
)

UNNATURAL = [
    # Headings that recur inside the caption, as after too many rounds of preference training.
    ("recurring_heading", f"Video Description: {STORY}\n\nVideo Description: The woman walks on.", "Video Description"),
    ("recurring_heading", f"**Audio:** {STORY}\n**Audio:** Steps on stone.", "Audio"),
    ("recurring_heading", "Video: A cat. Audio: It mews. Video: A dog. Audio: It barks.", "Video"),
    ("recurring_heading", "## Opening\nA cat.\n## The end\nA dog.\n## Opening\nA cat again.", "Opening"),
    ("recurring_heading", "[00:00-00:04] Audio:\nSteps.\n[00:04-00:07] Audio:\nA door.", "Audio"),
    ("recurring_heading", " ".join(f"Audio: The man counts to {n}." for n in range(6)), "Audio"),
    ("recurring_heading", "视频描述：一个女人过马路。\n音频：警笛声。\n视频描述：她停下来。", "视频描述"),
    # Header lines that repeat.
    (
        "repeated_header",
        f"The Street Scene Unfolds\n{STORY}\nThe Street Scene Unfolds\n\nThe Street Scene Unfolds",
        None,
    ),
    ("repeated_header", "Detailed look at it\nDetailed look at it\nA cat.", "Detailed look at it"),
    # Other scripts in the running text.
    ("stray_script", f"{STORY} 然后她微笑着离开。 The seller waves.", "然后她微笑着离开"),
    ("stray_script", "The camera zooms进 on a cup.", "进"),
    ("stray_script", "She opens the дверь and leaves.", "дверь"),
    (
        "stray_script",
        "一个女人在街上走。 The camera then slowly moves to the left side. 她停下来买橙子，卖家笑了，给她两个。",
        None,
    ),
    ("stray_script", "De vrouw loopt over straat. นก zingt. De man lacht.", "นก"),
    # Times that nobody measured.
    ("fake_time_range", "\n".join(f"00:{5 * n:02d}-00:{5 * n + 5:02d} The man speaks." for n in range(5)), None),
    ("fake_time_range", "0s - 3s a cat; 3s - 6s a dog; 6s - 9s a cow; 9s - 12s a pig.", None),
    ("fake_time_range", "\n".join("00:00-00:05 Video Description" for _ in range(3)), "00:00-00:05"),
    ("fake_time_range", "[00:20-00:12] The man turns around.", "00:20-00:12"),
    (
        "fake_time_range",
        "[00:00-00:07] A.\n[00:07-00:19] B.\n[00:03-00:08] C.\n[00:21-00:22] D.\n[00:09-00:12] E.",
        "00:03-00:08",
    ),
    # Markup, code, special tokens.
    ("markup_residue", f"{STORY}<|im_end|>", "<|im_end|>"),
    ("markup_residue", f"```\n{STORY}", "```"),
    ("markup_residue", '{"caption": "A cat sleeps', '{"caption":'),
    ("markup_residue", 'A cat sleeps.", "sound": "purring"}', '"}'),
    ("markup_residue", "A cat sleeps.<br>A dog barks.", "<br>"),
    ("markup_residue", "A cat sleeps.\\n\\nA dog barks.", None),
    ("markup_residue", "**A cat sleeps on a red sofa.\nA dog barks.", None),
    ("markup_residue", "A cat \ufffd sleeps.", "\ufffd"),
    ("markup_residue", "| time | what |\n|---|---|\n| 0 | cat |", None),
    # The prompt, or the assistant, instead of the caption.
    ("prompt_leakage", f"Sure! Here is a caption. {STORY}", None),
    ("prompt_leakage", f"Here is a detailed description of the video: {STORY}", None),
    ("prompt_leakage", "I cannot watch the video, but it seems to be about a cat.", "I cannot watch the video"),
    ("prompt_leakage", "As an AI language model, I see a cat.", "As an AI"),
    ("prompt_leakage", f"{STORY}\nuser: And then?", "user:"),
    ("prompt_leakage", "Based on the provided frames, a cat sleeps.", "Based on the provided frames"),
    ("prompt_leakage", f"{STORY} Please provide a thorough description of all of it.", None),
]


@pytest.mark.parametrize(("kind", "text", "excerpt"), UNNATURAL, ids=range(len(UNNATURAL)))
def test_unnatural(kind: str, text: str, excerpt: str | None) -> None:
    found = unnatural_patterns(text)
    assert {item.kind for item in found} >= {kind}
    assert is_unnatural(text)
    for item in found:
        assert text[item.start : item.end].startswith(item.excerpt)
        assert len(item.excerpt) <= 80
    if excerpt is not None:
        assert excerpt in [item.excerpt for item in found if item.kind == kind]


NATURAL = [
    "",
    STORY,
    # One title, one introduced sentence, the same label a few times: people write so.
    f"Video Description:\n{STORY}",
    f"{STORY} Audio: steps on stone.",
    f'{STORY}\n\nAudio: A man says: "One."\n\nHe turns.\n\nAudio: The man continues: "Two."\n\nHe leaves.',
    # Speech and writing on the screen in any script, and glosses.
    "A sign reads '欢迎光临' and a voice says \"Да, конечно\" twice.",
    "She wears a kaiken (懐剣). It is a technique called 鯉口を切る (koikuchi).",
    "The text 福 appears in gold above the door.",
    'A subtitle runs: "你好，大家好。\nThe sentence goes on 在这里 and ends."',
    "The title «Война и мир» fades in, then „Пётр“ bows.",
    "It weighs 5 μg, costs 5 € and measures 55 m², as the naïve café owner Łukasz shows at 20 °C.",
    "一个男人打开 NVIDIA 的盒子，用 Wi-Fi 连接 Eee Pad Slider，"
    "然后说：“Hello everyone, welcome back to my channel, let us begin.”",
    "東京タワーの前で、女性がカメラに向かって手を振る。",
    # Times of clocks, shops and games; honest times of different lengths; one overlap.
    "The clock jumps from 10:35 to 10:40, the shop is open from 10:00 to 2:00.",
    "Open 10:00-2:00 pm. A banner says '12:00-11:00'.",
    "[00:00-00:04] A door opens.\n[00:04-00:11] A man speaks.\n[00:11-00:13] Music.",
    "For 3-4 seconds the screen is black; then, for 3-4 seconds, it is white.",
    "[0:00-0:10] Visual part.\n[0:10-0:30] More.\n[0:00-0:30] Rain all along.",
    # Things that a screen shows and a voice says.
    "The screen shows '<div>' and \"&nbsp;\" beside the path 'C:\\new'.",
    'The robot says, "As an AI language model I cannot watch the video."',
    "A viewer comments 'f**k' and then **** again, 5 > 3, a < b, ROG > AppData.",
    "He gives instructions, and the user interface of the app is shown. Of course, he smiles.",
    # A list of dialogue.
    '- Voice 1: "Okay."\n- Voice 2: "Okay."\n- Voice 1: "Okay."\n- Voice 2: "Okay."',
    "La la la,\nla la la,\nla la la!",
]


@pytest.mark.parametrize("text", NATURAL, ids=range(len(NATURAL)))
def test_natural(text: str) -> None:
    assert unnatural_patterns(text) == ()


def test_the_duration_tells_impossible_times() -> None:
    text = "[00:00-00:07] A cat.\n[00:07-00:31] A dog."
    assert not is_unnatural(text)
    assert not is_unnatural(text, duration_seconds=30.0)  # labels are whole seconds
    (pattern,) = unnatural_patterns(text, duration_seconds=29.9)
    assert (pattern.kind, pattern.excerpt) == ("fake_time_range", "00:07-00:31")
    assert not is_unnatural("The timer counts from 0:05 to 4:27.", duration_seconds=10)
    with pytest.raises(ConfigError, match="duration_seconds must be > 0 or None, got 0"):
        is_unnatural(text, duration_seconds=0)


def test_the_instruction_tells_copies() -> None:
    instruction = "Tell me what happens in the clip, and mention every single sound that can be heard."
    copied = f"{STORY} what happens in the clip, and mention every single sound!"  # ten words and one more
    assert not is_unnatural(copied)
    (pattern,) = unnatural_patterns(copied, instruction=instruction)
    assert pattern.kind == "prompt_leakage"
    assert copied[pattern.start : pattern.end] == "what happens in the clip, and mention every single sound"
    assert not is_unnatural(f"{STORY} It is clear what happens in the clip.", instruction=instruction)
    assert is_unnatural("Caption this video for me. A cat.", instruction="Caption this video for me")
    assert not is_unnatural("What happens? A cat sleeps.", instruction="What happens?")  # too short to be a copy


def test_patterns_stand_in_the_order_of_the_text_and_are_bounded() -> None:
    found = unnatural_patterns("<|a|> 进 " + "x <|b|> " * 100)
    assert [item.kind for item in found][:2] == ["markup_residue", "stray_script"]
    assert [item.start for item in found] == sorted(item.start for item in found)
    assert sum(item.kind == "markup_residue" for item in found) == 20


def test_rate_by_hand() -> None:
    rate = unnatural_rate([STORY, None, "The дверь opens.<br>", STORY, STORY, "A <br> B"])
    assert (rate.num_hits, rate.num_values, rate.num_unscored, rate.rate) == (2, 5, 1, 0.4)
    assert rate.standard_error == pytest.approx(math.sqrt(0.4 * 0.6 / 4))
    # Wilson: (0.4 + z²/10 ± z sqrt(0.24/5 + z²/100)) / (1 + z²/5) with z = 1.96.
    assert (rate.low, rate.high) == pytest.approx((0.1176, 0.7693), abs=1e-4)
    assert rate.kinds == {
        "recurring_heading": 0,
        "repeated_header": 0,
        "stray_script": 1,
        "fake_time_range": 0,
        "markup_residue": 2,
        "prompt_leakage": 0,
    }
    assert math.isnan(unnatural_rate([]).rate)
    late = unnatural_rate(["[0:10-0:20] A cat."] * 2, durations_seconds=[None, 15.0], instructions=[None, None])
    assert late.num_hits == 1
    with pytest.raises(ConfigError, match="one entry per text"):
        unnatural_rate([STORY], durations_seconds=[])


def test_theatre_captions_are_natural() -> None:
    assert unnatural_rate([reference_caption(make_script(seed, level=2)) for seed in range(100)]).num_hits == 0


def test_false_positives_on_the_references_of_vs2(benchmark_data: Path) -> None:
    items = load_benchmark("vs2").read(benchmark_data / "video_salmonn2_test.json")
    references = [item.reference for item in items]
    assert len(references) == 483
    flagged = {index: unnatural_patterns(text) for index, text in enumerate(references) if text and is_unnatural(text)}
    # Two hold a sentence of Chinese that nobody speaks or reads; one has five paragraphs "[Audio Description: ...".
    assert {items[index].id: [item.kind for item in found] for index, found in flagged.items()} == {
        items[30].id: ["stray_script"],
        items[439].id: ["stray_script"],
        items[453].id: ["recurring_heading"],
    }
    assert unnatural_rate(references).rate <= 0.01


def test_false_positives_on_texts_that_the_rules_were_not_made_on(benchmark_data: Path) -> None:
    ugc = json.loads((benchmark_data / "ugc_videocap_final_caption_qa.json").read_text(encoding="utf-8"))["samples"]
    (flagged,) = [pattern for sample in ugc for pattern in unnatural_patterns(sample["answer"])]
    assert flagged.excerpt == "<|withitn|>"  # it is there
    lines = (benchmark_data / "dream_1k_example.jsonl").read_text(encoding="utf-8").splitlines()
    contents = [json.loads(line)["messages"][1]["content"][0] for line in lines]
    assert unnatural_rate([item["reference"] for item in contents]).num_hits == 0
    assert unnatural_rate([item["text"] for item in contents]).num_hits == 0  # written by a captioner


def seconds_for(text: str) -> float:
    start = time.process_time()
    unnatural_patterns(text, duration_seconds=30, instruction="Describe the clip with all that can be seen and heard")
    return time.process_time() - start


def test_a_megabyte_of_prose_takes_less_than_a_second() -> None:
    assert seconds_for((STORY + "\n") * (1_000_000 // len(STORY))) < 1


HOSTILE = (
    *(
        "a",
        " ",
        '"',
        "'",
        "`",
        "“",
        "“”",
        "(",
        "[",
        "\n",
        "<",
        "#",
        "*",
        "0",
        "\\",
        "中",
        "a中",
        "a 中 ",
        "'中' ",
        "a中(b) ",
    ),
    *("0:", "0-", "0:00-0:05 ", "0:05-0:00. ", "**a\n", "Audio: ", "Audio\n", "a, ", "&#1", "<b ", '{"', "|-", "- "),
    *("please provide a ", "detailed ", "中中中中中中中 word word word ", "based on the ", "[00:00-", "__a", ")", "”"),
)


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_texts_take_linear_time(piece: str) -> None:
    # What is quadratic takes minutes for 250,000 characters.
    assert seconds_for(piece * (250_000 // len(piece))) < 1
