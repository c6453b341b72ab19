"""The page of a benchmark run: built from the real scorers' records, everything escaped, nothing loaded, small."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import pytest

from avocet.errors import ConfigError
from avocet.evaluation.benchmarks import load_benchmark
from avocet.evaluation.captions import CaptionSet, ImportedCaption
from avocet.evaluation.evaluate import BenchmarkRun, Evaluation
from avocet.evaluation.items import BenchmarkItem, Question
from avocet.evaluation.scores import Score
from avocet.judging.dream import DreamFindings, LabelledEvent
from avocet.judging.judge import Judge
from avocet.judging.qa import QaAnswer, QaFindings
from avocet.judging.ugc import UgcFindings, UgcReply
from avocet.judging.vdc import QuestionFinding, VdcFindings
from avocet.metrics import EventFindings
from avocet.metrics.events import Protocol
from avocet.records import Record, Verdict
from avocet.review._score_charts import bins_of
from avocet.review.evaluation_page import render_evaluation_page, write_evaluation_page

HOSTILE = '</style></p><script>alert(1)</script><img src=x onerror="alert(2)"> "quoted" & \x1b[31m\x00 \u202e'
VOID = frozenset({"meta", "link"})


@dataclasses.dataclass(frozen=True)
class Element:
    tag: str
    attributes: dict[str, str | None]
    inside: tuple[str, ...]
    words: list[str] = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


class Reader(HTMLParser):
    """All elements, each with its text; what is opened must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), tuple(one.attributes.get("aria-labelledby") or "" for one in self.open))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.words.append(data)

    def find(self, tag: str, kind: str = "", inside: str = "") -> list[str]:
        """Texts of the elements with that tag and class inside the element with that label."""
        return [
            element.text
            for element in self.elements
            if element.tag == tag
            and (not kind or kind in (element.attributes.get("class") or "").split())
            and (not inside or inside in element.inside)
        ]

    def rows(self, label: str) -> list[list[str]]:
        """The cells of the rows of the table in the region with that label."""
        place = next(index for index, one in enumerate(self.elements) if one.attributes.get("aria-label") == label)
        rows: list[list[str]] = []
        for element in self.elements[place + 2 :]:
            if element.tag == "tr":
                rows.append([])
            elif element.tag in ("th", "td"):
                rows[-1].append(element.text)
            elif element.attributes.get("role") == "region":
                break
        return rows


class ScriptedJudge(Judge[Any]):
    """Gives each clip what stands in the script for it: findings, a reason for none, or one of these for each run."""

    name: ClassVar[str] = "scripted"

    def __init__(self, script: Mapping[str, Any]) -> None:
        self.script = script

    async def judge(self, item: Any, run_index: int = 0) -> Verdict:
        entry = self.script[item.clip_id]
        entry = entry[run_index] if isinstance(entry, list) else entry
        if isinstance(entry, str):
            return Verdict(clip_id=item.clip_id, judge=self.name, run_index=run_index, status="unscored", reason=entry)
        assert isinstance(entry, Record)
        return Verdict(
            clip_id=item.clip_id, judge=self.name, run_index=run_index, findings=json.loads(entry.to_json_line())
        )


def evaluate(
    name: str,
    items: Sequence[BenchmarkItem],
    captions: Mapping[str, str],
    script: Mapping[str, Any],
    *,
    runs: int = 1,
    protocol: Protocol = "paper",
    captioner: str = "captions.jsonl",
) -> Evaluation:
    found = tuple(ImportedCaption(video=video, text=text, where=f"{captioner}:1") for video, text in captions.items())
    run = BenchmarkRun(benchmark=load_benchmark(name), items=items, runs=runs, protocol=protocol)
    return run.evaluate(CaptionSet(captions=found, files=(captioner,)), None, judge=ScriptedJudge(script))


def event_item(name: str, num_events: int = 4) -> BenchmarkItem:
    return BenchmarkItem(
        id=name, video=f"{name}.mp4", events=tuple(f"event {number}" for number in range(1, num_events + 1))
    )


def event_findings(
    missed: Sequence[str] = (), incorrect: Sequence[str] = (), hallucinated: Sequence[str] = (), num_events: int = 4
) -> EventFindings:
    return EventFindings(
        num_events=num_events, missed=tuple(missed), incorrect=tuple(incorrect), hallucinated=tuple(hallucinated)
    )


