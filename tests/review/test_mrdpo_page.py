"""The page of mrDPO rounds: a scripted run folder read at every stage of its life, and a real tiny run."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from avocet.cli import main
from avocet.errors import ConfigError, RecordError
from avocet.review._mrdpo_charts import thinned, ticks_of
from avocet.review._mrdpo_state import read_run
from avocet.review.mrdpo_page import write_mrdpo_page
from avocet.theatre.language import reference_caption
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.mrdpo.driver import RoundResult
from avocet.training.mrdpo.gate import GateDecision, HeldOutScores
from avocet.training.mrdpo.selection import SelectionReport

HOSTILE = '</style><script>alert(1)</script>"&'
VOID = frozenset({"meta", "link"})
PLAN: dict[str, Any] = {
    "name": HOSTILE,
    "model": "salmonn2",
    "rounds": 3,
    "min_pairs": 8,
    "samples_per_clip": 2,
    "thresholds": {
        "1": {
            "global_": {"error_rate": 0.05, "repetition_rate": 0.01},
            "local": {"error_rate": 0.2, "repetition_rate": 0.01},
        },
        "2": {
            "global_": {"error_rate": 0.2, "repetition_rate": -0.01},
            "local": {"error_rate": 0.2, "repetition_rate": -0.01},
        },
    },
    "preference": {"beta": 0.1, "variant": "gdpo", "ce_weight": 0.1},
    "lora": {"rank": 128},
    "optimizer": {"learning_rate": 5e-6},
    "adapter": "proxy",
    "stop": {
        "max_unnatural": 0.05,
        "max_qa_drop": 0.03,
        "max_total_rise": 0.0,
        "max_repetition": None,
        "max_unmeasured": 0.1,
    },
}


class Reader(HTMLParser):
    """Tags with their attributes and texts; what is opened is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element: tuple[str, dict[str, str | None], list[str]] = (tag, dict(attrs), [])
        self.tags.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element[2].append(data)

    def texts(self, tag: str, **attributes: str) -> list[str]:
        return [
            " ".join("".join(words).split())
            for name, found, words in self.tags
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]

    def rows(self, label: str) -> list[list[str]]:
        """Cells of the table in the region with that label."""
        place = next(at for at, (_, found, _) in enumerate(self.tags) if found.get("aria-label") == label)
        rows: list[list[str]] = []
        for name, found, words in self.tags[place + 1 :]:
            if name == "tr":
                rows.append([])
            elif name in ("th", "td"):
                rows[-1].append(" ".join("".join(words).split()))
            elif found.get("role") == "region":
                break
        return rows


def write(path: Path, *lines: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def verdict(clip: str, run: int = 0, **found: Sequence[str]) -> dict[str, Any]:
    findings = {"num_events": 4, "missed": [], "incorrect": [], "hallucinated": [], **found}
    judged = {"key": f"{clip}#0", "clip_id": clip, "judge": "scripted", "run_index": run, "status": "scored"}
    return {**judged, "reason": None, "findings": findings, "raw_reply": None}


def held_out(folder: Path) -> None:
    """Two clips. Miss 0.5 and 0 (standard error 0.25), Hall 0.25 and 0.75 (0.25), repetition 1 and 0 (0.5).

    Clip b was judged three times; the median counts.
    """
    runs = [[], ["x", "y", "z"], ["x", "y", "z", "w"]]
    write(
        folder / "verdicts.jsonl",
        verdict("a", missed=["e1", "e2"], incorrect=["e3: other"]),
        *(verdict("b", run, hallucinated=found) for run, found in enumerate(runs)),
        {**verdict("c"), "status": "unscored", "reason": "unreadable reply: hm", "findings": {}},
    )
    texts = {"a": "A dog runs. A dog runs.", "b": "A cat sleeps on a mat."}
    write(
        folder / "captions.jsonl",
        *(
            {"key": key, "captions": [{"text": said, "stop_reason": "end", "num_tokens": 9}]}
            for key, said in texts.items()
        ),
    )


def scores(**changes: float | None) -> HeldOutScores:
    given: dict[str, Any] = {
        "total": 0.75,
        "total_standard_error": 0.01,
        "miss": 0.25,
        "hall": 0.5,
        "repetition": 0.5,
        "unnatural": 0.0,
        "collapse": 0.0,
        "words": 6.0,
        "qa_accuracy": 0.8,
        "num_captions": 26,
        "num_unscored": 1,
        "num_failed": 2,
        "num_questions": 101,
    }
    return HeldOutScores(**given | changes)


def selection(pairs: int) -> SelectionReport:
    return SelectionReport(
        num_examples=100,
        num_pairs=pairs,
        num_no_winner=88 - pairs,
        num_same=3,
        num_unscored=7,
        num_failed=2,
        unscored_reasons={HOSTILE: 9, "no reply": 5},
        mean_chosen_error=0.3,
        mean_rejected_error=0.625,
    )


class Run:
    """A run folder that is written round by round."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write(folder / "run.json", {"config": PLAN, "commit": "0123456789abcdef"})

    def at(self, number: int) -> Path:
        path = self.folder / f"round-{number}"
        path.mkdir(exist_ok=True)
        return path

    def select(self, number: int, pairs: int) -> None:
        write(self.at(number) / "selection.json", selection(pairs).to_dict())
        write(self.at(number) / "pairs.jsonl")

    def train(self, number: int, *losses: float) -> None:
        lines = [{"step": step, "loss": loss, "mean/dpo": loss / 2} for step, loss in enumerate(losses, start=1)]
        write(self.at(number) / "dpo" / "metrics.jsonl", *lines)

    def finish(self, number: int, found: HeldOutScores, *reasons: str) -> None:
        held_out(self.at(number) / "held_out")
        decision = GateDecision(decision="refused" if reasons else "kept", reasons=reasons)
        chosen = self.at(number) / "selection.json"
        result = RoundResult(
            number=number,
            model=f"round-{number}/model",
            scores=found,
            selection=SelectionReport.from_json(chosen.read_text()) if number else None,
            decision=decision if number else None,
        )
        write(self.at(number) / "result.json", result.to_dict())

    def page(self, **arguments: Any) -> Reader:
        path = write_mrdpo_page(self.folder, **arguments)
        self.text = path.read_text(encoding="utf-8")
        return Reader(self.text)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture
def whole(run: Run) -> Run:
    """Round 1 kept, round 2 refused for two reasons."""
    run.finish(0, scores())
    run.select(1, 60)
    run.train(1, 0.7, 0.6)
    run.finish(1, scores(total=0.5, miss=0.2, hall=0.3, qa_accuracy=0.79))
    run.select(2, 40)
    run.train(2, 0.65, float("nan"), 0.5)
    run.finish(2, scores(total=0.6, unnatural=0.12), "Total error 0.600 is above 0.500", f"unnatural: {HOSTILE}")
    return run


def test_figures_with_their_standard_errors(whole: Run) -> None:
    rows = whole.page().rows("Rounds")
    assert rows[0][:3] == ["round", "Total", "Miss"]
    # 26 captions: sqrt(0.12 x 0.88 / 25) = 0.065; 101 questions: sqrt(0.8 x 0.2 / 100) = 0.04.
    assert rows[1] == [
        *("0", "75.0 ± 1.0 %", "25.0 ± 25.0 %", "50.0 ± 25.0 %", "50.0 ± 50.0 %", "0.0 ± 0.0 %", "0.0 ± 0.0 %"),
        *("80.0 ± 4.0 %", "6.0", "26", "1 / 2", "start"),
    ]
    assert rows[2][:2] == ["1 (best)", "50.0 ± 1.0 %"]
    assert rows[3][5] == "12.0 ± 6.5 %"
    assert rows[3][-1] == "refused"


def test_charts_say_every_point(whole: Run) -> None:
    said = whole.page().texts("title")
    assert "Total, round 0: 75.0 % ± 1.0 %" in said
    assert "Total, round 1: 50.0 % ± 1.0 %, best" in said
    assert "unnatural, round 2: 12.0 % ± 6.5 %, refused" in said
    # The paper's rounds as far as this run went: table 2 has 0.0, 0.0, 0.0, 1.9, ...
    assert [line for line in said if line.startswith("the paper")] == [
        f"the paper's 7B (table 2, by eye), round {number}: 0.0 %" for number in range(3)
    ]
    # QA may fall from 80 % to 77 %: the scale begins above zero.
    assert "QA accuracy, round 1: 79.0 % ± 4.1 %, best" in said
    assert whole.text.count("gate: at most") == 1
    assert whole.text.count("gate: at least") == 1
    # Points of a refused round are hollow: one in each of six series.
    assert len(re.findall(r'class="mark refused"', whole.text)) == 6


def test_pairs_with_the_reasons_for_none(whole: Run) -> None:
    rows = whole.page().rows("Pairs")
    bar = "pair: 60 of 100no winner: 28 of 100all the same text: 3 of 100"
    assert rows[1] == [
        *("1", "100", f"{bar}not scored: 7 of 100not read: 2 of 100"),
        *("60", "28", "3", "7", "2", "30.0 %", "62.5 %", "5 %, 1 %; intervals 20 %, 1 %"),
        f"9 × {HOSTILE}; 5 × no reply",
    ]
    assert rows[2][-2] == "20 %, -1 %"


def test_gate_decisions_with_reasons(whole: Run) -> None:
    page = whole.page()
    assert page.texts("li", **{"class": "kept"}) == ["Round 1: kept. It is the best so far."]
    (refused,) = page.texts("li", **{"class": "refused"})
    assert refused == f"Round 2: refused.Total error 0.600 is above 0.500unnatural: {HOSTILE}"
    (rules,) = (said for said in page.texts("p", **{"class": "lead"}) if said.startswith("A round is kept"))
    assert "Total error not above the best round so far, on the clips of both; unnatural captions at most" in rules
    assert "at most 10.0 % of the captions or questions without a result" in rules
    assert page.texts("p", **{"class": "standing over"}) == ["round 2 was refused"]


def test_training_curves_without_what_is_not_finite(whole: Run) -> None:
    said = whole.page().texts("title")
    assert "round 1: 0.7 at step 1, 0.6 at 2" in said
    assert "round 2: 0.65 at step 1, 0.5 at 3" in said
    assert "round 1: 0.35 at step 1, 0.3 at 2" in said  # the preference term


def test_links_lead_to_files_that_are_there(whole: Run) -> None:
    page = whole.page()
    links = [found["href"] for name, found, _ in page.tags if name == "a"]
    assert "round-2/dpo/metrics.jsonl" in links
    assert "run.json" in links
    assert all((whole.folder / str(link)).exists() for link in links)
    assert "round-1/samples.jsonl" not in links


def test_nothing_is_loaded_and_nothing_runs(whole: Run) -> None:
    page = whole.page()
    names = {name for name, _, _ in page.tags}
    assert not names & {"script", "iframe", "object", "img"}
    assert page.texts("h1") == [HOSTILE]
    attributes = [(key, value) for _, found, _ in page.tags for key, value in found.items()]
    assert not [key for key, _ in attributes if key.startswith("on") or key == "style"]
    assert not [value for key, value in attributes if key in ("src", "href") and "//" in str(value)]
    (policy,) = (found["content"] for _, found, _ in page.tags if found.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; ")
    assert len(whole.text) < 120_000


def test_every_stage_of_a_round_is_told(run: Run) -> None:
    def standing(num_rounds: int | None = None) -> str:
        state = read_run(run.folder, num_rounds)
        (said,) = run.page(num_rounds=num_rounds).texts(
            "p", **{"class": "standing over" if state.is_over else "standing"}
        )
        assert state.standing in said
        assert state.is_over or "A file was last written on " in said
        return state.standing

    assert standing() == "nothing was written of round 0 yet"
    write(run.at(0) / "held_out" / "captions.jsonl", {"key": "a"})
    assert standing() == "round 0: held-out clips, 1 captions so far"
    run.finish(0, scores())
    assert standing() == "round 1 of 3 has not begun"
    write(run.at(1) / "samples.jsonl", *({"key": str(number)} for number in range(5)))
    assert standing() == "round 1: sampling, 5 clips so far"
    write(run.at(1) / "judged" / "verdicts.ledger.jsonl", {"key": "0#0"}, {"key": "0#1"})
    assert standing() == "round 1: judging, 2 verdicts so far"
    run.select(1, 7)
    assert standing() == "round 1 has 7 pairs, fewer than 8"
    run.select(1, 8)
    write(run.at(1) / "dpo" / "reference.jsonl", {"key": "0"})
    assert standing() == "round 1: reference, 1 pairs scored so far"
    run.train(1, 0.7, 0.6)
    assert standing() == "round 1: training, step 2 so far"
    assert "round 1: 0.7 at step 1, 0.6 at 2" in run.page().texts("title")
    (run.at(1) / "model").mkdir()
    assert standing() == "round 1: held-out clips, 0 captions so far"
    run.finish(1, scores(total=0.5))
    assert standing() == "round 2 of 3 has not begun"
    assert standing(num_rounds=1) == "all 1 rounds are done"
    # Gone on with for more rounds than the run was started with.
    for number in (2, 3, 4):
        run.select(number, 8)
        run.finish(number, scores(total=0.5))
    assert standing() == "all 4 rounds are done"


def test_a_line_that_is_being_written_and_a_damaged_file(run: Run) -> None:
    run.finish(0, scores())
    path = run.at(0) / "held_out" / "captions.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"key": "c", "capt')
    assert run.page().rows("Rounds")[1][4] == "50.0 ± 50.0 %"
    path.write_text('{"key": \n' + whole)
    with pytest.raises(RecordError, match=r"captions.jsonl:1: not JSON"):
        read_run(run.folder)
    write(run.at(0) / "result.json", {"number": 0})
    with pytest.raises(RecordError, match=r"result.json: not a valid RoundResult"):
        read_run(run.folder)


def test_figures_that_nobody_measured_are_no_zeros(run: Run) -> None:
    run.finish(0, scores(qa_accuracy=None, total=None, total_standard_error=None, num_questions=0))
    (run.at(0) / "held_out" / "verdicts.jsonl").unlink()
    page = run.page()
    row = page.rows("Rounds")[1]
    assert (row[1], row[2], row[7]) == ("-", "25.0 %", "-")
    assert not [said for said in page.texts("title") if said.startswith(("QA", "Total"))]


def test_a_folder_without_rounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no mrDPO run"):
        write_mrdpo_page(tmp_path)
    write(tmp_path / "run.json", {"config": {"name": "sft", "stage": "sft"}})
    with pytest.raises(ConfigError, match="another kind of run"):
        write_mrdpo_page(tmp_path)


def test_long_curves_are_means_and_keep_their_last_point() -> None:
    points = [(float(step), float(step % 2)) for step in range(1, 1001)]
    short = thinned(points)
    assert len(short) == 200  # stretches of 5
    assert short[0] == (3.0, pytest.approx(3 / 5))  # steps 1 to 5: 1, 0, 1, 0, 1
    assert short[-1] == (1000.0, 0.0)
    assert thinned(points[:240]) == points[:240]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 0.75, [0.0, 0.2, 0.4, 0.6, 0.8]), (0.77, 0.8, [0.77, 0.78, 0.79, 0.8]), (0.0, 0.0, [0.0, 0.2])],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    found = ticks_of(low, high)
    assert found[: len(expected)] == pytest.approx(expected)


# The command.


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """One round on four staged clips with a tiny random model."""
    for name, seeds in (("train", range(4)), ("held_out", range(4, 6))):
        lines = []
        for seed in seeds:
            script = make_script(seed, 1)
            stage(script, tmp_path / f"{seed}.mp4")
            clip = {"id": f"clip-{seed}", "path": f"{seed}.mp4", "meta": {"theatre": {"seed": seed, "level": 1}}}
            lines.append({"clip": clip, "task": "caption", "instruction": "", "target": reference_caption(script)})
        write(tmp_path / f"{name}.jsonl", *lines)
    path = tmp_path / "recipe.py"
    path.write_text(
        textwrap.dedent(
            f"""
            from avocet.records import Sampling
            from avocet.training.config import Recipe
            from avocet.training.data import DataSource
            from avocet.training.finetune import BatchSettings, FineTuneOptimizer, LoraSettings, ReadSettings
            from avocet.training.mrdpo.config import MrDpo
            from avocet.training.mrdpo.gate import StopRules
            from avocet.training.pairs import RoundThresholds, Thresholds

            ANY = Thresholds(error_rate=0.01, repetition_rate=-1.0)


            def recipe():
                rounds = MrDpo(
                    name="tiny",
                    model={str(tiny_model_folder)!r},
                    sources=(DataSource(path={str(tmp_path / "train.jsonl")!r}),),
                    held_out=(DataSource(path={str(tmp_path / "held_out.jsonl")!r}),),
                    trainable=(),
                    lora=LoraSettings(rank=4, alpha=8, targets=("q_proj",)),
                    optimizer=FineTuneOptimizer(learning_rate=1e-3),
                    batch=BatchSettings(max_examples=4, micro_examples=4),
                    rounds=1,
                    samples_per_clip=3,
                    sampling=Sampling(temperature=1.0, max_new_tokens=10),
                    thresholds={{1: RoundThresholds(global_=ANY, local=ANY)}},
                    max_steps=2,
                    stop=StopRules(max_unnatural=1.0, max_total_rise=10.0),
                    min_pairs=1,
                    precision="float32",
                    read=ReadSettings(num_workers=0),
                )
                return Recipe(name="tiny", mrdpo=rounds)
            """
        )
    )
    return path


def test_status_and_page_of_a_real_run(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    command = ["train", "mrdpo", str(recipe), "--run-dir", str(run_dir)]
    assert main([*command, "--status"]) == 2
    assert "holds no mrDPO run" in capsys.readouterr().err

    assert main([*command, "--judge", "exact"]) == 0
    markdown = (run_dir / "rounds.md").read_text()
    assert markdown in capsys.readouterr().out
    page = Reader((run_dir / "rounds.html").read_text())
    assert page.texts("h1") == ["tiny"]
    assert page.texts("p", **{"class": "standing over"}) == ["all 1 rounds are done"]
    assert [row[0].split()[0] for row in page.rows("Rounds")] == ["round", "0", "1"]
    state = read_run(run_dir)
    found = state.rounds[1].result
    assert found is not None
    assert found.scores.miss is not None
    assert page.rows("Rounds")[2][2].startswith(f"{100 * found.scores.miss:.1f} ± ")
    # The errors of the clips' own lines belong to the recorded mean: 0 <= error <= half the range.
    assert 0 <= (state.rounds[1].figures["miss"].error or 0.0) <= 0.5

    # The same words and the same page without doing anything.
    (run_dir / "rounds.html").unlink()
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    monkeypatch.setattr("avocet.training.mrdpo.driver.run_mrdpo", None)
    assert main([*command, "--status"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == markdown.strip()
    assert "rounds.html" in said.err
    assert Reader((run_dir / "rounds.html").read_text()).rows("Rounds") == page.rows("Rounds")
    after = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    assert {path: stamp for path, stamp in after.items() if path.name != "rounds.html"} == before


def test_a_page_that_cannot_be_written_ends_no_run(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "rounds.html").mkdir(parents=True)
    assert main(["train", "mrdpo", str(recipe), "--run-dir", str(run_dir), "--judge", "exact"]) == 0
    assert "the page of the rounds was not written" in capsys.readouterr().err
    assert dataclasses.is_dataclass(read_run(run_dir).rounds[1].result)
