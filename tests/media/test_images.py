"""Still images as clips: one upright picture at 0 s, without sound; nothing but the file named is read."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import resource
import struct
import threading
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, features
from synth import Pictures, shades, steady, write

from avocet.errors import MediaError
from avocet.media import open_clip, probe
from avocet.media._source import CONTAINERS, MAX_SOURCE_PIXELS

RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot write AVIF")


def corners() -> np.ndarray:
    """48 rows, 64 columns: red and green above blue and grey."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32], picture[24:, 32:] = RED, GREEN, BLUE, GREY
    return picture


def noise(seed: int = 1) -> np.ndarray:
    """A picture of 96 x 128 that does not compress to nothing."""
    return np.random.default_rng(seed).integers(0, 255, (12, 16, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)


def save(path: Path, picture: np.ndarray | Image.Image, **options: Any) -> Path:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if path.suffix == ".jpg":
        options = {"quality": 95, "subsampling": 0, **options}
    if path.suffix == ".webp":
        options = {"lossless": True, "exact": True, **options}
    image.save(path, **options)
    return path


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def shown(path: Path, **options: Any) -> np.ndarray:
    """(H, W, 3) of the only frame."""
    clip = open_clip(path, **options)
    assert clip.num_frames == 1
    return clip.frames[0].transpose(1, 2, 0)


def assert_close(picture: np.ndarray, expected: np.ndarray, within: int) -> None:
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected.astype(int)).max() <= within


@pytest.mark.parametrize(
    ("name", "options", "container", "codec", "within"),
    [
        ("a.png", {}, "png_pipe", "png", 0),
        ("a.jpg", {}, "jpeg_pipe", "mjpeg", 3),
        ("a.jpg", {"progressive": True}, "jpeg_pipe", "mjpeg", 3),
        ("a.webp", {}, "webp_pipe", "webp", 0),
        ("a.bmp", {}, "bmp_pipe", "bmp", 0),
        ("a.tiff", {}, "tiff_pipe", "tiff", 0),
        ("a.tiff", {"compression": "tiff_lzw"}, "tiff_pipe", "tiff", 0),
        ("a.tiff", {"compression": "tiff_adobe_deflate"}, "tiff_pipe", "tiff", 0),
    ],
)
def test_an_image_is_a_clip_of_one_frame(tmp_path, capfd, name, options, container, codec, within):
    path = save(tmp_path / name, corners(), **options)
    clip = open_clip(path, fps=4)
    assert clip.frames.shape == (1, 3, 48, 64)
    assert_close(clip.frames[0].transpose(1, 2, 0), corners(), within)
    assert clip.frame_times_seconds.tolist() == [0.0]
    assert clip.sample_times_seconds.tolist() == [0.0]
    assert (clip.waveform, clip.audio_status, clip.warnings) == (None, "absent", ())
    # One step at 4 frames per second.
    assert (clip.start_seconds, clip.duration_seconds, clip.sampling_step_seconds, clip.fps) == (0.0, 0.25, 0.25, 4.0)
    assert clip.source.is_image
    assert (clip.source.container, clip.source.video_codec) == (container, codec)
    assert probe(path) == clip.source
    assert (clip.source.width, clip.source.height, clip.source.duration_seconds) == (64, 48, 0.0)
    assert (clip.source.average_fps, clip.source.video_end_seconds) == (None, None)
    assert capfd.readouterr() == ("", "")


def test_what_an_image_cannot_give(tmp_path):
    path = save(tmp_path / "a.png", corners())
    for interval in ({"start_seconds": 1}, {"end_seconds": 1}, {"start_seconds": 0, "end_seconds": 0.5}):
        with pytest.raises(MediaError, match="video: a still image has no times; leave out start_seconds and end_se"):
            open_clip(path, **interval)
    assert open_clip(path, start_seconds=0).num_frames == 1
    with pytest.raises(MediaError, match="audio: a still image has no sound, but audio='require' asks for sound"):
        open_clip(path, audio="require")
    ignoring = open_clip(path, audio="ignore", clip_id="mine")
    assert (ignoring.id, ignoring.audio_status, ignoring.warnings) == ("mine", "absent", ())


# Orientation and size.

TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda picture: picture,
    2: lambda picture: picture[:, ::-1],
    3: lambda picture: picture[::-1, ::-1],
    4: lambda picture: picture[::-1],
    5: lambda picture: picture.transpose(1, 0, 2),
    6: lambda picture: np.rot90(picture, -1),
    7: lambda picture: picture.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda picture: np.rot90(picture, 1),
}


@pytest.mark.parametrize("orientation", sorted(TURNS))
def test_exif_orientation_of_a_photo(tmp_path, orientation):
    path = save(tmp_path / "a.jpg", corners(), exif=oriented(orientation))
    expected = TURNS[orientation](corners())
    assert_close(shown(path), expected, 3)
    facts = probe(path)
    assert (facts.height, facts.width) == expected.shape[:2]
    if orientation in (1, 3, 6, 8):
        assert facts.rotation_degrees == {1: 0, 3: 180, 6: 270, 8: 90}[orientation]


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_exif_orientation_in_other_formats(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", corners(), exif=oriented(6))
    assert_close(shown(path), np.rot90(corners(), -1), 0)
    assert (probe(path).width, probe(path).height) == (48, 64)


def test_exif_data_in_the_frames_of_a_video(tmp_path):
    photo = save(tmp_path / "a.jpg", corners(), exif=oriented(6)).read_bytes()
    path = tmp_path / "photos.mov"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj444p"
        for index in range(3):
            packet = av.Packet(photo)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 10)
            output.mux(packet)
    clip = open_clip(path, fps=10)
    assert (clip.num_frames, clip.source.is_image) == (3, False)
    assert_close(clip.frames[2].transpose(1, 2, 0), np.rot90(corners(), -1), 3)


def test_large_images_are_scaled_down_and_small_ones_never_up(tmp_path):
    path = save(tmp_path / "a.png", corners(), exif=oriented(6))
    # 3072 pixels in 768: half of each side.
    assert shown(path, max_pixels=768).shape == (32, 24, 3)
    assert shown(path, max_pixels=10_000).shape == (64, 48, 3)
    clip = open_clip(path, max_pixels=768)
    assert (clip.source.width, clip.source.height) == (48, 64)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_stated_resolution_does_not_stretch_an_image(tmp_path, suffix):
    assert shown(save(tmp_path / f"a.{suffix}", corners(), dpi=(72, 144))).shape == (48, 64, 3)


# Kinds of pixels.


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_transparency_is_shown_over_white(tmp_path, suffix):
    picture = np.dstack([corners(), np.full((48, 64), 255, np.uint8)])
    picture[:24, :32, 3], picture[24:, :32, 3] = 0, 128
    expected = corners()
    expected[:24, :32] = 255
    # 128 of 255 parts blue (0, 0, 200) and 127 parts white: 127, 127 and (25600 + 32385) / 255 = 227.4.
    expected[24:, :32] = (127, 127, 227)
    assert_close(shown(save(tmp_path / f"a.{suffix}", picture)), expected, 1 if suffix == "tiff" else 0)


def test_colours_of_transparent_pixels_do_not_bleed_when_scaled(tmp_path):
    picture = np.full((48, 64, 4), 255, np.uint8)
    picture[:, ::2] = (255, 0, 0, 0)
    assert (shown(save(tmp_path / "a.png", picture), max_pixels=768) == 255).all()


def test_palettes_with_and_without_transparency(tmp_path):
    image = Image.fromarray(corners()).quantize(8)
    assert_close(shown(save(tmp_path / "a.png", image)), corners(), 0)
    expected = corners()
    expected[:24, :32] = 255
    image.save(tmp_path / "b.png", transparency=image.getpixel((0, 0)))
    assert_close(shown(tmp_path / "b.png"), expected, 0)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff"])
def test_grey_uses_the_full_range(tmp_path, suffix):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(2, 0).repeat(2, 1)
    assert_close(shown(save(tmp_path / f"a.{suffix}", ramp)), np.dstack([ramp] * 3), 3 if suffix == "jpg" else 0)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_per_sample(tmp_path, suffix):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(ramp.astype(np.uint16) * 257))
    assert_close(shown(path), np.dstack([ramp] * 3), 1)


def test_one_bit_per_pixel(tmp_path):
    black_left = np.zeros((16, 16), np.uint8)
    black_left[:, 8:] = 255
    path = save(tmp_path / "a.png", Image.fromarray(black_left).convert("1"))
    assert_close(shown(path), np.dstack([black_left] * 3), 0)


