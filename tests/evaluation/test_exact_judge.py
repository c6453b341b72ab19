"""The exact judge stands where any judge stands: same interface, same files, same findings."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

from avocet import __version__
from avocet.evaluation.exact_judge import ExactEventJudge, TheatreCaption, event_texts, exact_findings
from avocet.evaluation.verdicts import VERDICTS_FILE, Case, collect_verdicts
from avocet.judging.calibration import event_findings
from avocet.metrics import EventFindings, event_rates
from avocet.records import Verdict
from avocet.theatre import Event, Script, judge, make_script, reference_caption

SCRIPT = Script(
    seed=1,
    level=1,
    duration_seconds=6.0,
    background="black",
    camera_noise=0.0,
    camera_shake_pixels=0.0,
    audio_noise=0.0,
    events=(
        Event(kind="visual", beat=0, start_seconds=0, end_seconds=2, colour="red", shape="circle", motion="slide left"),
        Event(kind="sound", beat=1, start_seconds=2, end_seconds=4, sound="bell"),
        Event(kind="speech", beat=2, start_seconds=4, end_seconds=6, speaker="man", utterance="Ben lost two keys"),
    ),
)
CAPTION = 'A blue circle slides to the left. A drum beats. A man says, "Ben lost two keys."'


def test_findings_by_hand() -> None:
    verdict = asyncio.run(ExactEventJudge().judge(TheatreCaption(clip_id="c", caption=CAPTION, script=SCRIPT), 2))
    # Another colour is an incorrect actor; another sound is a missed event and an invented one.
    assert verdict.findings == {
        "num_events": 3,
        "missed": ["bell rings"],
        "incorrect": ["red circle slides to the left: described as blue circle slide left"],
        "hallucinated": ["sound of drum"],
    }
    assert (verdict.clip_id, verdict.run_index, verdict.status) == ("c", 2, "scored")
    assert verdict.judge == f"exact-events/{__version__}"
    assert Verdict.from_json(verdict.to_json_line()) == verdict
    assert event_findings(verdict).total == 1


def test_the_events_of_a_script() -> None:
    assert event_texts(SCRIPT) == ("red circle slides to the left", "bell rings", 'man says "Ben lost two keys"')


def test_black_and_muted_copies() -> None:
    judge_of = ExactEventJudge()
    item = TheatreCaption(clip_id="c", caption=CAPTION, script=SCRIPT)
    black = asyncio.run(judge_of.judge(dataclasses.replace(item, see=False)))
    # Only bell and speech can be heard: the circle is invented now.
    assert event_findings(black).num_events == 2
    assert event_findings(black).hallucinated == ("blue circle slide left", "sound of drum")
    muted = asyncio.run(judge_of.judge(dataclasses.replace(item, hear=False)))
    assert (muted.findings["num_events"], len(muted.findings["hallucinated"])) == (1, 2)


def test_it_agrees_with_the_theatre_on_any_caption() -> None:
    for seed in range(20):
        script, other = make_script(seed, level=2), make_script(seed + 1, level=2)
        for caption in (reference_caption(script), reference_caption(other), "", "}{ \x00 <|im_end|> \U0001f600"):
            true = judge(caption, script)
            found = exact_findings(caption, script)
            assert (found.missed, found.incorrect, found.hallucinated) == (
                *(true.missed, true.incorrect),
                true.hallucinated,
            )
            assert type(found) is EventFindings


def test_it_runs_like_any_judge(tmp_path: Path) -> None:
    captions = (CAPTION, reference_caption(SCRIPT), "")
    items = [
        TheatreCaption(clip_id=f"clip {number}", caption=text, script=SCRIPT) for number, text in enumerate(captions)
    ]
    runs = ExactEventJudge().judge_many(items, runs=2)
    rates = event_rates([[event_findings(verdict) for verdict in run] for run in runs])
    # Total errors of 3 events each: 3, 0 and 3.
    assert (rates.miss, rates.hall, rates.total) == ((1 + 0 + 3) / 9, 2 / 9, 2 / 3)
    cases = [Case(key=item.clip_id, item=item) for item in items]
    judged = collect_verdicts(ExactEventJudge(), cases, runs=2, folder=tmp_path)
    assert [[verdict.findings for verdict in each.verdicts] for each in judged] == [
        [run[number].findings for run in runs] for number in range(3)
    ]
    written = (tmp_path / VERDICTS_FILE).read_bytes()
    assert len(written.splitlines()) == 6
    collect_verdicts(ExactEventJudge(), cases, runs=2, folder=tmp_path)
    assert (tmp_path / VERDICTS_FILE).read_bytes() == written
