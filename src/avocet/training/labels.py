"""Dense training labels of theatre clips: what every patch shows, what is heard in which order.

They exist for stage 0 only (and as auxiliary losses of later stages): real models get their encoders
pretrained, `nano` has to learn to see and hear from something.
"""

from __future__ import annotations

import numpy as np

from avocet.theatre import world
from avocet.theatre.picture import figures_at, text_box_at
from avocet.theatre.script import Script

PATCH_LABELS = ("colour", "shape", "word", "scene")
"""Columns of the per-patch labels; value 0 is "nothing", k means entry k - 1 of the vocabulary."""
PATCH_LABEL_SIZES = (
    1 + len(world.COLOURS),
    1 + len(world.SHAPES),
    1 + len(world.SCREEN_WORDS),
    1 + len(world.SCENES),
)
_COLOURS = tuple(world.COLOURS)


def patch_labels(script: Script, frame_times_seconds: np.ndarray, grid: int) -> np.ndarray:
    """uint8 (T, grid * grid, 4), row-major patches: colour and shape of the figure on each patch, word, scene."""
    labels = np.zeros((len(frame_times_seconds), grid, grid, len(PATCH_LABELS)), np.uint8)
    centres = (np.arange(grid) + 0.5) / grid
    for label, time in zip(labels, frame_times_seconds, strict=True):
        for figure in figures_at(script, float(time)):
            if not figure.visible:
                continue
            distance = np.hypot(centres[None, :] - figure.x, centres[:, None] - figure.y)
            # A small figure may miss every patch centre: the nearest patch always counts as covered.
            covered = (distance <= 0.9 * figure.radius) | (distance == distance.min())
            label[covered, 0] = 1 + _COLOURS.index(figure.event.colour)
            label[covered, 1] = 1 + world.SHAPES.index(figure.event.shape)
        box = text_box_at(script, float(time))
        if box is not None:
            event, x0, y0, x1, y1 = box
            covered = ((centres >= y0) & (centres <= y1))[:, None] & ((centres >= x0) & (centres <= x1))[None, :]
            label[covered, 2] = 1 + world.SCREEN_WORDS.index(event.word)
        for event in script.events:
            if event.kind == "scene" and event.start_seconds <= time < event.end_seconds:
                label[:, :, 3] = 1 + world.SCENES.index(event.scene)
    return labels.reshape(len(labels), grid * grid, len(PATCH_LABELS))


def motion_pairs(script: Script, frame_times_seconds: np.ndarray) -> np.ndarray:
    """uint8 (T,): bit k of entry t is set when motion k goes on both at frame t and at frame t + 1."""
    pairs = np.zeros(len(frame_times_seconds), np.uint8)
    for event in script.events:
        if event.kind != "visual":
            continue
        on = (frame_times_seconds >= event.start_seconds) & (frame_times_seconds < event.end_seconds)
        pairs[:-1] |= ((on[:-1] & on[1:]) << world.MOTIONS.index(event.motion)).astype(np.uint8)
    return pairs


SOUND_SYMBOLS: tuple[str, ...] = (
    "<blank>",
    *(f"<{sound}>" for sound in world.SOUNDS),
    *(f"<{speaker}>" for speaker in world.SPEAKERS),
    *sorted(world.spoken_words(2)),
)
"""Alphabet of the CTC loss: tags of sounds and speakers, then words."""
_SYMBOL_IDS = {symbol: index for index, symbol in enumerate(SOUND_SYMBOLS)}


def sound_symbols(script: Script) -> list[int]:
    """What is heard, in order, as indices into `SOUND_SYMBOLS`: a sound's tag, or a speaker's tag and the words."""
    symbols = []
    for event in script.events:
        if event.kind == "sound":
            symbols.append(_SYMBOL_IDS[f"<{event.sound}>"])
        elif event.kind == "speech":
            symbols.append(_SYMBOL_IDS[f"<{event.speaker}>"])
            symbols.extend(_SYMBOL_IDS[word] for word in event.utterance.casefold().split())
    return symbols
