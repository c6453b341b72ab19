"""Look at every item of a data set before any GPU is spent.

What makes a data set broken: files that are missing or cannot be read; no sound where the task (asr, audio_caption) or
the data need it; intervals outside of the file; empty texts; one clip id for two different clips; with a model, clips
that it refuses and items above a token budget. What is only a warning: videos without a picture, silence where sound is
needed, captions of an interval that the question does not name, repeated examples, one target for different clips, and
what decoding warned of.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from avocet.errors import ConfigError
from avocet.models.registry import load_model
from avocet.records import ClipRef, PreferencePair, Task, TrainingExample
from avocet.training.data.check_media import MediaFacts, MediaJob, gather_facts, stamped
from avocet.training.data.check_report import CheckReport, Distribution, Problem, ProblemKind, distribution
from avocet.training.data.formats_common import SEPARATE_SOUND_KEY, audio_policy, media_kind, names_interval
from avocet.training.data.records import ExampleSet

__all__ = ["CheckReport", "Distribution", "Problem", "check_examples", "count_words"]

Target = TrainingExample | PreferencePair

SOUND_TASKS = frozenset({"asr", "audio_caption"})
INTERVAL_TOLERANCE_SECONDS = 0.5
"""How far an interval may reach past the end that the file states: annotations are rounded."""

# A character of Chinese or Japanese counts as a word, since these are written without spaces.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")


def check_examples(
    data: ExampleSet | Sequence[Target],
    *,
    model: str | None = None,
    decode: bool = False,
    max_tokens: int | None = None,
    workers: int = 2,
    ledger: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    timeout_seconds: float = 120.0,
) -> CheckReport:
    """Open the media of every item and look for what would go wrong in training.

    Args:
        data: what `read_examples` gave, or examples and pairs.
        model: a model name or folder: counts the tokens of targets and of prompts, which needs every clip decoded with
            the model's own sampling. No weights are put into memory.
        decode: decode every clip in full; otherwise only headers are read.
        max_tokens: with a model, the most tokens of prompt and target together.
        workers: processes that read media; 0 reads in this one.
        ledger: a JSONL file for the facts of finished files, so that an interrupted check goes on where it stopped.
        progress: called with (done, all) clips.
        timeout_seconds: for each file, as of `open_clip`.

    Raises:
        ConfigError: `max_tokens` without a model, a model without tokenizer files, a wrong number of workers.
        ModelNotFoundError, CheckpointError: of `load_model`.
    """
    if max_tokens is not None and model is None:
        raise ConfigError("max_tokens is counted with a model; name one")
    found = data if isinstance(data, ExampleSet) else None
    targets: list[Target] = [*found.examples, *found.pairs] if found is not None else list(data)  # type: ignore[arg-type]
    reader, revision = (None, "") if model is None else _text_side(model)
    settings = MediaJob(
        path="", model=model, revision=revision, decode=decode or model is not None, timeout_seconds=timeout_seconds
    )
    jobs = _jobs(targets, settings, reader)
    facts = gather_facts(list(jobs.values()), workers=workers, ledger=ledger, progress=progress)
    checks = [_Check.of(target, jobs[_place(target.clip)], facts, reader) for target in targets]
    problems = [problem for check in checks for problem in check.problems(max_tokens)]
    problems += _across(targets)
    return CheckReport(
        num_examples=sum(isinstance(target, TrainingExample) for target in targets),
        num_pairs=sum(isinstance(target, PreferencePair) for target in targets),
        num_clips=len(jobs),
        decoded=decode or model is not None,
        model=model,
        sound=dict(Counter(check.sound for check in checks)),
        tasks=dict(Counter(str(target.task) for target in targets if isinstance(target, TrainingExample))),
        notes={} if found is None else found.notes,
        rejected=() if found is None else found.rejected,
        problems=tuple(problems),
        lengths=_lengths(checks),
    )


def count_words(text: str) -> int:
    """Words between white space; each Chinese or Japanese character is one."""
    return len(_WORD.findall(text))


Place = tuple[str, float | None, float | None, str]


def _place(clip: ClipRef) -> Place:
    return clip.path, clip.start_seconds, clip.end_seconds, audio_policy(clip)


def _asked(target: Target, reader: Any) -> str:
    """The question; none means the model's own."""
    return target.instruction or str(reader.default_instruction)


