"""Records refuse what is wrong, and one line of JSON says all of them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from avocet.errors import RecordError
from avocet.ledger import Ledger
from avocet.records import (
    Caption,
    ClipRef,
    Failure,
    PreferencePair,
    Record,
    Sampling,
    TrainingExample,
    Verdict,
    json_line,
)

CLIP = ClipRef(id="a", path="a.mp4")

CAPTION: dict[str, Any] = {
    "clip_id": "a",
    "path": "a.mp4",
    "text": "A bell.",
    "model": "m",
    "revision": "r",
    "instruction": "i",
    "sampling": Sampling(),
    "stop_reason": "end",
    "num_tokens": 2,
    "audio_used": True,
    "audio_status": "present",
    "num_frames": 2,
    "fps": 2.0,
    "start_seconds": 0.0,
    "end_seconds": 1.0,
    "layout_rule": "salmonn2_paper",
}
EXAMPLE: dict[str, Any] = {"clip": CLIP, "task": "caption", "instruction": "Describe.", "target": "A bell."}
PAIR: dict[str, Any] = {
    "clip": CLIP,
    "instruction": "i",
    "chosen": "good",
    "rejected": "bad",
    "ground_truth": "true",
    "round": 1,
    "chosen_metrics": {"total": 0.25},
    "rejected_metrics": {"total": 0.5},
}


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (ClipRef, {"id": "a", "path": "p", "end_seconds": -2}, "end_seconds must be a number of seconds >= 0, got -2"),
        (ClipRef, {"id": "a", "path": "p", "end_seconds": 0}, r"the interval \[None, 0\) is empty"),
        (ClipRef, {"id": "a", "path": "p", "start_seconds": math.nan}, "start_seconds must be .* got nan"),
        (ClipRef, {"id": "a", "path": "p", "end_seconds": math.inf}, "end_seconds must be .* got inf"),
        (ClipRef, {"id": "a", "path": "p", "start_seconds": [1]}, r"start_seconds must be .* got \[1\]"),
        (Caption, CAPTION | {"stop_reason": "zzz"}, "stop_reason must be one of end, length, repetition, got 'zzz'"),
        (Caption, CAPTION | {"audio_status": "loud"}, "audio_status must be one of present, .* got 'loud'"),
        (Caption, CAPTION | {"num_frames": -3}, "num_frames must be >= 0, got -3"),
        (Caption, CAPTION | {"fps": math.nan}, "fps must be >= 0, got nan"),
        (Caption, CAPTION | {"warnings": "loud"}, "warnings must be a tuple of strings, got 'loud'"),
        (Failure, {"clip_id": "a", "path": "p", "stage": "cinema", "error": "e"}, "stage must be one of media, model"),
        (Verdict, {"clip_id": "a", "judge": "j", "status": "bogus"}, "status must be one of scored, unscored, got"),
        (Verdict, {"clip_id": "a", "judge": "j", "status": "unscored"}, "needs a reason, .* got None"),
        (Verdict, {"clip_id": "a", "judge": "j", "status": "unscored", "reason": " "}, "needs a reason, .* got ' '"),
        (Verdict, {"clip_id": "a", "judge": "j", "reason": "why"}, "a scored one has none; got 'why'"),
        (Verdict, {"clip_id": "a", "judge": "j", "run_index": -1}, "run_index must be >= 0, got -1"),
        (TrainingExample, EXAMPLE | {"events": "abc"}, "events must be a tuple of strings, got 'abc'"),
        (TrainingExample, EXAMPLE | {"checklist": (1,)}, r"checklist must be a tuple of strings, got \(1,\)"),
        (TrainingExample, EXAMPLE | {"dialogue": ({"who": "x"},)}, 'is {"speaker": .*, "text": .*}, got .*who'),
        (TrainingExample, EXAMPLE | {"dialogue": ({"speaker": "x", "text": 5},)}, "an utterance of the dialogue"),
        (TrainingExample, EXAMPLE | {"dialogue": "hello"}, "dialogue must be a tuple of utterances, got 'hello'"),
        (TrainingExample, EXAMPLE | {"end_seconds": 2.0}, r"an interval has both ends, got \[None, 2.0\)"),
        (TrainingExample, EXAMPLE | {"start_seconds": 2.0}, r"an interval has both ends, got \[2.0, None\)"),
    ],
)
def test_what_is_wrong_is_refused(kind: type[Record], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        kind(**fields)
    plain = json.loads(json.dumps(fields, default=lambda record: record.to_dict()))
    with pytest.raises(RecordError, match=f"not a valid {kind.__name__}"):
        kind.from_dict(plain)


def test_lists_become_tuples() -> None:
    said = {"speaker": "a man", "text": "Hello."}
    example = TrainingExample(**EXAMPLE, events=["a bell"], checklist=["bell"], dialogue=[said])  # type: ignore[arg-type]
    assert (example.events, example.checklist, example.dialogue) == (("a bell",), ("bell",), (said,))
    caption = Caption(**CAPTION | {"token_logps": [-0.5], "warnings": ["dark"]})
    assert (caption.token_logps, caption.warnings) == ((-0.5,), ("dark",))
    assert Caption.from_json(caption.to_json_line()) == caption


def test_null_stands_for_nan_where_a_field_may_be_nan() -> None:
    pair = PreferencePair(**PAIR | {"rejected_metrics": {"total": math.nan}})
    line = pair.to_json_line()
    assert json.loads(line)["rejected_metrics"] == {"total": None}
    read = PreferencePair.from_json(line)
    assert math.isnan(read.rejected_metrics["total"])
    assert read.chosen_metrics == {"total": 0.25}
    # Elsewhere null is no number.
    with pytest.raises(RecordError, match="fps: Input should be a valid number"):
        Caption.from_dict(Caption(**CAPTION).to_dict() | {"fps": None})


def test_json_has_no_infinity() -> None:
    with pytest.raises(RecordError, match=r"cannot be written as JSON: .*; replace the infinite number"):
        json_line({"loss": [math.inf]})


def test_names_that_are_not_utf_8_survive(tmp_path) -> None:
    name = b"caf\xe9 \xf0\x9f\x8e\xac.mp4".decode("utf-8", "surrogateescape")
    failure = Failure(clip_id=name, path=name, stage="media", error="broken")
    line = failure.to_json_line()
    assert line.encode().startswith(b'{"clip_id": "caf\\udce9 \xf0\x9f\x8e\xac.mp4"')
    assert Failure.from_json(line) == failure
    with Ledger(tmp_path / "clips.jsonl") as ledger:
        ledger.append(failure)
    with Ledger(tmp_path / "clips.jsonl") as ledger:
        assert list(ledger.keys()) == [name]


def test_prompts_are_found_among_the_records() -> None:
    from avocet import records
    from avocet.models.interface import Prompt

    assert records.Prompt is Prompt
    with pytest.raises(AttributeError, match="no attribute 'Promt'"):
        records.Promt  # noqa: B018
