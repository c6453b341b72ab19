"""Instructions: what the styles ask for, which wording a clip gets, and what a benchmark's file says about a clip."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avocet.captioning import (
    STYLES,
    Captioner,
    Instruction,
    InstructionFile,
    StyleRule,
    caption_clips,
    choose_instruction,
    find_clips,
)
from avocet.captioning.instructions import instruction_rule
from avocet.errors import ConfigError
from avocet.records import ClipRef


def clip(path: str, clip_id: str | None = None) -> ClipRef:
    return ClipRef(id=clip_id or path, path=path)


def write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def turns(video: str, text: str) -> dict[str, Any]:
    """An item as in the test file of video-SALMONN 2."""
    return {"video": video, "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "A dog."}]}


def messages(video: str, text: str) -> dict[str, Any]:
    """An item as in DREAM-1K."""
    parts = [
        {"type": "video", "text": None, "video": {"video_file": video}},
        {"type": "text", "text": text, "video": None},
    ]
    return {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text"}]}]}


# Styles


def test_how_many_wordings_each_style_has() -> None:
    assert {style: len(texts) for style, texts in STYLES.items()} == {"full": 8, "visual": 4, "ugc": 3, "dream": 3}
    everything = [text for texts in STYLES.values() for text in texts]
    assert len(set(everything)) == 18
    assert all(text == " ".join(text.split()) for text in everything)


@pytest.mark.parametrize(
    "what",
    [
        r"detail|complete|fully|everything|thorough|For each moment",
        r"quot|word for word|exact words|exactly they say",
        r"who|speaker|person",
        r"music",
        r"sounds?\b|noises",
        r"text|written\s+words",
        r"screen",
        r"moment|at the same time|together in time|timeline|which point|each sound to the picture|accompany",
    ],
)
def test_full_asks_for_picture_and_sound_together(what: str) -> None:
    for text in STYLES["full"]:
        assert re.search(what, text), text


def test_visual_does_not_mention_sound() -> None:
    for text in STYLES["visual"]:
        assert not re.search(r"sound|audio|hear|listen|music|speech|spoken|say|said|voice|nois|loud", text, re.I), text


def test_ugc_asks_for_its_five_points_in_one_paragraph() -> None:
    for text in STYLES["ugc"]:
        assert re.search(r"paragraph", text)
        assert re.search(r"without a list|not as bullet points|not use bullet points", text)
        assert re.search(r"neutral|objective|factual", text)
        for point in (
            r"where|scene|surroundings",
            r"people|persons|who",
            r"act|do\b",
            r"music|audio",
            r"tone|feeling|emotional",
        ):
            assert re.search(point, text), (point, text)
        for point in (r"screen", r"what it is there for|purpose|the part it plays", r"about|theme|message"):
            assert re.search(point, text), (point, text)


def test_dream_asks_for_events_in_order() -> None:
    for text in STYLES["dream"]:
        assert re.search(r"event|happens", text)
        assert re.search(r"action|movement", text)
        assert re.search(r"order|one after the other", text)


def test_the_choice_is_a_hash_of_style_seed_and_clip() -> None:
    digest = hashlib.sha256(b"full\x007\x00clips/a.mp4").digest()
    index = int.from_bytes(digest[:8], "big") % 8
    chosen = choose_instruction("full", 7, "clips/a.mp4")
    assert chosen == Instruction(text=STYLES["full"][index], source=f"full[{index}] (seed 7)")
    # Pinned: a resumed run of a later version must choose the same.
    assert index == 2
    assert StyleRule(style="full", seed=7)(clip("clips/a.mp4")) == chosen


def test_every_wording_is_used_about_equally_often() -> None:
    chosen = Counter(choose_instruction("full", 0, f"clip {number}").text for number in range(800))
    # 100 each on average, with a standard deviation of sqrt(800 * 1/8 * 7/8) = 9.4: 5 of them to either side.
    assert set(chosen) == set(STYLES["full"])
    assert all(53 <= count <= 147 for count in chosen.values())


def test_seeds_choose_independently() -> None:
    same = sum(
        choose_instruction("full", 0, f"clip {number}").text == choose_instruction("full", 1, f"clip {number}").text
        for number in range(800)
    )
    assert 53 <= same <= 147  # one in eight


def test_the_choice_does_not_depend_on_order_and_batch(media_folder: Path, scripted_model: Callable) -> None:
    clips, _ = find_clips([media_folder])
    rule = StyleRule(style="full", seed=3)
    captioner = Captioner(scripted_model(), "toy", "rev1")
    together = {c.clip_id: c.instruction for c in caption_clips(captioner, clips, instruction=rule, batch_size=3)}
    alone = {c.clip_id: c.instruction for c in caption_clips(captioner, clips[::-1], instruction=rule, batch_size=1)}
    assert together == alone == {c.id: choose_instruction("full", 3, c.id).text for c in clips}


def test_an_unknown_style() -> None:
    with pytest.raises(ConfigError, match="unknown style of instruction 'poem'; styles are full, visual, ugc, dream"):
        StyleRule(style="poem")  # type: ignore[arg-type]


def test_what_a_choice_stands_for() -> None:
    anything = clip("a.mp4")
    assert instruction_rule(None, "Describe.")(anything) == Instruction(text="Describe.", source="default")
    assert instruction_rule("What?", "Describe.")(anything) == Instruction(text="What?", source="given")
    mine = Instruction(text="Why?", source="study 2")
    assert instruction_rule(mine, "Describe.")(anything) is mine
    assert instruction_rule(lambda ref: Instruction(text=ref.id), "Describe.")(anything).text == "a.mp4"
    with pytest.raises(ConfigError, match=r"the instruction \(given\) is empty"):
        instruction_rule(" \n", "Describe.")
    with pytest.raises(ConfigError, match=r"'caf\\udce9' is no Unicode text: .* at character 3; write it in UTF-8"):
        instruction_rule(b"caf\xe9".decode(errors="surrogateescape"), "Describe.")


# Files


def test_the_form_of_video_salmonn2(tmp_path: Path) -> None:
    path = write(
        tmp_path / "vs2.json", [turns("video/0.mp4", "<image>\nSay all."), turns("video/1.mp4", "<image>Tell.")]
    )
    rule = InstructionFile.read(path)
    assert rule(clip("/data/video/0.mp4")) == Instruction(text="Say all.", source="file:vs2.json")
    assert rule(clip("elsewhere/1.mp4")).text == "Tell."


def test_our_own_form(tmp_path: Path) -> None:
    lines = [
        {"clip_id": "clips/a.mp4#t=0,5", "instruction": " First five seconds? "},
        {"video": "a.mp4", "instruction": "All?\u2028Really?"},
    ]
    text = "\ufeff" + "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n"
    rule = InstructionFile.read(write(tmp_path / "mine.jsonl", text))
    assert rule(clip("clips/a.mp4", "clips/a.mp4#t=0,5")).text == "First five seconds?"
    assert rule(clip("clips/a.mp4", "clips/a.mp4#t=5,9")).text == "All?\u2028Really?"


def test_captions_can_be_asked_for_again_as_their_records_say(
    media_folder: Path, tmp_path: Path, scripted_model: Callable
) -> None:
    captioner = Captioner(scripted_model(), "toy", "rev1")
    clips, _ = find_clips([media_folder])
    first = list(caption_clips(captioner, clips, instruction=StyleRule(style="dream", seed=5)))
    path = write(tmp_path / "captions.jsonl", "".join(caption.to_json_line() + "\n" for caption in first))
    again = caption_clips(captioner, clips, instruction=InstructionFile.read(path))
    assert [caption.instruction for caption in again] == [caption.instruction for caption in first]


def test_one_question_for_all(tmp_path: Path) -> None:
    path = write(tmp_path / "ugc.json", {"question": "One paragraph, please. ", "valid_count": 2, "samples": []})
    assert InstructionFile.read(path)(clip("x.mp4")).text == "One paragraph, please."
    text = write(tmp_path / "ask.txt", "\nWhat is\nheard?\n")
    assert InstructionFile.read(text)(clip("x.mp4")) == Instruction(text="What is\nheard?", source="file:ask.txt")


def test_the_form_of_dream(tmp_path: Path) -> None:
    lines = [messages("135.mp4", "What happens?"), messages("7.mp4", "And here?")]
    rule = InstructionFile.read(write(tmp_path / "dream.jsonl", "\n".join(map(json.dumps, lines))))
    assert rule(clip("/d/movie/135.mp4")).text == "What happens?"
    assert rule(clip("/d/movie/7.mp4")).text == "And here?"


KEYS = {
    "video/0.mp4": "short",
    "old/video/0.mp4": "long",
    "noon.v2": "no ending",
    "b/one.mov": "one",
    "a/two.mp4": "first two",
    "b/two.mp4": "second two",
    "three.mkv": "three mkv",
    "three.avi": "three avi",
}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/x/video/0.mp4", "short"),  # two components in common with both, but "old" contradicts
        ("/x/old/video/0.mp4", "long"),  # three components
        ("http://host/old/video/0.mp4?token=1/2#t=3", "long"),
        ("C:\\clips\\old\\video\\0.mp4", "long"),
        ("./b//two.mp4", "second two"),
        ("noon.v2.mp4", "no ending"),
        ("one.webm", "one"),
    ],
)
def test_the_longest_common_end_of_the_paths_decides(path: str, text: str) -> None:
    assert InstructionFile(name="f.json", by_key=KEYS)(clip(path)).text == text


@pytest.mark.parametrize(
    ("path", "among"),
    [
        ("c/two.mp4", "'a/two.mp4', 'b/two.mp4'"),
        ("three.mp4", "'three.mkv', 'three.avi'"),
    ],
)
def test_several_that_fit_equally_well(path: str, among: str) -> None:
    with pytest.raises(ConfigError, match=f"f.json has 2 instructions that fit clip '{path}' .*equally well: {among};"):
        InstructionFile(name="f.json", by_key=KEYS)(clip(path))


def test_none_that_fits() -> None:
    rule = InstructionFile(name="f.json", by_key=KEYS)
    message = (
        "no instruction for clip 'four' .d/four.mp4.; its 8 clips are 'video/0.mp4', 'old/video/0.mp4', 'noon.v2', "
    )
    with pytest.raises(ConfigError, match=message):
        rule(clip("d/four.mp4", "four"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[{", "a.json is not JSON"),
        ("a.json", "[" * 100_000, "a.json is not JSON"),
        ("a.json", {"questions": "What?"}, "expected a list of items, or an object with one 'question'"),
        ("a.json", {"question": ["What?"]}, "'question' holds no instruction: expected a text, got .'What.'"),
        ("a.json", [], "the file holds no instructions"),
        ("a.json", ["What?"], "item 1 is no JSON object but str"),
        ("a.json", [{"video": "a.mp4"}], "item 1 has none of 'instruction', 'conversations' and 'messages'"),
        ("a.json", [turns("a.mp4", "Say."), turns("b.mp4", "<image>\n")], "item 2 holds no instruction"),
        ("a.json", [{"video": "a.mp4", "conversations": "Say."}], "item 1 holds no instruction: .* got None"),
        ("a.json", [{"video": 3, "instruction": "Say."}], "item 1 does not name its clip"),
        ("a.json", [{"messages": [{"role": "user", "content": "Say."}]}], "item 1 does not name its clip"),
        ("a.jsonl", '{"video": "a", "instruction": "x"}\n{"video"', "a.jsonl: line 2 is not JSON"),
        ("a.jsonl", '\n{"video": "a", "instruction": 7}\n', "a.jsonl: line 2 holds no instruction"),
        (
            "a.jsonl",
            '{"video": "a", "instruction": "x"}\n{"video": "a", "instruction": "y"}',
            "line 2 gives 'a' another instruction than an item before it",
        ),
        ("a.jsonl", "", "a.jsonl: the file holds no instructions"),
        ("a.txt", " \n", "the file holds no instruction"),
        ("a.csv", "a.mp4,Say.", "from .txt, .json and .jsonl files, not '.csv'"),
    ],
)
def test_malformed_files_give_one_clear_error(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InstructionFile.read(write(tmp_path / name, content))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.json: the instructions cannot be read"):
        InstructionFile.read(tmp_path / "gone.json")
    (tmp_path / "latin.txt").write_bytes(b"Qu'est-ce qu'on voit \xe0 gauche ?")
    with pytest.raises(ConfigError, match=r"latin.txt: the instructions cannot be read: 'utf-8'"):
        InstructionFile.read(tmp_path / "latin.txt")


def test_a_file_has_one_instruction_or_some_with_keys() -> None:
    for arguments in ({}, {"for_all": "What?", "by_key": {"a": "What?"}}):
        with pytest.raises(ConfigError, match="needs either one instruction for all clips or some that have keys"):
            InstructionFile(name="f.json", **arguments)


def test_the_benchmarks_own_files(benchmark_data: Path) -> None:
    salmonn = InstructionFile.read(benchmark_data / "video_salmonn2_test.json")
    assert len(salmonn.by_key) == 483
    assert len(set(salmonn.by_key.values())) == 7
    assert not any("<image>" in text or text != text.strip() for text in salmonn.by_key.values())
    asked = salmonn(clip("/somewhere/video/482.mp4"))
    assert (asked.text, asked.source) == (salmonn.by_key["video/482.mp4"], "file:video_salmonn2_test.json")
    ugc = InstructionFile.read(benchmark_data / "ugc_videocap_final_caption_qa.json")
    assert ugc.for_all is not None
    assert "not a bullet-point list" in ugc(clip("PI-1.mp4")).text
    dream = InstructionFile.read(benchmark_data / "dream_1k_example.jsonl")
    assert len(dream.by_key) == 1000
    assert dream(clip("videos/135.mp4")).text == dream.by_key["135.mp4"]


def test_no_wording_is_taken_from_a_benchmark(benchmark_data: Path) -> None:
    def runs(text: str, length: int = 8) -> set[str]:
        words = re.findall(r"\w+", text.lower())
        return {" ".join(words[start : start + length]) for start in range(len(words) - length + 1)}

    theirs: set[str] = set()
    for name in ("video_salmonn2_test.json", "ugc_videocap_final_caption_qa.json", "dream_1k_example.jsonl"):
        rule = InstructionFile.read(benchmark_data / name)
        for text in {rule.for_all or "", *rule.by_key.values()}:
            theirs |= runs(text)
    assert theirs
    for texts in STYLES.values():
        for text in texts:
            assert not runs(text) & theirs