def _jobs(targets: Sequence[Target], settings: MediaJob, reader: Any) -> dict[Place, MediaJob]:
    """One job per clip with all that is asked about it, and otherwise as `settings`."""
    questions: dict[Place, dict[str, None]] = defaultdict(dict)
    clips: dict[Place, ClipRef] = {}
    for target in targets:
        place = _place(target.clip)
        clips.setdefault(place, target.clip)
        if reader is not None:
            questions[place][_asked(target, reader)] = None
    return {
        place: stamped(
            dataclasses.replace(
                settings,
                path=clip.path,
                start_seconds=clip.start_seconds,
                end_seconds=clip.end_seconds,
                policy=audio_policy(clip),
                instructions=tuple(questions[place]),
            )
        )
        for place, clip in clips.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Check:
    """One item with the facts of its clip."""

    target: Target
    facts: MediaFacts
    target_tokens: int | None
    prompt_tokens: int | None

    @classmethod
    def of(cls, target: Target, job: MediaJob, facts: dict[str, MediaFacts], reader: Any) -> _Check:
        found = facts[job.key]
        if reader is None:
            return cls(target=target, facts=found, target_tokens=None, prompt_tokens=None)
        counts = found.prompt_tokens
        return cls(
            target=target,
            facts=found,
            target_tokens=max(len(reader.encode_text(answer, end=True)) for answer in _answers(target)),
            prompt_tokens=None if counts is None else counts[job.instructions.index(_asked(target, reader))],
        )

    @property
    def _task(self) -> Task | None:
        return self.target.task if isinstance(self.target, TrainingExample) else None

    @property
    def sound(self) -> str:
        """Whether the clip has sound: what decoding found, else what the header says; "unknown" if unreadable."""
        if self.facts.error is not None:
            return "unknown"
        return self.facts.audio_status or ("present" if self.facts.has_audio else "absent")

    @property
    def duration_seconds(self) -> float:
        """Of the clip's interval."""
        clip, whole = self.target.clip, self.facts.duration_seconds
        start = clip.start_seconds or 0.0
        end = whole if clip.end_seconds is None else min(clip.end_seconds, whole)
        return max(end - start, 0.0)

    def problems(self, max_tokens: int | None) -> Iterator[Problem]:
        if any(not answer.strip() for answer in _answers(self.target)):
            yield self._problem("empty_text", "an answer has no words")
        question = self.target.instruction
        if not question.strip() and (question or self._task == "qa"):  # otherwise none means the model's own
            yield self._problem("empty_text", "the question has no words")
        if self._task == "local_caption":
            yield from self._named_interval()
        if self.facts.missing:
            yield self._problem("missing_file", "no such file")
            return
        outside = list(self._intervals())
        # A clip that was asked for past its end could not be opened for that very reason.
        yield from outside
        if self.facts.error is not None:
            if not outside:
                yield self._problem("broken_media", self.facts.error)
            return
        yield from self._tracks()
        if self.facts.prompt_error is not None:
            yield self._problem("prompt_refused", self.facts.prompt_error)
        if self.prompt_tokens is not None and self.target_tokens is not None:
            together = self.prompt_tokens + self.target_tokens
            if max_tokens is not None and together > max_tokens:
                parts = f"{self.prompt_tokens} of the prompt, {self.target_tokens} of the target"
                yield self._problem("too_long", f"{together} tokens ({parts}), at most {max_tokens} are allowed")
        if self.facts.warnings:
            yield self._problem("media_warning", "; ".join(self.facts.warnings))

    def _intervals(self) -> Iterator[Problem]:
        clip, end_of_file = self.target.clip, self.facts.duration_seconds
        if self.facts.error is not None and not end_of_file and not self.facts.is_image:
            return
        limit = end_of_file + INTERVAL_TOLERANCE_SECONDS
        asked = [("the clip", clip.start_seconds, clip.end_seconds)]
        if isinstance(self.target, TrainingExample):
            asked.append(("the described interval", self.target.start_seconds, self.target.end_seconds))
        for name, start, end in asked:
            shown = f"{name} [{start}, {end})"
            if start is None and end is None:
                continue
            if self.facts.is_image:
                yield self._problem("interval_outside", f"{shown}, but a still image has no times")
            elif (start or 0.0) >= end_of_file or (end or 0.0) > limit:
                yield self._problem("interval_outside", f"{shown}, but the file ends at {end_of_file:.2f} s")

    def _named_interval(self) -> Iterator[Problem]:
        """A local caption can be learned only if the question says which seconds it is about, or the clip is these."""
        target = self.target
        assert isinstance(target, TrainingExample)
        interval, clip = (target.start_seconds, target.end_seconds), target.clip
        cut = (clip.start_seconds, clip.end_seconds)
        if cut != (None, None) and interval in ((None, None), cut):
            return
        if target.start_seconds is None or target.end_seconds is None:
            if not names_interval(target.instruction):
                yield self._problem("interval_unnamed", "neither the item nor its question says which seconds it is of")
            return
        begin = clip.start_seconds or 0.0
        seconds = (target.start_seconds - begin, target.end_seconds - begin)
        if not names_interval(target.instruction, seconds, INTERVAL_TOLERANCE_SECONDS):
            shown = f"{seconds[0]:g} to {seconds[1]:g} seconds of the clip"
            message = f"the caption is of {shown}, which the question does not say: {target.instruction!r:.80}"
            yield self._problem("interval_unnamed", message)

    def _tracks(self) -> Iterator[Problem]:
        facts, clip, task = self.facts, self.target.clip, self._task
        if task in SOUND_TASKS or audio_policy(clip) == "require" or media_kind(clip) == "audio":
            why = f"the task {task} needs" if task in SOUND_TASKS else "the data ask for"
            if self.sound in ("absent", "undecodable"):
                hint = ""
                if sound := clip.meta.get(SEPARATE_SOUND_KEY):
                    hint = f"; its sound is in {sound}: put both into one file first"
                yield self._problem("missing_sound", f"{why} sound, but the sound track is {self.sound}{hint}")
            elif self.sound == "silent":
                yield self._problem("silent_sound", f"{why} sound, but the sound track is silent")
        if not facts.has_video and not facts.is_image and media_kind(clip) != "audio" and task not in SOUND_TASKS:
            yield self._problem("missing_picture", "the file holds no video stream")

    def _problem(self, kind: ProblemKind, message: str) -> Problem:
        return Problem(kind=kind, clip_id=self.target.clip.id, path=self.target.clip.path, message=message)


def _across(targets: Sequence[Target]) -> Iterator[Problem]:
    """Problems between items."""
    clips: dict[str, ClipRef] = {}
    seen: set[tuple[str, ...]] = set()
    clip_of_target: dict[str, str] = {}
    for target in targets:
        clip = target.clip
        first = clips.setdefault(clip.id, clip)
        if _place(first)[:3] != _place(clip)[:3]:
            message = f"the id also names {first.path} [{first.start_seconds}, {first.end_seconds})"
            yield Problem(kind="one_id_two_clips", clip_id=clip.id, path=clip.path, message=message)
        answers = _answers(target)
        identity = (clip.id, clip.path, target.instruction, *answers)
        if identity in seen:
            message = "the same question and answer about the same clip once more"
            yield Problem(kind="repeated_example", clip_id=clip.id, path=clip.path, message=message)
        elif _is_caption(target) and clip_of_target.setdefault(answers[0], clip.path) != clip.path:
            message = f"its target is word for word that of {clip_of_target[answers[0]]}"
            yield Problem(kind="same_target", clip_id=clip.id, path=clip.path, message=message)
        seen.add(identity)


def _is_caption(target: Target) -> bool:
    # Answers to questions ("B", "yes") are rightly the same for many clips, and so are short utterances.
    return isinstance(target, TrainingExample) and target.task in ("caption", "local_caption")


def _answers(target: Target) -> tuple[str, ...]:
    """The texts to learn from; a pair may come without a ground truth."""
    if isinstance(target, TrainingExample):
        return (target.target,)
    truth = (target.ground_truth,) if target.ground_truth else ()
    return (target.chosen, target.rejected, *truth)


def _text_side(model: str) -> tuple[Any, str]:
    """A model without memory for its weights, to count tokens with, and its version."""
    loaded = load_model(model, device="meta")
    # The four verbs of the protocol leave out the text side, which every model has.
    reader: Any = loaded.model
    if reader.tokenizer is None:
        raise ConfigError(f"model {model!r} has no tokenizer files, so tokens cannot be counted")
    return reader, loaded.revision


def _lengths(checks: Sequence[_Check]) -> dict[str, Distribution]:
    read = [check for check in checks if check.facts.error is None]
    moving = [check for check in read if not check.facts.is_image]
    both = [check for check in read if check.prompt_tokens is not None and check.target_tokens is not None]
    columns: dict[str, tuple[Iterable[float], str]] = {
        "duration": ([check.duration_seconds for check in moving], "seconds"),
        "target_words": ([count_words(_answers(check.target)[0]) for check in read], "words"),
        "target_tokens": ([check.target_tokens or 0 for check in read if check.target_tokens is not None], "tokens"),
        "prompt_tokens": ([check.prompt_tokens or 0 for check in both], "tokens"),
        "all_tokens": ([(check.prompt_tokens or 0) + (check.target_tokens or 0) for check in both], "tokens"),
    }
    found = {name: distribution(list(values), unit) for name, (values, unit) in columns.items()}
    return {name: one for name, one in found.items() if one is not None}
