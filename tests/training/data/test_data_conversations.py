"""v1, plus and LLaVA: the two meanings of `gpt`, sound, intervals, several questions, and every defect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shared_files import require

from avocet.errors import ConfigError, RecordError
from avocet.records import ClipRef
from avocet.training.data import audio_policy, read_examples, recognise


def talk(*turns: str, **fields: Any) -> dict[str, Any]:
    """Turns as "role: text"."""
    split = [turn.split(": ", 1) for turn in turns]
    return {"video": "a.mp4", **fields, "conversations": [{"from": role, "value": text} for role, text in split]}


V1_PAIR = talk("human: <image>\nDescribe it.", "gpt: good", "reject_gpt: bad", "gt: true", audio="a.wav")
PLUS_PAIR = talk("human: <video>\nDescribe it.", "gpt: true", "chosen: good", "reject: bad", use_audio=True)


@pytest.mark.parametrize(("item", "name"), [(V1_PAIR, "v1"), (PLUS_PAIR, "plus")])
def test_the_role_gpt_means_two_things(item, name, tmp_path, dumper):
    """v1: gpt is the chosen answer. plus: gpt is the ground truth."""
    path = dumper(tmp_path / "dpo.json", [item])
    data = read_examples(path)
    assert data.formats == {str(path): name}
    assert not data.examples
    assert not data.rejected
    (pair,) = data.pairs
    assert (pair.chosen, pair.rejected, pair.ground_truth) == ("good", "bad", "true")
    assert pair.instruction == "Describe it."
    assert (pair.chosen_metrics, pair.rejected_metrics, pair.round) == ({}, {}, 1)
    assert pair.clip.path == str(tmp_path / "a.mp4")
    assert audio_policy(pair.clip) == "require"


def test_a_file_with_the_roles_of_both_is_refused(tmp_path, dumper):
    path = dumper(tmp_path / "dpo.jsonl", [V1_PAIR, PLUS_PAIR])
    with pytest.raises(RecordError, match=r"roles of v1 \(gt, reject_gpt\) and of plus \(chosen, reject\)"):
        read_examples(path)
    data = read_examples(path, format="v1")
    assert [pair.chosen for pair in data.pairs] == ["good"]
    assert [one.where for one in data.rejected] == [f"{path}:2"]
    assert "unknown role 'chosen'" in data.rejected[0].reason


def test_one_preference_item_decides_for_the_whole_file(tmp_path, dumper):
    plain = talk("human: <video>\nWhat?", "gpt: This.", use_audio=True)
    assert recognise(dumper(tmp_path / "a.json", [plain, PLUS_PAIR])) == "plus"
    # The placeholders of plus do not outweigh the roles of v1.
    assert recognise(dumper(tmp_path / "b.json", [plain, V1_PAIR])) == "v1"


def test_one_odd_item_does_not_take_the_sound_of_the_others(tmp_path, dumper):
    """`timestamps` is a sign of v1, where sound is a field of its own; `use_audio` still says what it says."""
    items = [
        talk("human: <video>\nWhat?", "gpt: This.", use_audio=True),
        talk("human: <video>\nWhat?", "gpt: That.", timestamps=[1, 2]),
        talk("human: <video>\nWhat?", "gpt: These.", use_audio=False, audio="a.wav"),
    ]
    path = dumper(tmp_path / "mixed.json", items)
    data = read_examples(path)
    assert data.formats == {str(path): "v1"}
    assert [audio_policy(one.clip) for one in data.examples] == ["require", "ignore", "ignore"]


@pytest.mark.parametrize(
    ("item", "name"),
    [
        (talk("human: Describe.", "gpt: x", audio="a.wav"), "v1"),
        (talk("human: Describe.", "gpt: x", timestamps=[0, 1]), "v1"),
        (talk("human: Describe.", "gpt: x", use_audio=True), "plus"),
        (talk("human: <video>\nDescribe.", "gpt: x"), "plus"),
        (talk("human: <image>\nDescribe.", "gpt: x", id="7"), "llava"),
    ],
)
def test_plain_files_differ_in_what_they_say_of_the_sound_only(item, name, tmp_path, dumper):
    path = dumper(tmp_path / "sft.json", [item])
    assert recognise(path) == name
    read = [read_examples(path, format=known) for known in ("v1", "plus", "llava")]
    assert {(one.examples[0].instruction, one.examples[0].target) for one in read} == {("Describe.", "x")}


@pytest.mark.parametrize(
    ("fields", "format", "policy"),
    [
        ({"audio": "a.wav"}, "v1", "require"),
        ({}, "v1", "ignore"),
        ({"use_audio": True}, "plus", "require"),
        ({"use_audio": False}, "plus", "ignore"),
        ({}, "plus", "ignore"),
        ({}, "llava", "auto"),
    ],
)
def test_whether_the_sound_is_used(fields, format, policy, tmp_path, dumper):
    data = read_examples(dumper(tmp_path / "x.json", [talk("human: Describe.", "gpt: x", **fields)]), format=format)
    assert audio_policy(data.examples[0].clip) == policy
    assert any("no sound" in note for note in data.notes) == (policy == "ignore")
    assert ("audio_path" in data.examples[0].clip.meta) == ("audio" in fields)


def test_a_wrong_policy_in_the_meta_is_an_error():
    with pytest.raises(RecordError, match="auto, require, ignore"):
        audio_policy(ClipRef(id="a", path="a", meta={"audio_policy": "loud"}))


def test_timestamps_cut_the_clip(tmp_path, dumper):
    item = talk("human: Describe.", "gpt: x", timestamps=[2, 4.5], audio="a.wav")
    (example,) = read_examples(dumper(tmp_path / "x.json", [item])).examples
    assert (example.clip.start_seconds, example.clip.end_seconds) == (2.0, 4.5)
    assert example.clip.id == "a.mp4#t=2,4.5"
    assert example.task == "caption"


def test_several_questions_become_several_examples(tmp_path, dumper):
    item = talk("human: <video>\nWho sings?", "gpt: A man.", "human: Where?", "gpt: Outside.", use_audio=True)
    data = read_examples(dumper(tmp_path / "x.json", [item]))
    assert [(one.instruction, one.target, one.task) for one in data.examples] == [
        ("Who sings?", "A man.", "qa"),
        ("Where?", "Outside.", "qa"),
    ]
    assert len({one.clip.id for one in data.examples}) == 1
    assert data.notes == {"several questions: each became an example of its own, without the turns before it": 1}


def test_ce_only_items_are_examples(tmp_path, dumper):
    data = read_examples(dumper(tmp_path / "x.json", [V1_PAIR, V1_PAIR | {"ce_only": True}]))
    assert len(data.pairs) == 1
    assert [one.target for one in data.examples] == ["good"]
    assert any("ce_only" in note for note in data.notes)


def test_items_without_preferences_in_a_preference_file_are_examples(tmp_path, dumper):
    plain = talk("human: <video>\nHow many dogs?", "gpt: Two.", use_audio=True)
    data = read_examples(dumper(tmp_path / "x.jsonl", [PLUS_PAIR, plain]))
    assert (len(data.pairs), [one.target for one in data.examples]) == (1, ["Two."])


def test_sound_and_pictures_are_clips_too(tmp_path, dumper):
    sound = {"audio": "s.wav", "conversations": talk("human: <audio>\nTranscribe.", "gpt: HI")["conversations"]}
    image = {"image": "p.png", "conversations": talk("human: <image>\nDescribe.", "gpt: A cat.")["conversations"]}
    first, second = read_examples(dumper(tmp_path / "x.json", [sound, image])).examples
    assert (first.task, first.clip.meta) == ("asr", {"media": "audio"})
    assert (second.task, second.clip.meta) == ("caption", {"media": "image"})


def test_what_is_kept_in_the_meta(tmp_path, dumper):
    item = talk("system: Be kind.", "human: Describe.", "gpt: x", id=12, source="youtube", events=["a", "b"])
    data = read_examples(dumper(tmp_path / "x.json", [item]))
    assert data.examples[0].clip.id == "12"
    assert data.examples[0].events == ("a", "b")
    assert data.examples[0].clip.meta == {"system": "Be kind.", "fields": {"source": "youtube"}}


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (talk("human: Describe."), "must alternate, got the roles human"),
        (talk("gpt: x", "human: Describe."), "must alternate, got the roles gpt, human"),
        (talk("human: a", "human: b", "gpt: c", "gpt: d"), "must alternate"),
        (talk("human: <video>\n", "gpt: x"), "the question has no words"),
        (talk("human: Describe.", "gpt:  \n"), "the answer has no words"),
        (talk("human: <video><video> Compare.", "gpt: x"), "2 placeholders <video>"),
        (talk("human: Describe.", "bot: x"), "unknown role 'bot'"),
        (talk("human: Describe.", "gpt: x", should_use=False), "should_use is false"),
        (talk("human: Describe.", "gpt: x", use_audio="yes"), "'use_audio' must be true or false, got 'yes'"),
        (talk("human: Describe.", "gpt: x", timestamps=[4, 2]), "with 0 <= start < end, got [4, 2]"),
        (talk("human: Describe.", "gpt: x", timestamps=[-1, 2]), "0 <= start < end"),
        (talk("human: Describe.", "gpt: x", timestamps=[0, float("nan")]), "0 <= start < end"),
        (talk("human: Describe.", "gpt: x", timestamps="0-2"), "'timestamps' must be [start, end]"),
        (talk("human: Describe.", "gpt: x", video=["a.mp4", "b.mp4"]), "2 files in 'video'"),
        (talk("human: Describe.", "gpt: x", video=7), "'video' must be a path, got 7"),
        (talk("human: Describe.", "gpt: x", video="a\0.mp4"), "NUL"),
        (talk("human: Describe.", "gpt: x", video=None), "names no video, audio or image"),
        (talk("human: Describe.", "gpt: x", image="p.png"), "an image together with video"),
        (talk("human: Describe.", "gpt: x", id={"a": 1}), "'id' must be a text"),
        (talk("human: Describe.", "gpt: x", task="sing"), "unknown task 'sing'"),
        (talk("human: Describe.", "gpt: x", events=["a", 1]), "'events' must be a list of texts"),
        ({"video": "a.mp4", "conversations": []}, "at least one turn"),
        ({"video": "a.mp4", "conversations": ["hello"]}, "a turn must be an object"),
        ({"video": "a.mp4", "conversations": [{"from": "human", "value": 3}]}, "a turn must be an object"),
        (talk("human: a?", "history_gpt: b", "human: c?", "gpt: d"), "answers marked as history"),
        (talk("human: a?", "gpt: b", "gt: c"), "a preference item without the role 'reject_gpt'"),
        (talk("gpt: b", "human: a?", "reject_gpt: x", "gt: c"), "the question must come first"),
        (talk("human: a?", "gpt: b", "human: c?", "reject_gpt: d", "gt: e"), "each answer once"),
        (talk("human: a?", "gpt: same", "reject_gpt: same", "gt: e"), "chosen and rejected are the same text"),
    ],
)
def test_every_defect_is_rejected_with_its_place_and_reason(item, reason, tmp_path, dumper):
    good = talk("human: Describe.", "gpt: x", audio="a.wav")
    path = dumper(tmp_path / "x.json", [good, item])
    data = read_examples(path, format="v1")
    assert len(data.examples) == 1
    (one,) = data.rejected
    assert one.where.startswith(f"{path}: item 2 (line ")
    assert reason in one.reason


def test_a_v1_pair_without_ground_truth_has_an_empty_one(tmp_path, dumper):
    item = talk("human: Describe.", "gpt: good", "reject_gpt: bad")
    data = read_examples(dumper(tmp_path / "x.json", [item]))
    assert data.pairs[0].ground_truth == ""
    assert any("without a ground truth" in note for note in data.notes)


def test_where_relative_paths_begin(tmp_path, dumper):
    (tmp_path / "media").mkdir()
    turns = ("human: Describe.", "gpt: x")
    items = [talk(*turns), talk(*turns, video="/abs/b.mp4"), talk(*turns, video="https://host/c.mp4")]
    path = dumper(tmp_path / "sets" / "x.jsonl", items)
    beside = [one.clip.path for one in read_examples(path).examples]
    assert beside == [str(tmp_path / "sets" / "a.mp4"), "/abs/b.mp4", "https://host/c.mp4"]
    below = [one.clip.path for one in read_examples(path, media_root=tmp_path / "media").examples]
    assert below == [str(tmp_path / "media" / "a.mp4"), "/abs/b.mp4", "https://host/c.mp4"]
    with pytest.raises(ConfigError, match="is no folder"):
        read_examples(path, media_root=tmp_path / "none")


def test_the_released_test_set_is_read_whole(benchmark_data: Path):
    path = benchmark_data / "video_salmonn2_test.json"
    require(path.is_file(), path)
    data = read_examples(path)
    assert (len(data.examples), data.rejected) == (483, ())
    assert all(one.events and one.task == "caption" for one in data.examples)
