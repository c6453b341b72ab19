"""Writers: round trips as far as a format's fields reach, and lists of what is lost or skipped."""

from __future__ import annotations

import dataclasses
import json
import wave

import pytest

from avocet.errors import ConfigError
from avocet.records import ClipRef, PreferencePair, TrainingExample
from avocet.training.data import ExampleSet, convert_examples, read_examples


def example(clip: ClipRef | None = None, **changes) -> TrainingExample:
    base = TrainingExample(
        clip=clip or ClipRef(id="a", path="/m/a.mp4"), task="caption", instruction="Describe.", target="A dog."
    )
    return dataclasses.replace(base, **changes)


def pair(**changes) -> PreferencePair:
    base = PreferencePair(
        clip=ClipRef(id="b", path="/m/b.mp4", meta={"audio_policy": "require"}),
        instruction="Describe it.",
        chosen="good",
        rejected="bad",
        ground_truth="true",
        chosen_metrics={},
        rejected_metrics={},
        round=1,
    )
    return dataclasses.replace(base, **changes)


PLAIN = ExampleSet(
    examples=(
        example(ClipRef(id="a", path="/m/a.mp4", meta={"audio_policy": "require", "audio_path": "/m/a.wav"})),
        example(ClipRef(id="s", path="/m/s.wav", meta={"media": "audio"}), task="asr", target="HI"),
        example(ClipRef(id="p", path="/m/p.png", meta={"media": "image"}), task="qa", instruction="Describe it"),
        example(ClipRef(id="q", path="/m/q.mp4", meta={"audio_policy": "ignore"}), task="local_caption"),
    ),
    pairs=(pair(clip=ClipRef(id="b", path="/m/b.mp4", meta={"audio_policy": "require", "audio_path": "/m/b.wav"})),),
)
"""What v1 can hold: sound comes from separate files."""


def without_sound_files(data: ExampleSet) -> ExampleSet:
    def strip(clip: ClipRef) -> ClipRef:
        return dataclasses.replace(clip, meta={key: value for key, value in clip.meta.items() if key != "audio_path"})

    return ExampleSet(
        examples=tuple(dataclasses.replace(one, clip=strip(one.clip)) for one in data.examples),
        pairs=tuple(dataclasses.replace(one, clip=strip(one.clip)) for one in data.pairs),
    )


@pytest.mark.parametrize(
    ("name", "format", "data"),
    [
        ("x.jsonl", "native", PLAIN),
        ("x.json", "v1", PLAIN),
        ("x.json", "plus", without_sound_files(PLAIN)),
    ],
)
def test_round_trips_that_lose_nothing(name, format, data, tmp_path):
    report = convert_examples(data, format, tmp_path / name)
    assert (report.num_examples, report.num_pairs, report.lost, report.skipped) == (4, 1, {}, ())
    back = read_examples(tmp_path / name)
    assert back.formats == {str(tmp_path / name): format}
    assert (back.examples, back.pairs, back.rejected) == (data.examples, data.pairs, ())


def test_the_role_gpt_is_written_with_the_meaning_of_each_format(tmp_path):
    data = ExampleSet(pairs=(pair(),))
    turns = {}
    for format in ("v1", "plus"):
        convert_examples(data, format, tmp_path / format)
        (item,) = json.loads((tmp_path / format).read_text())
        turns[format] = [(turn["from"], turn["value"]) for turn in item["conversations"]]
    assert turns["v1"] == [("human", "<image>\nDescribe it."), ("gpt", "good"), ("reject_gpt", "bad"), ("gt", "true")]
    assert turns["plus"] == [("human", "<video>\nDescribe it."), ("gpt", "true"), ("chosen", "good"), ("reject", "bad")]


def test_swift_and_llava(tmp_path):
    data = without_sound_files(PLAIN)
    report = convert_examples(data, "ms_swift", tmp_path / "x.jsonl")
    assert report.lost == {"whether the sound is used": 2}
    assert report.kept == {"whether the sound is used": 1, "ground truth": 1}
    first = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
    assert first == {
        "id": "a",
        "messages": [{"role": "user", "content": "<video>Describe."}, {"role": "assistant", "content": "A dog."}],
        "videos": ["/m/a.mp4"],
        "task": "caption",
    }
    back = read_examples(tmp_path / "x.jsonl")
    assert [(one.clip.id, one.clip.path, one.task, one.instruction, one.target) for one in back.examples] == [
        (one.clip.id, one.clip.path, one.task, one.instruction, one.target) for one in data.examples
    ]
    assert (back.pairs[0].chosen, back.pairs[0].rejected, back.pairs[0].ground_truth) == ("good", "bad", "true")
    report = convert_examples(data, "llava", tmp_path / "l.json")
    assert [one.reason for one in report.skipped] == ["llava has no preference pairs"]
    assert read_examples(tmp_path / "l.json", format="llava").examples == data.examples


