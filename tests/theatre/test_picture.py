import dataclasses

import numpy as np
import pytest
from PIL import Image

from avocet.theatre import world
from avocet.theatre.picture import figures_at, render_frame, scene_at, text_box_at
from avocet.theatre.script import Event, Script, make_script


def _visual(**attributes: object) -> Event:
    defaults = {"kind": "visual", "beat": 0, "start_seconds": 0.0, "end_seconds": 2.0}
    return Event(**(defaults | {"colour": "red", "shape": "circle", "motion": "spin"} | attributes))


def _script(*events: Event, **attributes: object) -> Script:
    defaults = {"seed": 1, "level": 1, "duration_seconds": 4.0, "background": "black"}
    quiet = {"camera_noise": 0.0, "camera_shake_pixels": 0.0, "audio_noise": 0.0}
    return Script(**(defaults | quiet | {"events": events} | attributes))


def _positions(motion: str, lane: int = 0) -> list:
    script = _script(_visual(motion=motion, lane=lane))
    return [figures_at(script, time)[0] for time in (0.0, 0.5, 1.0, 1.5)]


@pytest.mark.parametrize("level", [1, 2])
def test_the_same_script_and_time_give_the_same_pixels(level: int):
    script = make_script(11, level)
    frame = render_frame(script, 1.25)
    assert frame.shape == (192, 192, 3)
    assert frame.dtype == np.uint8
    again = dataclasses.replace(script)
    assert np.array_equal(frame, render_frame(again, 1.25))
    assert render_frame(script, 1.25, size=96).shape == (96, 96, 3)


def test_noise_differs_from_frame_to_frame_and_has_the_scripts_strength():
    script = _script(background="slate", camera_noise=6.0)
    first, second = (render_frame(script, time).astype(float) for time in (0.0, 0.125))
    assert not np.array_equal(first, second)
    assert first.std(axis=(0, 1)) == pytest.approx([6, 6, 6], rel=0.05)


@pytest.mark.parametrize("scene", world.SCENES)
def test_every_colour_is_found_where_the_figure_stands(scene: str):
    for colour, rgb in world.COLOURS.items():
        events = (
            Event(kind="scene", beat=0, start_seconds=0.0, end_seconds=4.0, scene=scene),
            _visual(colour=colour, shape="square", motion="slide left", lane=1),
            _visual(colour=colour, shape="heart", motion="slide right", lane=2),
        )
        script = _script(*events, level=2, background=scene)
        frame = render_frame(script, 0.5)
        figures = figures_at(script, 0.5)
        assert [figure.event.lane for figure in figures] == [1, 2]
        for figure in figures:
            assert tuple(frame[round(figure.y * 192), round(figure.x * 192)]) == rgb
            # Before the actor the scene shows nothing like it, so the colour is only where the actor is.
        bare = render_frame(_script(events[0], level=2, background=scene), 0.5).astype(int)
        assert np.abs(bare - rgb).sum(-1).min() > 60


def test_figures_keep_their_colour_apart_from_the_plain_cloths():
    for cloth in world.PLAIN_BACKGROUNDS:
        pixel = render_frame(_script(background=cloth), 0.0)[96, 96].astype(int)
        assert all(np.abs(pixel - rgb).sum() > 100 for rgb in world.COLOURS.values())


def test_the_twelve_silhouettes_differ_at_training_size():
    masks = {}
    for shape in world.SHAPES:
        script = _script(_visual(shape=shape, motion="blink", colour="white"))
        small = Image.fromarray(render_frame(script, 0.0)).resize((96, 96), Image.Resampling.BOX)
        masks[shape] = np.asarray(small)[:, :, 0] > 100
    assert all(mask.any() for mask in masks.values())
    for number, first in enumerate(world.SHAPES):
        for second in world.SHAPES[number + 1 :]:
            overlap = (masks[first] & masks[second]).sum() / (masks[first] | masks[second]).sum()
            assert overlap < 0.85, (first, second)  # the closest pair: circle and square


def test_silhouettes_fill_about_the_radius_that_figures_at_says():
    for shape in world.SHAPES:
        script = _script(_visual(shape=shape, motion="slide right"))
        figure = figures_at(script, 1.0)[0]
        rows, columns = np.nonzero(render_frame(script, 1.0)[:, :, 0] > 150)
        size = max(np.ptp(rows), np.ptp(columns)) / 192
        # Without its dark outline; a square's half side is 0.8 of the radius, its corners lie outside.
        assert 0.72 < size / (2 * figure.radius) < 1.02, shape
        assert 0.35 <= 2 * figure.radius <= 0.45


def test_slides_rises_and_falls_move_steadily_and_stay_on_stage():
    for motion, axis, sign in (("slide left", "x", -1), ("slide right", "x", 1), ("rise", "y", -1), ("fall", "y", 1)):
        for lane, shortest_step in ((0, 0.1), (1, 0.03), (2, 0.03)):
            figures = _positions(motion, lane)
            steps = sign * np.diff([getattr(figure, axis) for figure in figures])
            assert steps.min() > shortest_step
            other = "y" if axis == "x" else "x"
            assert len({getattr(figure, other) for figure in figures}) == 1
            left, right = {0: (0, 1), 1: (0, 0.5), 2: (0.5, 1)}[lane]
            for figure in figures:
                assert left <= figure.x - figure.radius < figure.x + figure.radius <= right
                assert 0 <= figure.y - figure.radius < figure.y + figure.radius <= 1


def test_growing_and_shrinking_change_the_size_by_more_than_two():
    growing = [figure.radius for figure in _positions("grow")]
    shrinking = [figure.radius for figure in _positions("shrink")]
    assert growing == sorted(growing)
    assert shrinking == sorted(shrinking, reverse=True)
    assert growing[-1] / growing[0] > 2
    assert shrinking[0] / shrinking[-1] > 1.5  # at 1.5 s of 2 s


def test_a_spinning_circle_turns_its_dot():
    script = _script(_visual(motion="spin", shape="circle"))
    frames = [render_frame(script, time).astype(int) for time in (0.0, 0.5)]
    assert np.abs(frames[0] - frames[1]).max() > 150
    angles = [figures_at(script, time)[0].angle_degrees for time in (0.0, 0.5)]
    assert angles[1] in (pytest.approx(162), pytest.approx(198))  # 0.9 turns per second, either way round


@pytest.mark.parametrize("start", [0.0, 0.1, 0.3, 1.499, 1.5, 1.501, 1.77])
def test_blinking_alternates_at_two_frames_per_second(start: float):
    script = _script(_visual(motion="blink", start_seconds=start, end_seconds=start + 2.2))
    samples = [time for time in np.arange(0, 4, 0.5) if start <= time < start + 2.2]
    seen = [figures_at(script, time)[0].visible for time in samples]
    assert seen == [number % 2 == 0 for number in range(len(samples))]
    for time, visible in zip(samples, seen, strict=True):
        assert (render_frame(script, time).max() > 150) == visible


def test_events_show_only_inside_their_half_open_interval():
    text = Event(kind="text", beat=0, start_seconds=1.0, end_seconds=2.0, word="OPEN")
    script = _script(_visual(start_seconds=1.0), text)
    assert figures_at(script, 0.99) == []
    assert text_box_at(script, 0.99) is None
    assert len(figures_at(script, 1.0)) == 1
    assert text_box_at(script, 1.99) is not None
    assert figures_at(script, 2.0) == []
    assert text_box_at(script, 2.0) is None
    assert render_frame(script, 0.5).max() < 20
    assert render_frame(script, 2.0).max() < 20


@pytest.mark.parametrize("word", world.SCREEN_WORDS)
def test_words_stand_on_their_plate_in_the_lower_third_and_are_legible(word: str):
    event = Event(kind="text", beat=0, start_seconds=0.0, end_seconds=2.0, word=word)
    script = _script(event, background="slate")
    box = text_box_at(script, 1.0)
    assert box is not None
    assert box[0] == event
    _, x0, y0, x1, y1 = box
    assert 0 <= x0 < x1 <= 1
    assert 2 / 3 < y0 < y1 <= 1
    frame = render_frame(script, 1.0)
    changed = (frame != render_frame(_script(background="slate"), 1.0)).any(-1)
    rows, columns = np.nonzero(changed)
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 192
    assert edges == pytest.approx([x0, y0, x1, y1], abs=1 / 192)
    grey = np.asarray(Image.fromarray(frame).convert("L").resize((96, 96), Image.Resampling.BOX)).astype(int)
    plate = grey[round(y0 * 96) + 1 : round(y1 * 96) - 1, round(x0 * 96) + 1 : round(x1 * 96) - 1]
    letter_rows = np.ptp(plate, axis=1) > 100
    assert letter_rows.sum() >= 13


def test_actors_stay_above_the_text_of_their_beat():
    text = Event(kind="text", beat=0, start_seconds=0.0, end_seconds=2.0, word="OPEN")
    for motion in world.MOTIONS:
        script = _script(_visual(motion=motion), text)
        for time in np.arange(0, 2, 0.125):
            figure, box = figures_at(script, time)[0], text_box_at(script, time)
            assert box is not None
            assert figure.y + figure.radius <= box[2]


def test_scenes_differ_and_change_when_they_open():
    pictures = [render_frame(_script(background=scene), 0.0).astype(int) for scene in world.SCENES]
    for number, first in enumerate(pictures):
        for second in pictures[number + 1 :]:
            assert np.abs(first - second).mean() > 15
    events = (
        Event(kind="scene", beat=0, start_seconds=0.0, end_seconds=2.0, scene="beach"),
        Event(kind="scene", beat=1, start_seconds=2.0, end_seconds=4.0, scene="forest"),
    )
    script = _script(*events, background="beach")
    assert [scene_at(script, time) for time in (0.0, 1.9, 2.0)] == ["beach", "beach", "forest"]
    assert np.array_equal(render_frame(script, 1.9), pictures[0])
    assert np.array_equal(render_frame(script, 2.0), pictures[1])


def test_a_shaking_camera_moves_the_whole_picture():
    script = _script(_visual(motion="blink"), background="city", camera_shake_pixels=1.5)
    calm = dataclasses.replace(script, camera_shake_pixels=0.0)
    shaken = render_frame(script, 0.125)
    reference = render_frame(calm, 0.125)
    shifts = [
        (dy, dx)
        for dy in range(-8, 9)
        for dx in range(-8, 9)
        if np.array_equal(np.roll(reference, (dy, dx), (0, 1))[8:-8, 8:-8], shaken[8:-8, 8:-8])
    ]
    assert len(shifts) == 1
    assert shifts != [(0, 0)]
