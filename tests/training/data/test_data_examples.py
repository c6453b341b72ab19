"""Recognition, the native format, ms-swift, and how tasks are guessed."""

from __future__ import annotations

from typing import Any

import pytest

from avocet.errors import ConfigError
from avocet.records import ClipRef, PreferencePair, TrainingExample
from avocet.training.data import read_examples, recognise
from avocet.training.data.formats_common import guess_task

EXAMPLE = TrainingExample(
    clip=ClipRef(id="a", path="a.mp4", start_seconds=1.0, end_seconds=3.0, meta={"from": "here"}),
    task="local_caption",
    instruction="Describe second 1 to 2.",
    target="A dog barks.",
    events=("a dog barks",),
    checklist=("dog",),
    dialogue=({"speaker": "man", "text": "hi"},),
    start_seconds=1.0,
    end_seconds=2.0,
)
PAIR = PreferencePair(
    clip=ClipRef(id="b", path="b.mp4"),
    instruction="Describe.",
    chosen="good",
    rejected="bad",
    ground_truth="true",
    chosen_metrics={"total": 0.1},
    rejected_metrics={"total": 0.5},
    round=3,
)


def swift(question: Any, answer: str = "A cat.", **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "videos": ["a.mp4"], **fields}


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_native_records_come_back_whole(name, tmp_path, dumper):
    data = read_examples(dumper(tmp_path / name, [EXAMPLE.to_dict(), PAIR.to_dict()]))
    (example,), (pair,) = data.examples, data.pairs
    assert example.to_dict() == EXAMPLE.to_dict() | {"clip": EXAMPLE.clip.to_dict() | {"path": str(tmp_path / "a.mp4")}}
    assert pair.to_dict() == PAIR.to_dict() | {"clip": PAIR.clip.to_dict() | {"path": str(tmp_path / "b.mp4")}}
    assert data.num_items == 2


def test_broken_native_records_name_the_field(tmp_path, dumper):
    good = EXAMPLE.to_dict()
    bad = [good | {"task": "sing"}, good | {"extra": 1}, good | {"target": " "}, good | {"start_seconds": 9.0}]
    bad.append(good | {"clip": good["clip"] | {"meta": {"audio_policy": "loud"}}})
    path = dumper(tmp_path / "x.jsonl", [good, *bad])
    data = read_examples(path)
    assert len(data.examples) == 1
    assert [one.where for one in data.rejected] == [f"{path}:{line}" for line in (2, 3, 4, 5, 6)]
    for one, word in zip(data.rejected, ("task", "extra", "no words", "is empty", "loud"), strict=True):
        assert word in one.reason


def test_task_overrides_what_the_items_say(tmp_path, dumper):
    path = dumper(tmp_path / "x.jsonl", [EXAMPLE.to_dict()])
    assert read_examples(path, task="caption").examples[0].task == "caption"
    with pytest.raises(ConfigError, match="unknown task 'sing'"):
        read_examples(path, task="sing")  # type: ignore[arg-type]


def test_limit_counts_what_can_be_used(tmp_path, dumper):
    items = [{"clip": {}, "target": 1}, EXAMPLE.to_dict(), PAIR.to_dict(), EXAMPLE.to_dict()]
    path = dumper(tmp_path / "x.jsonl", items)
    data = read_examples([path, path], limit=2)
    assert (len(data.examples), len(data.pairs), len(data.rejected)) == (2, 2, 2)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (swift("<video>Describe."), ("Describe.", "A cat.", "caption", "a.mp4")),
        (swift("<video>\nWhat is seen?", videos="v.mp4"), ("What is seen?", "A cat.", "qa", "v.mp4")),
        (swift("<audio>Transcribe.", videos=[], audios=["s.wav"]), ("Transcribe.", "A cat.", "asr", "s.wav")),
        (swift("Rate it.", task="qa"), ("Rate it.", "A cat.", "qa", "a.mp4")),
        (
            swift([{"type": "video", "video": "p.mp4"}, {"type": "text", "text": "Describe."}], videos=None),
            ("Describe.", "A cat.", "caption", "p.mp4"),
        ),
    ],
)
def test_swift_items(item, expected, tmp_path, dumper):
    path = dumper(tmp_path / "x.jsonl", [item])
    assert recognise(path) == "ms_swift"
    (example,) = read_examples(path).examples
    assert (example.instruction, example.target, example.task, example.clip.path) == (
        *expected[:3],
        str(tmp_path / expected[3]),
    )


