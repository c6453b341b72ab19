"""Outputs of frozen towers, computed once and kept on disk for later epochs and later stages.

    model.feature_store = FeatureStore("features", max_bytes=200 * 2**30)

is all that `encode` needs: the output of every tower without a trainable parameter then comes from the store, or is
computed and put there. Towers are cut before their aligner (`trunks`), so that an aligner may be trained.

*Values never depend on the store's state.* With a store attached, frozen towers run clip by clip, without gradients
and without dropout, also when an entry is missing, and also when the store is off; entries are exact by default, and
with a 16-bit `dtype` a computed output is rounded as the stored one is. Hit and miss are equal to the bit. An output's
key is a SHA-256 over the tower's name and revision (its config and every byte of its weights), the content (bytes, type
and shape of the media tensor, or the content key below), the kind of device, autocast, and the libraries' versions.

*When weights change* the revision is computed anew: PyTorch counts every write to a tensor, and the store looks at
these counts each time. Only a write through `.data` leaves no trace; call `refresh(model)` after one. A tower with a
trainable parameter, or sharded by FSDP2 or ZeRO-3, is bypassed: it runs as if there were no store.

*Skipping the decoder of the media, too.* `content_key` names what a clip's tensors are made from without reading it
(the file's path, size and time of change, the arguments of `open_clip`, the model's settings). Under it `keep` stores
all that `prepare` needs of a clip except the media (`ClipMedia`), and `find` hands this back with the features of its
towers, or None where anything is missing. The instruction is no part of the key: ask what you like of it.

    key = content_key(model, path, arguments)
    media = store.find(model, key, clip_id)
    if media is None:
        media = store.keep(model, key, model.read_clip(open_clip(path, **arguments)), seconds)
    prompt = model.write_prompt(media, instruction)

*When it does not pay.* Every entry remembers how long its computation took. In mode "auto", when the last `window` hits
of a kind ("vision", "audio", or whole clips: "clip") took longer to hash and read than to compute, the store logs this
once and switches itself off for this kind. Mode "on" never does, mode "off" neither reads nor writes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from torch import nn

from avocet.errors import ConfigError
from avocet.models.clip_media import ClipMedia
from avocet.models.feature_counts import FeatureCounts, FeatureTally, StoreMode
from avocet.models.feature_keys import hash_of, library_versions, media_digest
from avocet.models.interface import Prompt
from avocet.models.store_files import DamagedEntryError, StoredEntry, StoreFiles
from avocet.models.trunks import Trunk, require_values
from avocet.records import Clip

Outputs = tuple[torch.Tensor, ...]

_log = logging.getLogger(__name__)
_DTYPES = (None, torch.bfloat16, torch.float16)
_WINDOW = 50
_NOT_CONTENT = frozenset({"path", "clip_id", "timeout_seconds"})
"""Arguments of `open_clip` that change nothing about a clip's content, or are in its key otherwise."""


class StoringModel(Protocol):
    """What the store asks of a model, and a training loop of a model with a store."""

    feature_store: FeatureStore | None

    def read_clip(self, clip: Clip) -> ClipMedia: ...

    def write_prompt(self, media: ClipMedia, instruction: str) -> Prompt: ...

    def trunks(self) -> Mapping[str, Trunk]:
        """Its towers up to their aligners, by name."""

    def reading_settings(self) -> Mapping[str, Any]:
        """Every setting that decides what `read_clip` makes of a clip; JSON types."""


class FeatureStore:
    """One folder of features; any number of processes may use it at once, each with its own object.

    Args:
        folder: for nothing else; created when missing.
        max_bytes: of all files together. The entries used longest ago make room.
        mode: "auto", "on" or "off", see the module.
        dtype: None keeps floating-point outputs exactly; bfloat16 or float16 rounds them, for half the room or less.
        window: hits that decide whether reading pays.
        clock: seconds; for tests.

    Raises:
        ConfigError: arguments out of range, or a folder that holds other files.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        max_bytes: int,
        *,
        mode: StoreMode = "auto",
        dtype: torch.dtype | None = None,
        window: int = _WINDOW,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if mode not in get_args(StoreMode):
            raise ConfigError(f"mode must be one of {', '.join(get_args(StoreMode))}, got {mode!r}")
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype must be None (exact), torch.bfloat16 or torch.float16, got {dtype}")
        if window < 1:
            raise ConfigError(f"window must be >= 1, got {window}")
        self.mode, self.dtype = mode, dtype
        self.files = StoreFiles(folder, max_bytes)
        self._clock = clock
        self._tally = FeatureTally(mode, window)
        self._read_only = False
        self._warned: set[str] = set()
        self._revisions: weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]] = weakref.WeakKeyDictionary()

    def __deepcopy__(self, memo: Any) -> FeatureStore:
        # A copy of a model shares the store.
        return self

    # What `encode` uses.

    def takes(self, trunk: Trunk) -> bool:
        """Whether the trunk's outputs go through the store: it is frozen, and this process has all its weights."""
        if not trunk.is_frozen:
            return False
        if trunk.is_sharded:
            self._warn(
                f"sharded {trunk.name}",
                f"the frozen {trunk.name} tower is sharded over processes, so its outputs are not stored: all "
                "processes must run it together. Keep frozen towers whole (leave them out of the sharding)",
            )
            return False
        return True

    def output(
        self,
        trunk: Trunk,
        media: torch.Tensor,
        compute: Callable[[], Outputs],
        *,
        content_key: str = "",
        known: Mapping[str, Outputs] | None = None,
        detail: str = "",
    ) -> Outputs:
        """The trunk's output for one clip, on the trunk's device; never holds a graph.

        Args:
            trunk: one that the store `takes`.
            media: what it reads, on the meta device if `known` is all there is.
            compute: runs it.
            content_key: stands for `media`, which is hashed without it.
            known: outputs by key, from `find`.
            detail: what else `compute` depends on (part of the content key where one is given).

        Raises:
            LayoutError: there are no media to compute from, and `known` has no output of these weights.
        """
        revision = self.revision(trunk)
        began = self._clock()
        is_on = self.is_on(trunk.name)
        key = ""
        if known or is_on:
            content = content_key or media_digest(require_values(media, trunk.name), detail)
            key = self._trunk_key(trunk, revision, content)
        if known and key in known:
            return _on_device(known[key], trunk.device)
        if is_on and (entry := self._read(trunk.name, key)) is not None:
            self._note_hit(trunk.name, entry, self._clock() - began)
            self._judge(trunk.name, self._clock() - began, _seconds(entry))
            return _on_device(_outputs(entry), trunk.device)
        require_values(media, trunk.name)
        began = self._clock()
        outputs = self._run(trunk, compute)
        if is_on:
            seconds = self._clock() - began
            self._tally.note(trunk.name, FeatureCounts(misses=1, compute_seconds=seconds))
            stored = {f"{place:03d}": self._to_stored(part) for place, part in enumerate(outputs)}
            facts = {"dtypes": json.dumps([str(part.dtype).removeprefix("torch.") for part in outputs])}
            self._write(trunk.name, key, stored, seconds, facts)
        return outputs

    # What a training loop uses to skip decoding.

    def find(self, model: StoringModel, key: str, clip_id: str) -> ClipMedia | None:
        """All that is known of a clip, or None where its media are needed after all.

        They are needed for a tower that is trained (or sharded, or switched off), and when an entry is missing. The
        features come along in memory, so that nothing can be evicted between here and `encode`; look up no more clips
        ahead than fit. Call this under the same autocast as `encode`.
        """
        if not key or not self.is_on("clip"):
            return None
        trunks = model.trunks()
        usable = {name for name, trunk in trunks.items() if self.takes(trunk) and self.is_on(name)}
        revisions = {name: self.revision(trunks[name]) for name in usable}
        began = self._clock()
        entry = self._read("clip", self._clip_key(key))
        read_seconds = self._clock() - began
        found = None if entry is None else ClipMedia.from_entry(clip_id, entry.tensors, entry.metadata)
        if entry is None or found is None or not usable.issuperset(found.streams):
            self._tally.note("clip", FeatureCounts(misses=1))
            return None
        seconds, features = _seconds(entry), {}
        for name in found.streams:
            trunk_key = self._trunk_key(trunks[name], revisions[name], key)
            part_began = self._clock()
            part = self._read(name, trunk_key)
            if part is None:
                self._tally.note("clip", FeatureCounts(misses=1))
                return None
            self._note_hit(name, part, self._clock() - part_began)
            features[trunk_key] = _outputs(part)
            seconds += _seconds(part)
        self._note_hit("clip", entry, read_seconds)
        self._judge("clip", self._clock() - began, seconds)
        return dataclasses.replace(found, content_key=key, features=features)

    def keep(self, model: StoringModel, key: str, media: ClipMedia, seconds: float) -> ClipMedia:
        """Remember a clip that was just read, without its media; returns it with its key, for `write_prompt`.

        `seconds` is how long decoding and `read_clip` took. Without a key nothing is remembered.
        """
        if not key:
            return media
        if self.is_on("clip"):
            tensors, facts = media.to_entry()
            self._tally.note("clip", FeatureCounts(compute_seconds=seconds))
            self._write("clip", self._clip_key(key), tensors, seconds, facts)
        return dataclasses.replace(media, content_key=key)

    # Revisions.

    def revision(self, trunk: Trunk) -> str:
        """The trunk's revision; computed once, and again when a weight was written to."""
        fingerprint = (trunk.reading, trunk.fingerprint())
        known = self._revisions.get(trunk.module)
        if known is None or known[0] != fingerprint:
            known = (fingerprint, trunk.revision())
            self._revisions[trunk.module] = known
        return known[1]

    def refresh(self, model: StoringModel) -> None:
        """Compute the revisions of the model's towers anew: after writes through `.data`, which leave no trace."""
        for trunk in model.trunks().values():
            self._revisions.pop(trunk.module, None)

    # Reporting.

    def is_on(self, kind: str) -> bool:
        """Whether entries of this kind ("vision", "audio", "clip") are read and written."""
        return self._tally.is_on(kind)

    def counts(self, kind: str | None = None) -> FeatureCounts:
        """Of one kind, or of the towers together ("clip" entries hold no features)."""
        if kind is not None:
            return self._tally.counts(kind)
        return self._tally.counts("vision") + self._tally.counts("audio")

    def summary(self) -> str:
        """One line: hit rate, bytes, evictions and seconds."""
        towers, clips = self.counts(), self.counts("clip")
        everything = towers + clips
        off = ", ".join(self._tally.off)
        return (
            f"feature store: {towers.hits} of {towers.hits + towers.misses} tower outputs found "
            f"({100 * towers.hit_rate:.0f} %), {clips.hits} of {clips.hits + clips.misses} clips not decoded; "
            f"{everything.bytes_read / 1e6:.1f} MB read in {everything.read_seconds:.1f} s, "
            f"{everything.bytes_written / 1e6:.1f} MB written, {everything.compute_seconds:.1f} s of computing; "
            f"{self.files.num_bytes / 1e6:.1f} of {self.files.max_bytes / 1e6:.1f} MB in use, "
            f"{self.files.num_evicted} evicted, {everything.damaged} damaged"
        ) + (f"; off for: {off}" if off else "")

    # Internals.

    def _run(self, trunk: Trunk, compute: Callable[[], Outputs]) -> Outputs:
        with trunk.fixed():
            outputs = compute()
            # Cloned, as stored outputs are: see `store_files`.
            fresh = tuple(part.detach().clone(memory_format=torch.contiguous_format) for part in outputs)
            rounded = tuple(self._to_stored(part).to(part.dtype) for part in fresh)
            if trunk.device.type == "cuda":
                torch.cuda.synchronize(trunk.device)
        return rounded

    def _to_stored(self, part: torch.Tensor) -> torch.Tensor:
        if self.dtype is None or not part.is_floating_point():
            return part
        stored = part.to(self.dtype)
        if self.dtype == torch.float16 and not bool(torch.isfinite(stored).all()) and bool(torch.isfinite(part).all()):
            raise ConfigError(
                f"a tower output of {float(part.abs().max()):.3g} does not fit float16; store bfloat16, or exactly"
            )
        return stored

    def _trunk_key(self, trunk: Trunk, revision: str, content: str) -> str:
        device = trunk.device.type
        autocast = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else ""
        return hash_of([trunk.name, revision, content, device, autocast, str(self.dtype), *library_versions()])

    def _clip_key(self, key: str) -> str:
        return hash_of(["clip", key])

    def _read(self, kind: str, key: str) -> StoredEntry | None:
        try:
            return self.files.read(key)
        except DamagedEntryError as error:
            _log.warning("feature store: a damaged file counts as missing: %s", error)
            self._tally.note(kind, FeatureCounts(damaged=1))
            return None

    def _write(
        self,
        kind: str,
        key: str,
        tensors: Mapping[str, torch.Tensor],
        seconds: float,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        if self._read_only:
            return
        metadata = {"kind": kind, "seconds": repr(seconds), **(facts or {})}
        try:
            num_bytes = self.files.write(key, {name: part.cpu() for name, part in tensors.items()}, metadata)
        except OSError as error:
            self._read_only = True
            self._warn("write", f"cannot write to {self.files.folder} ({error}); nothing more is stored in this run")
            return
        self._tally.note(kind, FeatureCounts(bytes_written=num_bytes))

    def _note_hit(self, kind: str, entry: StoredEntry, seconds: float) -> None:
        self._tally.note(kind, FeatureCounts(hits=1, bytes_read=entry.num_bytes, read_seconds=seconds))

    def _judge(self, kind: str, spent_seconds: float, saved_seconds: float) -> None:
        switched_off = self._tally.judge(kind, spent_seconds, saved_seconds)
        if switched_off:
            self._warn(f"off {kind}", switched_off)

    def _warn(self, about: str, text: str) -> None:
        """Once."""
        if about not in self._warned:
            self._warned.add(about)
            _log.warning("feature store: %s", text)


def content_key(model: StoringModel, path: str | os.PathLike[str], open_arguments: Mapping[str, Any]) -> str:
    """What decides a clip's media tensors, as a hash; "" for what is no local file, whose content nobody can vouch for.

    The file is known by its resolved path, size and time of change: one that is replaced by another of the same size
    and time goes unnoticed.

    Args:
        model: the settings of its reading count; `open_clip` arguments that it wishes are the caller's to pass.
        path: of the file.
        open_arguments: of `open_clip`, those left at their defaults may be left out. Id and time-out do not count.
    """
    file = Path(path)
    try:
        facts = file.stat()
    except OSError:
        return ""
    if not file.is_file():
        return ""
    arguments = {
        name: value for name, value in open_arguments.items() if name not in _NOT_CONTENT and value is not None
    }
    settings = dict(model.reading_settings())
    return hash_of([str(file.resolve()), facts.st_size, facts.st_mtime_ns, arguments, settings, *library_versions()])


def _outputs(entry: StoredEntry) -> Outputs:
    """In the types that they were computed in."""
    dtypes = json.loads(entry.metadata["dtypes"])
    parts = [entry.tensors[name] for name in sorted(entry.tensors)]
    return tuple(part.to(getattr(torch, dtype)) for part, dtype in zip(parts, dtypes, strict=True))


def _seconds(entry: StoredEntry) -> float:
    return float(entry.metadata["seconds"])


def _on_device(outputs: Outputs, device: torch.device) -> Outputs:
    return tuple(part.to(device) for part in outputs)
