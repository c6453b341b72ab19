"""The theatre as a benchmark: figures worked out by hand for captions written by hand, files, resuming, controls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from avocet.captioning import Captioner
from avocet.errors import ConfigError
from avocet.evaluation.benchmarks.theatre import build_report, evaluate_theatre
from avocet.evaluation.report import TheatreReport
from avocet.evaluation.runner import JudgedItem
from avocet.records import Caption, ClipRef, Failure, Sampling
from avocet.theatre.judge import judge
from avocet.theatre.language import reference_caption
from avocet.theatre.script import Event, Script, make_script


def script_of(clip_id: str) -> Script:
    """theatre-1-77-muted -> the level-1 script of seed 77."""
    _, level, seed = clip_id.split("-")[:3]
    return make_script(int(seed), int(level))


def references(clip_id: str) -> str:
    return reference_caption(script_of(clip_id), 2)


def play(seed: int, *events: dict[str, object]) -> Script:
    """A script of one event per beat, two seconds each."""
    timed = tuple(
        Event(beat=beat, start_seconds=2.0 * beat, end_seconds=2.0 * beat + 2, **event)
        for beat, event in enumerate(events)
    )
    return Script(
        seed=seed,
        level=1,
        duration_seconds=2.0 * len(events),
        events=timed,
        background="black",
        camera_noise=0.0,
        camera_shake_pixels=0.0,
        audio_noise=0.0,
    )


STAR = {"kind": "visual", "colour": "red", "shape": "star", "motion": "spin"}
BELL = {"kind": "sound", "sound": "bell"}
SPEECH = {"kind": "speech", "speaker": "man", "utterance": "Anna lost two keys"}
OPEN = {"kind": "text", "word": "OPEN"}


def judged(script: Script, text: str, **changes: object) -> JudgedItem:
    clip = ClipRef(id=script.id, path=f"{script.id}.mp4")
    values = {
        "clip_id": clip.id,
        "path": clip.path,
        "text": text,
        "model": "toy",
        "revision": "r",
        "instruction": "Describe.",
        "sampling": Sampling(),
        "stop_reason": "end",
        "num_tokens": 9,
        "audio_used": True,
        "audio_status": "present",
        "num_frames": 8,
        "fps": 2.0,
        "start_seconds": 0.0,
        "end_seconds": script.duration_seconds,
        "layout_rule": "salmonn2_paper",
    }
    return JudgedItem(clip=clip, outcome=Caption(**(values | changes)), findings=judge(text, script))


def test_figures_worked_out_by_hand(scripted_model: Callable) -> None:
    first, second, third = play(1, STAR, BELL, SPEECH, OPEN), play(2, STAR, SPEECH), play(3, BELL)
    perfect = 'A red star spins. A bell rings. A man says, "Anna lost two keys." The screen reads OPEN.'
    # Of two events the star is told in the wrong colour (incorrect); the speech is told by the wrong speaker with one
    # wrong word of four (incorrect); a drum is invented.
    wrong = 'A blue star spins. A woman says, "Anna lost two cups." A drum beats.'
    items = [
        judged(first, perfect, warnings=("careful",)),
        judged(second, wrong, stop_reason="length", warnings=("careful", "cut")),
        JudgedItem(
            clip=ClipRef(id=third.id, path="gone.mp4"),
            outcome=Failure(clip_id=third.id, path="gone.mp4", stage="media", error="gone.mp4: not there"),
            findings=None,
        ),
    ]
    report = build_report(Captioner(scripted_model(), "toy", "r"), [first, second, third], items)
    assert (report.num_clips, report.num_scored, report.num_unscored) == (3, 2, 1)
    assert report.num_events == 4 + 2
    assert report.miss == 0
    # Hall: 0/4 and (2 incorrect + 1 hallucinated)/2 -> mean 0.75, standard error of (0, 1.5): 1.5/sqrt(2)/sqrt(2)
    assert report.hall == pytest.approx(0.75)
    assert report.hall_standard_error == pytest.approx(0.75)
    assert report.total == pytest.approx(0.75)
    assert report.pooled_total == pytest.approx(3 / 6)
    assert report.perfect == 0.5
    # Words: 0 wrong of 4, and 1 wrong of 4
    assert report.dialogue_word_accuracy == pytest.approx(1 - 1 / 8)
    assert report.num_reference_words == 8
    # F1 of 1, and of similarity 1 - 3/18 (three of 18 characters differ), halved by the wrong speaker: 15/36.
    assert report.dialogue_f1 == pytest.approx((1 + 15 / 36) / 2)
    assert (report.collapse, report.collapse_standard_error) == (0.0, 0.0)
    assert report.speaker_accuracy == 0.5
    assert report.num_utterances == 2
    assert report.num_cut_off == 1
    assert report.warnings == {"careful": 2, "cut": 1}
    assert [failure.clip_id for failure in report.unscored] == [third.id]
    visual, sound = report.per_kind["visual"], report.per_kind["sound"]
    assert (visual.num_events, visual.incorrect, visual.miss, visual.not_right) == (2, 1, 0.0, 0.5)
    assert (sound.num_events, sound.hallucinated, sound.not_right) == (1, 1, 0.0)
    assert "scene" not in report.per_kind
    text = report.to_text()
    assert "total error     75.0 ± 75.0 % (pooled 50.0 %)" in text
    assert "unscored: gone.mp4: not there" in text


def test_a_loop_counts_as_collapsed(scripted_model: Callable) -> None:
    script = play(3, BELL)
    items = [judged(script, "A bell rings. " * 12), judged(script, "A bell rings.")]
    report = build_report(Captioner(scripted_model(), "toy", "r"), [script, script], items)
    assert (report.collapse, report.dialogue_f1) == (0.5, 1.0)  # nothing is said, and nothing told as said
    assert "collapsed       50.0 ± 50.0 % of the captions" in report.to_text()


def test_nothing_scored_is_null_and_not_zero(scripted_model: Callable) -> None:
    script = play(3, BELL)
    failure = Failure(clip_id=script.id, path="gone.mp4", stage="media", error="gone.mp4: not there")
    item = JudgedItem(clip=ClipRef(id=script.id, path="gone.mp4"), outcome=failure, findings=None)
    report = build_report(Captioner(scripted_model(), "toy", "r"), [script], [item])
    assert (report.num_scored, report.num_unscored, report.num_events) == (0, 1, 0)
    for name in ("miss", "hall", "total", "total_standard_error", "repetition", "dialogue_f1", "collapse", "perfect"):
        assert getattr(report, name) is None
    assert "NaN" not in report.to_json_line()
    assert "total error     - (pooled -)" in report.to_text()


@pytest.mark.parametrize("level", [1, 2])
def test_reference_captions_of_staged_files_are_perfect(level: int, scripted_model: Callable) -> None:
    model = scripted_model(references, world="theatre")
    model.default_sampling = Sampling(max_new_tokens=500)
    report = evaluate_theatre(Captioner(model, "toy", "rev1"), level, 3, 880_000, workers=1, batch_size=2)
    assert (report.miss, report.hall, report.total, report.perfect) == (0, 0, 0, 1)
    assert report.num_events == sum(len(make_script(880_000 + index, level).events) for index in range(3))
    assert report.dialogue_word_accuracy in (1.0, None)
    assert [len(batch) for batch in model.batches] == [2, 1]
    assert not any("theatre" in warning for warning in report.warnings), "staged clips carry the theatre's tag"


def test_what_is_kept_and_resumed(tmp_path: Path, scripted_model: Callable) -> None:
    model = scripted_model(references)
    captioner = Captioner(model, "toy", "rev1")
    report = evaluate_theatre(captioner, 1, 3, 880_000, out_dir=tmp_path / "run", workers=1)
    kept = TheatreReport.from_json((tmp_path / "run" / "report.json").read_text())
    assert kept == report
    items_path = tmp_path / "run" / "items.jsonl"
    lines = items_path.read_text().splitlines()
    assert json.loads(lines[0])["findings"]["num_events"] == len(make_script(880_000).events)
    # A run killed in the middle of its last line does only that clip again.
    items_path.write_text("\n".join(lines[:2]) + "\n" + lines[2][:40])
    model.batches.clear()
    steps: list[tuple[int, int]] = []
    again = evaluate_theatre(
        captioner,
        1,
        3,
        880_000,
        out_dir=tmp_path / "run",
        workers=1,
        progress=lambda done, of: steps.append((done, of)),
    )
    assert model.batches == [["theatre-1-880002"]]
    assert steps == [(3, 3)]
    assert again.total == report.total
    assert len(items_path.read_text().splitlines()) == 3


def test_controls_are_judged_against_the_clips_own_script(tmp_path: Path, scripted_model: Callable) -> None:
    captioner = Captioner(scripted_model(references), "toy", "rev1")
    for control in ("muted", "black", "swapped"):
        report = evaluate_theatre(captioner, 1, 2, 880_000, control=control, out_dir=tmp_path, workers=1)
        assert report.control == control
        assert report.total == 0
    ids = [json.loads(line)["clip_id"] for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert len(set(ids)) == 6


def test_wrong_arguments_are_refused(scripted_model: Callable) -> None:
    captioner = Captioner(scripted_model(), "toy", "rev1")
    with pytest.raises(ConfigError, match="num_clips must be >= 1, got 0"):
        evaluate_theatre(captioner, 1, 0, 0)
    with pytest.raises(ConfigError, match="level must be 1 or 2"):
        evaluate_theatre(captioner, 3, 1, 0)
    with pytest.raises(ConfigError, match="control must be one of"):
        evaluate_theatre(captioner, 1, 2, 0, control="loud")
