"""The other benchmarks from annotation file to report, against scripted judges: every number is worked out by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import Asked, JudgeServer, Step

from avocet import cli

pytestmark = pytest.mark.usefixtures("no_surroundings")

Report = dict[str, Any]


@pytest.fixture
def evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Report]:
    """Run the command and return the report with its scores by name."""

    def run(
        name: str,
        annotations: Path,
        captions: dict[str, str | None],
        script: Callable[[Asked], Step] | None,
        *more: str,
        code: int = 0,
    ) -> Report:
        file = tmp_path / f"{name}-captions.json"
        file.write_text(json.dumps(captions))
        arguments = ["evaluate", name, "--annotations", str(annotations), "--captions", str(file), "--json"]
        with JudgeServer(script) as server:
            judge = ["--judge", "scripted", "--base-url", server.base_url, "--concurrency", "64"] if script else []
            assert cli.main([*arguments, *judge, *more]) == code
            num_asked = len(server.asked)
        report: Report = json.loads(capsys.readouterr().out)
        report["by_name"] = {score["name"]: score for score in report["scores"]}
        report["num_asked"] = num_asked
        return report

    return run


def value(report: Report, name: str) -> Any:
    return report["by_name"][name]["value"]


def reply(**fields: Any) -> Step:
    return Step(text=json.dumps({"reasoning": "scripted", **fields}))


def found(pattern: str, asked: Asked) -> str:
    match = re.search(pattern, asked.text)
    assert match is not None, asked.text
    return match[1]


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_ugc(tmp_path: Path, evaluate: Callable[..., Report]) -> None:
    samples = [{"video_id": f"PI-{name}", "path": f"/x/{name}.mp4", "answer": f"Reference {name}."} for name in "abcd"]
    file = write(tmp_path / "ugc.json", {"question": "Describe.", "valid_count": 4, "samples": samples})
    grades = {"a": (5, 3, 1), "b": (4, 4, 4), "c": (1, 1, 1)}

    def script(asked: Asked) -> Step:
        name = found(r"Caption (\w)", asked)
        if name == "c":
            return Step(text="")  # a whole verdict never comes
        visual, audio, details = grades[name]
        return reply(visual=visual, audio=audio, details=details)

    report = evaluate("ugc", file, {f"PI-{name}": f"Caption {name}" for name in "abc"}, script)
    # In percent of 5: visual 100, 80; audio 60, 80; details 20, 80. c is unscored, not 0 (nor 20).
    assert value(report, "visual") == pytest.approx(0.90)
    assert value(report, "audio") == pytest.approx(0.70)
    assert value(report, "details") == pytest.approx(0.50)
    assert value(report, "average") == pytest.approx(0.70)
    # a averages 60 %, b 80 %: standard error = |0.8 - 0.6| / 2.
    assert report["by_name"]["average"]["standard_error"] == pytest.approx(0.1)
    assert (report["num_scored"], report["num_unscored"], report["num_missing"]) == (2, 1, 1)
    assert report["unscored_reasons"] == {"unusable reply": 1}


def choice_question(number: int, answer: str, kind: str) -> dict[str, Any]:
    return {
        "Question": f"Question {number}?",
        "Choice": ["A. one", "B. two", "C. three", "D. four"],
        "Answer": answer,
        "Type": kind,
    }


def test_daily_omni(tmp_path: Path, evaluate: Callable[..., Report]) -> None:
    videos = [
        {
            "video_id": name,
            "video_duration": duration,
            "video_category": "Music",
            "questions": [choice_question(*one) for one in questions],
        }
        for name, duration, questions in (
            ("v1", "30s", [(1, "A", "Inference"), (2, "B", "Inference"), (3, "C", "Comparative")]),
            ("v2", "60s", [(4, "D", "Inference"), (5, "A", "Comparative")]),
            ("v3", "60s", [(6, "A", "Inference")]),
        )
    ]
    file = write(tmp_path / "grouped.json", videos)
    answers = {"1": "A", "2": "C", "3": "N/A", "4": "(d)", "5": "E"}

    def script(asked: Asked) -> Step:
        return reply(answer=answers[found(r"Question (\d)", asked)])

    report = evaluate("daily-omni", file, {"v1_video.mp4": "x", "v2": "y", "v3": None}, script)
    # Right 1 and 4; wrong 2; N/A 3 (wrong); 5 names no choice twice: unscored. So 2 of 4, of the 3 answered 2.
    assert value(report, "accuracy") == pytest.approx(2 / 4)
    assert value(report, "accuracy of answers") == pytest.approx(2 / 3)
    assert value(report, "n/a") == pytest.approx(1 / 4)
    # Over videos (1 of 3, 1 of 1): sqrt(2 / 1 * ((1 - 1.5)^2 + (1 - 0.5)^2)) / 4 = sqrt(1) / 4.
    assert report["by_name"]["accuracy"]["standard_error"] == pytest.approx(0.25)
    assert report["num_asked"] == 6  # five questions, one of them twice
    groups = {
        (one["by"], group["name"]): (group["value"], group["num"], group["num_unscored"])
        for one in report["breakdowns"]
        for group in one["groups"]
    }
    assert groups["type", "Inference"] == (pytest.approx(2 / 3), 3, 0)
    assert groups["type", "Comparative"] == (0.0, 1, 1)
    assert groups["video duration", "30s"] == (pytest.approx(1 / 3), 3, 0)
    assert report["missing"]["v3"].startswith("no caption")
    # v2 has a score, but question 5 has none.
    assert (report["num_scored"], report["num_partly_scored"], report["num_unscored"]) == (2, 1, 0)
    assert report["unscored_questions"] == {"unreadable reply": 1}
    assert {score["num_unscored"] for score in report["scores"][:3]} == {1}
    assert "of 4 questions (1 unscored)" in report["by_name"]["accuracy"]["note"]


def test_worldsense(tmp_path: Path, evaluate: Callable[..., Report]) -> None:
    task = {"task_domain": "Recognition", "task_type": "Audio", "candidates": ["A. one", "B. two"]}
    file = write(
        tmp_path / "worldsense_qa.json",
        {
            "v1": {
                "video_duration": "60s",
                "video_caption": "Reference.",
                "task0": {**task, "question": "Question 1?", "answer": "A"},
                "task1": {**task, "question": "Question 2?", "answer": "B", "task_domain": "Reasoning"},
            }
        },
    )
    report = evaluate("worldsense", file, {"v1": "x"}, lambda asked: reply(answer="A"))
    assert value(report, "accuracy") == 0.5
    by_category = next(one for one in report["breakdowns"] if one["by"] == "category")
    assert {group["name"]: group["value"] for group in by_category["groups"]} == {"Reasoning": 0.0, "Recognition": 1.0}


def test_vdc(tmp_path: Path, evaluate: Callable[..., Report]) -> None:
    questions = [
        {"question": f"Question {number}?", "answer": f"answer {number}", "category": "c"} for number in (1, 2)
    ]
    file = tmp_path / "detailed.jsonl"
    lines = [{"v1": questions}, {"v2": [{"question": "Question 3?", "answer": "answer 3", "category": "c"}]}]
    file.write_text("\n".join(map(json.dumps, lines)))
    scores = {"1": ("yes", 4), "2": ("no", 1), "3": ("no", 0)}

    def script(asked: Asked) -> Step:
        number = found(r"Question (\d)", asked)
        if '"stated"' in asked.text:
            return reply(stated=number != "3", answer="" if number == "3" else f"said {number}")
        match, score = scores[number]
        return reply(match=match, score=score)

    report = evaluate("vdc", file, {"v1": "x", "v2": "y"}, script)
    # v1: accuracy 1/2, score (4 + 1) / 2; v2: 0 and 0, which stays in the mean (the released code drops it).
    assert value(report, "accuracy") == pytest.approx((0.5 + 0) / 2)
    assert value(report, "score") == pytest.approx((2.5 + 0) / 2)
    assert report["by_name"]["score"]["unit"] == "grade"
    assert report["num_asked"] == 6


def test_unscored_questions_show_in_every_report(tmp_path: Path, evaluate: Callable[..., Report]) -> None:
    """Half of the questions have no score, and v3 has none at all: 100 % of what is left must not look whole."""
    file = tmp_path / "detailed.jsonl"
    lines = [
        {f"v{video}": [{"question": f"Question {video}{number}?", "answer": "x", "category": "c"} for number in (1, 2)]}
        for video in (1, 2, 3)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))

    def script(asked: Asked) -> Step:
        number = found(r"Question (\d\d)", asked)
        if '"stated"' in asked.text:
            return reply(stated=True, answer="x")
        return Step(text="I am sorry") if number in ("12", "31", "32") else reply(match="yes", score=5)

    out = tmp_path / "out"
    report = evaluate("vdc", file, {f"v{number}": "x" for number in (1, 2, 3)}, script, "--out", str(out))
    assert value(report, "accuracy") == 1.0
    assert report["by_name"]["accuracy"]["num_unscored"] == report["by_name"]["score"]["num_unscored"] == 3
    assert "3 of 6 questions unscored" in report["by_name"]["accuracy"]["note"]
    assert (report["num_scored"], report["num_partly_scored"], report["num_unscored"]) == (2, 1, 1)
    # One of v1, which is scored; of v3 nothing is.
    assert report["unscored_questions"] == {"unreadable reply": 1}
    assert report["unscored_reasons"] == {"unreadable reply": 1}
    warning = "1 questions of captions that are scored have no score themselves and are in no average"
    assert report["warnings"] == [warning]
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert [item["status"] for item in items] == ["partly scored", "scored", "unscored"]
    assert items[0]["reason"].startswith("1 questions are unscored; the first: unreadable reply: expected")
    assert items[2]["reason"].startswith("unreadable reply: none of 2 questions could be scored; the first: unreadable")
    markdown = (out / "report.md").read_text()
    assert "## Unscored questions\n\n- 1 × unreadable reply" in markdown
    assert warning in markdown
    page = (out / "report.html").read_text()
    assert warning in page
    assert "3 of 6 questions unscored" in page


def test_a_question_that_failed_is_asked_again_by_the_next_run(tmp_path: Path, evaluate: Callable[..., Report]) -> None:
    file = tmp_path / "detailed.jsonl"
    questions = [{"question": f"Question {number}?", "answer": "x", "category": "c"} for number in (1, 2)]
    file.write_text(json.dumps({"v1": questions}))
    cut = {"reason": "length"}

    def script(asked: Asked) -> Step:
        if '"stated"' in asked.text:
            return reply(stated=True, answer="x")
        if found(r"Question (\d)", asked) == "2":
            return Step(text='{"reasoning": "", "match": "no", "score": 0}', finish_reason=cut["reason"])
        return reply(match="yes", score=5)

    more = ("--out", str(tmp_path / "out"))
    first = evaluate("vdc", file, {"v1": "x"}, script, *more)
    assert (value(first, "accuracy"), first["num_partly_scored"]) == (1.0, 1)
    cut["reason"] = "stop"
    # Another server is another judge for the ledger, the cache knows the replies: only question 2 is asked.
    second = evaluate("vdc", file, {"v1": "x"}, script, *more)
    assert (value(second, "accuracy"), second["num_partly_scored"], second["num_asked"]) == (0.5, 0, 1)
    assert second["unscored_questions"] == {}


def test_one_scored_video_has_no_error(tmp_path: Path, evaluate: Callable[..., Report]) -> None:
    videos = [
        {"video_id": name, "video_duration": "30s", "video_category": "x", "questions": [choice_question(*one)]}
        for name, one in (("v1", (1, "A", "Inference")), ("v2", (2, "A", "Inference")))
    ]
    answers = {"1": "A", "2": "neither"}
    report = evaluate(
        "daily-omni",
        write(tmp_path / "grouped.json", videos),
        {"v1": "x", "v2": "y"},
        lambda asked: reply(answer=answers[found(r"Question (\d)", asked)]),
    )
    assert (value(report, "accuracy"), report["num_scored"], report["num_unscored"]) == (1.0, 1, 1)
    assert report["by_name"]["accuracy"]["standard_error"] is None
    assert report["by_name"]["accuracy"]["low"] is None


def dream_line(number: int, subset: str, events: list[str]) -> dict[str, Any]:
    return {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "video", "video": {"video_file": f"{number}.mp4"}},
                    {"type": "text", "text": "Describe."},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "reference": f"Reference {number}.", "text": "other"}]},
        ],
        "dataset": f"DREAM/{subset}",
        "vid": number,
        "extra_info": {"events": events, "n_events": len(events), "n_subjects": 1, "n_shots": 1, "duration": 5.0},
    }


def test_dream1k(tmp_path: Path, evaluate: Callable[..., Report]) -> None:
    file = tmp_path / "dream.jsonl"
    lines = [
        dream_line(1, "youtube", ["A man runs.", "A dog barks."]),
        dream_line(2, "youtube", ["A cat sleeps."]),
        dream_line(3, "videvo", ["Rain falls.", "A car stops.", "A door opens.", "A man waves."]),
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    told = {"1": ["A man runs.", "A man jumps."], "2": [], "3": ["Rain falls."]}
    # Labels of reference events by the caption, and of caption events by the reference.
    recalled = {"1": ["entailment", "neutral"], "2": ["neutral"], "3": ["entailment"] * 3 + ["contradiction"]}
    supported = {"1": ["entailment", "contradiction"], "3": ["entailment"]}

    def script(asked: Asked) -> Step:
        if '"labels"' not in asked.text:
            return reply(events=told[found(r"Caption (\d)", asked)])
        by_caption = re.search(r"Caption (\d)", asked.text)
        labels = recalled[by_caption[1]] if by_caption else supported[found(r"Reference (\d)", asked)]
        return reply(labels=[{"number": number, "label": label} for number, label in enumerate(labels, start=1)])

    report = evaluate("dream1k", file, {f"{number}.mp4": f"Caption {number}" for number in (1, 2, 3)}, script)
    # Recall: youtube (1/2 + 0/1) / 2 = 0.25, videvo 3/4, macro 0.5. Precision: youtube 1/2 (clip 2 tells no event),
    # videvo 1/1, macro 0.75. F1 = 2 * 0.5 * 0.75 / 1.25 = 0.6.
    assert value(report, "recall") == pytest.approx(0.5)
    assert value(report, "precision") == pytest.approx(0.75)
    assert value(report, "f1") == pytest.approx(0.6)
    assert "1 clips without" in report["by_name"]["precision"]["note"]
    assert report["by_name"]["precision"]["num"] == 2


def test_videomme_needs_no_judge(tmp_path: Path, evaluate: Callable[..., Report]) -> None:
    rows = [
        {
            "video_id": "001",
            "duration": "short" if number < 5 else "long",
            "domain": "Sports",
            "videoID": "abc",
            "question_id": f"001-{number}",
            "task_type": "Counting",
            "question": f"Question {number}?",
            "options": ["A. one", "B. two", "C. three", "D. four"],
            "answer": "B",
        }
        for number in range(1, 6)
    ]
    file = write(tmp_path / "videomme.json", rows)
    replies = {"001-1": "B", "001-2": "The answer is (b).", "001-3": "A dog runs.", "001-4": "C. three"}
    report = evaluate("videomme", file, replies, None)
    # The long video's question is not asked. Right: 1 and 2; 3 names no choice (wrong, N/A); 4 wrong.
    assert report["num_items"] == 4
    assert value(report, "accuracy") == pytest.approx(2 / 4)
    assert value(report, "n/a") == pytest.approx(1 / 4)
    assert "repetition" not in report["by_name"]  # answers are no captions


def test_vs2_local_counts_intervals_without_events(tmp_path: Path, evaluate: Callable[..., Report]) -> None:
    events = [
        {"event": "a man walks", "start_seconds": 0.0, "end_seconds": 4.0},
        {"event": "a bell rings", "start_seconds": 12.0, "end_seconds": 12.0},
    ]
    file = write(
        tmp_path / "local.json", [{"video": "0.mp4", "events": events, "intervals": [[0, 10], [10, 20], [20, 30]]}]
    )
    captions = {f"0.mp4#t={start},{start + 10}": f"Caption {start}." for start in (0, 10, 20)}

    def script(asked: Asked) -> Step:
        missed = [1] if "Caption 10." in asked.text else []
        fields = {"missed": missed, "incorrect": [], "hallucinated": [], "num_missed": len(missed)}
        return reply(**fields, num_incorrect=0, num_hallucinated=0)

    report = evaluate("vs2-local", file, captions, script, "--runs", "1")
    assert value(report, "miss") == pytest.approx((0 + 1) / 2)
    assert (report["num_scored"], report["num_unscored"]) == (2, 1)
    assert report["unscored_reasons"] == {"no events": 1}


@pytest.mark.parametrize(
    ("name", "file", "num_items"),
    [
        ("ugc", "ugc_videocap_final_caption_qa.json", 999),
        ("daily-omni", "daily_omni_grouped_data.json", 684),
        ("dream1k", "dream_1k_example.jsonl", 1000),
    ],
)
def test_whole_released_files(
    benchmark_data: Path,
    evaluate: Callable[..., Report],
    name: str,
    file: str,
    num_items: int,
) -> None:
    """Every item of the real files gets through, with replies whose score is known."""
    from avocet.evaluation.benchmarks import load_benchmark

    items = load_benchmark(name).read(benchmark_data / file)
    captions = {item.id: f"A caption of {item.id}." for item in items}

    def script(asked: Asked) -> Step:
        if name == "ugc":
            return reply(visual=5, audio=4, details=3)
        if name == "daily-omni":
            return reply(answer="A")
        if '"labels"' not in asked.text:
            return reply(events=["Somebody runs."])
        count = int(found(r"The (\d+) events, numbered", asked))
        return reply(labels=[{"number": number, "label": "entailment"} for number in range(1, count + 1)])

    report = evaluate(name, benchmark_data / file, captions, script)
    assert report["num_scored"] == num_items
    if name == "ugc":
        assert value(report, "average") == pytest.approx(0.8)
        assert report["num_asked"] == 999
    elif name == "daily-omni":
        assert report["num_asked"] == 1_196  # one video has one question twice: it is asked once and counts twice
        assert value(report, "accuracy") == pytest.approx(278 / 1_197)  # A is right 278 times
    else:
        assert value(report, "f1") == pytest.approx(1.0)
        assert "4 clips without" in report["by_name"]["recall"]["note"]
