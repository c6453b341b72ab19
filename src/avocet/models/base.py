"""What every model behind the four verbs shares: sampling, scoring and text, all through its decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from avocet.errors import ConfigError
from avocet.models.decoder import Decoder
from avocet.models.generation import sample_completions
from avocet.models.interface import Completion, Prefix
from avocet.models.scoring import next_token_log_probs, score_completions
from avocet.records import Sampling


class DecoderModel(nn.Module):
    """Base of the models: `generate` and `score` for a subclass that says what its decoder is."""

    tokenizer: Any
    """A transformers tokenizer, None for a checkpoint without one (which can score ids but not read text)."""
    stop_ids: tuple[int, ...]
    """Tokens that end a completion; the first is written after a target, the last fills padding."""

    @property
    def min_frames(self) -> int:
        """`open_clip(min_frames=...)`: models that need more say so."""
        return 1

    def language_decoder(self) -> Decoder:
        """The decoder; made anew at each use, since LoRA may have replaced layers."""
        raise NotImplementedError

    def generate(self, prefix: Prefix, n: int, sampling: Sampling) -> list[list[Completion]]:
        """n completions of each prompt from one prefill; see `avocet.models.generation`."""
        with self.evaluating():
            return sample_completions(
                self.language_decoder(),
                prefix,
                n,
                sampling,
                stop_ids=self.stop_ids,
                pad_id=self.stop_ids[-1],
                decode=self.decode,
            )

    def score(self, prefix: Prefix, completions: Sequence[Sequence[Sequence[int]]]) -> list[list[torch.Tensor]]:
        """Per prompt, per completion: float32 (T,) log-probabilities; see `avocet.models.scoring`."""
        return score_completions(self.language_decoder(), prefix, completions)

    def next_token_log_probs(self, prefix: Prefix, completion: Sequence[int]) -> torch.Tensor:
        """float32 (T, vocabulary): the distribution before each token of the completion of a one-prompt prefix."""
        return next_token_log_probs(self.language_decoder(), prefix, completion)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, without special tokens and outer white space; "" without a tokenizer."""
        if self.tokenizer is None:
            return ""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()

    def encode_text(self, text: str, *, end: bool = False) -> list[int]:
        """Token ids of a completion's text, with the stop token when `end`. Special tokens in the text stay text."""
        if self.tokenizer is None:
            raise ConfigError("this checkpoint has no tokenizer files, so it cannot read text")
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return [*ids, self.stop_ids[0]] if end else list(ids)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients; modes are kept per module, since a caller may train one part only."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training
