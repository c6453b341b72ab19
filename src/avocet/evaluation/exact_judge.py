"""The theatre's exact judge behind the interface of all judges.

It stands where a judge that is a language model stands, and gives the findings that such a judge gives on events:
whatever runs, resumes, reports or calibrates judges can be tried on it without a model, a network or any doubt.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import ClassVar

from avocet import __version__
from avocet.errors import ConfigError
from avocet.judging.judge import Judge
from avocet.metrics import EventFindings, Utterance
from avocet.metrics.dialogue_scores import DialogueScores, dialogue_scores
from avocet.records import Record, TrainingExample, Verdict
from avocet.theatre.judge import judge as judge_exactly
from avocet.theatre.language import local_script
from avocet.theatre.parser import parse_caption
from avocet.theatre.script import Event, Script, make_script

THEATRE_KEY = "theatre"
"""Field of `ClipRef.meta` of staged clips: {"seed": ..., "level": ...}, and optionally "see" and "hear"."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TheatreCaption(Record):
    """A caption of a staged script."""

    clip_id: str
    caption: str
    script: Script
    see: bool = True
    """False for a copy of the clip without its picture, whose captions are judged without the events seen there."""
    hear: bool = True
    """False for a copy without its sound."""


def staged_caption(example: TrainingExample, caption: str) -> TheatreCaption:
    """`caption` with the script of the example's clip, cut to the example's interval if it has one.

    Raises `ConfigError` for a clip that does not say which script it stages.
    """
    facts = example.clip.meta.get(THEATRE_KEY)
    if not isinstance(facts, dict) or not {"seed", "level"} <= facts.keys():
        raise ConfigError(
            f"clip {example.clip.id!r} is not from the theatre: its meta has no {THEATRE_KEY!r} with seed and level, "
            "so it cannot be judged exactly; give a judge"
        )
    script = _script(int(facts["seed"]), int(facts["level"]))
    start, end = example.start_seconds, example.end_seconds
    if start is not None or end is not None:
        script = local_script(script, start or 0.0, script.duration_seconds if end is None else end)
    return TheatreCaption(
        clip_id=example.clip.id,
        caption=caption,
        script=script,
        see=bool(facts.get("see", True)),
        hear=bool(facts.get("hear", True)),
    )


class ExactEventJudge(Judge[TheatreCaption]):
    """Findings: `avocet.metrics.EventFindings` as JSON ("num_events", "missed", "incorrect", "hallucinated").

    Missed events are named as `avocet.theatre` describes them; an incorrect one is followed by ": described as ...".
    No caption is unscored: any text can be judged, the empty one too.
    """

    name: ClassVar[str] = "exact-events"

    @property
    def identity(self) -> str:
        """name/version of the package: another version may understand more captions."""
        return f"{self.name}/{__version__}"

    async def judge(self, item: TheatreCaption, run_index: int = 0) -> Verdict:
        findings = exact_findings(item.caption, item.script, see=item.see, hear=item.hear)
        return Verdict(
            clip_id=item.clip_id,
            judge=self.identity,
            run_index=run_index,
            findings=dict(json.loads(findings.to_json_line())),
        )


def exact_findings(caption: str, script: Script, *, see: bool = True, hear: bool = True) -> EventFindings:
    """What `avocet.theatre.judge` finds, without what other judges of events do not look for (order, repetition)."""
    found = judge_exactly(caption, script, see=see, hear=hear)
    return EventFindings(
        num_events=found.num_events,
        missed=found.missed,
        incorrect=found.incorrect,
        hallucinated=found.hallucinated,
    )


def event_texts(script: Script) -> tuple[str, ...]:
    """The events of a script as the judge names them: what an event judge gets as the list of the clip's events."""
    return exact_findings("", script).missed


def told_dialogue(caption: str) -> tuple[Utterance, ...]:
    """The utterances that the theatre's parser reads in a caption, without full stops at their ends."""
    return tuple(
        Utterance(speaker=mention.speaker, text=mention.utterance.rstrip(" ."))
        for mention in parse_caption(caption)
        if mention.kind == "speech" and any(mark.isalnum() for mark in mention.utterance)
    )


def true_dialogue(events: Sequence[Event]) -> tuple[Utterance, ...]:
    """What is said in a script's events."""
    return tuple(Utterance(speaker=event.speaker, text=event.utterance) for event in events if event.kind == "speech")


def exact_dialogue_scores(caption: str, script: Script) -> DialogueScores:
    """How well a caption renders what is said in `script` (the scores behind R_D), speakers taken literally."""
    told, true = told_dialogue(caption), true_dialogue(script.events)
    return dialogue_scores(told, true, lambda i, j: told[i].speaker == true[j].speaker)


@functools.lru_cache(maxsize=4096)
def _script(seed: int, level: int) -> Script:
    return make_script(seed, level)