def test_what_is_lost_is_listed(tmp_path):
    rich = example(
        ClipRef(id="a", path="/m/a.mp4", meta={"fields": {"x": 1}}),
        events=("e",),
        checklist=("c",),
        dialogue=({"speaker": "s", "text": "t"},),
        start_seconds=1.0,
        end_seconds=2.0,
    )
    data = ExampleSet(examples=(rich,), pairs=(pair(round=2, chosen_metrics={"total": 0.1}),))
    report = convert_examples(data, "plus", tmp_path / "p.json")
    assert report.lost == {
        "events": 1,
        "checklist": 1,
        "dialogue": 1,
        "interval of the local caption": 1,
        "meta of the clip": 1,
        "sound where there is some: plus knows only with and without, 'with' is written": 1,
    }
    assert report.kept == {"metrics": 1, "round": 1}
    assert convert_examples(data, "native", tmp_path / "n.jsonl").lost == {}
    assert read_examples(tmp_path / "n.jsonl").examples == (rich,)


def test_what_would_be_distorted_is_skipped(tmp_path):
    cut = ClipRef(id="cut", path="/m/a.mp4", start_seconds=2.0, end_seconds=4.0)
    open_end = ClipRef(id="open", path="/m/a.mp4", start_seconds=2.0)
    data = ExampleSet(examples=(example(cut), example(open_end)), pairs=(pair(ground_truth=""),))
    for format, skipped in (("v1", ["open", "b"]), ("plus", ["cut", "open", "b"]), ("ms_swift", ["cut", "open"])):
        report = convert_examples(data, format, tmp_path / format)
        assert [one.where for one in report.skipped] == skipped
    (item,) = json.loads((tmp_path / "v1").read_text())
    assert item["timestamps"] == [2, 4]
    (back,) = read_examples(tmp_path / "v1").examples
    assert (back.clip.start_seconds, back.clip.end_seconds) == (2.0, 4.0)


def test_v1_gets_its_sound_files(tmp_path, clip_writer):
    clip_writer(tmp_path / "loud.mp4", seconds=1.0)
    clip_writer(tmp_path / "mute.mp4", seconds=1.0, tone_hertz=None)
    (tmp_path / "broken.mp4").write_text("no video")
    clips = [ClipRef(id=name, path=str(tmp_path / f"{name}.mp4")) for name in ("loud", "mute", "broken")]
    clips.append(dataclasses.replace(clips[1], id="needs", meta={"audio_policy": "require"}))
    fractional = dataclasses.replace(clips[0], id="cut", start_seconds=0.0, end_seconds=0.5)
    data = ExampleSet(examples=tuple(example(clip) for clip in [*clips, fractional]))
    report = convert_examples(data, "v1", tmp_path / "x.json", write_sound=True)
    assert [one.where for one in report.skipped] == ["broken", "needs"]
    assert "no audio stream" in report.skipped[1].reason or "audio" in report.skipped[1].reason
    assert report.lost == {"the released v1 trainer fails on timestamps that are not whole seconds, with sound": 1}
    items = json.loads((tmp_path / "x.json").read_text())
    assert ["audio" in item for item in items] == [True, False, True]
    assert items[0]["audio"] == items[2]["audio"]
    with wave.open(items[0]["audio"]) as sound:
        assert (sound.getframerate(), sound.getnchannels()) == (16_000, 1)
        assert sound.getnframes() == pytest.approx(16_000, abs=1100)  # AAC pads to its frames of 1,024
    silent = convert_examples(data, "v1", tmp_path / "y.json")
    assert silent.lost["sound: v1 reads it only from separate files (write_sound makes them)"] == 5


def test_paths_are_written_absolute_or_below_a_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    clips = [
        ClipRef(id="1", path="sub/a.mp4"),
        ClipRef(id="2", path="/m/b.mp4"),
        ClipRef(id="3", path="http://h/c.mp4"),
    ]
    data = ExampleSet(examples=tuple(example(clip) for clip in clips))
    expected = {None: [f"{tmp_path}/sub/a.mp4"], "sub": ["a.mp4"]}
    for root, first in expected.items():
        for format in ("native", "plus", "ms_swift"):
            out = tmp_path / f"{format}-{root}.jsonl"
            convert_examples(data, format, out, media_root=root)
            text = out.read_text()
            assert f'"{first[0]}"' in text
            assert '"/m/b.mp4"' in text
            assert '"http://h/c.mp4"' in text
            back = read_examples(out, media_root=root)
            assert [one.clip.path.removeprefix(f"{tmp_path}/") for one in back.examples] == [one.path for one in clips]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "v3"}, "unknown format 'v3'"),
        ({"format": "plus", "write_sound": True}, "belongs to the format v1"),
        ({"format": "plus", "out": "."}, "is there already"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path):
    given = {"format": "plus", "out": "x.json"} | arguments
    with pytest.raises(ConfigError, match=message):
        convert_examples(PLAIN, given["format"], tmp_path / given["out"], write_sound=given.get("write_sound", False))


def test_an_empty_set_makes_an_empty_file(tmp_path):
    convert_examples(ExampleSet(), "v1", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == []
