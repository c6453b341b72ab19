"""The word-by-word reader behind `parser.parse_caption`: every word to its reader, and what is heard."""

from __future__ import annotations

import itertools

from avocet.theatre import _lexicon as lexicon
from avocet.theatre._segments import Item, Quote, Word
from avocet.theatre._sight import SCREEN_WORDS, Draft, SightReader, is_capitals


class Reader(SightReader):
    """Reads sentence after sentence and remembers what a later word may refer to."""

    def read(self, index: int, items: list[Item]) -> None:
        """Read one sentence (its index in the text, its items)."""
        if not (self.drafts and _opens_simultaneously(items)):
            self._beat += 1
        self._begin(index, items)
        first_draft = len(self.drafts)
        for position, item in enumerate(items):
            if position in self._done:
                continue
            if isinstance(item, Quote):
                self._read_quote(position, item)
            else:
                self._read_word(position, item)
        self._finish(self.drafts[first_draft:])

    # Words

    def _read_word(self, position: int, word: Word) -> None:
        lower = word.lower
        pair = (lower, self._lower(position + 1))
        if lower in lexicon.COLOUR_WORDS:
            self._read_colour(position, lower)
        elif lower in lexicon.SHAPE_NOUNS or lower in lexicon.GENERIC_SHAPE_NOUNS:
            self._read_shape(position, word)
        elif pair in lexicon.SCENE_PAIRS or lower in lexicon.SCENE_NOUNS:
            self._read_scene(position, word)
        elif lower in lexicon.SOUND_NOUNS:
            self._read_sound(position, word)
        elif lower in lexicon.SPEAKER_NOUNS:
            self._read_speaker(position, lower)
        elif lower in lexicon.SLIDE_VERBS or lower in lexicon.CARRIER_VERBS or lower in lexicon.MOTION_VERBS:
            self._read_motion(position, word)
        elif pair in (("turns", "around"), ("turning", "around")):
            self._tell_motion(position, "spin", self._items[position + 1].end)
        elif lower in lexicon.TEXT_NOUNS:
            self._read_text_noun(position, word)
        elif lower in lexicon.TEXT_VERBS and self._surface_at > self._speaker_at:
            self._read_text_verb(position, word)
        elif lower in lexicon.SAYING_VERBS or lower in lexicon.SPEAKING_VERBS:
            self._read_saying(position, word)
        else:
            self._read_small_word(position, word)

    def _read_small_word(self, position: int, word: Word) -> None:
        lower = word.lower
        if lower in lexicon.SEQUENCE_WORDS or (lower == "after" and self._lower(position + 1) in ("that", "which")):
            told_here = bool(self.drafts) and self.drafts[-1].sentence == self._index
            if told_here and self._lower(position + 1) != "to":  # "next to" is a place
                self._beat += 1
        elif lower in lexicon.TEXT_SURFACES:
            self._surface_at = position
        elif lower in lexicon.SCENE_CUES:
            self._read_scene_cue(position)
        elif lower in lexicon.SOUND_ALONE:
            self._noises.append((lexicon.SOUND_ALONE[lower], word))
        elif lower in lexicon.PRONOUNS:
            if {self._lower(position + 1), self._lower(position + 2)} & lexicon.SAYING_VERBS:
                self._speaker, self._speaker_at = self._last_speaker, position
        elif lower == "nobody" or (lower == "one" and self._lower(position - 1) == "no"):
            self._silenced = True
        elif lower in ("and", "while", "as"):
            self._colour = None
        elif lower == "of" and self._lower(position - 1) in ("sound", "sounds", "noise"):
            self._read_unknown_sound(position + 1)
        elif lower == "heard":
            self._read_heard(position)
        elif self._capitals_tell and is_capitals(word) and lower not in lexicon.KNOWN_WORDS:
            self._add("text", word.start, word.end, word=word.text)

    # What is heard

    def _read_sound(self, position: int, word: Word) -> None:
        before = self._lower(position - 1)
        someone = before in lexicon.SPEAKER_NOUNS or before in lexicon.SHAPE_NOUNS or before in lexicon.PRONOUNS
        a_verb = word.lower == "waves" and someone
        if a_verb or self._is_negated(position) or self._lower(position + 1) == "tower":
            return
        sound, last = lexicon.SOUND_NOUNS[word.lower], self.drafts[-1] if self.drafts else None
        if position - self._sound_at <= 2 and last is not None and last.attributes.get("sound") == sound:
            last.end = word.end  # "rain drops", "a bell's ringing bell"
        else:
            self._add("sound", word.start, word.end, sound=sound)
        self._sound_at = position

    def _read_unknown_sound(self, position: int) -> None:
        """ "The sound of a guitar"; known sources and voices are left to their own readers."""
        position += self._lower(position) in lexicon.ARTICLES
        following = (self._lower(position), self._lower(position + 1))
        known = lexicon.KNOWN_WORDS | lexicon.SOUND_ALONE.keys() | lexicon.NOT_A_SCREEN_WORD
        if following[0][:1].isalpha() and following[0] not in known and following[1] not in lexicon.SOUND_NOUNS:
            self._done.add(position)
            self._add("sound", self._start_of(position), self._items[position].end, sound=following[0])

    def _read_heard(self, position: int) -> None:
        """ "A guitar can be heard": takes a source the theatre does not know."""
        source = position - (3 if (self._lower(position - 2), self._lower(position - 1)) == ("can", "be") else 2)
        lower = self._lower(source)
        said = {self._lower(position + 1), self._lower(position + 2)} & (lexicon.SAYING_VERBS | lexicon.SPEAKING_VERBS)
        verb = self._lower(source + 1) in ("can", "is", "are")
        known = lexicon.KNOWN_WORDS | lexicon.SOUND_ALONE.keys() | lexicon.HEARING_WORDS | {"speech", "noise", "music"}
        a_source = lower.isalpha() and lower not in known and source not in self._done
        if a_source and verb and not said and self._lower(source - 1) in ("a", "an", "the"):
            self._add("sound", self._start_of(source), self._items[source].end, sound=lower)

    def _read_speaker(self, position: int, lower: str) -> None:
        speaker = lexicon.SPEAKER_NOUNS[lower]
        following = self._lower(position + 1)
        if following in lexicon.COLOUR_WORDS or following in lexicon.SHAPE_NOUNS:
            return  # "a giant red circle"
        if self._is_negated(position):
            self._silenced = True
            return
        if not speaker and self._speaker_at == position - 1 >= 0:
            return  # "a robot voice", "a man's voice"
        if speaker in ("man", "woman") and self._lower(position - 1) in lexicon.OLD:
            speaker = f"old {speaker}"
        self._speaker, self._speaker_at, self._last_speaker = speaker, position, speaker
        self._silenced = False
        self._head = None

    def _read_saying(self, position: int, word: Word) -> None:
        """A verb of speech: its words are the quotation that follows, or, without any, what follows itself."""
        if self._silenced or self._is_negated(position):
            return
        self._saying_at = position
        quote, saying = self._next_quote[position], self._next_saying[position]
        if self._speaker is None or (quote is not None and (saying is None or quote < saying)):
            return
        first = self._skip(position + 1, frozenset({",", ":", "-", "that"}))
        unquoted = word.lower in lexicon.SAYING_VERBS or self._lower(position + 1) == ":"
        end = self._utterance_end(first, saying) if unquoted else first
        self._done.update(range(first, end))
        utterance = self._text[self._start_of(first) : self._items[end - 1].end] if end > first else ""
        last = self._items[max(end, position + 1) - 1].end
        self._add("speech", word.start, last, speaker=self._speaker, utterance=utterance)
        self._speaker_at = self._saying_at = -1

    def _utterance_end(self, first: int, next_saying: int | None) -> int:
        """Where unquoted speech ends: before another event is told, or the next speaker, or with the sentence."""
        end = first
        while end < len(self._items) and isinstance(self._items[end], Word):
            lower = self._lower(end)
            ahead = {self._lower(end + step) for step in (2, 3, 4)}
            other = ahead & (lexicon.SOUND_NOUNS.keys() | lexicon.SHAPE_NOUNS.keys() | lexicon.SPEAKER_NOUNS.keys())
            if lower in ("while", "as") or (lower in ("and", "then", ",") and other):
                break
            if next_saying is not None and end >= next_saying - 3 and lower in lexicon.SPEAKER_NOUNS:
                break
            end += 1
        return end

    def _read_quote(self, position: int, quote: Quote) -> None:
        if self._is_on_screen(position, quote):
            self._add("text", quote.start, quote.end, word=quote.text.strip(" .,!"))
            return
        if max(self._speaker_at, self._saying_at) < 0:
            if not any(mark.isalnum() for mark in quote.text):
                return  # a stray mark
            self._look_for_speaker_behind(position)
        self._add("speech", quote.start, quote.end, speaker=self._speaker or "", utterance=quote.text)
        self._speaker_at = self._saying_at = -1

    def _is_on_screen(self, position: int, quote: Quote) -> bool:
        if position in self._screen_quotes:
            return True
        if self._saying_at >= 0 or self._speaker_at >= 0:
            return False
        shown = lexicon.APPEARING_VERBS | lexicon.SHOWN
        behind = {self._lower(position + 1), self._lower(position + 2)} & shown
        return bool(behind) or quote.text.strip(" .,!").casefold() in SCREEN_WORDS

    def _look_for_speaker_behind(self, position: int) -> None:
        """'"Ben lost five keys," says an old woman': takes the speaker and uses up the words."""
        window = range(position + 1, min(position + 7, len(self._items)))
        lowers = [self._lower(index) for index in window]
        verbs = [index for index, lower in zip(window, lowers, strict=True) if lower in lexicon.SAYING_VERBS]
        if not verbs or "" in lowers[: verbs[0] - window.start]:
            return
        if verbs[0] > position + 4:
            return
        for index in window:
            lower = self._lower(index)
            if not lower or lower in ("while", "as", "and"):
                break
            if lower in lexicon.SPEAKER_NOUNS:
                self._read_speaker(index, lower)
            elif lower in ("he", "she"):
                self._speaker = self._last_speaker
            self._done.add(index)

    # The end of a sentence

    def _finish(self, drafts: list[Draft]) -> None:
        heard = any(isinstance(item, Word) and item.lower in lexicon.HEARING_WORDS for item in self._items)
        if heard and not any(draft.kind == "sound" for draft in drafts):
            for sound, word in self._noises:
                self._add("sound", word.start, word.end, sound=sound)
        last = self._items[-1]
        dangling = isinstance(last, Word) and last.lower in ("a", "an", "the", "to", "changes", "switches")
        if self._scene_cue is not None and dangling and not drafts:
            self._add("scene", self._start_of(self._scene_cue), last.end)


def _opens_simultaneously(items: list[Item]) -> bool:
    """ "Meanwhile, ...", "At the same time, ...": the sentence goes with the one before."""
    opening = [item.lower for item in items[:5] if isinstance(item, Word)]
    at_once = any(pair in (("same", "time"), ("same", "moment")) for pair in itertools.pairwise(opening))
    return at_once or bool(set(opening[:2]) & lexicon.SIMULTANEITY_OPENERS)
