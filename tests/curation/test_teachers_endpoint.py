"""Teachers on a server: what is really sent, what is kept, what failures become."""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curation_media import write_video
from judge_server import Asked, JudgeServer, Step
from PIL import Image

from avocet.curation.outcomes import Cost, Dropped, Failed
from avocet.curation.teachers import MediaSettings, TeacherError, TeacherTask, load_teachers
from avocet.curation.teachers.endpoint import LoopThread
from avocet.curation.teachers.media_parts import video_bytes
from avocet.errors import ConfigError
from avocet.judging.client import ClientSettings
from avocet.judging.costs import Price
from avocet.judging.errors import AccessDenied, CostCeilingReached
from avocet.judging.messages import CallParameters
from avocet.media import open_clip
from avocet.records import ClipRef

QUICK = ClientSettings(backoff_base_seconds=0.01, max_retries=2)
HEARD = {"prompt": "audio_caption", "media": "sound"}
SEEN = {"prompt": "visual_caption", "media": "frames"}


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AVOCET_JUDGE_BASE_URL", "AVOCET_JUDGE_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as running:
        yield running


@pytest.fixture
def play(stage_play: Callable[..., Path]) -> ClipRef:
    """5 s, 192 x 192, with sound."""
    return ClipRef(id="play", path=str(stage_play(3)))


@pytest.fixture
def silent_film(tmp_path: Path) -> ClipRef:
    """2 s without a sound track, 62 x 49."""
    pictures = np.random.default_rng(0).integers(0, 255, (16, 48, 62, 3), dtype=np.uint8)
    return ClipRef(id="silent", path=str(write_video(tmp_path / "silent.mp4", pictures, None)))


def parts_of(asked: Asked) -> list[dict[str, Any]]:
    content = asked.body["messages"][-1]["content"]
    assert isinstance(content, list)
    return content


def pictures_of(asked: Asked) -> list[Image.Image]:
    urls = [part["image_url"]["url"] for part in parts_of(asked) if part["type"] == "image_url"]
    heads = {url.split(",")[0] for url in urls}
    assert heads <= {"data:image/jpeg;base64"}
    return [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in urls]


def sound_of(asked: Asked) -> tuple[int, int, np.ndarray]:
    """Sample rate, channels and samples."""
    (part,) = [part["input_audio"] for part in parts_of(asked) if part["type"] == "input_audio"]
    assert part["format"] == "wav"
    with wave.open(io.BytesIO(base64.b64decode(part["data"]))) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        return file.getframerate(), file.getnchannels(), samples


def test_frames_arrive_as_pictures_at_the_rate_asked_for(server: JudgeServer, play: ClipRef) -> None:
    with load_teachers({"visual": f"gpt-4o@{server.base_url}"}) as teachers:
        answer = teachers["visual"].ask(TeacherTask(**SEEN, clip=play, fps=1.0))
    # 5 s at 1 fps: at 0, 1, 2, 3 and 4 s.
    pictures = pictures_of(server.asked[0])
    assert [(picture.format, picture.size) for picture in pictures] == [("JPEG", (192, 192))] * 5
    assert not any(part["type"] == "input_audio" for part in parts_of(server.asked[0]))
    assert "5 pictures of the video follow, taken at these seconds from its start: 0.0, 1.0, 2.0, 3.0, 4.0." in (
        server.asked[0].text
    )
    truth = open_clip(play.path, fps=1.0).frames[2].transpose(1, 2, 0).astype(float)
    assert np.abs(np.asarray(pictures[2]).astype(float) - truth).mean() < 4
    assert (answer.text, answer.teacher, answer.cached) == ("ok", "gpt-4o", False)
    # 100 prompt and 10 reply tokens, as the server says, at 2.50 and 10 USD per million.
    assert answer.cost == answer.bought == Cost(usd=pytest.approx(0.00035), num_calls=1)


