"""Unreadable input ends in one typed error of one line, soon; damage that leaves a usable clip is a warning."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
from synth import Pictures, Sound, sine, steady, turn, write

from avocet.errors import ConfigError, MediaError
from avocet.media import open_clip, probe

NOISE = [np.random.default_rng(index).integers(0, 255, (48, 64, 3)).astype(np.uint8) for index in range(60)]
NOISY = Pictures(times_ms=steady(6.0), images=NOISE, options={"crf": "20", "preset": "ultrafast", "g": "10"})


@pytest.fixture
def clip(tmp_path):
    return write(tmp_path / "clip.mp4", Pictures(times_ms=steady(2.0)), Sound(samples=sine(2.0)))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"fps": 0}, "fps must be a number > 0, got 0"),
        ({"fps": -1.0}, "fps must be a number > 0"),
        ({"fps": float("nan")}, "fps must be a number > 0"),
        ({"fps": float("inf")}, "fps must be a number > 0"),
        ({"max_frames": 0}, "max_frames must be >= 1, got 0"),
        ({"max_pixels": 0}, "max_pixels must be >= 1 or None, got 0"),
        ({"start_seconds": -1}, r"start_seconds must be >= 0, got -1"),
        ({"start_seconds": 2, "end_seconds": 2}, r"end_seconds must be larger than start_seconds, got \[2.0, 2.0\)"),
        ({"end_seconds": 0}, "end_seconds must be larger"),
        ({"end_seconds": float("nan")}, "end_seconds must be larger"),
        ({"audio": "yes"}, "audio must be one of auto, require, ignore, got 'yes'"),
        ({"timeout_seconds": 0}, "timeout_seconds must be > 0"),
    ],
)
def test_arguments_outside_of_what_is_allowed(clip, argument, message):
    with pytest.raises(ConfigError, match=message):
        open_clip(clip, **argument)


def _missing(path):
    path.unlink(missing_ok=True)


def _folder(path):
    path.mkdir()


def _text(path):
    path.write_text("This is no video.\n" * 50)


def _without_index(path):
    data = write(path, NOISY).read_bytes()
    path.write_bytes(data[: len(data) // 2])


BROKEN: dict[str, tuple[Callable[[object], object], str, str]] = {
    "missing": (_missing, "container", "no such file"),
    "folder": (_folder, "container", "this is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "container", r"the file is empty \(0 bytes\)"),
    "text": (_text, "container", "not a readable media file: this is a text file"),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), "container", "begins with zero bytes only"),
    "noise": (lambda path: path.write_bytes(NOISE[0].tobytes()), "container", "not a "),
    "cut before the index": (_without_index, "container", r"an MP4 whose index \(moov\) is missing or damaged"),
    "pipe": (os.mkfifo, "container", "not a regular file"),
}


@pytest.mark.parametrize("reader", [open_clip, probe])
@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_unreadable_files_name_file_stream_and_reason_on_one_line(tmp_path, capfd, reader, kind):
    make, stream, message = BROKEN[kind]
    path = tmp_path / "broken.mp4"
    make(path)
    with pytest.raises(MediaError, match=message) as caught:
        reader(path)
    assert (caught.value.path, caught.value.stream) == (str(path), stream)
    assert str(caught.value).startswith(f"{path}: {stream}: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_device_files_and_odd_paths_are_refused(tmp_path):
    with pytest.raises(MediaError, match="not a regular file"):
        open_clip("/dev/zero")
    with pytest.raises(MediaError, match="container: cannot be opened"):
        open_clip("a\0b.mp4")
    odd = os.fsencode(tmp_path) + b"/\xff.mp4"
    with open(odd, "wb") as file:
        file.write(b"x")
    with pytest.raises(MediaError, match="its name is not valid UTF-8"):
        open_clip(os.fsdecode(odd))
    with pytest.raises(MediaError, match="give a local path or an http, https or file URL"):
        open_clip("s3://bucket/clip.mp4")
    with pytest.raises(MediaError, match="no such file"):
        open_clip("concat:a.mp4|b.mp4")


def test_a_file_cut_off_behind_its_index_is_refused_unless_the_interval_is_there(tmp_path):
    path = write(tmp_path / "cut.mp4", NOISY, muxer_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"video: decodes only to [23]\.\d\d s of the 6\.00 s its header states"):
        open_clip(path)
    clip = open_clip(path, end_seconds=2.0, fps=10)
    np.testing.assert_allclose(clip.frame_times_seconds, np.arange(20) / 10, atol=1e-9)
    with pytest.raises(MediaError, match=r"video: no frame could be decoded .*cut off or damaged"):
        open_clip(path, start_seconds=4.5, end_seconds=5.5)


def test_a_cut_off_matroska_file_is_refused(tmp_path):
    path = write(tmp_path / "cut.mkv", NOISY, Sound(samples=sine(6.0)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"container: decodes only to [23]\.\d+ s of the 6\.\d+ s its header states"):
        open_clip(path)


def test_a_few_damaged_packets_are_a_counted_warning(tmp_path):
    path = write(tmp_path / "clip.mp4", NOISY)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        spans = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in spans[33:35]:
        data[position : position + size] = bytes(size)
    path.write_bytes(bytes(data))
    clip = open_clip(path, fps=10)
    assert 57 <= clip.num_frames <= 60
    assert any(warning.startswith("video: ") and "of 60 packets are damaged" in warning for warning in clip.warnings), (
        clip.warnings
    )
    # An interval without the damage has no warning about it.
    assert not any("damaged" in warning for warning in open_clip(path, end_seconds=2.0).warnings)


def test_mostly_damaged_video_is_refused(tmp_path):
    path = write(tmp_path / "clip.mp4", NOISY, Sound(samples=sine(6.0)))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        spans = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in spans[1:]:
        data[position : position + size] = bytes(size)
    path.write_bytes(bytes(data))
    with pytest.raises(MediaError, match=r"video: \d+ of 60 packets are damaged .*; the file is damaged or encrypted"):
        open_clip(path)


def test_encrypted_video_is_refused(tmp_path):
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    path = write(tmp_path / "secret.mp4", NOISY, muxer_options=options)
    with pytest.raises(MediaError, match=r"video: .*(damaged or encrypted|no frame could be decoded)"):
        open_clip(path)


def test_video_of_an_unknown_codec_is_refused(tmp_path):
    path = write(tmp_path / "clip.mp4", NOISY, Sound(samples=sine(6.0)))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"xyz?"))
    with pytest.raises(MediaError, match="video: there is no decoder for its codec"):
        open_clip(path)
    assert probe(path).video_codec == "unknown"


def test_timestamps_that_start_over_are_refused(tmp_path):
    one = write(tmp_path / "one.ts", Pictures(times_ms=steady(3.0)))
    two = tmp_path / "two.ts"
    two.write_bytes(one.read_bytes() * 2)
    with pytest.raises(MediaError, match=r"video: timestamps jump back from 2\.\d+ s to .* re-mux"):
        open_clip(two)


def test_subtitles_alone_are_no_media(tmp_path):
    path = tmp_path / "clip.mkv"
    video = write(tmp_path / "video.mkv", Pictures(times_ms=[0, 100])).read_bytes()
    # Track type 1 (video) becomes 17 (subtitle): element 0x83.
    path.write_bytes(video.replace(b"\x83\x81\x01", b"\x83\x81\x11", 1))
    with pytest.raises(MediaError, match="container: holds neither a video nor an audio stream"):
        open_clip(path)


def test_a_start_behind_the_end(clip):
    with pytest.raises(MediaError, match=r"start_seconds=5 is not before the end of the file at 2\.000 s"):
        open_clip(clip, start_seconds=5)
    late = open_clip(clip, start_seconds=1.0, end_seconds=9.0)
    assert late.duration_seconds == pytest.approx(1.0)
    assert "end_seconds=9 is past the end of the file at 2.000 s" in late.warnings
    live = write(clip.with_name("live.mkv"), Pictures(times_ms=steady(2.0)), muxer_options={"live": "1"})
    with pytest.raises(MediaError, match="start_seconds=5 is not before the end"):
        open_clip(live, start_seconds=5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile '{clip}'\n"),
        ("list.mp4", "ffconcat version 1.0\nfile 'clip.mp4'\n"),
        ("list.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
        ("list.mpd", '<?xml version="1.0"?><MPD><Period><BaseURL>{clip}</BaseURL></Period></MPD>'),
    ],
)
def test_text_files_that_name_other_files_are_refused(clip, tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text.format(clip=clip))
    with pytest.raises(MediaError, match=r"container: not a .* file"):
        open_clip(path)


# The watchdog: servers on the loopback interface that accept and then send nothing, too little or a playlist.


@contextlib.contextmanager
def server(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    stop = threading.Event()
    workers = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def serve(connection):
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                answer(connection, stop)

        def accept():
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    connection.settimeout(5)
                    workers.append(threading.Thread(target=serve, args=(connection,)))
                    workers[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/clip.mkv"
        finally:
            stop.set()
            acceptor.join()
            for worker in workers:
                worker.join()


def reply(connection: socket.socket, body: bytes, length: int | None = None) -> None:
    header = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(body) if length is None else length}\r\nConnection: close\r\n\r\n"
    )
    connection.sendall(header.encode() + body)


def test_a_server_that_sends_nothing_is_given_up(capfd):
    with server(lambda connection, stop: stop.wait(10)) as url:
        began = time.monotonic()
        with pytest.raises(MediaError, match=r"container: no data arrived for 0\.3 s"):
            open_clip(url, timeout_seconds=0.3)
        assert time.monotonic() - began < 3
    assert capfd.readouterr() == ("", "")


def test_a_server_that_stops_sending_is_given_up(tmp_path):
    data = write(tmp_path / "clip.mkv", NOISY).read_bytes()

    def half(connection, stop):
        reply(connection, data[: len(data) // 2], len(data))
        stop.wait(10)

    with server(half) as url, pytest.raises(MediaError, match=r"container: (no data arrived for|gave up after) 0\.\d"):
        open_clip(url, timeout_seconds=0.4)


def test_a_server_that_sends_forever_but_slowly_is_given_up(tmp_path):
    data = write(tmp_path / "clip.mkv", NOISY, muxer_options={"live": "1"}).read_bytes()

    def trickle(connection, stop):
        reply(connection, data[:-20_000], len(data))
        for at in range(len(data) - 20_000, len(data), 5):
            if stop.wait(0.02):
                return
            connection.sendall(data[at : at + 5])

    began = time.monotonic()
    with server(trickle) as url, pytest.raises(MediaError, match=r"(no data arrived|gave up after)"):
        open_clip(url, timeout_seconds=0.5)
    assert time.monotonic() - began < 20


def test_a_clip_from_a_server_equals_the_file(tmp_path):
    path = write(tmp_path / "clip.mkv", NOISY, Sound(samples=sine(6.0)))
    data = path.read_bytes()
    with server(lambda connection, stop: reply(connection, data)) as url:
        remote = open_clip(url, timeout_seconds=20)
    local = open_clip(path)
    assert np.array_equal(remote.frames, local.frames)
    assert np.array_equal(remote.waveform, local.waveform)
    assert remote.id == url


def test_a_playlist_from_a_server_cannot_open_local_files(clip):
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{clip}\n#EXT-X-ENDLIST\n".encode()
    with (
        server(lambda connection, stop: reply(connection, playlist)) as url,
        pytest.raises(MediaError, match="container: not a "),
    ):
        open_clip(url, timeout_seconds=20)


def test_an_unreachable_server_is_one_error():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(MediaError, match="container: cannot be read: Connection refused"):
        open_clip(f"http://127.0.0.1:{port}/clip.mp4", timeout_seconds=5)


def test_a_display_matrix_at_an_odd_angle_is_a_warning(tmp_path):
    path = turn(write(tmp_path / "clip.mp4", Pictures(times_ms=[0, 100])), (1, 1, -1, 1))
    assert any("no right-angled turn" in warning for warning in open_clip(path).warnings)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_random_damage_gives_a_clip_or_a_media_error(tmp_path, suffix):
    # AVI carries MPEG-4 and PCM, the others H.264 and AAC.
    pictures = Pictures(times_ms=steady(2.0), images=NOISE, time_base=Fraction(1, 10))
    sound = Sound(samples=sine(2.0))
    if suffix == "avi":
        pictures = dataclasses.replace(pictures, codec="mpeg4", options={})
        sound = dataclasses.replace(sound, codec="pcm_s16le")
    data = write(tmp_path / f"whole.{suffix}", pictures, sound).read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / f"damaged.{suffix}"
    for _ in range(25):
        damaged = bytearray(data)
        for at in generator.integers(0, len(data), int(generator.choice([1, 10, 100]))):
            damaged[at] = generator.integers(256)
        if generator.random() < 0.3:
            del damaged[generator.integers(1, len(data)) :]
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(MediaError):
            clip = open_clip(path, timeout_seconds=20)
            assert clip.num_frames <= 4 or clip.duration_seconds > 2
