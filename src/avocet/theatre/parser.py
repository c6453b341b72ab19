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

from avocet.theatre._reader import Reader
from avocet.theatre._segments import Word, sentences
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
        """What makes two mentions the same, apart from their place and case."""
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
    reader = Reader(text, capitals_tell=2 * capitals <= len(words))
    for index, sentence in enumerate(found):
        reader.read(index, sentence)
    mentions = [
        Mention(
            kind=draft.kind,
            start=draft.start,
            end=draft.end,
            sentence=draft.sentence,
            beat=draft.beat,
            **draft.attributes,
        )
        for draft in reader.drafts
    ]
    return sorted(mentions, key=lambda mention: (mention.start, mention.end))
