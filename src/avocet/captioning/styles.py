"""The wordings of each style of instruction, in Avocet's own words.

A style holds paraphrases, so that no caption hangs on one wording; `instructions.choose_instruction` picks.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Style = Literal["full", "visual", "ugc", "dream"]

_FULL = (
    "Write a complete description of this video and its soundtrack, from the first second to the last. Cover the "
    "people, objects, places, actions and camera work, quote what is said together with who says it, describe the "
    "music and every other sound, and read out any text on the screen. Tie each sound to the picture it goes with.",
    "Tell someone who can neither watch nor listen to this clip everything that it contains. Include what is seen, "
    "the exact words of all speech and their speakers, the music, the noises, and all on-screen text, and make clear "
    "what is heard at the moment when something is seen.",
    "Go through the video in order of time. For each moment state what the picture shows, which text can be read on "
    "the screen, what is spoken, word for word and by whom, and which music and sounds accompany it.",
    "Give a thorough account of this clip in which sight and sound belong together: setting, appearance, movement and "
    "shots on the one side; quoted dialogue with its speakers, music and sound effects on the other. Mention written "
    "words on the screen, and say at which point of the action each sound occurs.",
    "Report everything that happens in this video, leaving nothing out. Describe the visible events closely, repeat "
    "the spoken lines in quotation marks with the person who speaks them, characterise the music and the background "
    "sounds, copy any on-screen text, and keep all of it on one common timeline.",
    "What would an attentive viewer with good ears notice here? Describe all of it in detail: scenes and people, "
    "gestures and camera, on-screen text, who speaks and what exactly they say, the music and its mood, and single "
    "sounds, each at the moment in the picture where it is heard.",
    "Compose a detailed audiovisual caption. It should follow the clip as it unfolds, name what appears and moves, "
    "spell out on-screen text, quote every utterance with its speaker, note music, sounds and silence, and connect "
    "what is heard with what is visible at the same time.",
    "Describe this recording as fully as you can. Neither the picture nor the audio should be missing: looks, "
    "places and actions in the order they come; speech quoted and assigned to its speaker; music, voices and sounds "
    "with their character; text shown on the screen; and always which of these occur together in time.",
)
_VISUAL = (
    "Describe everything that can be seen in this video, as completely as possible: the setting, the people and "
    "objects, how they look, what they do, how the camera moves, and any text that is shown.",
    "Give a thorough account of the pictures of this clip from beginning to end, covering places, appearance, "
    "movements, changes of shot and written words.",
    "What does this video show? Go through it in order and leave out no visible detail, from the background to the "
    "smallest action.",
    "Put this footage into words so that a reader could picture every shot: who and what is in view, where, in which "
    "colours and light, doing what, and filmed how.",
)
_UGC = (
    "Write one flowing paragraph, without a list, that describes this short video neutrally. Work in where it takes "
    "place and what is in the background; who and what appears and what they do; which voices, music and sounds are "
    "heard and what feeling they carry; which text is on the screen and what it is there for; and what the video is "
    "about or meant to achieve.",
    "In a single coherent and objective paragraph, give a detailed description of this clip that joins picture and "
    "sound: its scene; its main people or objects and their actions; what is heard, be it speech, music or effects, "
    "and the tone of it; the words on the screen and their purpose; and the overall theme. Do not use bullet points.",
    "Describe this user-made video in continuous prose, as one factual paragraph and not as bullet points. The reader "
    "should learn about the surroundings, the persons and things and how they act, the important audio cues with their "
    "emotional colour, any on-screen text together with the part it plays, and the message of the whole.",
)
_DREAM = (
    "Describe the events of this video one after the other: who does what, to whom or to what, and what follows "
    "from it. Leave out no action.",
    "Recount in the right order every action and event that takes place in this clip, naming the subjects and objects "
    "that are involved.",
    "What happens in this video? Tell it step by step in chronological order, with each movement, interaction and "
    "change that the subjects go through.",
)

STYLES: Mapping[Style, tuple[str, ...]] = MappingProxyType(
    {"full": _FULL, "visual": _VISUAL, "ugc": _UGC, "dream": _DREAM}
)
"""Style -> its paraphrases.

`full` asks for picture and sound together (AVoCaDO, video-SALMONN 2), `visual` for the picture alone (VDC), `ugc` for
the five points of UGC-VideoCap in one paragraph, `dream` for events in order (DREAM-1K)."""
