"""The page of `avocet inspect`: everything at its true time, everything escaped, nothing loaded, small."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from avocet.errors import ConfigError
from avocet.models.interface import Prompt
from avocet.models.layout import TokenPlan, salmonn2_paper
from avocet.models.tmrope import TimeAxis, tmrope
from avocet.records import SAMPLE_RATE, Clip, SourceFacts
from avocet.review._chart import mel_frame_seconds
from avocet.review.clip_page import ClipView, alignment_lines, render_clip_page, write_clip_page

HOSTILE = '</p><script>alert(1)</script><img src=x onerror="alert(2)"> "quoted" & \x1b[31m'
AXIS = TimeAxis(order="chunks", positions_per_second=25, assumed_grid_seconds=1.0)
GREY = (40, 120, 200)


class Reader(HTMLParser):
    """Collects the elements (tag, attributes, own text) and checks that all are closed in order."""

    VOID = frozenset({"meta", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in self.VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.elements[place][2].append(data)

    def find(self, tag: str, kind: str = "") -> list[dict[str, Any]]:
        """Attributes of the elements with that tag and class, with their text as "text"."""
        return [
            attributes | {"text": "".join(words)}
            for name, attributes, words in self.elements
            if name == tag and (not kind or kind in (attributes.get("class") or "").split())
        ]


def read(view: ClipView) -> Reader:
    reader = Reader()
    reader.feed(render_clip_page(view))
    reader.close()
    assert reader.open == []
    return reader


def make_clip(
    times: list[float] | None = None,
    *,
    seconds: float = 2.0,
    waveform: np.ndarray | None = None,
    start_seconds: float = 0.0,
    path: str = "clip.mp4",
    tags: dict[str, str] | None = None,
) -> Clip:
    """Frames of one grey each (40, 120, 200, 40, ...), 32 wide and 24 high, at the given times of the clip."""
    shown = np.array([0.0, 0.4, 1.7] if times is None else times)
    frames = np.empty((len(shown), 3, 24, 32), np.uint8)
    frames[:] = np.resize(GREY, len(shown))[:, None, None, None]
    return Clip(
        id=path,
        frames=frames,
        frame_times_seconds=shown + start_seconds,
        waveform=waveform,
        start_seconds=start_seconds,
        duration_seconds=seconds,
        audio_status="absent" if waveform is None else "present",
        source=SourceFacts(path=path, container="mp4", duration_seconds=seconds, tags=tags or {}),
    )


def make_prompt(clip: Clip, plan: TokenPlan, mel: torch.Tensor | None = None, **fields: Any) -> Prompt:
    """A prompt of 3 text tokens (1, 2 before, 3 after) around the plan's."""
    ids = [8 if stream == 0 else 9 for stream in plan.stream]
    values: dict[str, Any] = {"instruction": "Describe.", "frames": torch.from_numpy(clip.frames)} | fields
    return Prompt(clip_id=clip.id, token_ids=(1, 2, *ids, 3), layout=plan, mel=mel, **values)


