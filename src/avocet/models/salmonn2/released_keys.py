"""Names of the released checkpoints' tensors -> names in Avocet's modules, both ways.

The Q-Former of the releases is BLIP-2's BERT with its text half removed; transformers calls the same layers otherwise.
"""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyMap:
    """The names of one variant, both ways."""

    rules: Rules
    """For all but the Q-Former."""
    released_qformer: str
    """Prefix of the Q-Former in the release."""
    our_qformer: str
    constants: re.Pattern[str]
    """Released names of constant buffers, which are nothing that needs loading."""

    def ours(self, name: str) -> str | None:
        """A released name in our words; "" for a constant buffer, None for an unknown one."""
        if self.constants.fullmatch(name):
            return ""
        if name.startswith(self.released_qformer):
            inner = qformer_name(name.removeprefix(self.released_qformer))
            return None if inner is None else self.our_qformer + inner
        return rename(name, self.rules)

    def released(self, name: str) -> str | None:
        """The inverse of `ours`."""
        if name.startswith(self.our_qformer):
            inner = released_qformer_name(name.removeprefix(self.our_qformer))
            return None if inner is None else self.released_qformer + inner
        return restore(name, self.rules)
