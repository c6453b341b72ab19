"""Captions from every kind of file, and their way to the items of a benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avocet.errors import ConfigError, RecordError
from avocet.evaluation.captions import CaptionSet, Matched, match, read_captions
from avocet.evaluation.items import BenchmarkItem
from avocet.records import Caption, Failure, Sampling


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(*entries: Any) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def own(path: str, text: str, clip_id: str | None = None) -> dict[str, Any]:
    return Caption(
        clip_id=clip_id or path,
        path=path,
        text=text,
        model="nano",
        revision="r1",
        instruction="Describe.",
        sampling=Sampling(),
        stop_reason="end",
        num_tokens=3,
        audio_used=True,
        audio_status="present",
        num_frames=4,
        fps=2.0,
        start_seconds=0.0,
        end_seconds=2.0,
        layout_rule="salmonn2_paper",
    ).to_dict()


def texts(captions: CaptionSet) -> dict[str, str]:
    return {caption.video: caption.text for caption in captions.captions}


def items(*names: str) -> list[BenchmarkItem]:
    return [BenchmarkItem(id=name, video=name) for name in names]


def interval(video: str, start: float, end: float) -> BenchmarkItem:
    return BenchmarkItem(id=f"{video}#t={start:g},{end:g}", video=video, start_seconds=start, end_seconds=end)


def paired(matched: Matched) -> dict[str, list[str]]:
    return {pair.item.id: [caption.text for caption in pair.captions] for pair in matched.pairs}


def test_our_captions_with_their_failures(tmp_path: Path) -> None:
    failure = Failure(clip_id="/d/b.mp4", path="/d/b.mp4", stage="media", error="no such file")
    path = write(tmp_path / "captions.jsonl", lines(own("/d/a.mp4", "A dog."), failure.to_dict()))
    captions = read_captions(path)
    caption = captions.captions[0]
    assert (caption.video, caption.clip_id, caption.text, caption.run_index) == ("/d/a.mp4", "/d/a.mp4", "A dog.", 0)
    assert (caption.instruction, caption.audio_used, caption.start_seconds) == ("Describe.", True, None)
    assert caption.where == f"{path}: line 1"
    assert caption.record is not None
    assert caption.record.stop_reason == "end"
    assert captions.failures == (failure,)
    assert captions.files == ("captions.jsonl",)
    assert captions.formats == {"avocet": 1, "avocet failures": 1}
    assert CaptionSet.from_json(captions.to_json_line()) == captions
    matched = match(items("a.mp4", "b.mp4", "c.mp4"), captions)
    assert paired(matched) == {"a.mp4": ["A dog."]}
    assert [(one.item.id, one.reason) for one in matched.missing_items] == [
        ("b.mp4", "no caption (media): no such file"),
        ("c.mp4", "not among the captions"),
    ]


def test_the_items_file_of_an_evaluation(tmp_path: Path) -> None:
    line = {"clip_id": "a", "caption": own("a.mp4", "A dog.", "a"), "findings": {"missed": []}}
    captions = read_captions(write(tmp_path / "items.jsonl", lines(line)))
    assert texts(captions) == {"a.mp4": "A dog."}


def test_outputs_of_avocado(tmp_path: Path) -> None:
    daily = write(tmp_path / "daily.jsonl", lines({"video_id": "abc_video", "caption": "A dog."}))
    assert texts(read_captions(daily)) == {"abc_video": "A dog."}
    thinking = {"video_id": "abc", "context": "x", "thinking": "y", "caption": "A cat."}
    assert texts(read_captions(write(tmp_path / "vdc.jsonl", lines(thinking)))) == {"abc": "A cat."}
    rows = [{"id": ["/d/video/0.mp4"], "prompt": "Describe.", "pred": "A cow."}]
    captions = read_captions(write(tmp_path / "vs2.json", json.dumps(rows, indent=4)))
    assert texts(captions) == {"/d/video/0.mp4": "A cow."}
    assert captions.captions[0].instruction == "Describe."


def dream(video: str, text: str | None) -> dict[str, Any]:
    content = [{"type": "video", "video": {"video_file": video}}, {"type": "text", "text": "Imagine."}]
    answer = [{"type": "text", "reference": "A boy throws.", "text": text}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}


def test_outputs_for_dream_and_their_error_marks(tmp_path: Path) -> None:
    path = write(
        tmp_path / "dream.jsonl", lines(dream("1.mp4", "A boy."), dream("2.mp4", "<error>"), dream("3.mp4", ""))
    )
    captions = read_captions(path)
    assert texts(captions) == {"1.mp4": "A boy.", "3.mp4": ""}
    assert captions.captions[0].instruction == "Imagine."
    assert [(one.clip_id, one.stage, one.error) for one in captions.failures] == [
        ("2.mp4", "model", f"the caption file has only an error mark ({path}: line 2)")
    ]


MERGED = {
    "abc": {"video_caption": "The truth.", "task0": {}, "avocado": "A dog.", "other": "A cat."},
    "def": {"video_caption": "The truth.", "task0": {}},
}


def test_merged_files_need_to_be_told_which_caption(tmp_path: Path) -> None:
    path = write(tmp_path / "worldsense.json", MERGED)
    captions = read_captions(path, caption_field="avocado")
    assert texts(captions) == {"abc": "A dog."}
    assert [failure.clip_id for failure in captions.failures] == ["def"]
    with pytest.raises(RecordError, match=r"none of 2 entries has a caption in field 'avocadO'"):
        read_captions(path, caption_field="avocadO")
    with pytest.raises(
        RecordError, match=r"no caption of a known form .* name the fields with video_field and caption"
    ):
        read_captions(path)
    daily = [{"video_id": "abc", "questions": [], "avocado_caption": "A dog."}]
    assert texts(read_captions(write(tmp_path / "d.json", daily), caption_field="avocado_caption")) == {"abc": "A dog."}


def test_outputs_of_the_first_video_salmonn_2(tmp_path: Path) -> None:
    prompt = [{"from": "human", "value": "<image>\nDescribe."}]
    rows = [{"id": ["/d/video/0.mp4", "/d/audio/0.wav"], "prompt": prompt, "pred": "A cow.", "ref": "Truth."}]
    captions = read_captions(write(tmp_path / "test_results.json", rows))
    caption = captions.captions[0]
    assert (caption.video, caption.text, caption.instruction) == ("/d/video/0.mp4", "A cow.", "Describe.")
    pairs = [{"id": ["0.mp4", "0.wav"], "prompt": prompt, "pred1": "One.", "pred2": "Two.", "ref": "Truth."}]
    path = write(tmp_path / "dpo.json", pairs)
    with pytest.raises(ConfigError, match=r"'0.mp4' already has another caption .*; keep all of them .*several='keep'"):
        read_captions(path)
    both = read_captions(path, several="keep")
    assert [(one.run_index, one.text) for one in both.captions] == [(0, "One."), (1, "Two.")]
    assert both.num_runs == 2


def plus(video: str | None, pred: Any, **changes: Any) -> dict[str, Any]:
    prompt = {"from": "human", "value": "<video>\nDescribe."}
    entry = {"video": video, "image": None, "audio": None, "use_audio": True, "prompt": prompt, "ref": "Truth."}
    return entry | {"should_use": True, "pred": pred} | changes


def test_outputs_of_video_salmonn_2_plus_are_merged_over_processes(tmp_path: Path) -> None:
    write(tmp_path / "test_results_rank0.json", [plus("video/2.mp4", "Two."), plus("video/0.mp4", "Zero.")])
    write(tmp_path / "test_results_rank1.json", [plus("video/1.mp4", "One."), plus("x", "x", should_use=False)])
    # What lies beside the outputs of the processes is not theirs.
    write(tmp_path / "test_results.json", [plus("video/9.mp4", "Nine.")])
    captions = read_captions(tmp_path)
    assert captions.files == ("test_results_rank0.json", "test_results_rank1.json")
    assert texts(captions) == {"video/2.mp4": "Two.", "video/0.mp4": "Zero.", "video/1.mp4": "One."}
    assert {(one.instruction, one.audio_used) for one in captions.captions} == {("Describe.", True)}
    assert captions.skipped == (
        f"{tmp_path / 'test_results_rank1.json'}: item 2: 'x' is padding (should_use is false)",
    )
    assert captions.formats == {"salmonn2+": 3}
    matched = match(items("video/0.mp4", "video/1.mp4", "video/2.mp4"), captions)
    assert paired(matched) == {"video/0.mp4": ["Zero."], "video/1.mp4": ["One."], "video/2.mp4": ["Two."]}


def test_several_samples_of_video_salmonn_2_plus(tmp_path: Path) -> None:
    path = write(tmp_path / "rank0.json", [plus("0.mp4", ["One.", "Two.", "Two."]), plus(None, "Loud.", audio="1.wav")])
    with pytest.raises(ConfigError, match=r"item 1: '0.mp4' already has another caption"):
        read_captions(path)
    captions = read_captions(path, several="keep")
    assert [(one.video, one.run_index, one.text) for one in captions.captions] == [
        ("0.mp4", 0, "One."),
        ("0.mp4", 1, "Two."),
        ("0.mp4", 2, "Two."),
        ("1.wav", 0, "Loud."),
    ]


def test_the_same_caption_twice_is_one_unless_runs_are_wanted(tmp_path: Path) -> None:
    first = write(tmp_path / "1.jsonl", lines({"video": "a.mp4", "caption": "A dog."}))
    second = write(
        tmp_path / "2.jsonl", lines({"video": "b.mp4", "caption": "x"}, {"video": "a.mp4", "caption": "A dog."})
    )
    captions = read_captions([first, second])
    assert texts(captions) == {"a.mp4": "A dog.", "b.mp4": "x"}
    assert captions.repeats == (f"{second}: line 2",)
    kept = read_captions([first, second], several="keep")
    assert [(one.video, one.run_index) for one in kept.captions] == [("a.mp4", 0), ("b.mp4", 0), ("a.mp4", 1)]
    assert kept.repeats == ()
    assert paired(match(items("a.mp4"), kept)) == {"a.mp4": ["A dog.", "A dog."]}
    # Naming a file twice is a slip, not two runs.
    assert len(read_captions([first, first], several="keep").captions) == 1


def test_plain_maps(tmp_path: Path) -> None:
    path = write(tmp_path / "map.json", {"a.mp4": "A dog.", "b": "", "c.mp4": None})
    captions = read_captions(path)
    assert texts(captions) == {"a.mp4": "A dog.", "b": ""}
    assert [failure.error for failure in captions.failures] == [f"the caption file has no caption ({path}, 'c.mp4')"]
    assert texts(read_captions(write(tmp_path / "map.jsonl", lines({"a": "One."}, {"b": "Two."})))) == {
        "a": "One.",
        "b": "Two.",
    }
    runs = read_captions(write(tmp_path / "runs.json", {"a": ["One.", "Two."], "b": []}), several="keep")
    assert [(one.video, one.run_index, one.text) for one in runs.captions] == [("a", 0, "One."), ("a", 1, "Two.")]
    assert [failure.clip_id for failure in runs.failures] == ["b"]


def test_objects_with_fields(tmp_path: Path) -> None:
    rows = [{"clip_id": "x#t=1,2", "path": "x.mp4", "text": "A dog.", "start_seconds": 1, "end_seconds": 2}]
    caption = read_captions(write(tmp_path / "a.json", rows)).captions[0]
    assert (caption.clip_id, caption.video, caption.start_seconds, caption.end_seconds) == ("x#t=1,2", "x.mp4", 1, 2)
    rows = [{"movie": "x.mp4", "wrong": "no", "right": "yes"}]
    captions = read_captions(write(tmp_path / "b.json", rows), video_field="movie", caption_field="right")
    assert texts(captions) == {"x.mp4": "yes"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'video,caption,note\r\na.mp4,"A dog, ""loud"".\nIt barks.",x\r\nb.mp4,,\r\n'),
        ("a.csv", '\ufeffcaption , video\n"A dog, ""loud"".\nIt barks.",a.mp4\n,b.mp4\n'),
        ("a.tsv", 'video\tcaption\na.mp4\t"A dog, ""loud"".\nIt barks."\nb.mp4\t\n'),
    ],
)
def test_tables(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    captions = read_captions(tmp_path / name)
    assert texts(captions) == {"a.mp4": 'A dog, "loud".\nIt barks.'}
    # A table has no other way to say that there is no caption.
    assert [failure.clip_id for failure in captions.failures] == ["b.mp4"]


def test_tables_with_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "movie,first,second\na.mp4,One.,Two.\n")
    captions = read_captions(path, video_field="movie", caption_field="second")
    assert texts(captions) == {"a.mp4": "Two."}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "A dog.", "captions are read from .json, .jsonl, .csv and .tsv files, not '.txt'"),
        ("a.json", "[{", "a.json: line 1 is not JSON"),
        ("a.json", [], "a.json: no captions found"),
        ("a.json", {}, "a.json is no caption of a known form .it has no fields"),
        ("a.json", ["A dog."], "item 1 is no JSON object but str"),
        (
            "a.json",
            [{"video": "a", "captoin": "x"}],
            "item 1 is no caption of a known form .its fields: 'video', 'capto",
        ),
        (
            "a.json",
            [{"video": "a", "caption": "x", "text": "y"}],
            "item 1 has several: caption, text; name it with capt",
        ),
        ("a.json", [{"video": "a", "caption": 3}], "item 1: the caption of 'a' must be a text, got 3"),
        ("a.json", [{"video": "", "caption": "x"}], "item 1: field 'video' must be a text that is not empty"),
        ("a.json", [{"video": "a", "caption": ["x", 3]}], "the caption of 'a' must be a text, got 3"),
        ("a.json", [{"video": "a", "caption": "x", "start_seconds": "1"}], "'start_seconds' must be a finite number"),
        ("a.json", '{"a": "x", "a": "y"}', "the key 'a' occurs more than once"),
        ("a.json", [{"id": [], "pred": "x"}], "item 1: field 'id' must be a text or a list that begins with one"),
        ("a.json", [plus(None, "x")], "item 1 names no video, image or audio file"),
        ("a.json", [plus("a", "x", use_audio="yes")], "'use_audio' must be true or false, got 'yes'"),
        ("a.json", [dream("", "x")], "field 'video_file' must be a text that is not empty"),
        ("a.json", [{"messages": []}], "'messages' must be a list with an object whose 'role' is 'user'"),
        (
            "a.jsonl",
            lines(own("a", "x") | {"num_tokens": -1}),
            "a.jsonl: not a valid Caption: .*num_tokens must be >= 0",
        ),
        ("a.jsonl", lines(own("a", "x"), own("b", "x") | {"fsp": 1}), "a.jsonl: line 2: not a valid Caption: fsp"),
        ("a.jsonl", lines({"clip_id": "a", "stage": "x", "error": "y"}), "a.jsonl: not a valid Failure: "),
        ("a.jsonl", lines({"a": "One."}, {"a": "Two."}), "line 2, 'a': 'a' already has another caption .*line 1, 'a'"),
        ("a.csv", "", "a.csv: line 1: the table needs a column .* has none; name them with video_field"),
        ("a.csv", "movie,caption\na,x\n", "a.csv: line 1: the table needs a column .* has movie, caption;"),
        (
            "a.csv",
            "video,video,caption\na,b,x\n",
            "a.csv: line 1: two columns have the same name: video, video, caption",
        ),
        ("a.csv", "video,caption\na\n", "a.csv: line 2 has another number of cells than the header has columns .2"),
        ("a.csv", "video,caption\na,x\nb,x,y\n", "a.csv: line 3 has another number of cells"),
        ("a.csv", 'video,caption\na,"x"y\n', "a.csv: line 2 is no row of a table"),
        ("a.csv", "video,caption\n,x\n", "a.csv: line 2: field 'video' must be a text that is not empty"),
        ("a.csv", "video,caption,text\na,x,y\n", "line 1 has several: caption, text; name it with caption_field"),
    ],
)
def test_malformed_files_give_one_clear_error(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises((RecordError, ConfigError), match=message):
        read_captions(write(tmp_path / name, content))


def test_files_and_arguments_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.json cannot be read"):
        read_captions(tmp_path / "gone.json")
    with pytest.raises(ConfigError, match=r"the folder holds no files ending in .json, .jsonl, .csv, .tsv"):
        read_captions(tmp_path)
    with pytest.raises(ConfigError, match="no file with captions was given"):
        read_captions([])
    with pytest.raises(ConfigError, match="several must be one of refuse, keep, got 'first'"):
        read_captions(tmp_path, several="first")  # type: ignore[arg-type]
    path = write(tmp_path / "a.json", [{"movie": "a", "caption": "x"}])
    with pytest.raises(RecordError, match="has no field for the video; name it with video_field"):
        read_captions(path, caption_field="caption")
    with pytest.raises(RecordError, match="has no field 'film'"):
        read_captions(path, video_field="film")


def matched_map(names: dict[str, str], *wanted: BenchmarkItem, tmp_path: Path) -> Matched:
    return match(wanted, read_captions(write(tmp_path / "map.json", names)))


def test_missing_and_unknown_are_listed(tmp_path: Path) -> None:
    matched = matched_map(
        {"/d/video/1.mp4": "One.", "7.mp4": "Seven."}, *items("video/0.mp4", "video/1.mp4"), tmp_path=tmp_path
    )
    assert paired(matched) == {"video/1.mp4": ["One."]}
    assert matched.pairs[0].caption.text == "One."
    assert [(one.item.id, one.reason) for one in matched.missing_items] == [("video/0.mp4", "not among the captions")]
    assert [(one.caption.video, one.reason) for one in matched.unknown_captions] == [
        ("7.mp4", "no item has such a name")
    ]
    assert matched.summary() == (
        "1 of 2 items have a caption\n"
        "1 items without a caption:\n  video/0.mp4: not among the captions\n"
        "1 captions of no item:\n  7.mp4: no item has such a name"
    )


@pytest.mark.parametrize("name", ["video/0.mp4", "/data/video/0.mp4", "0.mp4", "0", "0.mkv", "C:\\d\\0.mp4", "0_clip"])
def test_ways_to_name_a_video(tmp_path: Path, name: str) -> None:
    item = BenchmarkItem(id="zero", video="video/0.mp4", aliases=("0_clip",))
    assert paired(matched_map({name: "Zero."}, item, tmp_path=tmp_path)) == {"zero": ["Zero."]}


def test_the_id_of_an_item_names_it(tmp_path: Path) -> None:
    both = (BenchmarkItem(id="001-1", video="abc"), BenchmarkItem(id="001-2", video="abc"))
    rows = [
        {"question_id": "001-2", "video": "abc", "pred": "B"},
        {"question_id": "001-1", "video": "abc", "pred": "A"},
    ]
    matched = match(both, read_captions(write(tmp_path / "a.json", rows)))
    assert paired(matched) == {"001-1": ["A"], "001-2": ["B"]}


def test_the_id_of_an_item_in_a_table(tmp_path: Path) -> None:
    both = (BenchmarkItem(id="001-1", video="abc"), BenchmarkItem(id="001-2", video="abc"))
    path = write(tmp_path / "a.csv", "question_id,video,text\n001-2,abc,B\n001-1,abc,A\n")
    assert paired(match(both, read_captions(path))) == {"001-1": ["A"], "001-2": ["B"]}


def test_a_caption_that_fits_several_items(tmp_path: Path) -> None:
    both = (BenchmarkItem(id="001-1", video="abc"), BenchmarkItem(id="001-2", video="abc"))
    matched = matched_map({"abc.mp4": "A"}, *both, tmp_path=tmp_path)
    assert matched.pairs == ()
    assert [(one.item_ids, one.captions[0].text) for one in matched.ambiguous] == [(("001-1", "001-2"), "A")]
    assert "'abc.mp4' fits 2 items equally well: '001-1', '001-2'" in matched.summary()
    assert {one.reason for one in matched.missing_items} == {"ambiguous captions"}


def test_several_videos_that_fit_one_item(tmp_path: Path) -> None:
    matched = matched_map({"/x/0.mp4": "X.", "/y/0.mp4": "Y."}, *items("video/0.mp4"), tmp_path=tmp_path)
    assert matched.pairs == ()
    assert [one.reason for one in matched.ambiguous] == [
        "item 'video/0.mp4' is fitted equally well by captions of 2 videos: '/x/0.mp4', '/y/0.mp4'"
    ]
    # The better name wins, and the other caption is not lost.
    matched = matched_map({"/x/0.mp4": "X.", "/y/video/0.mp4": "Y."}, *items("video/0.mp4"), tmp_path=tmp_path)
    assert paired(matched) == {"video/0.mp4": ["Y."]}
    assert [(one.caption.text, one.reason) for one in matched.unknown_captions] == [
        ("X.", "'/y/video/0.mp4' fits item 'video/0.mp4' better")
    ]


def test_intervals(tmp_path: Path) -> None:
    first, second = interval("video/0.mp4", 0, 10), interval("video/0.mp4", 10, 20)
    rows = [
        own("/d/video/0.mp4", "Late.", "/d/video/0.mp4#t=10,20"),
        own("/d/video/0.mp4", "Whole."),
        own("/d/video/0.mp4", "Else.", "/d/video/0.mp4#t=5,8"),
        own("/d/whole/again.mp4", "Early.", first.id),
    ]
    captions = read_captions(write(tmp_path / "c.jsonl", lines(*rows)))
    assert [(one.start_seconds, one.end_seconds) for one in captions.captions][:3] == [(10, 20), (None, None), (5, 8)]
    matched = match((first, second), captions)
    assert paired(matched) == {first.id: ["Early."], second.id: ["Late."]}
    assert [(one.caption.text, one.reason) for one in matched.unknown_captions] == [
        ("Whole.", "no item is about this interval"),
        ("Else.", "no item is about this interval"),
    ]
    # A caption of a part is none of the whole.
    whole = match(items("video/0.mp4"), captions)
    assert paired(whole) == {"video/0.mp4": ["Whole."]}


@pytest.mark.parametrize("name", ["0.mp4#t=,10", "video/0.mp4#t=0,10", "0#t=0.0,10.0"])
def test_intervals_in_names(tmp_path: Path, name: str) -> None:
    item = interval("video/0.mp4", 0, 10)
    assert paired(matched_map({name: "Early."}, item, tmp_path=tmp_path)) == {item.id: ["Early."]}
    matched = matched_map({name: "Early."}, *items("video/0.mp4"), tmp_path=tmp_path)
    assert [one.reason for one in matched.unknown_captions] == ["no item is about this interval"]


def test_every_caption_and_item_is_accounted_for(tmp_path: Path) -> None:
    names = {f"{folder}/{number}.mp4": f"{folder}{number}" for number in range(20) for folder in ("a", "b")}
    wanted = [BenchmarkItem(id=str(number), video=f"a/{number}.mp4") for number in range(10)]
    wanted += items("0.mp4", "new.mp4", "zz/5.mp4")
    matched = matched_map(names, *wanted, tmp_path=tmp_path)
    assert len(matched.pairs) + len(matched.missing_items) == len(wanted)
    used = [caption for pair in matched.pairs for caption in pair.captions]
    used += [one.caption for one in matched.unknown_captions]
    used += [caption for one in matched.ambiguous for caption in one.captions]
    assert sorted(caption.text for caption in used) == sorted(names.values())


def test_runs_stay_together(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.json", {"a.mp4": ["One.", "Two."], "b.mp4": ["Three."]})
    matched = match(items("b.mp4", "a.mp4"), read_captions(path, several="keep"))
    assert paired(matched) == {"b.mp4": ["Three."], "a.mp4": ["One.", "Two."]}
    with pytest.raises(ConfigError, match=r"'a.mp4' has 2 captions; use `captions`"):
        _ = matched.pairs[1].caption


def test_items_with_the_same_id(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="1 items have an id that another item has too"):
        matched_map({"a": "x"}, *items("a", "a"), tmp_path=tmp_path)
