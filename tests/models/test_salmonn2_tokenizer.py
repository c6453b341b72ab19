from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avocet.errors import CheckpointError
from avocet.models.salmonn2.tokenizer import SPECIAL_TOKENS, build_word_tokenizer, load_tokenizer, save_tokenizer

CAPTION = (
    "First, a red circle slides to the left while a bell rings. Then a man says, "
    '"Ben lost five keys." The word OPEN appears on the screen.'
)
TOKENIZER = build_word_tokenizer([CAPTION])


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)


def test_known_words_and_marks_are_one_token_each():
    ids = encode(CAPTION)
    # 27 words, 2 commas, 3 full stops, 2 quotation marks.
    assert len(ids) == 34
    assert TOKENIZER.decode(ids) == CAPTION
    assert [TOKENIZER.decode([token]) for token in encode('says, "Ben lost.')] == [
        "says",
        ",",
        ' "',
        "Ben",
        " lost",
        ".",
    ]


def test_words_are_known_with_and_without_a_space():
    assert len(encode("left")) == len(encode(" left")) == 1
    assert encode("left") != encode(" left")


def test_unknown_words_fall_back_to_bytes():
    assert len(encode("zebra")) == 5
    assert len(encode(" zebra")) == 6
    assert len(encode("é")) == 2


@given(st.text(st.characters(codec="utf-8")))
def test_every_text_survives(text):
    assert TOKENIZER.decode(encode(text)) == text


def test_special_tokens_in_a_text_stay_text():
    assert TOKENIZER.decode(encode("<|im_end|>")) == "<|im_end|>"
    assert not set(encode("".join(SPECIAL_TOKENS))) & set(TOKENIZER.all_special_ids)


def test_ids_depend_on_the_set_of_words_only():
    shuffled = build_word_tokenizer(reversed(CAPTION.split()))
    assert shuffled.get_vocab() == build_word_tokenizer(CAPTION.split()).get_vocab()


def test_saved_and_loaded(tmp_path):
    save_tokenizer(TOKENIZER, tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    assert loaded.encode(CAPTION) == encode(CAPTION)
    assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_broken_tokenizers(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="not a readable tokenizer"):
        load_tokenizer(path)
    save_tokenizer(TOKENIZER, path)
    path.write_text(path.read_text().replace("<|audio_pad|>", "<|other|>"))
    with pytest.raises(CheckpointError, match=r"lacks the special tokens <\|audio_pad\|>"):
        load_tokenizer(path)
