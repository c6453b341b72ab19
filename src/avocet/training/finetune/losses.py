"""The loss of supervised fine-tuning: cross-entropy of target tokens only, without a tensor of all logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from avocet.errors import ConfigError
from avocet.models.decoder import Decoder
from avocet.models.interface import Prefix
from avocet.models.scoring import completion_hidden


def target_states(
    decoder: Decoder, prefix: Prefix, targets: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (N, width) that predict the tokens of one target per prompt, and those tokens (N,).

    One causal pass over [prefix, target], padded on the right, where padding needs no mask.

    Raises:
        ConfigError: the number of targets is not that of the prompts, or a target has no token.
    """
    if len(targets) != len(prefix) or not all(targets):
        raise ConfigError(
            f"{len(prefix)} prompts need as many targets of at least one token, got lengths {[*map(len, targets)]}"
        )
    return completion_hidden(decoder, prefix, [list(target) for target in targets])
