"""What engines share that sample from a copy of the policy: its weights travel through a folder, in numbered versions.

A subclass says how weights are loaded and how prompts are asked.
"""

from __future__ import annotations

import abc
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from avocet.models.interface import Prompt
from avocet.records import ClipRef, Sampling
from avocet.training.grpo.rollouts.base import Inspection, Rollout, WeightUpdate
from avocet.training.grpo.rollouts.weights import write_adapter, write_merged

Asked = tuple[list[Rollout], tuple[int, ...] | None]
"""The rollouts of a prompt, and the token ids that the engine made of it where it tells."""


class CopySettings(Protocol):
    """What the settings of every such engine say about the weights."""

    @property
    def folder(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def sync(self) -> Literal["merged", "adapter"]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def adapter_renames(self) -> tuple[tuple[str, str], ...]: ...


class CopyEngine(abc.ABC):
    """`RolloutEngine` of a copy of the policy.

    Args:
        name, identity: as in `RolloutEngine`.
        settings: where and how weights are written.
        model: the trainer's, for its tokenizer and for how it reads clips.
        keep_versions: of the written weights, the newest ones.
    """

    takes_steps = True

    def __init__(self, name: str, identity: str, settings: CopySettings, model: Any, *, keep_versions: int = 1) -> None:
        self.name, self.identity = name, identity
        self.rejections: Counter[str] = Counter()
        self._model = model
        self._version: int | None = None
        """Of the weights that are loaded; None before the first and while others are being loaded."""
        self._copy_settings = settings
        self._keep_versions = keep_versions

    def sample(
        self,
        prompts: Sequence[Prompt],
        clips: Sequence[ClipRef],
        instructions: Sequence[str],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[list[Rollout]]:
        """See `RolloutEngine.sample`. Also raises `MediaError` for a clip that cannot be read any more."""
        return [group for group, _ in self._ask_all(prompts, clips, instructions, n, sampling, seeds)]

    def inspect(
        self,
        prompts: Sequence[Prompt],
        clips: Sequence[ClipRef],
        instructions: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Inspection]:
        """See `RolloutEngine.inspect`; prompt token ids come from vLLM."""
        return [
            Inspection(rollout=group[0] if group else None, prompt_token_ids=ids)
            for group, ids in self._ask_all(prompts, clips, instructions, 1, sampling, seeds)
        ]

    def sync(self, weights: WeightUpdate) -> None:
        """Write the weights and have them loaded; does nothing for the version that is loaded.

        The first process alone writes; a subclass says on which ones they are loaded. Nobody still samples from the
        version before: an update lies between two versions, and all processes take part in it.

        Raises `RolloutError` when the engine does not take them, and what `write_merged` and `write_adapter` raise.
        """
        if weights.version == self._version:
            return
        settings = self._copy_settings
        folder = Path(settings.folder).absolute() / f"version-{weights.version:08d}"
        before, self._version = self._version, None  # until it has worked, nothing must be sampled
        weights.on_main(lambda: self._write(weights.model, folder))
        if settings.sync == "merged":
            self._load_merged(folder, weights)
        else:
            self._load_adapter(folder, weights, before)
        self._version = weights.version

    @abc.abstractmethod
    def close(self) -> None:
        """See `RolloutEngine.close`."""

    def _write(self, model: Any, folder: Path) -> None:
        """The weights into `folder`; versions that are older than those to be kept go."""
        settings = self._copy_settings
        shutil.rmtree(folder, ignore_errors=True)  # of the run before, if this one was resumed
        if settings.sync == "merged":
            write_merged(model, folder, settings.dtype)
        else:
            write_adapter(model, folder, settings.model, settings.adapter_renames)
        for old in sorted(folder.parent.glob("version-????????"))[: -self._keep_versions]:
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    @abc.abstractmethod
    def _load_merged(self, folder: Path, weights: WeightUpdate) -> None:
        """Sample from the model in `folder` from now on."""

    @abc.abstractmethod
    def _load_adapter(self, folder: Path, weights: WeightUpdate, before: int | None) -> None:
        """Sample with the adapter in `folder` from now on, in place of that of version `before`, if any."""

    @abc.abstractmethod
    def _ask_all(
        self,
        prompts: Sequence[Prompt],
        clips: Sequence[ClipRef],
        instructions: Sequence[str],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Asked]:
        """At most n rollouts of each prompt; counts what it rejects. Raises as `RolloutEngine.sample`."""