def page_of(evaluation: Evaluation, **options: Any) -> Reader:
    return Reader(render_evaluation_page(evaluation.report, evaluation.outcomes, **options))


@pytest.fixture(scope="module")
def events() -> Evaluation:
    """Totals of 4 events each: a 0, b 2/4, c 3/4; d is unscored, e has no caption, f is scored in one of two runs."""
    script = {
        "a": event_findings(),
        "b": event_findings(missed=["event 2"], incorrect=["event 1: described as the bell is blue"], hallucinated=[]),
        "c": event_findings(missed=["event 3", "event 4"], hallucinated=["A dog barks loudly in the yard"]),
        "d": "no JSON found: the reply was empty",
        "f": ["no JSON found: the reply was cut", event_findings(missed=["event 1"])],
    }
    captions = {
        "a.mp4": "A bell rings.",
        "b.mp4": "At first the bell is blue. It rings.",
        "c.mp4": "A dog barks loudly in the yard. The end.",
        "d.mp4": "A caption.",
        "f.mp4": "A flute plays.",
    }
    return evaluate("vs2", [event_item(name) for name in "abcdef"], captions, script, runs=2)


def test_the_headline_stands_large_with_its_interval(events: Evaluation) -> None:
    """Totals 0, 0.5, 0.75 and 0.25: the mean is 37.5 %."""
    page = page_of(events)
    assert page.find("strong")[0].startswith("37.5 ±")
    headline = page.find("p", "headline")[0]
    assert re.search(r"total, 95 % interval [\d.]+ to [\d.]+, lower is better", headline)
    figures = dict(zip(page.find("dt"), page.find("dd"), strict=True))
    assert figures["unscored"] == "1"
    assert figures["without a caption"] == "1"
    assert figures["scored of 6 items of 483 published"] == "4"


def test_scores_have_bars(events: Evaluation) -> None:
    page = page_of(events)
    rows = {row[0]: row for row in page.rows("Scores")[1:]}
    assert [score.name for score in events.report.scores] == list(rows)
    assert rows["miss"][1].startswith("25.0 ±")
    bars = [one for one in page.elements if "score-bar" in (one.attributes.get("class") or "").split()]
    labels = [one.attributes["aria-label"] or "" for one in bars]
    assert any(label.startswith("total: 37.5 ± ") and "interval" in label for label in labels)


def test_the_bar_is_as_long_as_the_score() -> None:
    """Totals 0.25 and 0.75 on the scale to 1: value 50 %, interval from 25 to 75 %."""
    script = {"a": event_findings(missed=["event 1"]), "b": event_findings(missed=["event 1", "event 2", "event 3"])}
    evaluation = evaluate("vs2", [event_item("a"), event_item("b")], {"a.mp4": "One.", "b.mp4": "Two."}, script)
    elements = page_of(evaluation).elements
    place = next(
        index for index, one in enumerate(elements) if (one.attributes.get("aria-label") or "").startswith("total: 50")
    )
    track, bar, interval = elements[place + 1 : place + 4]
    assert track.attributes["width"] == "100%"
    assert bar.attributes["width"] == "50.00%"
    assert (interval.attributes["x1"], interval.attributes["x2"]) == ("25.00%", "75.00%")


def test_published_rows_are_sorted_with_this_run_among_them(events: Evaluation) -> None:
    page = page_of(events)
    rows = page.rows("AVoCaDO, arXiv 2510.10395, table 1")
    # 37.5 % per caption; pooled, the first run has 5 of 12 and the second, reported as the lower one, 6 of 16: as much.
    assert rows[0] == ["model", "total", "", "miss", "hall"]
    order = [row[0] for row in rows[1:]]
    assert order[:3] == ["Gemini-2.5-Pro", "Gemini-2.5-Flash", "AVoCaDO 7B"]
    assert order[3:6] == ["this run", "this run (pooled)", "video-SALMONN-2 7B"]
    assert len(order) == 13 + 2
    assert rows[1] == ["Gemini-2.5-Pro", "31.3 %", "", "18.1 %", "13.3 %"]
    totals = [float(row[1].split()[0]) for row in rows[1:]]
    assert totals == sorted(totals)
    assert page.find("tr", "own")[1].startswith("this run37.5 ±")
    assert any("judge GPT-4.1" in note for note in page.find("p", "remark"))
    assert len(page.rows("video-SALMONN 2, first version, arXiv 2410.06682, table 1")) == 1 + 9 + 2


def test_where_more_is_better_the_highest_comes_first() -> None:
    evaluation = ugc_evaluation()
    rows = page_of(evaluation).rows("AVoCaDO, arXiv 2510.10395, table 1")[1:]
    # Grades 4, 3, 2 and 5, 5, 5: averages 60 % and 100 %.
    assert [row[0] for row in rows[:2]] == ["this run", "AVoCaDO 7B"]
    assert rows[0][1].startswith("80.0 ±")


def test_what_is_missing_is_listed_with_reasons(events: Evaluation) -> None:
    page = page_of(events)
    assert "1 without a caption" in page.find("h3")
    (missing,) = [line for line in page.find("li") if line.startswith("e: ")]
    assert missing == f"e: {events.report.missing['e']}"
    # d in both runs, f in one.
    assert "3 unscored verdicts" in page.find("h3")
    (reason,) = [line for line in page.find("li") if line.startswith("3 × no JSON found")]
    assert "d: no JSON found: the reply was empty" in reason
    assert "f: no JSON found: the reply was cut" in reason


def test_a_run_without_failures_says_so() -> None:
    evaluation = evaluate("vs2", [event_item("a")], {"a.mp4": "One."}, {"a": event_findings()})
    assert "Every item has a caption, and every verdict was scored." in page_of(evaluation).find("p")


def test_worst_and_best_items(events: Evaluation) -> None:
    """Totals c 75, b 50, f 25, a 0 %, lower is better; of four items two are worst and two best."""
    assert item_titles(page_of(events)) == {"worst": ["75.0 % c", "50.0 % b"], "best": ["0.0 % a", "25.0 % f"]}
    assert item_titles(page_of(events, num_items_shown=1)) == {"worst": ["75.0 % c"], "best": ["0.0 % a"]}
    assert item_titles(page_of(events, num_items_shown=0)) == {"worst": [], "best": []}


def test_where_more_is_better_the_lowest_is_worst() -> None:
    assert item_titles(page_of(ugc_evaluation())) == {"worst": ["60.0 % a"], "best": ["100.0 % b"]}


def item_titles(page: Reader) -> dict[str, list[str]]:
    return {
        name: [
            one.text
            for one in page.elements
            if one.tag == "h3" and (one.attributes.get("id") or "").startswith(f"item-{name}")
        ]
        for name in ("worst", "best")
    }


def test_findings_are_marked_in_the_caption(events: Evaluation) -> None:
    page = page_of(events)
    # c: the hallucination as it stands; two events missed beside it.
    assert page.find("mark", inside="item-worst-1") == ["A dog barks loudly in the yard1"]
    assert page.find("li", inside="item-worst-1")[-3:] == [
        "1+hallucinated A dog barks loudly in the yard",
        "\N{WHITE CIRCLE}missed event 3",
        "\N{WHITE CIRCLE}missed event 4",
    ]
    # b: what the event was described as.
    assert page.find("mark", "incorrect", inside="item-worst-2") == ["the bell is blue1"]
    caption = page.find("p", "caption", inside="item-worst-2")[0]
    assert caption == "At first the bell is blue1. It rings."
    assert page.find("mark", inside="item-best-1") == []
    assert "The judge found nothing to object to." in page.find("p", inside="item-best-1")


def test_what_is_not_in_the_caption_is_listed_below() -> None:
    script = {"a": event_findings(hallucinated=["A submarine dives under the ice"])}
    page = page_of(evaluate("vs2", [event_item("a")], {"a.mp4": "A bell rings."}, script))
    assert page.find("mark") == []
    assert "Not found in the caption" in page.find("h4")
    assert "+hallucinated A submarine dives under the ice" in page.find("li")


def test_flags_of_the_text_and_of_runs(events: Evaluation) -> None:
    """A caption that says one thing 40 times has collapsed; one with a token of the chat format is unnatural."""
    captions = {"a.mp4": "The bell rings again and then stops. " * 40, "b.mp4": "A bell rings.<|im_end|>"}
    script = {"a": event_findings(missed=["event 1"]), "b": event_findings()}
    page = page_of(evaluate("vs2", [event_item("a"), event_item("b")], captions, script))
    assert page.find("ul", "flags", inside="item-worst-1") == ["!collapsed: end loop"]
    assert page.find("ul", "flags", inside="item-best-1") == ["!unnatural: markup residue"]
    assert page_of(events).find("ul", "flags", inside="item-best-2") == [
        "!scored in part: no JSON found: the reply was cut"
    ]


def test_breakdowns(events: Evaluation) -> None:
    rows = page_of(events).rows("total by number of events")
    assert rows[0] == ["number of events", "total ± standard error", "", "captions", "unscored"]
    assert rows[1][0] == "up to 24"
    assert rows[1][1].startswith("37.5 ±")
    assert rows[1][3:] == ["4", "1"]


def test_costs_are_shown_where_there_are_any(events: Evaluation) -> None:
    assert "Cost" not in page_of(events).find("h2")
    page = page_of(events, cost_lines=["judge: 12 calls, $0.0420", HOSTILE])
    assert "Cost" in page.find("h2")
    assert "judge: 12 calls, $0.0420" in page.find("li")


def test_the_histogram_counts_items(events: Evaluation) -> None:
    """Totals 0, 25, 50 and 75 %: four bars of one item, the rest empty."""
    page = page_of(events)
    counts = [title.split(": ") for title in page.find("title") if " to " in title]
    assert [title for title, count in counts if count == "1"] == [
        "0.0 % to 5.0 %",
        "25.0 % to 30.0 %",
        "50.0 % to 55.0 %",
        "70.0 % to 75.0 %",
    ]
    assert {count for _, count in counts} == {"0", "1"}
    caption = "4 items: lowest 0.0 %, median 37.5 %, mean 37.5 %, highest 75.0 %; the largest bar counts 1."
    assert page.find("figcaption") == [caption]


@pytest.mark.parametrize(
    ("values", "max_bins", "start", "step", "counts"),
    [
        ([0.0, 0.1, 0.2, 1.0], 5, 0.0, 0.2, (2, 1, 0, 0, 1)),
        ([0.3, 0.3], 24, 0.3, 0.02, (2,)),
        ([0.0], 24, 0.0, 0.05, (1,)),
        ([-0.5, 0.5], 2, -0.5, 0.5, (1, 1)),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 4, 1.0, 1.0, (1, 1, 1, 2)),
    ],
)
def test_bins(values: list[float], max_bins: int, start: float, step: float, counts: tuple[int, ...]) -> None:
    bins = bins_of(values, max_bins)
    assert (bins.start, bins.step) == (pytest.approx(start), pytest.approx(step))
    assert bins.counts == counts


def ugc_evaluation() -> Evaluation:
    items = [BenchmarkItem(id=name, video=f"{name}.mp4", reference="The reference.") for name in "ab"]
    script = {
        "a": UgcFindings.of(UgcReply(reasoning="It misses the song.", audio=4, visual=3, details=2)),
        "b": UgcFindings.of(UgcReply(reasoning="All there.", audio=5, visual=5, details=5)),
    }
    return evaluate("ugc", items, {"a.mp4": "One.", "b.mp4": "Two."}, script)


def test_grades_are_findings() -> None:
    page = page_of(ugc_evaluation())
    (line,) = [line for line in page.find("li", inside="item-worst-1") if "grades" in line]
    assert line == "igrades visual 3, audio 4, details 2 of 5: It misses the song."


def test_answers_stand_with_their_questions() -> None:
    questions = tuple(
        Question(id=f"q{number}", text=f"What is {number}?", choices=("A. one", "B. two"), answer="A")
        for number in (1, 2, 3)
    )
    item = BenchmarkItem(id="a", video="a.mp4", questions=questions)
    answers = {
        "q1": QaAnswer(answer="A", reference="A", right=True),
        "q2": QaAnswer(answer="B", reference="A", right=False, reasoning="It says two."),
        "q3": QaAnswer(answer="N/A", reference="A", right=False),
    }
    page = page_of(evaluate("daily-omni", [item], {"a.mp4": "One."}, {"a": QaFindings(answers=answers)}))
    assert page.find("li", inside="item-worst-1")[-3:] == [
        "\N{CHECK MARK}rightWhat is 1? q1: A, right is A",
        "\N{NOT EQUAL TO}wrongWhat is 2? q2: B, right is A (It says two.)",
        "\N{WHITE CIRCLE}not statedWhat is 3? q3: N/A, right is A",
    ]
    assert page.find("mark") == []


def test_short_answers_and_grades_have_their_own_scale() -> None:
    questions = tuple(Question(id=f"q{number}", text=f"What is {number}?", answer="one") for number in (1, 2))
    found = VdcFindings.of(
        [
            QuestionFinding(id="q1", answer="one", correct=True, score=4, reasoning="The same."),
            QuestionFinding(id="q2", reason="the reply was empty"),
        ]
    )
    item = BenchmarkItem(id="a", video="a.mp4", questions=questions)
    page = page_of(evaluate("vdc", [item], {"a.mp4": "One."}, {"a": found}))
    assert page.find("li", inside="item-worst-1")[-2:] == [
        "\N{CHECK MARK}rightWhat is 1? q1: one (4 of 5: The same.)",
        "?unscoredWhat is 2? q2: the reply was empty",
    ]
    rows = page.rows("AVoCaDO, arXiv 2510.10395, table 3")
    assert ["AVoCaDO 7B", "47.4 %", "", "2.50"] in rows
    assert rows[1][0] == "this run"


def test_events_of_the_caption_that_the_reference_lacks_are_marked() -> None:
    found = DreamFindings.of(
        [LabelledEvent(event="A cat sleeps", label="neutral"), LabelledEvent(event="A door opens", label="entailment")],
        [
            LabelledEvent(event="A tall man juggles five knives", label="neutral"),
            LabelledEvent(event="A door opens", label="entailment"),
        ],
    )
    item = BenchmarkItem(id="a", video="a.mp4", reference="A cat sleeps. A door opens.", meta={"subset": "movies"})
    captions = {"a.mp4": "A tall man juggles five knives. A door opens."}
    page = page_of(evaluate("dream1k", [item], captions, {"a": found}))
    assert page.find("mark") == ["A tall man juggles five knives1"]
    assert "\N{WHITE CIRCLE}missed A cat sleeps" in page.find("li")


def hostile_evaluation() -> Evaluation:
    items = [
        BenchmarkItem(id=f"{HOSTILE}{name}", video=f"{name}.mp4", events=("event 1", HOSTILE)) for name in "abc"
    ] + [BenchmarkItem(id=f"{HOSTILE}m", video="m.mp4", events=("event 1",))]
    script = {
        f"{HOSTILE}a": event_findings(missed=[HOSTILE], incorrect=[f"event 1: described as {HOSTILE}"], num_events=2),
        f"{HOSTILE}b": event_findings(hallucinated=["alert(1) script img onerror", HOSTILE], num_events=2),
        f"{HOSTILE}c": f"{HOSTILE}: {HOSTILE}",
    }
    captions = {f"{name}.mp4": f"A bell. {HOSTILE} And {HOSTILE}" for name in "abc"}
    return evaluate("vs2", items, captions, script, captioner=HOSTILE)


def test_hostile_text_stays_text() -> None:
    evaluation = hostile_evaluation()
    assert evaluation.report.num_scored == 2
    page = render_evaluation_page(evaluation.report, evaluation.outcomes, cost_lines=[HOSTILE])
    reader = Reader(page)
    tags = {one.tag for one in reader.elements}
    assert not tags & {"script", "img", "iframe", "object", "a", "form", "input", "base"}
    assert not [name for one in reader.elements for name in one.attributes if name.startswith("on") or name == "style"]
    assert page.count("</style>") == 1
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page)
    captions = reader.find("p", "caption")
    assert len(captions) == 2
    assert all(caption.count("<script>alert(1)</script>") == 2 for caption in captions)
    assert any("<script>alert(1)</script>" in mark for mark in reader.find("mark"))


