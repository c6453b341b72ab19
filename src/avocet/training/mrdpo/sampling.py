"""The first arrow of a round: k captions of every clip from one prefill, in a ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from avocet.errors import ConfigError
from avocet.ledger import Ledger
from avocet.models.interface import Completion, Prefix, Prompt
from avocet.models.registry import LoadedModel
from avocet.records import Failure, Sampling, TrainingExample
from avocet.training.finetune.config import Broken
from avocet.training.finetune.inputs import ClipReader
from avocet.training.finetune.module import Item
from avocet.training.mrdpo.records import Candidates, SampledCaption, example_key

_T = TypeVar("_T")

FAILED_SUFFIX = ".failed.jsonl"
"""Of the file beside a ledger with the clips that could not be read; it is there only if there are any."""


class SamplingModel(Protocol):
    """The verbs that sampling needs."""

    def encode(self, prompts: Sequence[Prompt]) -> Prefix: ...

    def generate(self, prefix: Prefix, n: int, sampling: Sampling) -> list[list[Completion]]: ...

    def evaluating(self) -> Any: ...


def sample_captions(
    loaded: LoadedModel,
    reader: ClipReader,
    examples: Sequence[TrainingExample],
    path: Path,
    *,
    samples_per_clip: int,
    sampling: Sampling,
    batch_size: int = 8,
    broken: Broken = "stop",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Candidates], list[Failure]]:
    """Sample captions of every example, in the order of `examples`.

    What is sampled depends on sampling settings, clip and place of the sample, never on the batch; a run that was
    killed goes on to the same captions.

    Args:
        loaded: the model and its version, which the ledger is bound to.
        path: the ledger; clips that could not be read are listed beside it (`FAILED_SUFFIX`).
        samples_per_clip: k.
        sampling: with a temperature, unless k is 1: greedy samples are all the same.
        broken: what to do about clips that cannot be read: stop, or leave them out.

    Returns what was sampled, and the examples whose clip could not be read; they are tried again by the next call.

    Raises `ConfigError` for examples with the same key, for k > 1 without temperature, for a ledger of another model or
    other settings, and for a clip that cannot be read while `broken` is "stop".
    """
    keys = [example_key(example) for example in examples]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"{len(keys) - len(set(keys))} examples are about the same clip and interval as another")
    if samples_per_clip < 1 or (samples_per_clip > 1 and sampling.temperature == 0):
        raise ConfigError(
            f"{samples_per_clip} samples of each clip need a temperature > 0 (and at least one sample), got "
            f"temperature {sampling.temperature}"
        )
    settings = {
        "model": loaded.model_id,
        "revision": loaded.revision,
        "samples_per_clip": samples_per_clip,
        "sampling": sampling.to_dict(),
    }
    model: Any = loaded.model
    failures: list[Failure] = []
    with Ledger(path, key="key") as ledger:
        found = _read(ledger, settings, path)
        missing = [(place, example) for place, example in enumerate(examples) if keys[place] not in found]
        for batch in _batches(missing, batch_size):
            items = reader.read(batch)
            failures += [item for item in items if isinstance(item, Failure)]
            if failures and broken == "stop":
                _refuse(failures)
            usable = [item for item in items if isinstance(item, Item)]
            for item, captions in zip(usable, _sampled(model, usable, samples_per_clip, sampling), strict=True):
                candidates = Candidates(key=keys[item.index], captions=captions)
                ledger.append({**candidates.to_dict(), "settings": settings})
                found[candidates.key] = candidates
            if progress is not None:
                progress(len(found), len(examples))
    _write_failures(path.with_suffix(FAILED_SUFFIX), failures)
    return [found[key] for key in keys if key in found], failures


def _refuse(failures: Sequence[Failure]) -> None:
    shown = "; ".join(f"{failure.path}: {failure.error}" for failure in failures[:5])
    raise ConfigError(
        f"{len(failures)} clips cannot be read: {shown}. Look at the data with `avocet data check`, repair or remove "
        'these clips, or set read=ReadSettings(broken="leave_out"); what was sampled is kept'
    )


def _write_failures(path: Path, failures: Sequence[Failure]) -> None:
    path.unlink(missing_ok=True)
    if failures:
        path.write_text("".join(failure.to_json_line() + "\n" for failure in failures), encoding="utf-8")


def _read(ledger: Ledger, settings: dict[str, Any], path: Path) -> dict[str, Candidates]:
    found = {}
    for record in ledger.records():
        if record.get("settings") != settings:
            raise ConfigError(f"{path} holds captions sampled with {record.get('settings')}, this run has {settings}")
        candidates = Candidates.from_dict({name: record[name] for name in ("key", "captions")})
        found[candidates.key] = candidates
    return found


def _sampled(
    model: SamplingModel, items: Sequence[Item], samples_per_clip: int, sampling: Sampling
) -> list[tuple[SampledCaption, ...]]:
    if not items:
        return []
    with model.evaluating():
        prefix = model.encode([item.prompt for item in items])
    return [
        tuple(
            SampledCaption(text=one.text, stop_reason=one.stop_reason, num_tokens=len(one.token_ids))
            for one in completions
        )
        for completions in model.generate(prefix, samples_per_clip, sampling)
    ]


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