def test_cmyk_photos(tmp_path):
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, :16], inks[:, 16:32], inks[:, 32:] = (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 100)
    expected = np.zeros((16, 48, 3), np.uint8)
    expected[:, :16], expected[:, 16:32], expected[:, 32:] = (0, 255, 255), (255, 0, 0), (155, 155, 155)
    assert_close(shown(save(tmp_path / "a.jpg", Image.fromarray(inks, "CMYK"))), expected, 4)


# One file, one picture.


@pytest.mark.parametrize(
    "name", ["frame%03d.png", "frame%d.png", "f%*.png", "{a,b}%*.webp", "frame%03d.jpg", "x%d.bmp", "x%d.tiff"]
)
def test_a_name_that_looks_like_a_pattern_is_only_a_name(tmp_path, name):
    for decoy in ("frame001.png", "frame1.png", "frame0.png", "f1.png", "a.webp", "frame001.jpg", "x0.bmp", "x0.tiff"):
        save(tmp_path / decoy, np.zeros((8, 8, 3), np.uint8))
    path = tmp_path / name
    with pytest.raises(MediaError, match="no such file"):
        open_clip(path)
    save(path, corners())
    assert_close(shown(path), corners(), 3)
    inside = tmp_path / "folder%02d"
    inside.mkdir()
    assert_close(shown(save(inside / f"a{path.suffix}", corners())), corners(), 3)
    # A text file of that name must not lead FFmpeg to the files that its name matches.
    path.write_text("no image")
    with pytest.raises(MediaError, match=r"container: not a .*this is a text file"):
        open_clip(path)


def test_demuxers_that_open_further_files_are_not_allowed():
    allowed = set(CONTAINERS.split(","))
    assert not allowed & {"image2", "image2pipe", "concat", "hls", "dash", "svg_pipe", "imf", "sdp"}
    assert {"png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe"} <= allowed


def test_the_content_counts_and_not_the_suffix(tmp_path):
    path = save(tmp_path / "a.png", corners()).rename(tmp_path / "a.mp4")
    assert open_clip(path).source.container == "png_pipe"


def test_what_follows_the_picture_is_not_read(tmp_path):
    photo = save(tmp_path / "a.jpg", corners()).read_bytes()
    other = save(tmp_path / "b.jpg", noise()).read_bytes()
    film = write(tmp_path / "c.mp4", Pictures(times_ms=steady(1.0))).read_bytes()
    for tail in (other, film, bytes(1000)):
        path = tmp_path / "joined.jpg"
        path.write_bytes(photo + tail)
        clip = open_clip(path)
        assert_close(clip.frames[0].transpose(1, 2, 0), corners(), 3)
        assert clip.warnings == ()


def test_pages_after_the_first_are_a_warning(tmp_path):
    pages = [Image.fromarray(corners()), Image.fromarray(noise())]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    clip = open_clip(tmp_path / "a.tiff")
    assert clip.warnings == ("the file holds several pages; the first one was used",)
    assert_close(clip.frames[0].transpose(1, 2, 0), corners(), 0)


def test_raw_motion_jpeg_stays_a_video(tmp_path):
    pictures = [save(tmp_path / "a.jpg", np.full((48, 64, 3), 16 + 8 * index, np.uint8)) for index in range(3)]
    path = tmp_path / "film.mjpeg"
    path.write_bytes(b"".join(picture.read_bytes() for picture in pictures) * 10)
    clip = open_clip(path, fps=5)
    assert not clip.source.is_image
    assert clip.num_frames > 3


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a%03d.gif", "a%03d.png"])
def test_animations_are_videos(tmp_path, name):
    images = [Image.fromarray(np.full((48, 64, 3), 16 + 8 * index, np.uint8)) for index in range(3)]
    path = tmp_path / name
    images[0].save(path, save_all=True, append_images=images[1:], duration=500)
    clip = open_clip(path, fps=2)
    assert shades(clip.frames) == [0, 1, 2]
    assert clip.frame_times_seconds.tolist() == [0.0, 0.5, 1.0]
    assert not clip.source.is_image
    # For a video, having no sound is worth a word.
    assert "there is no audio stream" in clip.warnings


def test_animated_webp_is_one_error(tmp_path):
    images = [Image.fromarray(noise(seed)) for seed in range(3)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=500)
    with pytest.raises(MediaError, match="video: animated WebP cannot be decoded; convert it to GIF, APNG or MP4"):
        open_clip(tmp_path / "a.webp")
    facts = probe(tmp_path / "a.webp")
    assert (facts.width, facts.height, facts.is_image) == (128, 96, False)


@needs_avif
def test_avif_is_an_image_where_it_is_in_one_piece(tmp_path):
    path = save(tmp_path / "a.avif", corners(), quality=95, subsampling="4:4:4", exif=oriented(6))
    clip = open_clip(path)
    assert_close(clip.frames[0].transpose(1, 2, 0), np.rot90(corners(), -1), 8)
    assert (clip.source.is_image, clip.source.duration_seconds, clip.warnings) == (True, 0.0, ())
    transparent = save(tmp_path / "b.avif", np.dstack([corners(), np.full((48, 64), 99, np.uint8)]))
    assert open_clip(transparent).warnings == ("the transparency of the picture was left out",)
    pages = [Image.fromarray(noise(seed)) for seed in range(2)]
    pages[0].save(tmp_path / "c.avif", save_all=True, append_images=pages[1:], duration=500)
    assert not open_clip(tmp_path / "c.avif").source.is_image
    # The same file under the brand of stills has two pictures, as a photo in tiles has.
    tiles = tmp_path / "d.avif"
    tiles.write_bytes((tmp_path / "c.avif").read_bytes().replace(b"ftypavis", b"ftypavif", 1))
    for reader in (open_clip, probe):
        with pytest.raises(MediaError, match="video: the picture is stored in 2 parts; convert it to JPEG or PNG"):
            reader(tiles)


def test_an_image_from_a_server(tmp_path):
    path = save(tmp_path / "a.png", corners())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        worker = threading.Thread(target=server.serve_forever)
        worker.start()
        try:
            address = f"http://127.0.0.1:{server.server_address[1]}"
            clip = open_clip(f"{address}/a.png", timeout_seconds=20)
            with pytest.raises(MediaError, match="may take the percent sign in the address for a pattern; download"):
                open_clip(f"{address}/my%20dog.png", timeout_seconds=20)
        finally:
            server.shutdown()
            worker.join()
    assert np.array_equal(clip.frames, open_clip(path).frames)
    assert clip.source.is_image


# Damage.

