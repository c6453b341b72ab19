"""The words by which the parser recognises the theatre's events, also in wordings the theatre itself never uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from avocet.theatre import world


def _with_plurals(names: tuple[str, ...], aliases: Mapping[str, str]) -> MappingProxyType[str, str]:
    """Every noun and its plural -> what it names."""
    meanings = {**{name: name for name in names}, **aliases}
    plurals = {f"{noun}{'es' if noun.endswith(('s', 'sh', 'x')) else 's'}": name for noun, name in meanings.items()}
    return MappingProxyType({**plurals, **meanings})


SHAPE_NOUNS = _with_plurals(
    world.SHAPES,
    {
        "disc": "circle",
        "disk": "circle",
        "ball": "circle",
        "box": "square",
        "block": "square",
        "rhombus": "diamond",
        "crescent": "moon",
        "plus": "cross",
    },
)
GENERIC_SHAPE_NOUNS = frozenset({"object", "objects", "shape", "shapes", "figure", "figures"})
COLOUR_WORDS = frozenset(
    {
        *world.COLOURS,
        *("black", "brown", "grey", "gray", "cyan", "magenta", "violet", "turquoise", "teal", "gold", "golden"),
        *("silver", "beige", "indigo"),
    }
)

MOTION_VERBS = MappingProxyType(
    {
        **dict.fromkeys(("rise", "rises", "rising", "rose", "risen"), "rise"),
        **dict.fromkeys(("ascend", "ascends", "ascending", "climb", "climbs", "climbing"), "rise"),
        **dict.fromkeys(("fall", "falls", "falling", "fell", "fallen", "drop", "drops", "dropping"), "fall"),
        **dict.fromkeys(("descend", "descends", "descending", "sink", "sinks", "sinking"), "fall"),
        **dict.fromkeys(("spin", "spins", "spinning", "spun", "rotate", "rotates", "rotating", "rotated"), "spin"),
        **dict.fromkeys(("twirl", "twirls", "twirling", "whirl", "whirls", "whirling"), "spin"),
        **dict.fromkeys(("revolve", "revolves", "revolving"), "spin"),
        **dict.fromkeys(("blink", "blinks", "blinking", "blinked", "flash", "flashes", "flashing"), "blink"),
        **dict.fromkeys(("flicker", "flickers", "flickering"), "blink"),
        **dict.fromkeys(("grow", "grows", "growing", "grew", "expand", "expands", "expanding"), "grow"),
        **dict.fromkeys(("enlarge", "enlarges", "enlarging", "bigger", "larger"), "grow"),
        **dict.fromkeys(("shrink", "shrinks", "shrinking", "shrank", "contract", "contracts", "smaller"), "shrink"),
    }
)
SLIDE_VERBS = frozenset(
    {
        *("slide", "slides", "sliding", "slid", "move", "moves", "moving", "moved"),
        *("glide", "glides", "gliding", "drift", "drifts", "drifting"),
    }
)
"""Verbs that claim a motion of their own, whichever way it goes."""
CARRIER_VERBS = frozenset(
    {
        *("go", "goes", "going", "travel", "travels", "traveling", "travelling", "shift", "shifts", "shifting"),
        *("float", "floats", "floating", "fly", "flies", "flying", "roll", "rolls", "rolling"),
    }
)
"""Verbs that are a motion only together with a direction."""
DIRECTIONS = MappingProxyType(
    {
        **dict.fromkeys(("left", "leftward", "leftwards"), "slide left"),
        **dict.fromkeys(("right", "rightward", "rightwards"), "slide right"),
        **dict.fromkeys(("up", "upward", "upwards"), "rise"),
        **dict.fromkeys(("down", "downward", "downwards"), "fall"),
    }
)
OPPOSITE = MappingProxyType({"slide left": "slide right", "slide right": "slide left", "rise": "fall", "fall": "rise"})

SOUND_NOUNS = _with_plurals(
    world.SOUNDS,
    {
        "drumbeat": "drum",
        "raindrop": "rain",
        "rainfall": "rain",
        "birdsong": "bird",
        "motor": "engine",
        "wave": "waves",
    },
)
SOUND_ALONE = MappingProxyType(
    {
        **dict.fromkeys(("ringing", "chime", "chiming"), "bell"),
        **dict.fromkeys(("wailing",), "siren"),
        **dict.fromkeys(("drumming",), "drum"),
        **dict.fromkeys(("whistling",), "whistle"),
        **dict.fromkeys(("honk", "honks", "honking"), "horn"),
        **dict.fromkeys(("buzz", "buzzing"), "buzzer"),
        **dict.fromkeys(("ticking",), "clock"),
        **dict.fromkeys(("chirp", "chirping", "chirps"), "bird"),
    }
)
"""What is heard when a sentence names no source but only what it does."""

SPEAKER_NOUNS = MappingProxyType(
    {
        **dict.fromkeys(("man", "men", "male", "guy", "gentleman"), "man"),
        **dict.fromkeys(("woman", "women", "female", "lady"), "woman"),
        **dict.fromkeys(("child", "children", "kid", "boy", "girl"), "child"),
        **dict.fromkeys(("robot", "robots", "robotic"), "robot"),
        **dict.fromkeys(("giant", "giants"), "giant"),
        **dict.fromkeys(("voice", "someone", "somebody", "person", "speaker", "narrator"), ""),
    }
)
OLD = frozenset({"old", "elderly", "aged", "older"})
SAYING_VERBS = frozenset(
    {
        *("say", "says", "said", "saying", "ask", "asks", "asked", "asking", "shout", "shouts", "shouted", "shouting"),
        *("tell", "tells", "told", "telling", "announce", "announces", "announced", "announcing"),
        *("whisper", "whispers", "whispered", "whispering", "exclaim", "exclaims", "exclaimed", "exclaiming"),
        *("reply", "replies", "replied", "replying", "answer", "answers", "answered", "state", "states", "stated"),
        *("stating", "yell", "yells", "yelled", "yelling", "declare", "declares", "declared", "adds", "added"),
        *("utters", "uttering", "cries", "mutters", "murmurs"),
    }
)
SPEAKING_VERBS = frozenset(
    {"speak", "speaks", "spoke", "speaking", "talk", "talks", "talked", "talking", "call", "calls", "calling"}
)
"""Verbs of speech that need not be followed by what is said."""

SCENE_NOUNS = MappingProxyType(
    {
        **{name: name for name in world.SCENES if " " not in name},
        "shore": "beach",
        "seashore": "beach",
        "woods": "forest",
        "cityscape": "city",
    }
)
SCENE_PAIRS: MappingProxyType[tuple[str, str], str] = MappingProxyType(
    {
        ("night", "sky"): "night sky",
        ("starry", "sky"): "night sky",
        ("snow", "field"): "snowfield",
        ("snowy", "field"): "snowfield",
        ("snowy", "landscape"): "snowfield",
    }
)
SCENE_CUES = frozenset({"scene", "setting", "background", "backdrop", "location"})
SCENE_CHANGES = frozenset(
    {"changes", "change", "changing", "changed", "switches", "switch", "shifts", "cuts", "turns", "becomes"}
)

TEXT_NOUNS = frozenset({"word", "words", "text", "title", "caption", "message", "letters", "label", "inscription"})
TEXT_VERBS = frozenset({"reads", "read", "reading", "shows", "showing", "displays", "displaying", *("says", "saying")})
TEXT_SURFACES = frozenset({"screen", "sign", "display", "board", "banner"})
TEXT_FILLERS = frozenset({"that", "which", "reads", "reading", "says", "saying", "of", ":", ",", "-", "the", "word"})
NOT_A_SCREEN_WORD = frozenset(
    {
        *("appears", "appear", "appearing", "appeared", "is", "are", "was", "on", "in", "at", "that", "which", "can"),
        *("shown", "displayed", "flashes", "and", "while", "as", "comes", "pops", "fades", "written", "reads", "says"),
        *("a", "an", "the", "to", "visible", "it", "then", "when", "with", "again", "there", "remains", "stays"),
    }
)

ARTICLES = frozenset({"a", "an", "the", "another", "one", "this", "that", "its", "his", "her"})
NEGATIONS = frozenset({"no", "without", "not", "never", "neither", "nor", "nobody", "nothing", "none"})
SEQUENCE_WORDS = frozenset(
    {"then", "next", "afterwards", "afterward", "later", "subsequently", "finally", "followed", "before"}
)
SIMULTANEITY_OPENERS = frozenset({"meanwhile", "simultaneously"})
JOINERS = frozenset({"and", "while", "as", "before", "after", "with", "but", "or", "when", "then", "followed"})
PRONOUNS = frozenset({"he", "she", "it", "they"})
CLAUSE_ENDS = frozenset({",", ":", "while", "as", "and", "when", "-", "(", ")"})
HEARING_WORDS = frozenset({"heard", "hear", "hears", "sound", "sounds", "audible"})
APPEARING_VERBS = frozenset({"appears", "appear", "appeared", "appearing", "flashes"})
SHOWN = frozenset({"shown", "displayed", "visible", "written", "seen"})
BEING = frozenset({"is", "are", "was", "were", "becomes", "turns", "looks"})
NO_COLOUR_OF_AN_ACTOR = frozenset({"noise", "sky", "background", "backdrop", "light", "sound", "picture", "scene"})

KNOWN_WORDS = frozenset(
    {
        *SHAPE_NOUNS,
        *GENERIC_SHAPE_NOUNS,
        *COLOUR_WORDS,
        *MOTION_VERBS,
        *SLIDE_VERBS,
        *DIRECTIONS,
        *SOUND_NOUNS,
        *SPEAKER_NOUNS,
        *SAYING_VERBS,
        *SCENE_NOUNS,
        *SCENE_CUES,
        *TEXT_NOUNS,
        *TEXT_VERBS,
        *TEXT_SURFACES,
        *NOT_A_SCREEN_WORD,
        *ARTICLES,
        *NEGATIONS,
        *SEQUENCE_WORDS,
        *("tv", "ok", "first", "after"),
    }
)
"""Words that a writer in capitals did not mean as on-screen text."""