@pytest.mark.parametrize("make", [hostile_evaluation, ugc_evaluation])
def test_nothing_is_loaded_and_the_policy_allows_only_the_own_style(make: Any) -> None:
    evaluation = make()
    page = render_evaluation_page(evaluation.report, evaluation.outcomes)
    elements = Reader(page).elements
    for one in elements:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (one.attributes.get(name) or "data:").startswith("data:")
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [
        one.attributes["content"] or ""
        for one in elements
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_ids_are_unique_and_drawings_use_classes_that_the_style_knows(events: Evaluation) -> None:
    page = render_evaluation_page(events.report, events.outcomes)
    elements = Reader(page).elements
    ids = [one.attributes["id"] for one in elements if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    style = page[page.index("<style>") : page.index("</style>")]
    drawn = {
        name for one in elements if one.tag in ("rect", "line") for name in (one.attributes["class"] or "").split()
    }
    assert drawn == {"track", "bar", "interval", "floor", "mean"}
    assert all(f".{name}" in style for name in drawn)


def test_a_page_of_483_items_is_small(tmp_path: Path) -> None:
    """As many items as the test set of video-SALMONN 2, 30 events each; captions of 4,000 characters; 40 missing."""
    items = [event_item(f"video/{number:04d}", 30) for number in range(483)]
    sentence = "A man walks along the beach while the waves roll in and gulls cry. "
    captions = {f"{item.id}.mp4": f"Caption {item.id}. {sentence * 60}" for item in items[:443]}
    script = {
        item.id: event_findings(
            missed=[f"event {event}" for event in range(1, 1 + number % 15)],
            hallucinated=[f"Gulls cry over the beach {part}" for part in range(number % 8)],
            num_events=30,
        )
        for number, item in enumerate(items)
    }
    evaluation = evaluate("vs2", items, captions, script)
    path = write_evaluation_page(evaluation.report, evaluation.outcomes, tmp_path / "new" / "report.html")
    assert path == tmp_path / "new" / "report.html"
    assert path.stat().st_size < 2_000_000
    page = Reader(path.read_text(encoding="utf-8"))
    assert len([line for line in page.find("li") if line.startswith("video/")]) >= 40
    assert [len(titles) for titles in item_titles(page).values()] == [10, 10]
    assert all(item.id in path.read_text(encoding="utf-8") for item in items[443:])


def test_a_very_long_caption_is_cut_and_says_so() -> None:
    captions = {"a.mp4": "A bell rings in the tower. " * 1000}
    page = page_of(evaluate("vs2", [event_item("a")], captions, {"a": event_findings()}))
    # 27 characters each; the 20,000th is the space before "tower".
    assert len(page.find("p", "caption")[0]) == 19_999
    assert "7,000 more characters are in items.jsonl." in page.find("p", "remark")


def test_many_missing_items_are_folded_and_counted(events: Evaluation) -> None:
    missing = {f"clip {number}": "no caption" for number in range(1500)}
    report = dataclasses.replace(events.report, missing=missing, num_missing=1500)
    page = Reader(render_evaluation_page(report, events.outcomes))
    assert "991 more lines" in page.find("summary")
    assert "and 500 more; items.jsonl has all" in page.find("li")


def test_a_headline_without_a_direction_or_a_value(events: Evaluation) -> None:
    headline = Score(name="total", value=None, num=0)
    report = dataclasses.replace(events.report, scores=(headline,))
    page = Reader(render_evaluation_page(report, [dataclasses.replace(one, values={}) for one in events.outcomes]))
    assert page.find("strong")[0] == "-"
    assert item_titles(page) == {"worst": [], "best": []}
    assert page.find("figure") == []
    assert page.rows("AVoCaDO, arXiv 2510.10395, table 1")[-1][:2] == ["this run", "-"]
    neutral = dataclasses.replace(headline, value=0.4)
    page = Reader(render_evaluation_page(dataclasses.replace(report, scores=(neutral,)), events.outcomes))
    assert [title for title in page.find("h2") if "items" in title][-2:] == [
        "Highest items by total",
        "Lowest items by total",
    ]


def test_a_negative_number_of_items_is_refused(events: Evaluation) -> None:
    with pytest.raises(ConfigError, match=r"num_items_shown must be >= 0 \(0 shows none\), got -1"):
        render_evaluation_page(events.report, events.outcomes, num_items_shown=-1)


def test_a_place_that_cannot_be_written(events: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the page cannot be written to"):
        write_evaluation_page(events.report, events.outcomes, tmp_path / "file" / "report.html")
