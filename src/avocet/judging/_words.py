"""The words of a text, for comparing texts regardless of case, punctuation, quotation marks and spacing."""

from __future__ import annotations

import re
import unicodedata

_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters: written without spaces, so each counts as a word."""


def words_of(text: str) -> list[str]:
    """Letters, marks and digits of the NFKC-casefolded text, split at everything else."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(character if unicodedata.category(character)[0] in "LMN" else " " for character in folded)
    words = _UNSPACED.sub(r" \1 ", kept).split()
    # A mark alone is what is left of a symbol, as of an emoji.
    return [word for word in words if any(character.isalnum() for character in word)]
