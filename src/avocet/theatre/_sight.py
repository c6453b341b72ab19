"""What a caption tells of the picture: the part of the parser's reader that knows actors, scenes and on-screen text.

Every item of a sentence is looked at once, with a bounded number of neighbours, so reading is linear in the length
of the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from avocet.theatre import _lexicon as lexicon
from avocet.theatre import world
from avocet.theatre._segments import Item, Quote, Word
from avocet.theatre.script import EventKind

SCREEN_WORDS = frozenset(word.casefold() for word in world.SCREEN_WORDS)
_SLIDE_REACH = 8
"""Words after "slides" among which its direction is looked for ("slides across the screen to the left")."""
_FILLERS_REACH = 6
"""Words that may stand between a cue and what it announces ("the word that reads: OPEN")."""
_COLOUR_REACH = 3
"""A colour belongs to the shape (or motion) at most this many items later."""


@dataclasses.dataclass(slots=True)
class Draft:
    """A mention that may still learn its motion or colour."""

    kind: EventKind
    start: int
    end: int
    sentence: int
    beat: int
    attributes: dict[str, str]


class SightReader:
    """What is remembered while reading, and the readers of what is seen."""

    def __init__(self, text: str, *, capitals_tell: bool) -> None:
        self.drafts: list[Draft] = []
        self._text = text
        self._capitals_tell = capitals_tell
        """Words in capitals mean on-screen text; not so in a text that is all in capitals."""
        self._beat = -1
        self._last_actor: Draft | None = None
        self._last_speaker = ""
        self._last_scene = ""

    def _begin(self, index: int, items: list[Item]) -> None:
        self._index = index
        self._items = items
        self._done: set[int] = set()  # items that an earlier item has used up
        self._screen_quotes: set[int] = set()  # quotations announced as on-screen text
        self._head: Draft | None = None  # the last mention: what a verb tells something about
        self._sound_at = -9  # where the last sound stood
        self._colour: tuple[str, int] | None = None  # a colour that waits for its shape
        self._motion: tuple[str, int] | None = None  # a motion told before its actor
        self._speaker: str | None = None
        self._speaker_at = -1  # last word that names a speaker, -1 after each quotation
        self._saying_at = -1  # last verb of saying, -1 after each quotation
        self._surface_at = -1  # last screen, sign and the like
        self._silenced = False  # "no one says"
        self._scene_cue: int | None = None
        self._noises: list[tuple[str, Word]] = []
        self._next_quote = _next_of(items, lambda item: isinstance(item, Quote))
        self._next_saying = _next_of(items, lambda item: isinstance(item, Word) and item.lower in lexicon.SAYING_VERBS)

    # Looking around

    def _lower(self, position: int) -> str:
        """The casefolded word at a position; empty for a quotation or outside of the sentence."""
        item = self._items[position] if 0 <= position < len(self._items) else None
        return item.lower if isinstance(item, Word) else ""

    def _is_negated(self, position: int) -> bool:
        before, earlier = self._lower(position - 1), self._lower(position - 2)
        modifier = before in lexicon.ARTICLES or before in lexicon.COLOUR_WORDS
        return before in lexicon.NEGATIONS or (modifier and earlier in lexicon.NEGATIONS)

    def _waiting_colour(self, position: int) -> tuple[str, int] | None:
        near = self._colour is not None and position - self._colour[1] <= _COLOUR_REACH
        return self._colour if near else None

    def _start_of(self, position: int) -> int:
        return self._items[position].start

    def _add(self, kind: EventKind, start: int, end: int, **attributes: str) -> Draft:
        draft = Draft(kind, start, end, self._index, self._beat, attributes)
        self.drafts.append(draft)
        self._head = draft
        return draft

    def _skip(self, position: int, fillers: frozenset[str]) -> int:
        last = min(position + _FILLERS_REACH, len(self._items))
        while position < last and self._lower(position) in fillers:
            position += 1
        return position

    # What is seen

    def _read_colour(self, position: int, lower: str) -> None:
        colour = "grey" if lower == "gray" else lower
        following = self._lower(position + 1)
        of_something_else = (
            following in lexicon.NO_COLOUR_OF_AN_ACTOR
            or following in lexicon.TEXT_SURFACES
            or following in lexicon.SCENE_NOUNS
            or following in lexicon.SOUND_NOUNS
        )
        if of_something_else:
            return
        if self._lower(position - 1) in lexicon.BEING and self._head is not None and self._head.kind == "visual":
            self._head.attributes.setdefault("colour", colour)
            return
        self._colour = (colour, position)

    def _read_shape(self, position: int, word: Word) -> None:
        lower, colour = word.lower, self._waiting_colour(position)
        if self._is_negated(position) or (lower == "plus" and colour is None and self._lower(position + 1) != "sign"):
            return
        if lower in lexicon.GENERIC_SHAPE_NOUNS and colour is None:
            return
        start = word.start
        attributes = {} if lower in lexicon.GENERIC_SHAPE_NOUNS else {"shape": lexicon.SHAPE_NOUNS[lower]}
        if colour is not None:
            attributes["colour"] = colour[0]
            start = self._start_of(colour[1])
        if self._motion is not None:
            attributes["motion"] = self._motion[0]
            start = min(start, self._start_of(self._motion[1]))
        self._colour = self._motion = None
        self._last_actor = self._add("visual", start, word.end, **attributes)

    def _read_motion(self, position: int, word: Word) -> None:
        lower = word.lower
        if lower in lexicon.MOTION_VERBS:
            self._tell_motion(position, lexicon.MOTION_VERBS[lower], word.end)
            return
        found = self._direction_after(position)
        if found is not None:
            self._tell_motion(position, *found)
        elif lower in lexicon.SLIDE_VERBS:
            self._tell_motion(position, "slide", word.end)

    def _direction_after(self, position: int) -> tuple[str, int] | None:
        """The motion that a direction behind a verb gives, and where it ends: the last direction not after "from"."""
        found: tuple[str, int] | None = None
        origin: tuple[str, int] | None = None
        for index in range(position + 1, min(position + 1 + _SLIDE_REACH, len(self._items))):
            lower = self._lower(index)
            if not lower or lower in lexicon.CLAUSE_ENDS or lower in lexicon.SHAPE_NOUNS:
                break
            if lower in lexicon.DIRECTIONS:
                motion, end = lexicon.DIRECTIONS[lower], self._items[index].end
                if "from" in (self._lower(index - 1), self._lower(index - 2)) and self._lower(index - 1) != "to":
                    origin = (lexicon.OPPOSITE[motion], end)
                else:
                    found = (motion, end)
        return found or origin

    def _tell_motion(self, position: int, motion: str, end: int) -> None:
        """Give the motion to the actor that follows, to a colour without shape, or to the actor told last."""
        if self._lower(position + 1) in lexicon.SOUND_NOUNS or self._is_negated(position):
            return
        if self._actor_follows(position):
            self._motion = (motion, position)
            return
        colour = self._waiting_colour(position)
        if colour is not None:
            self._colour = None
            self._last_actor = self._add("visual", self._start_of(colour[1]), end, colour=colour[0], motion=motion)
            return
        actor = self._head
        if actor is None and self._lower(position - 1) in lexicon.PRONOUNS | {"which", "that", "then", "is"}:
            actor = self._last_actor
        if actor is None or actor.kind != "visual":
            return
        known = actor.attributes.get("motion", "")
        if known in ("", "slide"):
            actor.attributes["motion"] = motion
            actor.end = max(actor.end, end) if actor.sentence == self._index else actor.end
        elif motion not in (known, "slide"):
            others = {**actor.attributes, "motion": motion}
            self._last_actor = self._add("visual", self._start_of(position), end, **others)

    def _actor_follows(self, position: int) -> bool:
        """Does the motion stand before its actor, as in "a spinning red star"?"""
        for index in range(position + 1, position + 4):
            lower = self._lower(index)
            if lower in lexicon.SHAPE_NOUNS or lower in lexicon.GENERIC_SHAPE_NOUNS:
                return True
            if not lower or lower in lexicon.CLAUSE_ENDS or lower in lexicon.ARTICLES or lower in lexicon.DIRECTIONS:
                return False
        return False

    def _read_scene_cue(self, position: int) -> None:
        """ "The scene is a kitchen": remembers the cue, and takes a place the theatre does not know."""
        self._scene_cue = position
        for index in range(position + 2, min(position + 6, len(self._items) - 1)):
            if self._lower(index) not in ("a", "an", "the"):
                continue
            place, after = self._items[index + 1], self._lower(index + 2)
            known = {self._lower(index + 1), after} & (lexicon.KNOWN_WORDS | lexicon.SCENE_NOUNS.keys())
            changes = {self._lower(i) for i in range(position + 1, index)} & (lexicon.BEING | lexicon.SCENE_CHANGES)
            alone = not after[:1].isalnum() or after in lexicon.JOINERS
            if isinstance(place, Word) and place.is_word and alone and changes and not known - lexicon.JOINERS:
                self._tell_scene(place.lower, self._start_of(position), place.end)
                self._done.add(index + 1)
            return

    def _read_scene(self, position: int, word: Word) -> None:
        pair = (word.lower, self._lower(position + 1))
        end = word.end
        if pair in lexicon.SCENE_PAIRS:
            scene, end = lexicon.SCENE_PAIRS[pair], self._items[position + 1].end
            self._done.add(position + 1)
        else:
            scene = lexicon.SCENE_NOUNS[word.lower]
        departed = "from" in (self._lower(position - 1), self._lower(position - 2))
        reference = self._scene_cue is None and scene == self._last_scene
        if not (departed or reference or self._is_negated(position)):
            self._tell_scene(scene, word.start if self._scene_cue is None else self._start_of(self._scene_cue), end)

    def _tell_scene(self, scene: str, start: int, end: int) -> None:
        self._add("scene", start, end, scene=scene)
        self._last_scene = scene
        self._scene_cue = None

    # What is written on the screen

    def _read_text_noun(self, position: int, word: Word) -> None:
        if self._is_negated(position) or self._saying_at > self._surface_at:
            return
        index = self._skip(position + 1, lexicon.TEXT_FILLERS)
        if index < len(self._items) and isinstance(self._items[index], Quote):
            self._screen_quotes.add(index)
        elif not self._take_screen_word(index, word.start, any_word=word.lower in ("word", "words")):
            shown = self._lower(index) in lexicon.BEING and self._lower(index + 1) in lexicon.SHOWN
            if shown or self._lower(index) in lexicon.APPEARING_VERBS:
                self._add("text", word.start, self._items[index].end)

    def _read_text_verb(self, position: int, word: Word) -> None:
        index = self._skip(position + 1, lexicon.TEXT_FILLERS - lexicon.TEXT_NOUNS)
        if index < len(self._items) and isinstance(self._items[index], Quote):
            self._screen_quotes.add(index)
        elif self._lower(index) in lexicon.TEXT_NOUNS:
            return
        else:
            taken = self._take_screen_word(index, word.start, any_word=word.lower in ("reads", "reading", "says"))
            if word.lower == "reads" and not taken:
                self._add("text", word.start, word.end)

    def _take_screen_word(self, index: int, start: int, *, any_word: bool) -> bool:
        """Read the item as the word on the screen if it can be one: in capitals, a known one, or `any_word`."""
        item = self._items[index] if index < len(self._items) else None
        if not isinstance(item, Word) or not item.is_word:
            return False
        in_capitals = self._capitals_tell and is_capitals(item)
        if not in_capitals and (item.lower in lexicon.NOT_A_SCREEN_WORD or len(item.text) == 1):
            return False
        if in_capitals or any_word or item.lower in SCREEN_WORDS:
            self._done.add(index)
            self._add("text", start, item.end, word=item.text)
            return True
        return False


def is_capitals(word: Word) -> bool:
    return len(word.text) > 1 and word.text.isalpha() and word.text.isupper()


def _next_of(items: list[Item], wanted: Callable[[Item], bool]) -> list[int | None]:
    """For every position, the next later position whose item is wanted."""
    found: list[int | None] = [None] * len(items)
    following: int | None = None
    for position in range(len(items) - 1, -1, -1):
        found[position] = following
        if wanted(items[position]):
            following = position
    return found