def test_swift_pairs_have_no_ground_truth(tmp_path, dumper):
    item = swift("<video>Describe.", rejected_response="A dog.", source="x")
    item["messages"].insert(0, {"role": "system", "content": "Be brief."})
    data = read_examples(dumper(tmp_path / "x.jsonl", [item]))
    (pair,) = data.pairs
    assert (pair.instruction, pair.chosen, pair.rejected, pair.ground_truth) == ("Describe.", "A cat.", "A dog.", "")
    assert pair.clip.meta == {"system": "Be brief.", "fields": {"source": "x"}}
    assert sorted(data.notes.values()) == [1, 1]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (swift("<video>Is it?", label=False), "has 'label'"),
        (swift("<video>Find.", objects={"bbox": [[1, 2, 3, 4]]}), "has 'objects'"),
        (swift("<video>Describe.", rejected_response=3), "'rejected_response' must be a text"),
        (swift("<video>Describe.", rejected_response="A cat."), "the same text"),
        (swift("<video>Describe.", videos=["a.mp4", "b.mp4"]), "2 files in 'video'"),
        (swift("<video>Describe.", videos=[["f1.jpg", "f2.jpg"]]), "'video' must be a path"),
        (swift("Hello.", videos=None), "names no video"),
        (swift(None), "the content of a message"),
        (swift([{"type": "smell", "text": "x"}]), "a part of a message"),
        ({"messages": [{"role": "user", "content": "Describe."}], "videos": ["a.mp4"]}, "must alternate"),
        ({"messages": [{"role": "tool", "content": "x"}], "videos": ["a.mp4"]}, "got the roles tool"),
        ({"messages": ["x"], "videos": ["a.mp4"]}, "a message must be an object"),
        ({"messages": [], "videos": ["a.mp4"]}, "at least one message"),
    ],
)
def test_swift_defects(item, reason, tmp_path, dumper):
    data = read_examples(dumper(tmp_path / "x.jsonl", [item]))
    assert not data.examples + data.pairs
    assert reason in data.rejected[0].reason


def test_swift_history_is_not_learnt(tmp_path, dumper):
    item = swift("<video>Who?")
    item["messages"] = [*item["messages"], *swift("And then?")["messages"]]
    item["messages"][1]["loss"] = False
    assert "history" in read_examples(dumper(tmp_path / "x.jsonl", [item])).rejected[0].reason


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", '[{"a": 1}]', "tried: native .* ms_swift .* v1, plus and llava .* webdataset .*fields 'a'"),
        ("x.jsonl", "hello", "not JSON"),
        ("x.json", "", "the file is empty"),
        ("x.csv", "a,b\n1,2\n", "a table without the columns of audiocaps"),
    ],
)
def test_what_is_not_recognised(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        recognise(path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_examples(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="no such file"):
        read_examples(tmp_path / "none.json", format="v1")
    with pytest.raises(ConfigError, match="no data set is recognised"):
        recognise(tmp_path)
    with pytest.raises(ConfigError, match="unknown format 'v3'"):
        read_examples(tmp_path, format="v3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="format v1 is a file"):
        read_examples(tmp_path, format="v1")
    with pytest.raises(ConfigError, match="limit must be"):
        read_examples(tmp_path, limit=0)


@pytest.mark.parametrize(
    ("question", "kind", "task"),
    [
        ("Describe the video in detail.", "video", "caption"),
        ("Please provide a caption.", "audio", "audio_caption"),
        ("Describe what happens from 10 to 20 seconds.", "video", "local_caption"),
        ("Describe the video between 0:10 and 0:20.", "video", "local_caption"),
        ("Describe the sound from 1 to 2 seconds.", "audio", "audio_caption"),
        ("Transcribe the speech.", "audio", "asr"),
        ("Write down what is said.", "video", "asr"),
        ("Perform speech recognition.", "audio", "asr"),
        ("What colour is the car?", "video", "qa"),
        ("狗在哪里？", "video", "qa"),
        ("Which best describes it?\nA. a dog\nB. a cat", "video", "qa"),
        ("Pick one. (A) dog (B) cat", "video", "qa"),
        ("Can you describe the video?", "video", "caption"),
        ("Go.", "video", "caption"),
        ("Go.", "audio", "audio_caption"),
        ("Describe it.", "image", "caption"),
    ],
)
def test_tasks_are_guessed_by_rules(question, kind, task):
    assert guess_task(question, kind) == task