def test_sound_arrives_as_wav_of_the_interval(server: JudgeServer, play: ClipRef) -> None:
    ref = ClipRef(id="part", path=play.path, start_seconds=1.0, end_seconds=3.5)
    with load_teachers({"audio": f"m@{server.base_url}"}) as teachers:
        answer = teachers["audio"].ask(TeacherTask(**HEARD, clip=ref))
    rate, channels, samples = sound_of(server.asked[0])
    assert (rate, channels, len(samples)) == (16_000, 1, 40_000)  # 2.5 s
    truth = open_clip(play.path, start_seconds=1.0, end_seconds=3.5).waveform
    assert truth is not None
    assert np.abs(samples / 32_767 - truth).max() <= 0.5 / 32_767 + 1e-6
    assert pictures_of(server.asked[0]) == []
    assert answer.cost == Cost(usd=0.0, num_calls=1, num_unpriced=1)  # nobody knows what "m" costs


def test_both_arrive_together_within_the_limits(server: JudgeServer, play: ClipRef) -> None:
    media = MediaSettings(max_frames=3, max_pixels=96 * 96)
    task = TeacherTask(prompt="local_intervals", fields={"events": "1. A bell rings."}, media="both", clip=play)
    with load_teachers({"visual": f"m@{server.base_url}"}, media=media) as teachers:
        teachers["visual"].ask(task)
    assert [picture.size for picture in pictures_of(server.asked[0])] == [(96, 96)] * 3
    assert len(sound_of(server.asked[0])[2]) == 80_000
    assert server.asked[0].body["response_format"]["json_schema"]["name"] == "IntervalsReply"


def test_pictures_of_a_clip_without_sound_are_sent_alone(server: JudgeServer, silent_film: ClipRef) -> None:
    task = TeacherTask(prompt="local_intervals", fields={"events": "1. x"}, media="both", clip=silent_film)
    with load_teachers({"visual": f"m@{server.base_url}"}) as teachers:
        teachers["visual"].ask(task)
    assert [part["type"] for part in parts_of(server.asked[0])] == ["text", "image_url", "image_url"]
    assert "sound" not in parts_of(server.asked[0])[0]["text"]


def test_a_whole_file_goes_as_it_is_and_an_interval_is_cut(server: JudgeServer, play: ClipRef, tmp_path: Path) -> None:
    media = MediaSettings(media_as="video_url", fps=4.0)
    part = ClipRef(id="part", path=play.path, start_seconds=1.0, end_seconds=3.0)
    with load_teachers({"visual": f"m@{server.base_url}"}, media=media) as teachers:
        for ref in (play, part):
            fields = {"events": "1. x"}
            teachers["visual"].ask(TeacherTask(prompt="local_intervals", fields=fields, media="both", clip=ref))
        teachers["visual"].ask(TeacherTask(**SEEN, clip=part))
    sent = []
    for number, asked in enumerate(server.asked):
        (url,) = [item["video_url"]["url"] for item in parts_of(asked) if item["type"] == "video_url"]
        assert url.startswith("data:video/mp4;base64,")
        sent.append(tmp_path / f"{number}.mp4")
        sent[-1].write_bytes(base64.b64decode(url.partition(",")[2]))
    assert sent[0].read_bytes() == Path(play.path).read_bytes()
    cut, seen = open_clip(sent[1], fps=4.0), open_clip(sent[2], fps=4.0)
    assert (cut.num_frames, cut.audio_status) == (8, "present")
    assert cut.duration_seconds == pytest.approx(2.0, abs=0.3)
    truth = open_clip(play.path, fps=4.0, start_seconds=1.0, end_seconds=3.0)
    assert np.abs(cut.frames.astype(float) - truth.frames).mean() < 6
    assert (seen.num_frames, seen.audio_status) == (8, "absent")


