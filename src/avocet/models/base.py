"""What every model behind the four verbs shares: sampling, scoring and text, all through its decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from avocet.errors import ConfigError
from avocet.models.clip_media import ClipMedia
from avocet.models.decoder import Decoder
from avocet.models.features import FeatureStore, Outputs
from avocet.models.generation import sample_completions
from avocet.models.interface import Completion, Prefix, Prompt
from avocet.models.prefix import score_shared
from avocet.models.scoring import next_token_log_probs
from avocet.models.trunks import Trunk, TrunkName, require_values
from avocet.records import Clip, Sampling


class DecoderModel(nn.Module):
    """Base of the models: `generate` and `score` for a subclass that says what its decoder is."""

    tokenizer: Any
    """A transformers tokenizer, None for a checkpoint without one (which can score ids but not read text)."""
    stop_ids: tuple[int, ...]
    """Tokens that end a completion; the first is written after a target, the last fills padding."""
    feature_store: FeatureStore | None = None
    """Where the outputs of frozen towers are kept; None: they are computed every time. See `avocet.models.features`."""
    adapter_root: str = ""
    """Where the base that PEFT adapters are made for begins, see `avocet.models.adapters`."""
    base_model_prefix: str = ""
    """What PEFT asks every model for that holds one of transformers'."""

    @property
    def min_frames(self) -> int:
        """`open_clip(min_frames=...)`: models that need more say so."""
        return 1

    def language_decoder(self) -> Decoder:
        """The decoder; made anew at each use, since LoRA may have replaced layers."""
        raise NotImplementedError

    # Preparing: the clip first, then what is asked about it.

    def prepare(self, clip: Clip, instruction: str) -> Prompt:
        """Resize, compute the spectrogram, lay out the tokens. Raises what `read_clip` and `lay_out` raise."""
        return self.write_prompt(self.read_clip(clip), instruction)

    def read_clip(self, clip: Clip) -> ClipMedia:
        """The half of `prepare` that does not depend on the instruction: resize and spectrogram."""
        raise NotImplementedError

    def lay_out(self, media: ClipMedia, instruction: str) -> Prompt:
        """The tokens of a clip and an instruction; reads shapes and times of the media, never their values.

        Raises:
            LayoutError: neither frames nor sound, or frames that cannot be laid out.
            ConfigError: the checkpoint has no tokenizer.
        """
        raise NotImplementedError

    def write_prompt(self, media: ClipMedia, instruction: str) -> Prompt:
        """`lay_out`, with what a feature store knows of the clip."""
        prompt = self.lay_out(media, instruction)
        return dataclasses.replace(prompt, content_key=media.content_key, features=media.features)

    # Towers.

    def trunks(self) -> dict[str, Trunk]:
        """The towers up to their aligners, "vision" and "audio"; made anew at each use."""
        raise NotImplementedError

    def reading_settings(self) -> Mapping[str, Any]:
        """Every setting that decides what `read_clip` makes of a clip; JSON types."""
        raise NotImplementedError

    def stores(self, name: TrunkName) -> bool:
        """Whether the outputs of that tower go through the feature store."""
        return self.feature_store is not None and self.feature_store.takes(self.trunks()[name])

    def trunk_output(
        self, name: TrunkName, prompt: Prompt, compute: Callable[[Prompt], Outputs], detail: str = ""
    ) -> Outputs:
        """What the tower up to its aligner makes of one prompt: from the feature store, or by `compute`.

        Raises:
            LayoutError: the prompt has neither media nor features that fit these weights.
        """
        media = prompt.frames if name == "vision" else prompt.mel
        assert media is not None
        trunk = self.trunks()[name]
        if self.feature_store is None or not self.feature_store.takes(trunk):
            require_values(media, name)
            return compute(prompt)
        return self.feature_store.output(
            trunk,
            media,
            lambda: compute(prompt),
            content_key=prompt.content_key,
            known=prompt.features,
            detail=detail,
        )

    # The verbs that the decoder alone decides.

    def generate(self, prefix: Prefix, n: int, sampling: Sampling, *, first_sample: int = 0) -> list[list[Completion]]:
        """n completions of each prompt from one prefill, numbered from `first_sample`: what sample k is depends on k,
        not on n. See `avocet.models.generation`."""
        with self.evaluating():
            return sample_completions(
                self.language_decoder(),
                prefix,
                n,
                sampling,
                stop_ids=self.stop_ids,
                pad_id=self.stop_ids[-1],
                decode=self.decode,
                first_sample=first_sample,
            )

    def score(
        self, prefix: Prefix, completions: Sequence[Sequence[Completion | Sequence[int]]]
    ) -> list[list[torch.Tensor]]:
        """Per prompt, per completion (what `generate` gave, or token ids): float32 (T,) log-probabilities; see
        `avocet.models.prefix`."""
        ids = [[one.token_ids if isinstance(one, Completion) else one for one in row] for row in completions]
        return score_shared(self.language_decoder(), prefix, ids)

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
