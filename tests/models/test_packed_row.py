"""Who sees whom in a packed row, by hand; `test_prefix_scoring` compares whole models with separate forwards."""

from __future__ import annotations

import pytest
import torch

from avocet.models import packed_row
from avocet.models.packed_row import Layout, Segment

LAYOUT = Layout(segments=(Segment(prompt=2, branches=(2, 1)), Segment(prompt=1, branches=(0, 1))))
VISIBLE = [  # two prompt tokens, a completion of two, one of one; a prompt token, an empty completion, one of one
    "1......",
    "11.....",
    "111....",
    "1111...",
    "11..1..",
    ".....1.",
    ".....11",
]


def dense(rows: list[str]) -> torch.Tensor:
    return torch.tensor([[place == "1" for place in row] for row in rows])


def test_masks_by_hand():
    assert LAYOUT.owners[2].tolist() == [0, 1, 2, 3, 2, 0, 1]
    cpu = torch.device("cpu")
    assert torch.equal(LAYOUT.group_mask(2, (2, 1), None, cpu)[0, 0], dense(["111..", "1111.", "11..1"]))
    assert LAYOUT.prompt_mask(2, None, cpu) is None
    assert LAYOUT.prompt_mask(2, 2, cpu) is None
    assert torch.equal(LAYOUT.prompt_mask(3, 2, cpu)[0, 0], dense(["1..", "11.", ".11"]))
    # A window of 2: by the place in [prompt, own completion], not in the row.
    assert torch.equal(LAYOUT.group_mask(2, (2, 1), 2, cpu)[0, 0], dense([".11..", "..11.", ".1..1"]))


def test_the_mask_of_flex_attention():
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    block = LAYOUT.block_mask(None, torch.device("cpu"))
    visible = flex.create_mask(block.mask_mod, 1, 1, 7, 7, device="cpu")
    assert torch.equal(visible[0, 0], dense(VISIBLE))


def test_groups_by_hand(monkeypatch):
    monkeypatch.setattr(packed_row, "_MAX_GROUP_TOKENS", 5)
    assert Segment(prompt=9, branches=(4, 1, 0, 6)).groups() == [(4, 1), (6,)]
    assert Segment(prompt=9, branches=(0, 0)).groups() == []
    assert Segment(prompt=9, branches=(4, 1, 0, 6)).size == 20