def test_sound_alone_is_sent_as_sound_where_videos_are_taken(server: JudgeServer, play: ClipRef) -> None:
    with load_teachers({"audio": f"m@{server.base_url}"}, media=MediaSettings(media_as="video_url")) as teachers:
        teachers["audio"].ask(TeacherTask(**HEARD, clip=play))
    assert len(sound_of(server.asked[0])[2]) == 80_000


def test_cut_videos_are_the_same_bytes_again(play: ClipRef) -> None:
    clip = open_clip(play.path, fps=2.0)
    rng = np.random.default_rng(0)
    found = set()
    for turn in range(30):
        # What other work leaves in memory: encoders that read what they did not write differ by it.
        left_behind = [rng.integers(0, 255, 100_000 * (turn % 5 + 1), dtype=np.uint8) for _ in range(5)]
        del left_behind
        found.add(video_bytes(clip))
    assert len(found) == 1


def test_odd_sides_can_be_cut(silent_film: ClipRef, tmp_path: Path) -> None:
    clip = open_clip(silent_film.path, fps=2.0, max_pixels=31 * 24)
    path = tmp_path / "cut.mp4"
    path.write_bytes(video_bytes(clip))
    assert open_clip(path, fps=2.0).frames.shape[2:] == (24 - 24 % 2, 30)


def test_a_second_run_makes_no_call(server: JudgeServer, play: ClipRef, tmp_path: Path) -> None:
    def run() -> list[tuple[str, Cost, Cost, bool]]:
        with load_teachers({"visual": f"gpt-4o@{server.base_url}"}, cache=tmp_path / "c.sqlite") as teachers:
            answers = [teachers["visual"].ask(TeacherTask(**SEEN, clip=play, index=index)) for index in (0, 1)]
        return [(answer.text, answer.cost, answer.bought, answer.cached) for answer in answers]

    server.script = lambda asked: Step(text=f"reply {asked.index}")
    bought = Cost(usd=pytest.approx(0.00035), num_calls=1)
    assert run() == [("reply 0", bought, bought, False), ("reply 1", bought, bought, False)]
    assert run() == [("reply 0", Cost(), bought, True), ("reply 1", Cost(), bought, True)]
    assert len(server.asked) == 2


