"""Tokenizers: the special tokens the prompt needs, and a word-level one for models of a closed world.

`build_word_tokenizer` makes a byte-level BPE without merges: a piece of text that is in the vocabulary is one token,
any other piece falls back to its UTF-8 bytes, so every text survives the round trip exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from avocet.errors import CheckpointError

PAD = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
VIDEO_PAD = "<|video_pad|>"
AUDIO_PAD = "<|audio_pad|>"
SPECIAL_TOKENS = (PAD, TURN_START, TURN_END, VIDEO_PAD, AUDIO_PAD)

# A word, a digit or a single mark, each with the space before it; any other white space stands alone.
_PIECES = r" ?\p{L}+(?:'\p{L}+)?| ?\p{N}| ?[^\s\p{L}\p{N}]|\s"


def build_word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer in which each given word is one token, with and without a space before it.

    `words` may hold phrases or whole captions: they are split into words, digits and single punctuation marks. Ids
    depend on the set of pieces only, not on their order.
    """
    splitter = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = {piece.strip(" ") for text in words for piece, _ in splitter.pre_tokenize_str(text)} - {""}
    entries = {
        mapped
        for piece in pieces
        for variant in (piece, " " + piece)
        for mapped, _ in byte_level.pre_tokenize_str(variant)
    }
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, *sorted(entries - set(alphabet))])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return _wrap(tokenizer)


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Read a `tokenizer.json`. Raises `CheckpointError` when it is none or lacks a special token."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{path}: not a readable tokenizer.json ({error})") from error
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise CheckpointError(f"{path}: the tokenizer lacks the special tokens {', '.join(missing)}")
    return _wrap(tokenizer)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write one self-contained `tokenizer.json`."""
    tokenizer.backend_tokenizer.save(str(path))


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )
