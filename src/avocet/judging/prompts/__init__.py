"""Prompts as text files, and how texts that nobody vouches for are put into them.

A prompt file is named `NAME.txt` and has one or two parts, each headed by a line of its own: `[system]` and `[user]`.
`$name` stands for a variable, `$$` for a dollar sign. Filling in is strict: a missing or a superfluous variable is an
error, and what is filled in is not searched for variables again. The version of a prompt is the first 12 hex digits of
the sha256 of its text.

Captions, transcripts and file names are hostile: they may hold instructions to the judge, forged delimiters, invisible
characters, or the control tokens of some chat template. Pass them as `Untrusted`: they are neutralised, and put between
tags whose name no text can know in advance.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import re
import string
from collections.abc import Iterable, Sequence
from typing import get_args

from avocet.judging.errors import PromptError
from avocet.judging.messages import Message, Part, Role, TextPart

_HEADING = re.compile(r"^\[(system|user)\][ \t]*\n", re.MULTILINE)

_LINE_BREAK = re.compile("\r\n?|[\u2028\u2029\x85]")

DEFAULT_MAX_CHARS = 60_000
"""About 15,000 tokens: several times the longest caption that a captioner here can write."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0e\ufeff\uffa0\ufff0-\uffff"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0xF0000, 0x10000))
    + "]"
)
"""Control, format, private-use and reserved characters, lone surrogates, fillers, and variation selectors other than
the one of emoji (U+FE0F). Unassigned ones stay: new emoji are among them. So do format characters that are seen (Arabic
number signs)."""
_TAG_OPENING = re.compile(r"<(?=[A-Za-z_/!?|｜])|(?<=[|｜])>")
"""What could open or close a tag, or be half of a control token such as <|im_end|>."""
_BRACKETED = re.compile(r"\[(?=/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG\w*)\])")
"""Control tokens of the Mistral family."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neutralised:
    """A text that is safe to show to a judge."""

    text: str
    notes: tuple[str, ...]
    """What was done to it beyond harmless spacing; empty for ordinary text."""


def neutralise(text: str, max_chars: int = DEFAULT_MAX_CHARS) -> Neutralised:
    """Take from a text what could act on a judge other than by being read.

    - Invisible characters go (control, zero-width and bidirectional ones, byte-order marks, fillers, the "tag"
      alphabet, variation selectors except that of emoji, private-use ones); line breaks of every kind become "\\n".
    - Tags and control tokens are broken by a space ("<|im_end|>" -> "< |im_end| >"); that is not noted.
    - Text beyond `max_chars` is cut off, visibly at the end of the text and in the notes.

    Raises `PromptError` when `max_chars` is not positive.
    """
    if max_chars < 1:
        raise PromptError(f"max_chars must be >= 1, got {max_chars}")
    notes = []
    lines = _LINE_BREAK.sub("\n", text)
    visible, num_removed = _INVISIBLE.subn("", lines)
    if num_removed:
        notes.append(f"{num_removed} invisible characters removed")
    if len(visible) > max_chars:
        notes.append(f"cut from {len(visible)} to {max_chars} characters")
        visible = f"{visible[:max_chars]}\n(cut here: {len(visible) - max_chars} more characters)"
    spaced = _TAG_OPENING.sub(lambda match: "< " if match[0] == "<" else " >", visible)
    return Neutralised(text=_BRACKETED.sub("[ ", spaced), notes=tuple(notes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Untrusted:
    """A value to fill in that nobody vouches for."""

    text: str
    max_chars: int = DEFAULT_MAX_CHARS

    @classmethod
    def listing(cls, items: Iterable[str], max_chars: int = DEFAULT_MAX_CHARS) -> Untrusted:
        """Items as a numbered list from 1, one line each."""
        lines = (f"{number}. {' '.join(item.split())}" for number, item in enumerate(items, start=1))
        return cls(text="\n".join(lines), max_chars=max_chars)

    def quoted(self, name: str) -> Neutralised:
        """The text between tags that it cannot contain.

        The tags carry 16 hex digits of a hash of the text, so the same text is always quoted alike (and found in the
        cache) while no text can be written to hold its own tag.
        """
        safe = neutralise(self.text, self.max_chars)
        salt = 0
        while (nonce := hashlib.sha256(f"{salt}:{name}:{safe.text}".encode()).hexdigest()[:16]) in safe.text:
            salt += 1
        tag = f"{name.replace('_', '-')}-{nonce}"
        notes = tuple(f"{name}: {note}" for note in safe.notes)
        return Neutralised(text=f"<{tag}>\n{safe.text}\n</{tag}>", notes=notes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderedPrompt:
    """A prompt that is ready to be sent."""

    name: str
    version: str
    messages: tuple[Message, ...]
    notes: tuple[str, ...] = ()
    """What was done to the texts that were filled in."""

    def with_parts(self, parts: Sequence[Part]) -> RenderedPrompt:
        """With pictures, sound or video after the text of the last message."""
        last = self.messages[-1]
        longer = dataclasses.replace(last, parts=(*last.parts, *parts))
        return dataclasses.replace(self, messages=(*self.messages[:-1], longer))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """The text of a prompt file."""

    name: str
    version: str
    sections: tuple[tuple[Role, str], ...]

    @classmethod
    def from_text(cls, name: str, text: str) -> Prompt:
        """Raises `PromptError` for a text without the headings, with one twice, out of order, or with a stray "$"."""
        text = text.replace("\r\n", "\n")
        pieces = _HEADING.split(text)
        roles = tuple(role for role in get_args(Role) if role in pieces[1::2])
        if pieces[0].strip() or tuple(pieces[1::2]) != roles or "user" not in roles:
            raise PromptError(
                f"prompt {name!r}: must consist of an optional part headed [system] and one headed [user], in this "
                f"order; found {', '.join(pieces[1::2]) or 'no heading'}"
                + (" and text before the first heading" if pieces[0].strip() else "")
            )
        sections = tuple(zip(roles, (piece.strip() for piece in pieces[2::2]), strict=True))
        for role, section in sections:
            if not section:
                raise PromptError(f"prompt {name!r}: the part [{role}] is empty")
            if not string.Template(section).is_valid():
                raise PromptError(
                    f'prompt {name!r}: a "$" in [{role}] starts no variable; write "$$" for a dollar sign'
                )
        return cls(name=name, version=hashlib.sha256(text.encode()).hexdigest()[:12], sections=sections)

    @functools.cached_property
    def variables(self) -> frozenset[str]:
        return frozenset(name for _, text in self.sections for name in string.Template(text).get_identifiers())

    def render(self, **values: str | int | Untrusted | Sequence[Untrusted]) -> RenderedPrompt:
        """Fill in the variables: texts of our own and numbers as they are, everything else as `Untrusted`.

        Several untrusted texts for one variable are quoted one by one, numbered from 1.

        Raises `PromptError` for missing and superfluous variables.
        """
        missing, unknown = sorted(self.variables - set(values)), sorted(set(values) - self.variables)
        if missing or unknown:
            problems = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(
                unknown
            )
            raise PromptError(f"prompt {self.name!r} takes {', '.join(sorted(self.variables))}: {'; '.join(problems)}")
        texts: dict[str, str] = {}
        notes: list[str] = []
        for name, value in values.items():
            texts[name], new_notes = _filling(name, value)
            notes += new_notes
        return RenderedPrompt(
            name=self.name,
            version=self.version,
            messages=tuple(
                Message(role=role, parts=(TextPart(text=string.Template(text).substitute(texts)),))
                for role, text in self.sections
            ),
            notes=tuple(notes),
        )


def _filling(name: str, value: str | int | Untrusted | Sequence[Untrusted]) -> tuple[str, tuple[str, ...]]:
    if isinstance(value, str | int):
        return str(value), ()
    if isinstance(value, Untrusted):
        quoted = [value.quoted(name)]
    else:
        quoted = [item.quoted(f"{name}_{number}") for number, item in enumerate(value, start=1)]
    return "\n\n".join(item.text for item in quoted), tuple(note for item in quoted for note in item.notes)


@functools.cache
def load_prompt(name: str) -> Prompt:
    """The prompt `NAME.txt` of this package. Raises `PromptError` naming those that there are."""
    folder = importlib.resources.files(__name__)
    names = sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))
    if name not in names:
        raise PromptError(f"no prompt {name!r}; there are {', '.join(names)}")
    return Prompt.from_text(name, (folder / f"{name}.txt").read_text(encoding="utf-8"))