WRITERS: dict[str, dict[str, Any]] = {
    "a.png": {},
    "a.jpg": {},
    "progressive.jpg": {"progressive": True},
    "a.webp": {},
    "lossy.webp": {"lossless": False},
    "a.bmp": {},
    "a.tiff": {},
    "lzw.tiff": {"compression": "tiff_lzw"},
    "deflate.tiff": {"compression": "tiff_adobe_deflate"},
}


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_cut_off_images_are_one_error(tmp_path, capfd, name):
    path = save(tmp_path / name, noise(), **WRITERS[name])
    data = path.read_bytes()
    open_clip(path)
    for kept in (20, 60, len(data) // 10, len(data) // 2, len(data) * 9 // 10, len(data) - 30):
        path.write_bytes(data[:kept])
        with pytest.raises(MediaError, match=r"video: .*; the file is cut off or damaged") as caught:
            open_clip(path)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_compressed_tiff_cut_off_behind_its_tags_is_refused(tmp_path):
    pixels = zlib.compress(noise().tobytes())
    # Size 128 x 96, three samples of 8 bits (at 134), deflate, RGB, one strip behind the tags, at 140.
    tags = [(256, 128), (257, 96), (259, 8), (262, 2), (273, 140), (277, 3), (278, 96), (279, len(pixels))]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries.insert(2, struct.pack("<HHII", 258, 3, 3, 134))
    data = b"II*\0" + struct.pack("<IH", 8, 9) + b"".join(entries) + bytes(4) + bytes(12)
    data = data[:134] + struct.pack("<HHH", 8, 8, 8) + pixels
    path = tmp_path / "a.tiff"
    path.write_bytes(data)
    assert_close(shown(path), noise(), 0)
    path.write_bytes(data[:-50])
    with pytest.raises(MediaError, match="video: its tags point past the end of the file; the file is cut off"):
        open_clip(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_files_that_are_no_images(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"")
    with pytest.raises(MediaError, match=r"container: the file is empty \(0 bytes\)"):
        open_clip(path)
    path.write_text("This is no image.\n" * 50)
    with pytest.raises(MediaError, match=r"container: not a .*this is a text file"):
        open_clip(path)
    magic = save(path, noise()).read_bytes()[:12]
    path.write_bytes(magic)
    with pytest.raises(MediaError):
        open_clip(path)
    with contextlib.suppress(MediaError):
        probe(path)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_random_damage_gives_an_image_or_a_media_error(tmp_path, name):
    path = save(tmp_path / name, noise(), **WRITERS[name])
    data = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        limit = int(generator.choice([64, 512, len(data)]))
        for at in generator.integers(0, min(limit, len(data)), int(generator.choice([1, 3, 30]))):
            damaged[at] = generator.integers(256)
        path.write_bytes(bytes(damaged))
        for reader in (open_clip, probe):
            with contextlib.suppress(MediaError):
                reader(path, timeout_seconds=20)


# Bombs: small files that state enormous pictures.


def _patched(path: Path, at: int, layout: str, *values: int) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, at, *values)
    if path.suffix == ".png":
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    path.write_bytes(bytes(data))


def _state_size(path: Path, width: int, height: int) -> None:
    data = path.read_bytes()
    if path.suffix == ".png":
        _patched(path, 16, ">II", width, height)
    elif path.suffix == ".bmp":
        _patched(path, 18, "<ii", width, -height)
    elif path.suffix == ".jpg":
        _patched(path, data.index(b"\xff\xc0") + 5, ">HH", height, width)
    elif path.suffix == ".tiff":
        _patched(path, data.index(struct.pack("<HHI", 256, 4, 1)) + 8, "<I", width)
        _patched(path, data.index(struct.pack("<HHI", 257, 4, 1)) + 8, "<I", height)
    elif path.name == "lossy.webp":
        _patched(path, data.index(b"\x9d\x01\x2a") + 3, "<HH", width, height)
    else:
        _patched(path, 21, "<I", (width - 1) | (height - 1) << 14)


@pytest.mark.parametrize(
    ("name", "width", "height"),
    [
        ("a.png", 60_000, 60_000),
        ("a.png", 15_900, 15_900),
        ("a.jpg", 60_000, 60_000),
        ("a.bmp", 60_000, 60_000),
        ("a.tiff", 60_000, 60_000),
        ("a.webp", 16_384, 16_000),
        ("lossy.webp", 16_383, 16_000),
    ],
)
def test_bombs_are_refused_by_their_header(tmp_path, name, width, height):
    assert width * height > MAX_SOURCE_PIXELS
    path = save(tmp_path / name, noise(), **WRITERS[name])
    _state_size(path, width, height)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MediaError, match=f"video: its header states {width} x {height} pixels; .* 250000000 are deco"):
        open_clip(path)
    facts = probe(path)
    assert (facts.width, facts.height) == (width, height)
    # A picture decoded would take 750 MB or more; ru_maxrss counts KiB on Linux and bytes on macOS.
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 200e6


def test_extended_webp_states_its_size_elsewhere(tmp_path):
    path = save(tmp_path / "a.webp", noise(), exif=oriented(1))
    assert path.read_bytes()[12:16] == b"VP8X"
    data = bytearray(path.read_bytes())
    data[24:30] = (16_383).to_bytes(3, "little") + (15_999).to_bytes(3, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(MediaError, match="its header states 16384 x 16000 pixels"):
        open_clip(path)


def test_a_video_of_enormous_pictures_is_refused(tmp_path):
    raw = Pictures(times_ms=[0, 100], codec="rawvideo", pixel_format="bgr24", options={}, time_base=Fraction(1, 10))
    path = write(tmp_path / "a.avi", raw)
    at = path.read_bytes().index(b"strf") + 12
    _patched(path, at, "<ii", 15_900, 15_900)  # FFmpeg by itself would take this size
    with pytest.raises(
        MediaError, match=r"2 of 2 packets are damaged .*, or its pictures have more than 250000000 pixels"
    ):
        open_clip(path)


def test_a_tiff_with_hostile_counts_is_one_error(tmp_path):
    path = save(tmp_path / "a.tiff", noise())
    offsets = path.read_bytes().index(struct.pack("<HH", 273, 4))
    _patched(path, offsets + 4, "<I", 2**32 - 1)
    with pytest.raises(MediaError, match="its tags point past the end of the file"):
        open_clip(path)
