"""Captions that run in a loop: say so, and on request try once more.

The model's own repetition guard ends a completion that loops (stop reason "repetition"). With
`Sampling(repetition_guard="retry")` the clips it happened to are completed a second time, after the prefix that is
encoded already, with a repetition penalty (Keskar et al. 2019) of at least 1.1. AVoCaDO's paper counts such captions
("repetition collapse") and its code has nothing against them.
"""

from __future__ import annotations

import dataclasses
import time

from avocet.models.interface import CaptionModel, Completion, Prefix
from avocet.records import Sampling

RETRY_PENALTY = 1.1
"""The least `repetition_penalty` of a second try."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """One clip's completion and how it was reached."""

    completion: Completion
    sampling: Sampling
    """What this completion was sampled with."""
    warnings: tuple[str, ...] = ()
    retry_seconds: float | None = None
    """This clip's share of the wall time of the second try; None without one."""


def retry_sampling(sampling: Sampling) -> Sampling | None:
    """What a second try is sampled with; None when the guard does not ask for one or it would repeat the first.

    Random numbers depend on seed and clip alone: without another penalty the second try is the first once more.
    """
    if sampling.repetition_guard != "retry" or sampling.repetition_penalty >= RETRY_PENALTY:
        return None
    return dataclasses.replace(sampling, repetition_penalty=RETRY_PENALTY)


def generate_guarded(model: CaptionModel, prefix: Prefix, sampling: Sampling) -> list[Answer]:
    """One completion of each prompt of `prefix`, in order, looped ones tried again where `sampling` says so."""
    first = [samples[0] for samples in model.generate(prefix, 1, sampling)]
    answers = [_answer(completion, sampling) for completion in first]
    looped = [row for row, completion in enumerate(first) if completion.stop_reason == "repetition"]
    if not looped or sampling.repetition_guard != "retry":
        return answers
    second = retry_sampling(sampling)
    if second is None:
        text = f"there was no second try: with repetition_penalty={sampling.repetition_penalty:g} it would be the first"
        for row in looped:
            answers[row] = dataclasses.replace(answers[row], warnings=(*answers[row].warnings, text))
        return answers
    began = time.perf_counter()
    again = model.generate(prefix.select(looped), 1, second)
    seconds = (time.perf_counter() - began) / len(looped)
    for row, samples in zip(looped, again, strict=True):
        text = (
            f"the first try ran in a loop and was ended after {len(first[row].token_ids)} tokens; this caption is a "
            f"second try with repetition_penalty={second.repetition_penalty:g}"
        )
        answer = _answer(samples[0], second)
        answers[row] = dataclasses.replace(answer, warnings=(text, *answer.warnings), retry_seconds=seconds)
    return answers


def _answer(completion: Completion, sampling: Sampling) -> Answer:
    count, warnings = len(completion.token_ids), []
    if completion.stop_reason == "repetition":
        warnings.append(f"the caption ran in a loop and was ended after {count} tokens")
    if completion.stop_reason == "length" and count < sampling.max_new_tokens:
        warnings.append(f"the caption was cut off after {count} tokens: the model has no room for more")
    elif completion.stop_reason == "length":
        warnings.append(f"the caption was cut off after max_new_tokens={sampling.max_new_tokens} tokens")
    if not completion.text.strip():
        warnings.append("the caption is empty")
    return Answer(completion=completion, sampling=sampling, warnings=tuple(warnings))