def late_tone(seconds: float = 2.0) -> np.ndarray:
    """Silence, and from the middle on a tone of 0.5 at 400 Hz."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.where(time < seconds / 2, 0, 0.5 * np.sin(2 * np.pi * 400 * time)).astype(np.float32)


def picture(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"), dtype=int)


def test_frames_stand_at_their_true_times() -> None:
    """0, 0.4 and 1.7 s of 2 s are 0, 20 and 85 % of the axis."""
    page = read(ClipView(clip=make_clip()))
    assert [image["x"] for image in page.find("image")] == ["0%", "20%", "85%"]
    assert [mark["x1"] for mark in page.find("line", "mark")] == ["0%", "20%", "85%"]
    for image, grey in zip(page.find("image"), GREY, strict=True):
        pixels = picture(image["href"])
        assert pixels.shape == (24, 32, 3)
        assert abs(pixels - grey).max() <= 3
    assert page.find("image")[1]["aria-label"] == "frame 2: on screen from 0.4 s"


def test_a_clip_from_the_middle_has_the_times_of_the_file_as_well() -> None:
    """The first frame came on screen at 9.5 s, before the interval from 10 s on: it is drawn at its beginning."""
    page = read(ClipView(clip=make_clip([-0.5, 1.0], start_seconds=10.0)))
    assert [image["x"] for image in page.find("image")] == ["0%", "50%"]
    assert page.find("image")[0]["aria-label"] == "frame 1: on screen from 9.5 s, stands for 10 s"
    # 2 s on 1000 pixels: ticks every 0.2 s
    ticks = [tick["text"] for tick in page.find("text") if tick.get("dx") == "4"]
    assert ticks[:3] == ["0.0 s", "0.2 s", "0.4 s"]
    assert ticks[11:14] == ["10.0 s", "10.2 s", "10.4 s"]


def test_the_model_s_own_frames_are_shown() -> None:
    """The model gets black squares of 16 x 16."""
    clip = make_clip(waveform=None)
    plan = salmonn2_paper(clip.frame_times_seconds, 1, 0, 0.2, 2.0)
    prompt = make_prompt(clip, plan, frames=torch.zeros((3, 3, 16, 16), dtype=torch.uint8))
    images = read(ClipView(clip=clip, prompt=prompt)).find("image")
    assert [picture(image["href"]).max() for image in images] == [0, 0, 0]
    assert picture(images[0]["href"]).shape == (16, 16, 3)


def test_many_frames_get_marks_and_at_most_sixty_pictures() -> None:
    page = read(ClipView(clip=make_clip([index * 0.5 for index in range(300)], seconds=150.0)))
    assert len(page.find("line", "mark")) == 300
    # 150 s: at the widest zoom, 16 times 1000 pixels, all sixty stand free of each other
    assert len(page.find("image")) == 60


def test_the_waveform_is_drawn_where_it_sounds() -> None:
    page = read(ClipView(clip=make_clip(waveform=late_tone())))
    (path,) = page.find("path", "wave")
    points = [tuple(map(float, point.split(","))) for point in path["d"].strip("MZ").split(" ")]
    # Milliseconds against percent of the peak; 600 columns there and back.
    assert len(points) == 1200
    assert {height for place, height in points if place < 999} == {0.0}
    loud = [height for place, height in points if place > 1010]
    assert min(loud) == -100
    assert max(loud) == 100
    assert "peak -6.0 dBFS" in [label["text"] for label in page.find("text", "note")]


def test_the_spectrogram_is_drawn_where_it_sounds_and_low_tones_are_low() -> None:
    """2 s of sound in a clip of 4 s: half of the axis; 400 Hz is in the lower half of the bands."""
    page = read(ClipView(clip=make_clip(seconds=4.0, waveform=late_tone())))
    image = page.find("image")[-1]
    assert (image["width"], image["href"][:15]) == ("50%", "data:image/png;")
    light = picture(image["href"]).sum(axis=2)
    assert light.shape == (80, 200)
    assert light[:, :95].max() < light[40:, 105:].max()
    assert light[40:, 110:190].mean() > light[:40, 110:190].mean()


def test_the_spectrogram_is_the_model_s_own_cut_at_the_end_of_the_clip() -> None:
    """2 bins of 100 mel frames of 20 ms, then as many of padding that the axis of 2 s has no place for."""
    clip = make_clip([], waveform=late_tone())
    mel = torch.zeros((2, 200))
    mel[0, :100] = 1
    plan = salmonn2_paper(np.zeros(0), 1, 10, 0.2, 2.0)
    page = read(ClipView(clip=clip, prompt=make_prompt(clip, plan, mel.repeat_interleave(2, dim=1))))
    image = page.find("image")[-1]
    light = picture(image["href"]).sum(axis=2)
    assert (image["width"], light.shape) == ("100%", (2, 200))
    assert light[1].min() > light[0].max()
    assert "2 s of padding" in [label["text"] for label in page.find("text", "note")]


@pytest.mark.parametrize(
    ("num_mel_frames", "num_samples", "seconds"),
    [(500, 80_000, 0.01), (250, 80_000, 0.02), (500, 80_159, 0.01), (3000, 16_000, 0.01), (0, 16_000, 0.01)],
)
def test_seconds_per_mel_frame(num_mel_frames: int, num_samples: int, seconds: float) -> None:
    assert mel_frame_seconds(num_mel_frames, num_samples) == seconds


def test_tokens_stand_at_their_seconds_and_are_tied_as_they_are_read() -> None:
    """2 frames of 4 tokens and 5 audio tokens of 0.2 s: V4 A3 V4 A2."""
    clip = make_clip([0.0, 0.5], seconds=1.0, waveform=late_tone(1.0))
    page = read(ClipView(clip=clip, prompt=make_prompt(clip, salmonn2_paper(np.array([0.0, 0.5]), 4, 5, 0.2, 1.0))))
    assert [(block["x"], block["width"]) for block in page.find("rect", "visual")] == [("0", "500"), ("500", "500")]
    assert [(block["x"], block["width"]) for block in page.find("rect", "audio")] == [("0", "600"), ("600", "400")]
    assert page.find("rect", "audio")[1]["text"] == "2 audio tokens, 0.6 to 1 s; in the order read: 12 to 13"
    assert [tie["points"] for tie in page.find("polygon", "tie")] == [
        "0,27 500,27 600,65 0,65",
        "500,27 1000,27 1000,65 600,65",
    ]
    rows = [re.findall(r">([^<]+)</", row) for row in re.findall(r"<tr>.*?</tr>", render_page_of(clip))[1:]]
    assert rows == [
        ["1 – 4", "4", "0 – 0.5"],
        ["5 – 7", "3", "0 – 0.6"],
        ["8 – 11", "4", "0.5 – 1"],
        ["12 – 13", "2", "0.6 – 1"],
    ]


def render_page_of(clip: Clip) -> str:
    plan = salmonn2_paper(clip.frame_times_seconds, 4, 5, 0.2, clip.duration_seconds)
    page = render_clip_page(ClipView(clip=clip, prompt=make_prompt(clip, plan)))
    return re.sub(r'<span class="key \w+"></span>\w+', "", page)


def test_positions_that_part_are_drawn_and_said() -> None:
    """Patches at 0, 2, 4 s placed 1 s apart: that of 4 s stands at 50, the sound of 4 s at 100 (2 s further)."""
    clip = make_clip([0.0, 2.0, 4.0], seconds=6.0, waveform=late_tone(6.0))
    plan = tmrope(AXIS, np.array([0.0, 2.0, 4.0]), 1, 2, 150, 6.0, assumed=True)
    page = read(ClipView(clip=clip, prompt=make_prompt(clip, plan)))
    # The largest position, 149, is drawn at 970 - 940 = 30; position p at 970 - 940 p / 149: 812.3 and 654.6.
    (stairs,) = page.find("path", "visual-line")
    assert stairs["d"] == "M0,970.0 H2000 V812.3 H4000 V654.6 H6000"
    (sound,) = page.find("path", "audio-line")
    assert sound["d"] == "M0,970.0 5960,30.0 H6000"
    (gap,) = page.find("path", "gap")
    assert gap["d"] == "M0,970.0 2000,812.3 4000,654.6 4000,339.1 2000,654.6 0,970.0Z"
    assert alignment_lines(plan) == [
        ("wrong", "Picture and sound that are read together begin up to 2 s apart (at 4 s)."),
        (
            "wrong",
            "Largest distance between a picture token's and a sound token's position for the same second: "
            "50 positions (2 s, at 4 s).",
        ),
    ]
    for _, sentence in alignment_lines(plan):
        assert sentence in "".join(item["text"] for item in page.find("ul", "verdict"))


def test_what_lines_up_is_said_as_well() -> None:
    plan = tmrope(AXIS, np.array([0.0, 2.0, 4.0]), 1, 2, 150, 6.0)
    assert alignment_lines(plan) == [
        ("right", "Picture and sound that are read together begin at the same moments."),
        (
            "right",
            "Largest distance between a picture token's and a sound token's position for the same second: 0 positions.",
        ),
    ]
    assert [finding for finding, _ in alignment_lines(salmonn2_paper(np.arange(2.0), 1, 10, 0.2, 2.0))] == [
        "right",
        "note",
    ]
    only_sound = salmonn2_paper(np.zeros(0), 1, 10, 0.2, 2.0)
    assert alignment_lines(only_sound)[0][1].startswith("There are tokens of sound and none of picture")


def test_missing_streams_are_said() -> None:
    nothing_heard = [text["text"] for text in read(ClipView(clip=make_clip())).find("text")]
    assert "no sound: absent" in nothing_heard
    nothing_seen = [text["text"] for text in read(ClipView(clip=make_clip([], waveform=late_tone()))).find("text")]
    assert "no picture" in nothing_seen
    short = [text["text"] for text in read(ClipView(clip=make_clip(waveform=late_tone(0.01)))).find("text")]
    assert "too short for a spectrogram" in short


def test_digital_silence_is_a_line_and_dark() -> None:
    page = read(ClipView(clip=make_clip(waveform=np.zeros(2 * SAMPLE_RATE, np.float32))))
    assert "digital silence" in [label["text"] for label in page.find("text", "note")]
    heights = {point.split(",")[1] for point in page.find("path", "wave")[0]["d"].strip("MZ").split(" ")}
    assert heights == {"0"}
    assert len(np.unique(picture(page.find("image")[-1]["href"]).sum(axis=2))) == 1


def test_figures_and_facts() -> None:
    clip = make_clip([0.0, 0.5], seconds=1.0, waveform=late_tone(1.0), tags={"title": "A bell", "long": "x" * 600})
    plan = salmonn2_paper(np.array([0.0, 0.5]), 4, 5, 0.2, 1.0)
    prompt = make_prompt(clip, plan, media={"max_video_tokens": 1200, "notes": ["a"]}, warnings=("too dark",))
    view = ClipView(
        clip=clip,
        prompt=prompt,
        model_id="nano",
        revision="0123",
        layout_rule="salmonn2_paper",
        warnings=("odd", "odd"),
    )
    page = read(view)
    figures = dict(
        zip((item["text"] for item in page.find("dt")), (item["text"] for item in page.find("dd")), strict=True)
    )
    # 2 x 4 visual, 5 audio, 3 text
    assert [figures[name] for name in ("visual tokens", "audio tokens", "text tokens", "tokens of the prompt")] == [
        *("8", "5", "3", "16"),
    ]
    assert (figures["model"], figures["weights"], figures["layout rule"]) == ("nano", "0123", "salmonn2_paper")
    assert (figures["max video tokens"], figures["notes"], figures["tag title"]) == ("1200", '["a"]', "A bell")
    assert figures["tag long"] == "x" * 500 + "... (600 characters)"
    assert [warning["text"] for warning in page.find("p", "warning")] == ["Warning too dark", "Warning odd"]
    assert page.find("title")[0]["text"] == "clip.mp4: what nano sees and hears"


def test_rows_past_two_hundred_are_folded_away() -> None:
    """150 frames, each with sound after it: 300 rows and two headings."""
    times = np.arange(150) * 0.2
    clip = make_clip(times.tolist(), seconds=30.0, waveform=late_tone(30.0))
    page = read(ClipView(clip=clip, prompt=make_prompt(clip, salmonn2_paper(times, 1, 150, 0.2, 30.0))))
    assert len(page.find("tr")) == 302
    (folded,) = page.find("details")
    assert folded["text"].startswith("100 more rows")
    assert "201" in folded["text"]


def test_hostile_text_stays_text() -> None:
    clip = make_clip(path="folder/<script>alert(1)<b>.mp4", tags={HOSTILE: HOSTILE, "title": HOSTILE})
    plan = salmonn2_paper(clip.frame_times_seconds, 1, 0, 0.2, 2.0)
    prompt = make_prompt(clip, plan, instruction=HOSTILE, media={HOSTILE: HOSTILE}, warnings=(HOSTILE,))
    view = ClipView(
        clip=clip,
        prompt=prompt,
        model_id=HOSTILE,
        revision=HOSTILE,
        layout_rule=HOSTILE,
        prompt_text=[(HOSTILE, 1), (HOSTILE, 5)],
        warnings=(HOSTILE + "!",),
    )
    page = read(view)
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "foreignobject"}
    assert not [name for _, attributes, _ in page.elements for name in attributes if name.startswith("on")]
    assert "\x1b" not in render_clip_page(view)
    assert page.find("h1")[0]["text"] == "<script>alert(1)<b>.mp4"
    # tags: name, value, value; kicker; instruction, media twice, warnings twice; id, revision, rule; prompt text twice
    assert sum("".join(words).count("</script>") for tag, _, words in page.elements if tag == "body") == 14


def test_a_lone_surrogate_does_not_stop_the_page(tmp_path: Path) -> None:
    path = write_clip_page(tmp_path / "page.html", ClipView(clip=make_clip(tags={"title": "a\udcffb"})))
    assert "a?b" in path.read_text(encoding="utf-8")


def test_nothing_is_loaded_and_no_style_is_refused() -> None:
    """The policy allows the one style sheet by its hash; `style` attributes would be refused, scripts are."""
    clip = make_clip([0.0, 0.5], seconds=600.0, waveform=late_tone(1.0))
    view = ClipView(clip=clip, prompt=make_prompt(clip, salmonn2_paper(np.array([0.0, 0.5]), 4, 5, 0.2, 1.0)))
    page, source = read(view), render_clip_page(view)
    for _, attributes, _ in page.elements:
        assert "style" not in attributes
        for name in ("src", "href", "xlink:href"):
            if attributes.get(name):
                assert attributes[name].startswith("data:")
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policies = [meta["content"] for meta in page.find("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert len(policies) == 1
    assert f"style-src 'sha256-{digest}'" in policies[0]
    assert "default-src 'none'" in policies[0]
    assert "script-src" not in policies[0]


def test_the_page_can_be_read_without_eyes() -> None:
    clip = make_clip(waveform=late_tone())
    page = read(
        ClipView(clip=clip, prompt=make_prompt(clip, salmonn2_paper(clip.frame_times_seconds, 1, 10, 0.2, 2.0)))
    )
    assert page.find("html")[0]["lang"] == "en"
    assert all(image["role"] == "img" and image["aria-label"] for image in page.find("image"))
    headings = {heading["id"] for heading in page.find("h2")}
    assert {article["aria-labelledby"] for article in page.find("article")} == headings
    assert len(headings) == 4
    assert all(head["scope"] == "col" for head in page.find("th"))


def test_a_page_of_thirty_seconds_stays_under_two_megabytes() -> None:
    """Noise compresses worst: 60 frames of it and 128 mel bands."""
    rng = np.random.default_rng(0)
    clip = make_clip([index / 2 for index in range(60)], seconds=30.0, waveform=late_tone(30.0))
    frames = torch.from_numpy(rng.integers(0, 256, (60, 3, 252, 448), dtype=np.uint8))
    mel = torch.from_numpy(rng.normal(size=(128, 3000)).astype(np.float32))
    plan = tmrope(AXIS, np.arange(30.0), 12, 16, 750, 30.0)
    page = render_clip_page(ClipView(clip=clip, prompt=make_prompt(clip, plan, mel, frames=frames)))
    assert len(page.encode()) < 2_000_000


def test_a_page_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"the page cannot be written to .*page\.html"):
        write_clip_page(tmp_path / "file" / "page.html", ClipView(clip=make_clip()))


def test_zoom_buttons_are_there_where_they_help() -> None:
    assert read(ClipView(clip=make_clip(seconds=1.8))).find("input") == []
    buttons = read(ClipView(clip=make_clip(seconds=600.0))).find("input")
    assert [button["id"] for button in buttons] == ["zoom-0", "zoom-1", "zoom-2", "zoom-3"]
