"""ChatML, the chat format of all Qwen decoders: the token ids around the media of a one-turn prompt.

<|im_start|>system
...<|im_end|>
<|im_start|>user
MEDIA instruction<|im_end|>
<|im_start|>assistant
"""

from __future__ import annotations

from typing import Any

from avocet.errors import CheckpointError

TURN_START, TURN_END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """What ends an answer: the end of the turn, or of the text. Raises `CheckpointError` for another chat format."""
    vocabulary = tokenizer.get_vocab()
    for token in (TURN_START, TURN_END):
        if token not in vocabulary:
            raise CheckpointError(f"the tokenizer has no {token}")
    return tuple(vocabulary[token] for token in (TURN_END, TEXT_END) if token in vocabulary)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text from outside: special tokens in it stay text."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def turns(tokenizer: Any, system_prompt: str, text: str) -> tuple[list[int], list[int]]:
    """Token ids before the media and after them, where `text` follows the media in the user's turn."""
    vocabulary = tokenizer.get_vocab()
    start, end = [vocabulary[TURN_START]], [vocabulary[TURN_END]]
    newline = plain_ids(tokenizer, "\n")
    system = [*start, *plain_ids(tokenizer, f"system\n{system_prompt}"), *end, *newline] if system_prompt else []
    before = [*system, *start, *plain_ids(tokenizer, "user\n")]
    answer = [*end, *newline, *start, *plain_ids(tokenizer, "assistant\n")]
    return before, [*plain_ids(tokenizer, text), *answer]
