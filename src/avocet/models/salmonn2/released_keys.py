"""Names of the released checkpoints' tensors -> names in Avocet's modules, both ways.

The Q-Former of the releases is BLIP-2's BERT with its text half removed; transformers calls the same layers otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Rules = Sequence[tuple[str, str]]
"""(released prefix, ours); the first one that fits is taken. Longer prefixes stand before shorter ones."""

POSITION_IDS = "bert.embeddings.position_ids"
"""A constant buffer 0 ... 511 in the releases, nothing that needs loading."""

_QFORMER: Rules = (
    ("embeddings.LayerNorm.", "layernorm."),
    ("encoder.layer.", "encoder.layer."),
)
_SELF = re.compile(r"\.(attention|crossattention)\.self\.")
_OURS = re.compile(r"\.(attention|crossattention)\.attention\.")


def rename(name: str, rules: Rules) -> str | None:
    """A released name in our words, None where no rule fits."""
    for released, ours in rules:
        if name.startswith(released):
            return ours + name.removeprefix(released)
    return None


def restore(name: str, rules: Rules) -> str | None:
    """Our name in the words of the release."""
    return rename(name, [(ours, released) for released, ours in rules])


def qformer_name(name: str) -> str | None:
    """`bert....` inside the released Q-Former -> inside transformers' Blip2QFormerModel."""
    ours = rename(name.removeprefix("bert."), _QFORMER)
    return None if ours is None else _SELF.sub(r".\1.attention.", ours)


def released_qformer_name(name: str) -> str | None:
    """The inverse of `qformer_name`."""
    released = restore(name, _QFORMER)
    return None if released is None else "bert." + _OURS.sub(r".\1.self.", released)
