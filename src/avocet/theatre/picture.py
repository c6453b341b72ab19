"""Script -> pictures: where every actor stands at a time, and the frame that shows it.

`figures_at` and `text_box_at` are the truth that `render_frame` draws, in unit coordinates (0..1 of the
picture's side, y down). Only the camera's own shake (a few pixels) and noise come on top.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from avocet.theatre import world
from avocet.theatre.backdrop import backdrop
from avocet.theatre.script import Event, Script
from avocet.theatre.shapes import shape_masks

REFERENCE_SIZE = 192
"""Side in pixels of staged pictures; shake is given in this unit."""
SPIN_TURNS_PER_SECOND = 0.9
"""At 2 frames per second a spinning figure turns by 162 degrees per frame, which no shape's symmetry hides."""

_DARK = (18, 18, 22)
_MARGIN = 0.012
_TEXT_TOP = 0.69
"""Actors that share the stage with a text stay above this height."""
_SHAKE_LIMIT = 8
"""Largest shake in reference pixels; backdrops are painted wider by it."""
_PLATES = (((12, 12, 14), (250, 250, 250)), ((245, 245, 240), (15, 15, 20)), ((16, 20, 70), (255, 240, 120)))
"""(plate, letters) of on-screen texts."""
_LARGEST_FONT, _SMALLEST_FONT = 0.27, 0.2
"""Font sizes as a part of the picture's side; words too wide for the smallest are squeezed sideways."""
_TEXT_WIDTH = 0.92
"""Widest word as a part of the picture's side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """An actor at one moment, in unit coordinates."""

    event: Event
    x: float
    y: float
    radius: float
    """Half of the figure's size."""
    angle_degrees: float
    """Turned clockwise by this much."""
    visible: bool
    """False in the dark phase of a blinking figure."""


def figures_at(script: Script, time_seconds: float) -> list[Figure]:
    """All actors on stage at a time, also the blinking ones that cannot be seen at this moment."""
    return [
        _figure(event, _chance(script.id, number), _stage_bottom(script, event), time_seconds)
        for number, event in enumerate(script.events)
        if event.kind == "visual" and event.start_seconds <= time_seconds < event.end_seconds
    ]


def text_box_at(script: Script, time_seconds: float) -> tuple[Event, float, float, float, float] | None:
    """The text on screen at a time and its plate as x0, y0, x1, y1; None without text."""
    for number, event in enumerate(script.events):
        if event.kind == "text" and event.start_seconds <= time_seconds < event.end_seconds:
            return event, *_text_box(event.word, _chance(script.id, number))
    return None


def scene_at(script: Script, time_seconds: float) -> str:
    """Name of the cloth or scene behind the actors at a time."""
    for event in script.events:
        if event.kind == "scene" and event.start_seconds <= time_seconds < event.end_seconds:
            return event.scene
    return script.background


def render_frame(script: Script, time_seconds: float, size: int = REFERENCE_SIZE) -> np.ndarray:
    """The picture at a time: uint8 (`size`, `size`, 3), RGB. The same arguments give the same pixels."""
    margin = math.ceil(_SHAKE_LIMIT * size / REFERENCE_SIZE)
    shake_x, shake_y, noise_key = _camera(script, time_seconds, size)
    left, top = margin + shake_x, margin + shake_y
    picture = backdrop(scene_at(script, time_seconds), size + 2 * margin).crop((left, top, left + size, top + size))
    for figure in figures_at(script, time_seconds):
        if figure.visible:
            _draw_figure(picture, figure, size, shake_x, shake_y)
    text = text_box_at(script, time_seconds)
    if text is not None:
        number = script.events.index(text[0])
        plate = _plate(text[0].word, int(_chance(script.id, number)[4] * len(_PLATES)), size)
        picture.paste(plate, (round(text[1] * size) - shake_x, round(text[2] * size) - shake_y))
    pixels = np.array(picture)
    if script.camera_noise > 0:
        pixels = _add_noise(pixels, script.camera_noise, noise_key)
    return pixels


@functools.lru_cache(maxsize=256)
def _chance(script_id: str, event_number: int) -> tuple[float, ...]:
    """Five numbers in [0, 1) that make each event of each script look a little different."""
    rng = random.Random(f"{script_id} event {event_number}")
    return tuple(rng.random() for _ in range(5))


def _camera(script: Script, time_seconds: float, size: int) -> tuple[int, int, float]:
    """Shake in pixels to the right and down, and a number in [0, 1) that picks the noise."""
    rng = random.Random(f"{script.id} camera {round(time_seconds * 1000)}")
    noise_key, scale = rng.random(), size / REFERENCE_SIZE
    limit = math.ceil(_SHAKE_LIMIT * scale)

    def jitter() -> int:
        return max(-limit, min(limit, round(rng.gauss(0, script.camera_shake_pixels) * scale)))

    return (jitter(), jitter(), noise_key) if script.camera_shake_pixels > 0 else (0, 0, noise_key)


def _stage_bottom(script: Script, actor: Event) -> float:
    """Lowest height that an actor may reach: the picture's bottom, or the text it shares its beat with."""
    return _TEXT_TOP if any(event.kind == "text" and event.beat == actor.beat for event in script.events) else 1.0


