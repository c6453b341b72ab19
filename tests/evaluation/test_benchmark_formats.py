"""Every annotation format from hand-made files: what is read, and one clear error for what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from avocet.errors import ConfigError, MissingExtraError, RecordError
from avocet.evaluation.benchmarks import load_benchmark
from avocet.evaluation.benchmarks.vdc import clean_category
from avocet.evaluation.benchmarks.videomme import VideoMme
from avocet.evaluation.benchmarks.vs2_local import Vs2Local
from avocet.evaluation.items import BenchmarkItem, TimedEvent


def vs2(video: str = "video/0.mp4", **changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": " A dog barks. "}]
    return {"video": video, "conversations": turns, "events": ["A dog", " A bark "]} | changes


def local(**changes: Any) -> dict[str, Any]:
    events = [
        {"event": "Man pours water", "start_seconds": 1.5, "end_seconds": 10},
        {"event": "A bell", "start_seconds": 10, "end_seconds": 10},
        {"event": "Music", "start_seconds": 0, "end_seconds": 31.0},
    ]
    return {"video": "video/0.mp4", "events": events, "duration_seconds": 31.0} | changes


def ugc(**changes: Any) -> dict[str, Any]:
    samples = [{"video_id": "PI-1", "path": "/x/PI-1.mp4", "answer": "Someone sings."}]
    return {"question": "One paragraph, please. ", "valid_count": 1, "samples": samples} | changes


def omni_question(**changes: Any) -> dict[str, Any]:
    return {"Question": "What?", "Choice": ["A. x", "B. y"], "Answer": "B", "Type": "Inference"} | changes


def omni(video_id: str = "abc", *questions: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"video_id": video_id, "video_duration": "30s", "questions": list(questions or [omni_question()])} | changes


def world_task(**changes: Any) -> dict[str, Any]:
    task = {"task_domain": "Understanding", "task_type": "Audio Counting", "question": "How many?", "answer": "A"}
    return task | {"candidates": ["A. one", "B. two", "C. three", "D. four"]} | changes


def world(**changes: Any) -> dict[str, Any]:
    return {"video_id": "abc", "video_duration": "60s", "video_caption": "A band.", "task0": world_task()} | changes


def dream(video: str = "135.mp4", vid: Any = 135, **changes: Any) -> dict[str, Any]:
    content = [{"type": "video", "video": {"video_file": video}}, {"type": "text", "text": "Describe."}]
    answer = [{"type": "text", "reference": "A boy throws.", "text": "a prediction"}]
    entry = {
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
        "dataset": "DREAM/youtube",
        "vid": vid,
        "extra_info": {"events": ["A boy throws."], "n_events": 1, "duration": 4.0},
    }
    return entry | changes


def mme(question_id: str = "001-1", **changes: Any) -> dict[str, Any]:
    row = {"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Biology", "url": "u"}
    row |= {"videoID": "fFjv93ACGo8", "question_id": question_id, "task_type": "Counting", "question": "How many?"}
    return row | {"options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."], "answer": "C"} | changes


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def read(name: str, tmp_path: Path, content: Any) -> list[BenchmarkItem]:
    return load_benchmark(name).read(write(tmp_path / "data.json", content))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([vs2("a.mp4"), vs2("b.mp4")]),
        json.dumps([vs2("a.mp4"), vs2("b.mp4")], indent=4).replace("\n", "\r\n"),
        "\ufeff" + json.dumps([vs2("a.mp4"), vs2("b.mp4")]),
        json.dumps(vs2("a.mp4")) + "\n" + json.dumps(vs2("b.mp4")),
        "\ufeff" + json.dumps(vs2("a.mp4")) + "\r\n\r\n" + json.dumps(vs2("b.mp4")) + "\r\n",
        json.dumps(vs2("a.mp4"), indent=1) + "\n" + json.dumps(vs2("b.mp4"), indent=1) + "\n",
    ],
    ids=["list", "list-crlf", "list-bom", "lines", "lines-bom-crlf", "objects-over-lines"],
)
@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_every_way_to_write_json(tmp_path: Path, content: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    items = load_benchmark("vs2").read(path)
    assert [item.video for item in items] == ["a.mp4", "b.mp4"]
    assert items[0].events == ("A dog", "A bark")
    assert (items[0].instruction, items[0].reference) == ("Describe.", "A dog barks.")


def test_unknown_fields_are_kept_in_meta(tmp_path: Path) -> None:
    assert read("vs2", tmp_path, [vs2(domain="sport", n=3)])[0].meta == {"domain": "sport", "n": 3}
    assert read("ugc", tmp_path, ugc())[0].meta == {}
    assert read("worldsense", tmp_path, {"abc": world(domain="Music")})[0].meta == {
        "video_duration": "60s",
        "domain": "Music",
    }


def test_vs2_local_with_intervals(tmp_path: Path) -> None:
    items = read("vs2-local", tmp_path, [local(intervals=[[0, 10], [10, 12.5], [30.5, 40]], who="x")])
    assert [item.id for item in items] == [
        "video/0.mp4#t=0,10",
        "video/0.mp4#t=10,12.5",
        "video/0.mp4#t=30.5,40",
    ]
    # The pouring ends where the second interval begins; the bell is a moment in the second.
    assert [item.event_texts for item in items] == [
        ("Man pours water", "Music"),
        ("A bell", "Music"),
        ("Music",),
    ]
    assert items[0].events[0] == TimedEvent(text="Man pours water", start_seconds=1.5, end_seconds=10.0)
    assert (items[1].start_seconds, items[1].end_seconds, items[1].meta) == (10.0, 12.5, {"who": "x"})
    assert items[1].instruction is not None
    assert "between second 10 and second 12.5 of this video" in items[1].instruction
    own = read("vs2-local", tmp_path, [local(intervals=[[0, 1]], instruction="Only this second.")])
    assert own[0].instruction == "Only this second."


@pytest.mark.parametrize(
    ("duration", "window", "edges"),
    [
        # 31 s: three windows of 10.333 s; 4 s: one; 36 s: four of 9 s.
        (31.0, 10.0, [(0.0, 10.333), (10.333, 20.667), (20.667, 31.0)]),
        (4.0, 10.0, [(0.0, 4.0)]),
        (36.0, 10.0, [(0.0, 9.0), (9.0, 18.0), (18.0, 27.0), (27.0, 36.0)]),
        (31.0, 20.0, [(0.0, 15.5), (15.5, 31.0)]),
    ],
)
def test_vs2_local_without_intervals(
    tmp_path: Path, duration: float, window: float, edges: list[tuple[float, float]]
) -> None:
    path = write(tmp_path / "timed.json", [local(duration_seconds=duration)])
    items = Vs2Local(window_seconds=window).read(path)
    assert [(item.start_seconds, item.end_seconds) for item in items] == edges


def test_vs2_local_keeps_intervals_without_events(tmp_path: Path) -> None:
    events = [{"event": "A bell", "start_seconds": 2, "end_seconds": 3}]
    items = read("vs2-local", tmp_path, [local(events=events, intervals=[[0, 2], [2, 3]])])
    assert [item.event_texts for item in items] == [(), ("A bell",)]


def test_daily_omni_as_its_makers_publish_it(tmp_path: Path) -> None:
    common = {"video_category": "Music", "video_duration": "30s"}
    rows = [
        omni_question(video_id="v1", fine="a", **common),
        omni_question(video_id="v2", fine="c", **common),
        omni_question(video_id="v1", fine="b", Answer="A", **common),
    ]
    items = read("daily-omni", tmp_path, rows)
    assert [(item.id, [question.id for question in item.questions]) for item in items] == [
        ("v1", ["v1/0", "v1/1"]),
        ("v2", ["v2/0"]),
    ]
    assert [question.answer for question in items[0].questions] == ["B", "A"]
    # What the questions of a video do not agree on is not the video's.
    assert [item.meta for item in items] == [common, {**common, "fine": "c"}]


def test_worldsense(tmp_path: Path) -> None:
    # Written out of order, and with more than ten tasks: they follow their numbers.
    tasks = {f"task{number}": world_task(question=f"Question {number}?") for number in (10, 2, 0)}
    entry = world(**tasks, audio_class=["Speech"])
    items = read("worldsense", tmp_path, {"abc": entry, "def": world(video_id="def", video_caption=None)})
    assert [question.id for question in items[0].questions] == ["abc/task0", "abc/task2", "abc/task10"]
    question = items[0].questions[1]
    assert (question.text, question.category, question.type) == ("Question 2?", "Understanding", "Audio Counting")
    assert [item.reference for item in items] == ["A band.", None]
    assert items[0].meta == {"video_duration": "60s", "audio_class": ["Speech"]}


@pytest.mark.parametrize(
    ("choices", "answer", "shown", "letter"),
    [
        (["A. x", "B. y"], "B", ("A. x", "B. y"), "B"),
        (["(A) x", "(B) y"], "(B)", ("(A) x", "(B) y"), "B"),
        (["A: x", "B: y"], "B.", ("A: x", "B: y"), "B"),
        (["x", "y"], "B", ("A. x", "B. y"), "B"),
        (["x", "y"], "x", ("A. x", "B. y"), "A"),
        (["A. x", "B. y"], "B. y", ("A. x", "B. y"), "B"),
        # A name, not a label: the second choice is not called A.
        (["Bob", "A. Smith"], "A. Smith", ("A. Bob", "B. A. Smith"), "B"),
    ],
)
def test_choices_and_answers(
    tmp_path: Path, choices: list[str], answer: str, shown: tuple[str, ...], letter: str
) -> None:
    question = read("daily-omni", tmp_path, [omni("v", omni_question(Choice=choices, Answer=answer))])[0].questions[0]
    assert (question.choices, question.answer, question.defect) == (shown, letter, None)
    assert question.letters == ("A", "B")


@pytest.mark.parametrize(
    ("changes", "defect"),
    [
        ({"Answer": "E"}, "the answer 'E' is none of the choices"),
        ({"Answer": ""}, "the answer '' is none of the choices"),
        ({"Answer": "x", "Choice": ["x", "x", "y"]}, "the answer 'x' is none of the choices"),
        ({"Question": "  "}, "the question has no text"),
    ],
)
def test_questions_that_cannot_be_scored_say_so(tmp_path: Path, changes: dict[str, Any], defect: str) -> None:
    items = read("daily-omni", tmp_path, [omni("v", omni_question(**changes), omni_question())])
    assert [question.defect for question in items[0].questions] == [defect, None]


@pytest.mark.parametrize(
    ("given", "category"),
    [
        ("object", "object"),
        ("Object", "object"),
        ("object'", "object"),
        ("'object", "object"),
        ("Category: Object", "object"),
        ("category:'reason", "reason"),
        ("group: location", "location"),
        ("method.", "method"),
        ("camera angle", "camera angle"),
        ("", None),
        ("category: ", None),
    ],
)
def test_categories_of_vdc(given: str, category: str | None) -> None:
    assert clean_category(given) == category


def test_vdc_in_one_object(tmp_path: Path) -> None:
    qa = {"question": "What is red?", "answer": "the car", "category": "Object"}
    items = read("vdc", tmp_path, {"v1": [qa], "v2": [qa, {"question": "Who?", "answer": "", "category": ""}]})
    assert [[question.id for question in item.questions] for item in items] == [["v1/0"], ["v2/0", "v2/1"]]
    assert items[1].questions[1].defect == "the file has no answer"


def test_videomme_as_rows_groups_and_parquet(tmp_path: Path) -> None:
    rows = [mme("001-1"), mme("001-2", answer="A"), mme("301-1", video_id="301", videoID="long", duration="long")]
    grouped = [
        {key: rows[0][key] for key in ("video_id", "duration", "domain", "sub_category", "url", "videoID")}
        | {"questions": [{key: row[key] for key in ("question_id", "task_type", "question", "options", "answer")}]}
        for row in rows[:2]
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test.parquet")
    items = VideoMme().read(tmp_path / "test.parquet")
    assert items == VideoMme().read(write(tmp_path / "rows.json", rows))
    assert items == VideoMme().read(write(tmp_path / "groups.json", grouped))
    assert [item.id for item in items] == ["001-1", "001-2"]
    first = items[0]
    assert (first.names, first.questions[0].answer) == (("fFjv93ACGo8", "001"), "C")
    assert (first.questions[0].category, first.questions[0].type) == ("Knowledge", "Counting")
    assert first.meta == {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Biology",
        "url": "u",
    }
    assert first.instruction == "How many?\nA. 1.\nB. 2.\nC. 3.\nD. 4.\nAnswer with one letter only: A, B, C or D."
    everything = VideoMme(durations=("short", "medium", "long")).read(tmp_path / "test.parquet")
    assert [item.id for item in everything] == ["001-1", "001-2", "301-1"]
    with pytest.raises(RecordError, match="has 3 questions, but none on medium videos"):
        VideoMme(durations=("medium",)).read(tmp_path / "test.parquet")
    with pytest.raises(ConfigError, match=r"durations must be among short, medium, long, got .'tiny'"):
        VideoMme(durations=("tiny",))


def test_parquet_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a.parquet cannot be read as parquet"):
        VideoMme().read(write(tmp_path / "a.parquet", "no parquet"))
    with pytest.raises(ConfigError, match=r"gone.parquet cannot be read as parquet"):
        VideoMme().read(tmp_path / "gone.parquet")


def test_parquet_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"reading .parquet files needs .* pip install 'avocet\[train\]'"):
        VideoMme().read(tmp_path / "a.parquet")


BAD_TURNS = [{"from": "human", "value": "Describe."}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # Of any file.
        ("vs2", "", "data.json: the file holds no items"),
        ("vs2", [], "data.json: the file holds no items"),
        ("vs2", "[{", "data.json: line 1 is not JSON"),
        ("vs2", json.dumps(vs2()) + '\n\n{"video"', "data.json: line 3 is not JSON"),
        ("vs2", "[" * 100_000, "data.json: line 1 is not JSON"),
        ("vs2", '{"video": "a", "video": "b"}', "the key 'video' occurs more than once in one object"),
        ("vs2", '{"video": "\\ud800"}', "data.json holds half of a surrogate pair, which is no character"),
        ("vs2", ["video"], "data.json: item 1 is no JSON object but str 'video'"),
        ("vs2", "3 4", "data.json: line 1 is no JSON object but int 3"),
        # Of each format.
        ("vs2", [vs2(), vs2()], "1 items occur more than once: 'video/0.mp4'"),
        ("vs2", [vs2("a"), vs2("b", events="a dog")], "item 2: field 'events' must be a list of texts, got 'a dog'"),
        ("vs2", [vs2(events=["a", " "])], "item 1: field 'events' .* number 2 is ' '"),
        ("vs2", [vs2(events=["a", 3])], "item 1: field 'events' .* number 2 is 3"),
        ("vs2", [vs2(events=[])], "item 1: field 'events' is empty"),
        ("vs2", [{"video": "a", "conversations": vs2()["conversations"]}], "item 1 has no field 'events'"),
        ("vs2", [vs2(video=3)], "item 1 does not name its clip"),
        ("vs2", [vs2(conversations=BAD_TURNS)], "'conversations' must be a list with an object whose 'from' is 'gpt'"),
        ("vs2-local", [local(events=[{"event": "a", "start_seconds": 1}])], "'events' number 1 has no field 'end_sec"),
        (
            "vs2-local",
            [local(events=[{"event": "a", "start_seconds": 3, "end_seconds": 2}])],
            "'events' number 1: TimedEvent 'a': times must be 0 <= start <= end, got 3.0 to 2.0",
        ),
        ("vs2-local", [local(duration_seconds=None)], "'duration_seconds' must be a finite number, got None"),
        ("vs2-local", [local(duration_seconds=True)], "'duration_seconds' must be a finite number, got True"),
        ("vs2-local", [local(duration_seconds=0)], "'duration_seconds' must be a number > 0"),
        ("vs2-local", [local(duration_seconds=float("nan"))], "'duration_seconds' must be a finite number, got nan"),
        ("vs2-local", [local(duration_seconds=10**400)], "'duration_seconds' must be a finite number"),
        ("vs2-local", [local(intervals=[[3, 2]])], "'intervals' must be a list of .start, end."),
        ("vs2-local", [local(intervals=[[3]])], "'intervals' must be a list of .start, end."),
        ("vs2-local", [local(intervals=[[1, "2"]])], "'intervals': field 'end' must be a finite number, got '2'"),
        ("vs2-local", [local(intervals=[])], "at least one, got"),
        ("vs2-local", [local(intervals=[[0, 1], [0, 1]])], "1 items occur more than once: 'video/0.mp4#t=0,1'"),
        ("ugc", [ugc(), ugc()], "data.json: expected one JSON object, got 2 objects"),
        ("ugc", ugc(valid_count=2), "'valid_count' is 2, but there are 1 samples"),
        ("ugc", ugc(samples={}), "field 'samples' must be a list of objects, got {}"),
        ("ugc", ugc(samples=[{"video_id": "PI-1", "answer": ""}]), "'samples' number 1: field 'answer' must be a text"),
        ("ugc", {"question": "What?"}, "has no field 'samples'; .*its fields: 'question'"),
        ("daily-omni", [omni("a"), omni("a")], "1 items occur more than once: 'a'"),
        ("daily-omni", [omni("a", {"Question": "What?"})], "'questions' number 1 has no field 'Choice'"),
        ("daily-omni", [omni("a", omni_question(Choice=["A. x"]))], "'Choice' must be a list of 2 to 26 choices"),
        (
            "daily-omni",
            [omni("a", omni_question(Choice=["A. x", "C. y"]))],
            "begin with their letters A, B, ... in ord",
        ),
        ("daily-omni", [omni("a", omni_question(Answer=1))], "field 'Answer' must be a text, got 1"),
        ("daily-omni", [{"questions": []}], "item 1 has no field 'video_id'"),
        ("worldsense", {"abc": world(video_id="def")}, "'abc': field 'video_id' is 'def'"),
        ("worldsense", {"abc": {"video_caption": "x"}}, "'abc' has no question; expected fields 'task0'"),
        ("worldsense", {"abc": world(task0=[])}, "'abc': field 'task0' must be an object"),
        ("worldsense", {"abc": "x"}, "field 'abc' must be an object, got 'x'"),
        ("worldsense", '{"a": {}, "a": {}}', "the key 'a' occurs more than once"),
        ("vdc", {"v": [{"question": "What?", "answer": 3}]}, "'v' number 1: field 'answer' must be a text, got 3"),
        ("vdc", {"v": {"question": "What?"}}, "field 'v' must be a list of objects"),
        ("vdc", '{"v": []}\n{"v": []}', "1 items occur more than once: 'v'"),
        ("dream1k", [dream(vid=True)], "field 'vid' must be a number or a text, got True"),
        ("dream1k", [dream(), dream("136.mp4")], "1 items occur more than once: '135'"),
        ("dream1k", [dream(extra_info={"events": ["a"], "n_events": 2})], "'n_events' is 2, but there are 1 events"),
        ("dream1k", [dream(dataset=None)], "field 'dataset' must be a text, got None"),
        ("dream1k", [dream(video="")], "item 1 does not name its clip"),
        ("videomme", [mme(duration="tiny")], "'duration' must be one of short, medium, long, got 'tiny'"),
        ("videomme", [mme(), mme()], "1 items occur more than once: '001-1'"),
        ("videomme", [mme(options="A. x")], "item 1: field 'options' must be a list of texts"),
    ],
)
def test_malformed_files_give_one_clear_error(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises((RecordError, ConfigError), match=message):
        read(name, tmp_path, content)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    benchmark = load_benchmark("vs2")
    with pytest.raises(ConfigError, match=r"gone.json cannot be read"):
        benchmark.read(tmp_path / "gone.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        benchmark.read(tmp_path)
    (tmp_path / "latin.json").write_bytes('["\xe0"]'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin.json cannot be read: 'utf-8'"):
        benchmark.read(tmp_path / "latin.json")


@pytest.mark.parametrize("window", [0, -1, float("nan"), float("inf")])
def test_windows_of_vs2_local(window: float) -> None:
    with pytest.raises(ConfigError, match="window_seconds must be > 0"):
        Vs2Local(window_seconds=window)


BUILDERS: dict[str, Callable[[], Any]] = {
    "vs2": lambda: [vs2()],
    "vs2-local": lambda: [local()],
    "ugc": ugc,
    "daily-omni": lambda: [omni()],
    "worldsense": lambda: {"abc": world()},
    "vdc": lambda: {"abc": [{"question": "What?", "answer": "a car", "category": "object"}]},
    "dream1k": lambda: [dream()],
    "videomme": lambda: [mme()],
}


@pytest.mark.parametrize("name", BUILDERS)
def test_another_benchmarks_file_is_refused(tmp_path: Path, name: str) -> None:
    for other, builder in BUILDERS.items():
        if other != name:
            with pytest.raises((RecordError, ConfigError), match=r"data.json"):
                read(name, tmp_path, builder())
