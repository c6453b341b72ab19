"""Captions -> mentions of theatre events, for any text: reference captions, other wordings, broken model output.

What is understood (casing and kind of quotation mark do not matter; see `_lexicon` for the words):

- visual: a shape with the colour before it ("a red circle", "a circle that is red") and each motion told of it
  ("slides to the left", "moves leftward", "is rising", "a spinning red star", "gets bigger"). A shape without colour
  or motion is a partial mention; so is a colour with a motion but without a shape ("a red slides to the left").
- text: "the word OPEN appears", "the screen reads OPEN", 'a sign with the text "OPEN"', and any other word in
  capitals when the rest is not in capitals.
- sound: its source ("a bell rings", "a ringing bell", "the sound of a bell"), or its noise alone ("ticking is heard").
- speech: a quotation, or what follows a verb of saying, with the speaker before it or after it.
- scene: a place named with "scene", "setting" or "background", or any place other than the one told last.

Words inside quotations are only ever read as speech or on-screen text; what follows "no" or "without" is no mention.
Things outside the theatre's world are found only where the sentence itself says what they are ("the sound of a
guitar", "the scene is a kitchen", "the word BANANA"); a clause such as "a dog barks" is not. A sentence is read in the
order in which it is told: "before" and "then" separate what happens, an inverting "after" is not understood.
"""

from __future__ import annotations

import dataclasses

from avocet.theatre import _lexicon as lexicon
from avocet.theatre import world
from avocet.theatre._segments import Item, Quote, Word, sentences
from avocet.theatre.script import EventKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mention:
    """One event as a caption tells it; attributes that it does not tell are empty."""

    kind: EventKind
    colour: str = ""
    shape: str = ""
    motion: str = ""
    """One of `world.MOTIONS`, or "slide" without a direction."""
    word: str = ""
    sound: str = ""
    speaker: str = ""
    utterance: str = ""
    scene: str = ""
    start: int
    """First character of the text that tells it."""
    end: int
    sentence: int
    beat: int
    """Mentions of the same number are told as simultaneous."""

    @property
    def key(self) -> tuple[str, ...]:
        """The told attributes, comparable with `Event.key`."""
        return (
            *(self.kind, self.colour, self.shape, self.motion, self.word.casefold(), self.sound, self.speaker),
            *(" ".join(self.utterance.casefold().split()), self.scene),
        )

    def describe(self) -> str:
        """The mention in few words."""
        if self.kind == "visual":
            return " ".join(part for part in (self.colour, self.shape or "shape", self.motion) if part)
        if self.kind == "text":
            return f"the word {self.word}" if self.word else "a word on the screen"
        if self.kind == "sound":
            return f"sound of {self.sound}"
        if self.kind == "speech":
            return f'{self.speaker or "someone"} says "{self.utterance}"'
        return f"the scene is {self.scene}" if self.scene else "a scene"


def parse_caption(text: str) -> list[Mention]:
    """All mentions of events in `text`, in the order in which they stand. Never raises; linear in the text's length."""
    found = sentences(text)
    words = [item for sentence in found for item in sentence if isinstance(item, Word) and len(item.text) > 1]
    capitals = sum(word.text.isupper() for word in words)
    reader = _Reader(capitals_tell=2 * capitals <= len(words))
    for index, sentence in enumerate(found):
        reader.read(index, sentence)
    return sorted((draft.mention() for draft in reader.drafts), key=lambda mention: (mention.start, mention.end))


@dataclasses.dataclass(slots=True)
class _Draft:
    """A mention that may still learn its motion or colour."""

    kind: EventKind
    start: int
    end: int
    sentence: int
    beat: int
    attributes: dict[str, str]

    def mention(self) -> Mention:
        span = {"start": self.start, "end": self.end, "sentence": self.sentence, "beat": self.beat}
        return Mention(kind=self.kind, **self.attributes, **span)  # type: ignore[arg-type]


class _Reader:
    """Reads sentence after sentence, item after item, and remembers what a later word may refer to."""

    def __init__(self, *, capitals_tell: bool) -> None:
        self.drafts: list[_Draft] = []
        self._capitals_tell = capitals_tell
        """Words in capitals mean on-screen text; not so in a text that is all in capitals."""
        self._beat = -1
        self._last_actor: _Draft | None = None
        self._last_speaker = ""
        self._last_scene = ""

    def read(self, index: int, items: list[Item]) -> None:
        """Read one sentence."""
        if not (self.drafts and _opens_simultaneously(items)):
            self._beat += 1
        self._index = index
        self._items = items
        self._done: set[int] = set()
        """Items that an earlier item has used up."""
        self._head: _Draft | None = None
        """The last mention of this sentence: what a verb tells something about."""
        self._colour: tuple[str, int] | None = None
        self._motion: tuple[str, int] | None = None
        """A colour, or a motion told before its actor, with its index."""
        self._speaker: str | None = None
        self._told_by: int = -1
        """Index of the last word that names or implies a speaker since the last quotation."""
        self._silenced = False
        self._scene_cue: int | None = None
        self._noises: list[tuple[str, Word]] = []
        self._next_quote = _next_indices(items, lambda item: isinstance(item, Quote))
        first_draft = len(self.drafts)
        for position, item in enumerate(items):
            if position in self._done:
                continue
            if isinstance(item, Quote):
                self._read_quote(position, item)
            else:
                self._read_word(position, item)
        self._finish(self.drafts[first_draft:])

    def _read_word(self, position: int, word: Word) -> None:
        lower = word.lower
        if lower in lexicon.SEQUENCE_WORDS or (lower == "after" and self._lower(position + 1) in ("that", "which")):
            self._read_sequence_word(position, lower)
        elif lower in lexicon.COLOUR_WORDS and not word.text.isupper():
            self._read_colour(position, lower)
        elif lower in lexicon.COLOUR_WORDS:
            self._read_colour(position, lower)
        else:
            pass

    def _finish(self, drafts: list[_Draft]) -> None:
        del drafts