def test_another_file_under_the_name_is_asked_about(server: JudgeServer, play: ClipRef, tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    with load_teachers({"visual": f"m@{server.base_url}"}, cache=tmp_path / "c.sqlite") as teachers:
        for shade in (20, 200):
            write_video(path, np.full((8, 48, 64, 3), shade, np.uint8), None)
            teachers["visual"].ask(TeacherTask(**SEEN, clip=ClipRef(id="x", path=str(path))))
    assert len(server.asked) == 2


def test_what_was_answered_before_a_kill_is_not_paid_again(server: JudgeServer, play: ClipRef, tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"
    hang = threading.Event()

    def script(asked: Asked) -> Step:
        if asked.index == 1:
            hang.set()
            return Step(latency_seconds=60)
        return Step(text=f"reply {asked.index}")

    server.script = script
    code = f"""
        from avocet.curation.teachers import TeacherTask, load_teachers
        from avocet.records import ClipRef
        with load_teachers({{"audio": "gpt-4o@{server.base_url}"}}, cache={str(cache)!r}) as teachers:
            for index in range(3):
                clip = ClipRef(id="play", path={play.path!r})
                teachers["audio"].ask(TeacherTask(prompt="audio_caption", media="sound", clip=clip, index=index))
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    assert hang.wait(60)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with load_teachers({"audio": f"gpt-4o@{server.base_url}"}, cache=cache) as teachers:
        answers = [teachers["audio"].ask(TeacherTask(**HEARD, clip=play, index=index)) for index in range(3)]
    assert [(answer.text, answer.cached) for answer in answers] == [
        ("reply 0", True),
        ("reply 2", False),
        ("reply 3", False),
    ]


def test_passing_troubles_are_retried(server: JudgeServer, play: ClipRef) -> None:
    steps = [{"status": 429, "headers": {"retry-after": "0"}}, {"status": 500}, {"text": "at last"}]
    server.script = lambda asked: Step(**steps[asked.index])
    with load_teachers({"audio": f"m@{server.base_url}"}, settings=QUICK) as teachers:
        assert teachers["audio"].ask(TeacherTask(**HEARD, clip=play)).text == "at last"
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("step", "reason", "at_once", "num_paid", "num_asked"),
    [
        ({"status": 429}, "rate_limited", False, 0, 3),
        ({"status": 503}, "server_error", False, 0, 3),
        ({"status": 400}, "rejected", False, 0, 1),
        ({"drop": "middle"}, "connection", False, 0, 3),
        ({"raw": "{}"}, "malformed", False, 0, 3),
        ({"text": " "}, "empty", True, 1, 1),
        ({"text": "A man wal", "finish_reason": "length"}, "cut_off", False, 1, 1),
        ({"text": "no", "finish_reason": "content_filter"}, "withheld", False, 1, 1),
    ],
)
def test_failures_have_a_code_and_their_cost(
    server: JudgeServer, play: ClipRef, step: dict[str, Any], reason: str, at_once: bool, num_paid: int, num_asked: int
) -> None:
    server.script = lambda asked: Step(**step)
    teachers = load_teachers({"audio": f"gpt-4o@{server.base_url}"}, settings=QUICK)
    with teachers, pytest.raises(TeacherError) as caught:
        teachers["audio"].ask(TeacherTask(**HEARD, clip=play))
    error = caught.value
    assert (error.reason, error.at_once, error.cost.num_calls) == (reason, at_once, num_paid)
    assert len(server.asked) == num_asked
    earlier = Cost(usd=1.0, num_calls=2)
    outcome = error.outcome(earlier)
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.at_once) == (reason, at_once)
    assert outcome.cost == error.cost + earlier


def test_a_sampled_reply_that_was_cut_off_may_be_tried_again(server: JudgeServer, play: ClipRef) -> None:
    server.script = lambda asked: Step(text="A man wal", finish_reason="length")
    teachers = load_teachers({"audio": f"m@{server.base_url}"}, parameters=CallParameters(temperature=0.7))
    with teachers, pytest.raises(TeacherError) as caught:
        teachers["audio"].ask(TeacherTask(**HEARD, clip=play))
    assert caught.value.at_once


def test_what_is_kept_is_paid_for_once_and_what_is_not_again(
    server: JudgeServer, play: ClipRef, tmp_path: Path
) -> None:
    with load_teachers({"visual": f"gpt-4o@{server.base_url}"}, cache=tmp_path / "c.sqlite") as teachers:
        whole = [teachers["visual"].ask(TeacherTask(**SEEN, clip=play)).bought for _ in range(2)]
        server.script = lambda asked: Step(text="no", finish_reason="content_filter")
        withheld = []
        for _ in range(2):
            with pytest.raises(TeacherError, match="withheld") as raised:
                teachers["visual"].ask(TeacherTask(**SEEN, clip=play, index=1))
            withheld.append(raised.value.cost)
    assert len(server.asked) == 3
    assert (sum(whole, Cost()).num_calls, sum(withheld, Cost()).num_calls) == (1, 2)


def test_no_access_stops_the_run(server: JudgeServer, play: ClipRef) -> None:
    server.script = lambda asked: Step(status=401)
    teachers = load_teachers({"audio": f"m@{server.base_url}"}, settings=QUICK)
    with teachers, pytest.raises(AccessDenied, match="refuses access"):
        teachers["audio"].ask(TeacherTask(**HEARD, clip=play))


def test_the_ceiling_holds_over_all_models(server: JudgeServer, play: ClipRef) -> None:
    # A question may cost up to 0.005 USD in reply (500 tokens at 10 USD per million) and less than 0.002 for the rest.
    bindings = {"audio": f"a@{server.base_url}", "visual": f"b@{server.base_url}"}
    server.script = lambda asked: Step(usage={"prompt_tokens": 0, "completion_tokens": 500, "total_tokens": 500})
    options: dict[str, Any] = {
        "price": {"a": Price(input_usd=1.0, output_usd=10.0), "b": Price(input_usd=1.0, output_usd=10.0)},
        "parameters": CallParameters(max_tokens=500),
    }
    fuse = {"prompt": "events", "fields": {"caption": "A cat."}}
    with load_teachers(bindings, max_cost_usd=0.008, **options) as teachers:
        teachers["audio"].ask(TeacherTask(**fuse))
        with pytest.raises(CostCeilingReached, match="are spent"):
            teachers["visual"].ask(TeacherTask(**fuse))
    assert len(server.asked) == 1
    with pytest.raises(ConfigError, match="price of 'a' is not known"):
        load_teachers(bindings, max_cost_usd=1.0)


def test_unreadable_media_drop_the_clip(server: JudgeServer, tmp_path: Path, silent_film: ClipRef) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    missing = tmp_path / "missing.mp4"
    found: dict[str, Any] = {}
    with load_teachers({"audio": f"m@{server.base_url}"}) as teachers:
        for path in (broken, missing, Path(silent_film.path)):
            with pytest.raises(TeacherError) as caught:
                teachers["audio"].ask(TeacherTask(**HEARD, clip=ClipRef(id="x", path=str(path))))
            found[path.name] = caught.value.outcome(Cost(num_calls=1))
    assert isinstance(found["broken.mp4"], Dropped)
    assert isinstance(found["missing.mp4"], Failed)
    assert [found[name].reason for name in found] == ["media_error", "media_unavailable", "no_sound"]
    assert {outcome.cost.num_calls for outcome in found.values()} == {1}
    assert server.asked == []


def test_media_that_are_too_large_are_not_sent(server: JudgeServer, play: ClipRef) -> None:
    media = MediaSettings(max_bytes=10_000)
    teachers = load_teachers({"audio": f"m@{server.base_url}"}, media=media)
    # 5 s of sound are 160,044 bytes.
    with teachers, pytest.raises(TeacherError, match=r"160,044 bytes of media, at most 10,000") as caught:
        teachers["audio"].ask(TeacherTask(**HEARD, clip=play))
    assert (caught.value.reason, caught.value.at_once) == ("too_large", False)


def test_threads_ask_at_once_and_within_the_limit(server: JudgeServer) -> None:
    server.script = lambda asked: Step(text=f"reply {asked.text[-400:]}", latency_seconds=0.05)
    settings = ClientSettings(concurrency=4)
    with load_teachers({"check": f"m@{server.base_url}"}, settings=settings) as teachers:
        answers: dict[int, str] = {}

        def ask(number: int) -> None:
            task = TeacherTask(prompt="events", fields={"caption": f"Caption number {number}."})
            answers[number] = teachers["check"].ask(task).text

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 12
    assert server.peak == 4


def test_closing_ends_what_is_on_its_way(server: JudgeServer) -> None:
    server.script = lambda asked: Step(latency_seconds=60)
    teachers = load_teachers({"check": f"m@{server.base_url}"})
    task = TeacherTask(prompt="events", fields={"caption": "A cat."})
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            teachers["check"].ask(task)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not server.asked:
        time.sleep(0.01)
    teachers.close()
    thread.join(10)
    assert [str(error) for error in errors] == ["the teachers were closed while a question was on its way"]
    teachers.close()
    with pytest.raises(ConfigError, match="closed; load them again"):
        teachers["check"].ask(task)


def test_a_closed_loop_refuses_calls() -> None:
    loop = LoopThread()
    loop.close()
    loop.close()

    async def call() -> int:
        return 1

    with pytest.raises(ConfigError, match="closed"):
        loop.run(call())
