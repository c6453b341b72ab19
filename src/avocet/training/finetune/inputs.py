"""From the examples of a stage to the micro-batches of a step.

Lengths are measured once, before the first step, by decoding every clip as the model wants it (kept in a ledger, so
that a second start measures nothing); what cannot be read is found then and not on the third day.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from avocet.errors import AvocetError, ConfigError
from avocet.models.features import FeatureStore, content_key
from avocet.records import Clip, ClipRef, Failure, TrainingExample
from avocet.training.data.check_media import MediaFacts, MediaJob, gather_facts, stamped
from avocet.training.data.formats_common import audio_policy
from avocet.training.data.mixture import DataSource, MixtureReport
from avocet.training.finetune.config import BatchSettings, FineTune, ReadSettings
from avocet.training.finetune.lessons import GuidedPlan, Lessons, read_lessons
from avocet.training.finetune.module import FineTunable, Item, MicroBatch, filler
from avocet.training.finetune.watch import read_metrics
from avocet.training.inputs.loading import ClipLoader
from avocet.training.inputs.plan import LengthPlan

_NEED_SOUND = frozenset({"asr", "audio_caption"})
LENGTHS_FILE = "lengths.jsonl"
LEFT_OUT_FILE = "left_out.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StageData:
    """The usable examples of a stage."""

    lessons: Lessons
    lengths: tuple[int, ...]
    """Tokens of prompt and answers of each."""
    left_out: tuple[Failure, ...]
    report: tuple[str, ...]
    """Lines to print."""

    @property
    def examples(self) -> tuple[TrainingExample, ...]:
        return self.lessons.examples

    def identity(self) -> dict[str, Any]:
        """What tells these data from others: a resumed stage must meet the same ones in the same order."""
        digest = hashlib.sha256()
        for place, (example, length) in enumerate(zip(self.examples, self.lengths, strict=True)):
            pair = self.lessons.pairs.get(place)
            answers = [example.target] if pair is None else [self.lessons.targets[place], pair.chosen, pair.rejected]
            asked = [example.task, example.instruction, place in self.lessons.guides]
            facts = [example.clip.id, *_place(example.clip), *asked, *answers, length, self.lessons.weights[place]]
            digest.update(json.dumps(facts).encode() + b"\n")
        return {"num_examples": len(self.examples), "sha256": digest.hexdigest()}

    def check_lengths(self, batch: BatchSettings) -> None:
        """Raise `ConfigError` when an example is longer than a step or a forward pass may be, naming the clips."""
        for name, limit in (("max_tokens", batch.max_tokens), ("micro_tokens", batch.micro_tokens)):
            long = [place for place, length in enumerate(self.lengths) if limit is not None and length > limit]
            if long:
                shown = "; ".join(f"{self.examples[place].clip.path}: {self.lengths[place]}" for place in long[:5])
                raise ConfigError(
                    f"{len(long)} of {len(self.lengths)} examples have more tokens than {name}={limit} ({shown}); "
                    f"raise it, or take them out of the data; `avocet data check --max-tokens {limit}` lists them"
                )

    def plan(self, config: FineTune, num_processes: int) -> LengthPlan:
        """The batches of the stage. Raises `ConfigError` when an example is longer than the limits."""
        weights = self.lessons.weights
        limits: dict[str, Any] = {
            "max_examples": config.batch.max_examples,
            "max_tokens": config.batch.max_tokens,
            "seed": config.seed,
            "num_processes": num_processes,
        }
        if guide_of := self.lessons.guide_of(config.seed):
            return GuidedPlan(self.lengths, guide_of, weights, **limits)
        even = len(set(weights)) == 1
        return LengthPlan(self.lengths, weights=None if even else weights, **limits)


def read_stage_data(
    sources: Sequence[DataSource],
    config: FineTune,
    model: Any,
    folder: Path,
    without: Collection[tuple[str, str]] = (),
) -> StageData:
    """Read the sources and measure every example.

    Args:
        sources: those of the stage, or of its evaluation.
        config: whose model and reading settings count.
        model: tokenises the targets.
        folder: of the run, where the ledger of lengths is.
        without: (id, path) of clips that are left out though they can be read now: see `left_out_before`.

    Raises:
        ConfigError: no examples, or examples that cannot be read while `broken` is "stop".
    """
    lessons, report = read_lessons(sources, config, model)
    examples = lessons.examples
    facts = _measure(examples, config, folder / LENGTHS_FILE, model)
    kept, left_out = [], []
    for place, (example, job) in enumerate(zip(examples, _jobs(examples, config, model), strict=True)):
        error = _what_is_wrong(example, facts[job.key])
        if error is None and (example.clip.id, example.clip.path) in without:
            error = "could not be read when training began"
        if error is None:
            prompt_tokens = facts[job.key].prompt_tokens
            assert prompt_tokens is not None
            asked = _instruction(example, model)
            length = prompt_tokens[job.instructions.index(asked)] + lessons.length(place, model)
            kept.append((place, length))
        else:
            left_out.append(Failure(clip_id=example.clip.id, path=example.clip.path, stage="media", error=error))
    if left_out and (config.read.broken == "stop" or not kept):
        shown = "; ".join(f"{failure.path}: {failure.error}" for failure in left_out[:5])
        raise ConfigError(
            f"{len(left_out)} of {len(examples)} examples cannot be used: {shown}. Look at them with `avocet data "
            'check`, repair or remove them, or set read=ReadSettings(broken="leave_out")'
        )
    return StageData(
        lessons=lessons.select([place for place, _ in kept]),
        lengths=tuple(length for _, length in kept),
        left_out=tuple(left_out),
        report=_report_lines(report, len(left_out)),
    )


def _report_lines(report: MixtureReport, num_left_out: int) -> tuple[str, ...]:
    lines = list(report.lines())
    if report.num_rejected:
        lines.append(f"{report.num_rejected} items were rejected by the readers; see `avocet data check`")
    if num_left_out:
        lines.append(f"{num_left_out} examples are left out, see {LEFT_OUT_FILE}")
    return tuple(lines)


class BatchReader:
    """Makes the micro-batches of one process for any step."""

    def __init__(
        self,
        data: StageData,
        plan: LengthPlan,
        config: FineTune,
        model: Any,
        *,
        autocast: bool = False,
    ) -> None:
        self._data, self._plan, self._batch = data, plan, config.batch
        self._filler = filler(model)
        self._reader = ClipReader(model, config.read, autocast=autocast)
        self._broken = config.read.broken

    def step(self, step: int, process: int) -> tuple[tuple[MicroBatch, ...], tuple[Failure, ...]]:
        """The micro-batches of one process, as many as every other process has, and what could not be read.

        Raises:
            ConfigError: a clip cannot be read any more and `broken` is "stop".
        """
        shares = self._plan.batch(step)
        limits: dict[str, Any] = {"max_examples": self._batch.micro_examples, "max_tokens": self._batch.micro_tokens}
        passes = max(len(self._plan.micro_batches(share, **limits)) for share in shares)
        parts = self._plan.micro_batches(shares[process], at_least=passes, **limits)
        return self._read(parts, passes)

    def evaluation(self, process: int, num_processes: int) -> Iterator[tuple[MicroBatch, ...]]:
        """Every example once, split among the processes; each yields equally often."""
        order = sorted(range(len(self._data.examples)), key=lambda index: -self._data.lengths[index])
        for first in range(0, len(order), num_processes):
            group = order[first : first + num_processes]
            mine = ((group[process],),) if process < len(group) else ()
            yield self._read(mine, 1)[0]

    def _read(self, parts: Sequence[Sequence[int]], passes: int) -> tuple[tuple[MicroBatch, ...], tuple[Failure, ...]]:
        indices = [index for part in parts for index in part]
        found = self._reader.read([(index, self._data.examples[index]) for index in indices])
        read = dict(zip(indices, found, strict=True))
        failures = tuple(item for item in read.values() if isinstance(item, Failure))
        if failures and self._broken == "stop":
            raise ConfigError(
                f"{failures[0].path}: {failures[0].error}; it could be read when training began. Repair it, or set "
                'read=ReadSettings(broken="leave_out")'
            )
        batches = []
        for part in parts:
            items = tuple(self._finished(item) for item in (read[index] for index in part) if isinstance(item, Item))
            if items:
                batches.append(MicroBatch(items=items))
        batches += [self._filler] * (passes - len(batches))
        return tuple(batches), failures

    def items(self, indices: Sequence[int]) -> list[Item]:
        """Some lessons, each once. Raises `ConfigError` for a clip that cannot be read."""
        found = self._reader.read([(index, self._data.examples[index]) for index in indices])
        failures = [item for item in found if isinstance(item, Failure)]
        if failures:
            raise ConfigError(f"{failures[0].path}: {failures[0].error}; it could be read when training began")
        return [self._finished(item) for item in found if isinstance(item, Item)]

    def _finished(self, item: Item) -> Item:
        """With what the lesson is beyond its example."""
        lessons, index = self._data.lessons, item.index
        if index in lessons.pairs:
            return dataclasses.replace(item, pair=lessons.pairs[index], target=lessons.targets[index])
        return dataclasses.replace(item, is_guide=True) if index in lessons.guides else item

    def close(self) -> None:
        """End the decoding processes."""
        self._reader.close()


class ClipReader:
    """Examples -> items, clip by clip in worker processes; through the model's feature store where it has one.

    `autocast`: whether forward passes run under bfloat16 autocast, whose features the store keeps apart.
    """

    def __init__(self, model: Any, settings: ReadSettings, *, autocast: bool = False) -> None:
        self._model, self._autocast = model, autocast
        self._store: FeatureStore | None = model.feature_store
        self._arguments = open_arguments(model)
        self._loader = ClipLoader(self._arguments, settings.num_workers, settings.timeout_seconds)

    def read(self, examples: Sequence[tuple[int, TrainingExample]]) -> list[Item | Failure]:
        """In order; `examples` come with their index."""
        keys = [self._key(example.clip) for _, example in examples]
        with _autocast_flags(self._model.device.type, self._autocast):
            known = [
                None if self._store is None or not key else self._store.find(self._model, key, example.clip.id)
                for key, (_, example) in zip(keys, examples, strict=True)
            ]
        unread = [example.clip for (_, example), media in zip(examples, known, strict=True) if media is None]
        clips = self._loader.load(unread)
        items: list[Item | Failure] = []
        for (index, example), key, media in zip(examples, keys, known, strict=True):
            try:
                if media is None:
                    began = time.perf_counter()
                    clip = next(clips)
                    if isinstance(clip, Failure):
                        items.append(clip)
                        continue
                    media = self._model.read_clip(heard(clip, example))
                    if self._store is not None:
                        media = self._store.keep(self._model, key, media, time.perf_counter() - began)
                prompt = self._model.write_prompt(media, _instruction(example, self._model))
            except AvocetError as error:
                items.append(_failure(example, error))
                continue
            target = tuple(self._model.encode_text(example.target, end=True))
            items.append(Item(index=index, task=example.task, prompt=prompt, target=target))
        # The generator ends the loading when it is asked once more.
        assert next(clips, None) is None
        return items

    def close(self) -> None:
        """End the decoding processes."""
        self._loader.close()

    def _key(self, clip: ClipRef) -> str:
        if self._store is None:
            return ""
        interval = {"start_seconds": clip.start_seconds, "end_seconds": clip.end_seconds, "audio": audio_policy(clip)}
        return content_key(self._model, clip.path, {**self._arguments, **interval})


@contextmanager
def _autocast_flags(device: str, enabled: bool) -> Iterator[None]:
    """What `torch.autocast` sets for this thread, without its end, which empties the cache of all threads.

    In the middle of another thread's forward pass that would change how gradients are rounded.
    """
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_dtype(device, torch.bfloat16)
    torch.set_autocast_enabled(device, enabled)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


def open_arguments(model: Any) -> dict[str, Any]:
    """How `open_clip` reads for a model."""
    return {
        "fps": model.clip_fps,
        "max_frames": model.max_frames,
        "min_frames": model.min_frames,
        "max_pixels": model.max_pixels,
    }


def heard(clip: Clip, example: TrainingExample) -> Clip:
    """The clip with the sound that the example allows and needs.

    Raises:
        ConfigError: sound is needed and there is none.
    """
    policy = audio_policy(example.clip)
    if policy == "ignore":
        return dataclasses.replace(clip, waveform=None)
    if (policy == "require" or example.task in _NEED_SOUND) and (clip.waveform is None or not len(clip.waveform)):
        raise ConfigError(f"task {example.task} needs sound, but the sound track is {clip.audio_status}")
    return clip


def write_left_out(path: Path, failures: Sequence[Failure], step: int | None = None) -> None:
    """Append what was left out to a JSONL file."""
    with path.open("a", encoding="utf-8") as file:
        for failure in failures:
            file.write(json.dumps({"step": step, **failure.to_dict()}) + "\n")


def left_out_before(folder: Path) -> frozenset[tuple[str, str]]:
    """(id, path) of the clips that a run left out when it began; empty for a new run."""
    path = folder / LEFT_OUT_FILE
    if not path.is_file():
        return frozenset()
    return frozenset((line["clip_id"], line["path"]) for line in read_metrics(path) if line["step"] is None)


def _instruction(example: TrainingExample, model: Any) -> str:
    return example.instruction or str(model.default_instruction)


def _failure(example: TrainingExample, error: Exception) -> Failure:
    text = " ".join(str(error).split())
    return Failure(clip_id=example.clip.id, path=example.clip.path, stage="media", error=text)


def _jobs(examples: Sequence[TrainingExample], config: FineTune, model: Any) -> list[MediaJob]:
    """The job that measures each example; one clip has one job, with all that is asked about it."""
    asked: dict[tuple[Any, ...], dict[str, None]] = {}
    for example in examples:
        asked.setdefault(_place(example.clip), {})[_instruction(example, model)] = None
    stamps: dict[tuple[Any, ...], MediaJob] = {}
    for example in examples:
        clip, place = example.clip, _place(example.clip)
        if place not in stamps:
            stamps[place] = stamped(
                MediaJob(
                    path=clip.path,
                    start_seconds=clip.start_seconds,
                    end_seconds=clip.end_seconds,
                    policy=audio_policy(clip),
                    decode=True,
                    instructions=tuple(asked[place]),
                    model=config.model,
                    timeout_seconds=config.read.timeout_seconds,
                )
            )
    return [stamps[_place(example.clip)] for example in examples]


def _place(clip: ClipRef) -> tuple[Any, ...]:
    return clip.path, clip.start_seconds, clip.end_seconds, audio_policy(clip)


def _measure(
    examples: Sequence[TrainingExample], config: FineTune, ledger: Path, model: FineTunable
) -> dict[str, MediaFacts]:
    jobs = list({job.key: job for job in _jobs(examples, config, model)}.values())
    return gather_facts(jobs, workers=config.read.num_workers, ledger=ledger)


def _what_is_wrong(example: TrainingExample, facts: MediaFacts) -> str | None:
    needs_sound = audio_policy(example.clip) == "require" or example.task in _NEED_SOUND
    if facts.error is not None:
        return facts.error
    if needs_sound and facts.audio_status in (None, "absent", "undecodable"):
        return f"task {example.task} needs sound, but the sound track is {facts.audio_status}"
    return facts.prompt_error
