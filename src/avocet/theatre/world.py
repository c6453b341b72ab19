"""What can happen on the theatre's stage: the closed vocabulary of its two levels.

Level 2 contains level 1: each tuple lists the level-1 entries first, and the `NUM_..._LEVEL_1` counts
(or `level_part`) cut it there.
"""

from __future__ import annotations

from types import MappingProxyType

COLOURS = MappingProxyType(
    {
        "red": (220, 40, 40),
        "orange": (245, 140, 25),
        "yellow": (245, 225, 50),
        "green": (50, 175, 70),
        "blue": (50, 100, 235),
        "purple": (150, 60, 200),
        "pink": (250, 150, 200),
        "white": (245, 245, 245),
    }
)
"""Colour name -> RGB."""

SHAPES = (
    *("circle", "square", "triangle", "star", "heart", "cross"),
    *("diamond", "moon", "arrow", "house", "fish", "tree"),
)
MOTIONS = ("slide left", "slide right", "rise", "fall", "spin", "blink", "grow", "shrink")
SOUNDS = (
    *("bell", "siren", "drum", "whistle", "horn", "buzzer", "clock", "rain"),
    *("bird", "engine", "harp", "waves"),
)
SPEAKERS = ("man", "woman", "child", "robot", "giant", "old woman")
SCREEN_WORDS = (
    *("OPEN", "EXIT", "SALE", "STOP", "TAXI", "HOTEL", "MENU", "NEWS", "LIVE", "START"),
    *("PAUSE", "FINISH", "DANGER", "WELCOME", "THANKS", "TICKETS", "PARKING", "CLOSED", "SILENCE", "WINNER"),
    *("BANK", "CAFE", "CINEMA", "COFFEE", "ENTER", "FREE", "GAME", "HELLO", "MUSIC", "OFFICE"),
    *("PIZZA", "POLICE", "QUIET", "RADIO", "SCHOOL", "SHOP", "SOON", "TRAIN", "WARNING", "ZOO"),
)
PLAIN_BACKGROUNDS = ("black", "navy", "charcoal", "slate")
"""Level 1 plays before one of these plain cloths; they are not worth a caption."""
SCENES = ("beach", "forest", "desert", "city", "snowfield", "night sky")
"""Level 2 plays in one of these painted scenes."""

NAMES = (
    *("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ivy", "Jack"),
    *("Karen", "Leo", "Maria", "Noah", "Olga", "Peter", "Rosa", "Simon", "Tina", "Victor"),
)
NUMBERS = (
    *("two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "twenty", "thirty", "forty", "fifty", "sixty"),
)
THINGS = (
    *("apples", "books", "boxes", "candles", "coins", "cups", "eggs", "hats", "keys", "lamps", "letters", "tickets"),
    *("baskets", "bottles", "carpets", "doors", "flowers", "gloves", "ladders", "mirrors", "oranges", "pencils"),
    *("radios", "shirts", "stamps", "tables", "umbrellas", "violins", "blankets", "brushes", "cameras", "clocks"),
    *("curtains", "magnets", "pillows", "ribbons", "shells", "tents", "trumpets", "wagons"),
)
PLACES = (
    *("harbor", "market", "library", "station", "garden", "museum", "bakery", "tower"),
    *("airport", "bridge", "castle", "factory", "hospital", "island", "kitchen", "river", "stadium", "village"),
)
TIMES = (
    *("Monday", "Tuesday", "Friday", "Sunday", "tonight", "tomorrow", "today"),
    *("Wednesday", "Thursday", "Saturday", "yesterday", "now"),
)
VERBS = (
    *("lost", "found", "sold", "wants"),
    *("bought", "broke", "carried", "counted", "cleaned", "drew", "hid", "needs", "packed", "painted", "sent", "stole"),
)
ADJECTIVES = (
    *("old", "new", "broken", "golden"),
    *("cheap", "clean", "empty", "heavy", "little", "plastic", "round", "silver", "soft", "strange", "wooden", "wet"),
)
PREPOSITIONS = ("near", "behind", "inside", "outside")

SENTENCES = (
    "{name} {verb} {number} {thing}",
    "meet {name} at the {place} {time}",
    "bring {number} {thing} to {name}",
    "the {thing} are in the {place}",
    "{name} {verb} {number} {adjective} {thing} {time}",
    "{name} is waiting {preposition} the {place}",
    "the {adjective} {thing} are {preposition} the {place}",
    "please take {number} {thing} to the {place}",
)
"""Every slot is filled by chance, so the words cannot be guessed from the picture."""

_LEVEL_1_COUNTS = MappingProxyType(
    {
        SHAPES: 6,
        SOUNDS: 8,
        SPEAKERS: 4,
        SCREEN_WORDS: 20,
        NAMES: 10,
        NUMBERS: 8,
        THINGS: 12,
        PLACES: 8,
        TIMES: 7,
        VERBS: 4,
        ADJECTIVES: 4,
        SENTENCES: 5,
    }
)
SLOTS = MappingProxyType(
    {
        "name": NAMES,
        "verb": VERBS,
        "number": NUMBERS,
        "thing": THINGS,
        "place": PLACES,
        "time": TIMES,
        "adjective": ADJECTIVES,
        "preposition": PREPOSITIONS,
    }
)
"""Slot name in `SENTENCES` -> its words."""


def level_part(words: tuple[str, ...], level: int) -> tuple[str, ...]:
    """The part of a vocabulary that `level` (1 or 2) uses; vocabularies without a level-1 part are whole."""
    return words[: _LEVEL_1_COUNTS[words]] if level == 1 and words in _LEVEL_1_COUNTS else words


def spoken_words(level: int) -> frozenset[str]:
    """All distinct spoken words of a level, casefolded."""
    words = {word for slot in SLOTS.values() for word in level_part(slot, level)}
    for sentence in level_part(SENTENCES, level):
        words.update(word for word in sentence.split() if not word.startswith("{"))
    return frozenset(word.casefold() for word in words)
