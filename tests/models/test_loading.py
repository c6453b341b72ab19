"""Versions of weights that come without one."""

from __future__ import annotations

import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from avocet.errors import CheckpointError
from avocet.models import loading
from avocet.models.loading import weights_revision
from avocet.models.qwen_omni.tiny import tiny_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    tiny_model().save(tmp_path / "weights")
    return tmp_path / "weights"


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("limit", [2**30, 0])
def test_any_changed_tensor_changes_the_version(folder, monkeypatch, limit):
    """Small files are hashed whole, large ones by their headers and the start of every tensor."""
    monkeypatch.setattr(loading, "_MAX_HASHED_BYTES", limit)
    names = sorted(load_file(folder / WEIGHTS))
    first = weights_revision(folder)
    assert len(first) == 12
    assert weights_revision(folder) == first
    seen = {first}
    for name in names[:: len(names) // 8]:
        edit_weights(folder, lambda tensors, name=name: tensors[name].view(-1)[:1].add_(1.0))
        seen.add(weights_revision(folder))
        assert (folder / WEIGHTS).stat().st_size > 100_000
    assert len(seen) == 1 + len(names[:: len(names) // 8])
    edit_weights(folder, lambda tensors: tensors.update(new=torch.zeros(1)))
    assert weights_revision(folder) not in seen


def test_large_files_are_not_read_whole(folder, monkeypatch):
    whole = weights_revision(folder)
    monkeypatch.setattr(loading, "_MAX_HASHED_BYTES", 0)
    sampled = weights_revision(folder)
    assert sampled != whole
    # The word embeddings are far over 4 KiB; their last number is not looked at.
    edit_weights(folder, lambda tensors: tensors["model.embed_tokens.weight"].view(-1)[-1:].add_(1.0))
    assert weights_revision(folder) == sampled
    edit_weights(folder, lambda tensors: tensors["model.embed_tokens.weight"].view(-1)[1023:1024].add_(1.0))
    changed = weights_revision(folder)
    assert changed != sampled

    def transpose(tensors):
        tensors["lm_head.weight"] = tensors["lm_head.weight"].view(64, -1)

    edit_weights(folder, transpose)  # the same bytes under another header
    assert weights_revision(folder) not in (changed, sampled)


def test_every_shard_counts(folder, monkeypatch):
    for limit in (2**30, 0):
        monkeypatch.setattr(loading, "_MAX_HASHED_BYTES", limit)
        before = weights_revision(folder)
        save_file({"a": torch.zeros(2)}, folder / "more.safetensors")
        assert weights_revision(folder) != before
        (folder / "more.safetensors").unlink()
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert weights_revision(folder) == ""


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b'{"a": 3}',
        b'{"a": {}}',
        b'{"a": {"data_offsets": [1]}}',
        b'{"a": {"data_offsets": null}}',
        b'{"a": {"data_offsets": ["x", "y"]}}',
        b'{"a": {"data_offsets": [0.5, 3]}}',
    ],
)
def test_large_files_that_are_no_safetensors(tmp_path, monkeypatch, header):
    monkeypatch.setattr(loading, "_MAX_HASHED_BYTES", 0)
    path = tmp_path / WEIGHTS
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"0123456789")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file"):
        weights_revision(tmp_path)
    path.write_bytes(struct.pack("<Q", 2**60) + header)
    with pytest.raises(CheckpointError, match=r"not a safetensors file \(a header of 1152921504606846976 bytes\)"):
        weights_revision(tmp_path)