def _figure(event: Event, chance: tuple[float, ...], bottom: float, time_seconds: float) -> Figure:
    progress = (time_seconds - event.start_seconds) / (event.end_seconds - event.start_seconds)
    left, right = {0: (0.0, 1.0), 1: (0.0, 0.5), 2: (0.5, 1.0)}[event.lane]
    size = 0.9 + 0.2 * chance[2]
    radius = largest = size * (0.2 if event.lane == 0 else 0.138)
    if event.motion in ("grow", "shrink"):
        smallest, largest = (0.085, 0.29) if event.lane == 0 else (0.065, 0.212)
        share = progress if event.motion == "grow" else 1 - progress
        radius = size * (smallest + (largest - smallest) * share)
        largest *= size
    x_range = (left + largest + _MARGIN, right - largest - _MARGIN)
    y_range = (largest + _MARGIN, bottom - largest - _MARGIN)
    x = _between(x_range, 0.5 + (chance[0] - 0.5) * 0.6)
    y = _between(y_range, 0.5 + (chance[1] - 0.5) * 0.6)
    angle, visible = 0.0, True
    if event.motion in ("slide left", "slide right"):
        x = _between(x_range, progress if event.motion == "slide right" else 1 - progress)
    elif event.motion in ("rise", "fall"):
        y = _between(y_range, progress if event.motion == "fall" else 1 - progress)
    elif event.motion == "spin":
        direction = 1 if chance[3] < 0.5 else -1
        angle = direction * 360 * SPIN_TURNS_PER_SECOND * (time_seconds - event.start_seconds)
    elif event.motion == "blink":
        visible = _blink_is_on(event.start_seconds, time_seconds)
    return Figure(event=event, x=x, y=y, radius=radius, angle_degrees=angle % 360, visible=visible)


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _blink_is_on(start_seconds: float, time_seconds: float) -> bool:
    """Half a second on, half a second off, switching midway between multiples of 0.5 s.

    Frames sampled at 2 fps then alternate with a margin of 0.25 s, whenever the event starts, and the first one
    sampled inside the event is on.
    """
    first_sample = math.ceil(2 * start_seconds - 1e-9) / 2
    return (time_seconds - first_sample + 0.25) % 1.0 < 0.5


def _draw_figure(picture: Image.Image, figure: Figure, size: int, shake_x: int, shake_y: int) -> None:
    whole, coloured = shape_masks(figure.event.shape, max(2, round(figure.radius * size)), figure.angle_degrees)
    half = whole.width / 2
    corner = (round(figure.x * size - half) - shake_x, round(figure.y * size - half) - shake_y)
    box = (*corner, corner[0] + whole.width, corner[1] + whole.height)
    picture.paste(_DARK, box, whole)
    picture.paste(world.COLOURS[figure.event.colour], box, coloured)


def _text_box(word: str, chance: tuple[float, ...]) -> tuple[float, float, float, float]:
    """Plate of a word in the lower third; shorter words are shifted sideways by chance."""
    plate = _plate(word, 0, REFERENCE_SIZE)
    width, height = plate.width / REFERENCE_SIZE, plate.height / REFERENCE_SIZE
    x0 = _between((0.01, 0.99 - width), 0.5 + (chance[0] - 0.5) * 0.8)
    y0 = _between((_TEXT_TOP + 0.01, 0.98 - height), chance[1])
    return x0, y0, x0 + width, y0 + height


@functools.lru_cache(maxsize=256)
def _plate(word: str, style: int, size: int) -> Image.Image:
    """The word in large letters on its plate, as large as the width and the lower third allow."""
    plate_colour, letter_colour = _PLATES[style]
    # Letter widths are linear in the font size: measure once, then choose the size that fills the width.
    natural = _font(size * _LARGEST_FONT).getlength(word)
    fitting = _LARGEST_FONT * _TEXT_WIDTH * size / natural
    font = _font(size * min(_LARGEST_FONT, max(_SMALLEST_FONT, fitting)))
    stroke = size / REFERENCE_SIZE
    x0, y0, x1, y1 = font.getbbox(word, stroke_width=stroke)
    pad = 5 * size / REFERENCE_SIZE
    plate = Image.new("RGB", (round(x1 - x0 + 2 * pad), round(y1 - y0 + 2 * pad)), plate_colour)
    ImageDraw.Draw(plate).text((pad - x0, pad - y0), word, fill=letter_colour, font=font, stroke_width=stroke)
    widest = round(0.97 * size)
    return plate.resize((widest, plate.height), Image.Resampling.BILINEAR) if plate.width > widest else plate


@functools.lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


@functools.lru_cache(maxsize=2)
def _noise_pool(standard_deviation: float, length: int) -> np.ndarray:
    values = np.random.default_rng(20_251_010).standard_normal(length, dtype=np.float32)
    return np.asarray(np.rint(values * standard_deviation), np.int16)


def _add_noise(pixels: np.ndarray, standard_deviation: float, key: float) -> np.ndarray:
    """Gaussian noise; each frame takes its own stretch of one pool, drawing anew would triple a frame's time."""
    pool = _noise_pool(standard_deviation, 3 * pixels.size)
    start = int(key * (len(pool) - pixels.size))
    noisy = pool[start : start + pixels.size].reshape(pixels.shape) + pixels
    return np.asarray(np.clip(noisy, 0, 255, out=noisy), np.uint8)
