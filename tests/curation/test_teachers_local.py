"""Captioners and Whisper models as teachers: what they are shown, what is kept, what they refuse."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from curation_media import write_video

from avocet.captioning import Captioner
from avocet.curation.outcomes import Cost
from avocet.curation.teachers import (
    NO_SPEECH,
    CaptionerTeacher,
    TeacherError,
    TeacherTask,
    WhisperTeacher,
    load_teachers,
)
from avocet.curation.teachers.whisper import speech_windows
from avocet.errors import CheckpointError, ConfigError, ModelNotFoundError
from avocet.judging.cache import ReplyCache
from avocet.records import ClipRef, Sampling

RATE = 16_000


@pytest.fixture
def play(stage_play: Callable[..., Path]) -> ClipRef:
    """5 s with sound."""
    return ClipRef(id="play", path=str(stage_play(3)))


def seen(clip: ClipRef, index: int = 0) -> TeacherTask:
    return TeacherTask(prompt="visual_caption", media="frames", clip=clip, index=index)


def heard(clip: ClipRef) -> TeacherTask:
    return TeacherTask(prompt="audio_caption", media="sound", clip=clip)


def spoken(clip: ClipRef) -> TeacherTask:
    return TeacherTask(prompt="asr", media="sound", clip=clip)


def test_nano_sees_without_hearing_and_hears_without_seeing(play: ClipRef, tmp_path: Path) -> None:
    bindings = {"visual": "nano", "audio": "nano"}
    with load_teachers(bindings, cache=tmp_path / "c.sqlite") as teachers:
        assert teachers["visual"] is teachers["audio"]
        picture, sound = teachers["visual"].ask(seen(play)), teachers["audio"].ask(heard(play))
    # The play of seed 3 shows a blue heart; a bell rings in it.
    assert "heart" in picture.text
    assert "bell" not in picture.text
    assert "bell" in sound.text
    assert "heart" not in sound.text
    assert picture.teacher.startswith("nano@")
    assert (picture.cost, picture.bought, picture.cached) == (Cost(), Cost(), False)
    with load_teachers(bindings, cache=tmp_path / "c.sqlite") as teachers:
        again = teachers["visual"].ask(seen(play))
    assert (again.text, again.cached, again.prompt_version) == (picture.text, True, picture.prompt_version)


def scripted(model: Any, **options: Any) -> CaptionerTeacher:
    return CaptionerTeacher(Captioner(model, "scripted", "1"), **options)


def test_a_captioner_is_asked_with_its_own_instruction_or_the_prompt(scripted_model: Any, play: ClipRef) -> None:
    asked: list[tuple[str, int, bool]] = []
    model = scripted_model()
    prepare = model.prepare

    def note(clip: Any, instruction: str) -> Any:
        asked.append((instruction, clip.num_frames, clip.waveform is not None))
        return prepare(clip, instruction)

    model.prepare = note
    teacher = scripted(model)
    teacher.ask(seen(play))
    teacher.ask(heard(play))
    scripted(model, use_prompts=True).ask(seen(play))
    # 5 s at the model's 2 frames per second.
    assert asked[:2] == [("Describe the video.", 10, False), ("Describe the video.", 0, True)]
    assert asked[2][0].startswith("You describe what can be seen in a video.")
    assert asked[2][1:] == (10, False)
    assert len({teacher.version, scripted(model, use_prompts=True).version}) == 2


def test_another_clip_sampling_or_index_is_asked_about(scripted_model: Any, play: ClipRef, tmp_path: Path) -> None:
    model = scripted_model()
    part = ClipRef(id="play", path=play.path, start_seconds=1.0, end_seconds=3.0)
    with ReplyCache(tmp_path / "c.sqlite") as cache:
        for _ in range(2):
            for task in (seen(play), seen(play, index=1), seen(part), heard(play)):
                scripted(model, cache=cache).ask(task)
            scripted(model, cache=cache, sampling=Sampling(max_new_tokens=49)).ask(seen(play))
        assert len(cache) == len(model.batches) == 5
        assert [row["calls"] for row in cache.accounts()] == [1, 4]


def test_one_question_is_with_the_model_at_a_time(scripted_model: Any, play: ClipRef) -> None:
    model = scripted_model()
    encode, inside, most = model.encode, [0], [0]

    def note(prompts: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.02)
        inside[0] -= 1
        return encode(prompts)

    model.encode = note
    teacher = scripted(model)
    threads = [threading.Thread(target=teacher.ask, args=(seen(play, index=index),)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(model.batches), most[0]) == (4, 1)


def test_captions_that_are_none_are_not_kept(scripted_model: Any, play: ClipRef, tmp_path: Path) -> None:
    refusing, silent = scripted_model(), scripted_model(answer=lambda clip_id: " ")
    refusing.refused = frozenset({"play"})
    cut = scripted_model(answer=lambda clip_id: "one two three four five")
    cut.default_sampling = Sampling(max_new_tokens=4, repetition_guard="off")
    reasons = []
    with ReplyCache(tmp_path / "c.sqlite") as cache:
        for model in (refusing, silent, cut):
            with pytest.raises(TeacherError) as caught:
                scripted(model, cache=cache).ask(seen(play))
            reasons.append((caught.value.reason, caught.value.at_once))
        assert len(cache) == 0
    assert reasons == [("model_refused", False), ("empty", False), ("cut_off", False)]


def test_a_captioner_reads_no_texts(scripted_model: Any) -> None:
    with pytest.raises(ConfigError, match=r"scripted@1 is a captioner.* cannot be asked 'events'"):
        scripted(scripted_model()).ask(TeacherTask(prompt="events", fields={"caption": "A cat."}))
    with pytest.raises(
        ConfigError, match=r"'nano' names a captioner, which can fill the roles visual, audio, not 'fuse'"
    ):
        load_teachers({"fuse": "nano"})


def test_a_clip_without_sound_has_no_audio_caption(scripted_model: Any, tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", np.zeros((8, 48, 64, 3), np.uint8), None)
    with pytest.raises(TeacherError, match="its audio is absent"):
        scripted(scripted_model()).ask(heard(ClipRef(id="x", path=str(path))))


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper model of a few thousand random weights whose tokens are bytes, and time tokens."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    end, *others = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>")
    others += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    vocabulary = {character: number for number, character in enumerate(sorted(ByteLevel.alphabet()))}
    vocabulary[end] = len(vocabulary)
    tokenizer = WhisperTokenizer(
        vocab=vocabulary, merges=[], unk_token=end, bos_token=end, eos_token=end, pad_token=end
    )
    tokenizer.add_special_tokens({"additional_special_tokens": others})
    tokenizer.add_tokens([f"<|{number * 0.02:.2f}|>" for number in range(1501)])
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (end, *others)}
    ends = {"pad_token_id": ids[end], "bos_token_id": ids[end], "eos_token_id": ids[end]}
    ends["decoder_start_token_id"] = ids["<|startoftranscript|>"]
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer), **sizes, **heads, **ends, suppress_tokens=None, begin_suppress_tokens=None
        )
    )
    model.generation_config = GenerationConfig(
        **ends,
        is_multilingual=True,
        lang_to_id={"<|en|>": ids["<|en|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_initial_timestamp_index=50,
        max_length=48,
    )
    folder = tmp_path_factory.mktemp("whisper") / "tiny"
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    return folder


def test_whisper_gives_text_with_times(whisper_folder: Path, play: ClipRef, tmp_path: Path) -> None:
    answers = []
    for _ in range(2):
        with load_teachers({"asr": f"whisper:{whisper_folder}"}, cache=tmp_path / "c.sqlite") as teachers:
            answers.append(teachers["asr"].ask(spoken(play)))
    first, second = answers
    assert first.teacher.startswith("tiny@")
    assert (first.cached, second.cached, second.text, second.segments) == (False, True, first.text, first.segments)
    assert first.cost == Cost()
    assert first.segments
    assert first.text == " ".join(segment.text for segment in first.segments)
    assert all(0 <= segment.start_seconds <= segment.end_seconds <= 5.0 for segment in first.segments)


def test_long_sound_is_heard_in_windows_and_silence_is_not(whisper_folder: Path, tmp_path: Path) -> None:
    # 40 s: noise that pauses from 27 to 28 s, and from 35 s on nothing.
    noise = (0.1 * np.random.default_rng(0).standard_normal(40 * RATE)).astype(np.float32)
    noise[27 * RATE : 28 * RATE] = 0
    noise[35 * RATE :] = 0
    assert [(start / RATE, end / RATE) for start, end in speech_windows(noise)] == [(0.0, 27.05), (27.05, 40.0)]
    path = write_video(tmp_path / "long.mp4", np.zeros((40, 48, 64, 3), np.uint8), noise, fps=1)
    teacher = WhisperTeacher.load(str(whisper_folder))
    windows: list[float] = []
    hear = teacher._hear

    def note(window: np.ndarray) -> Any:
        windows.append(len(window) / RATE)
        return hear(window)

    teacher._hear = note  # type: ignore[method-assign]
    answer = teacher.ask(spoken(ClipRef(id="x", path=str(path))))
    assert len(windows) == 2
    assert windows[0] == pytest.approx(27.5, abs=0.5)
    starts = [segment.start_seconds for segment in answer.segments]
    assert starts == sorted(starts)
    assert any(start > 27 for start in starts)
    windows.clear()
    end = ClipRef(id="end", path=str(path), start_seconds=36.0, end_seconds=39.0)
    nothing = teacher.ask(spoken(end))
    assert (nothing.text, nothing.segments, windows) == (NO_SPEECH, (), [])


def test_windows_cover_everything_once() -> None:
    sound = np.random.default_rng(1).standard_normal(100 * RATE + 7).astype(np.float32)
    windows = speech_windows(sound)
    assert [start for start, _ in windows] == [0, *(end for _, end in windows[:-1])]
    assert windows[-1][1] == len(sound)
    assert all(25 * RATE <= end - start <= 30 * RATE for start, end in windows[:-1])
    assert speech_windows(sound[: 30 * RATE]) == [(0, 30 * RATE)]


def test_a_model_without_time_tokens_gives_text_alone(whisper_folder: Path, play: ClipRef) -> None:
    teacher = WhisperTeacher.load(str(whisper_folder))
    del teacher._model.generation_config.no_timestamps_token_id
    answer = teacher.ask(spoken(play))
    assert answer.segments == ()
    assert answer.text


def test_whisper_only_recognises_speech(whisper_folder: Path, play: ClipRef, tmp_path: Path) -> None:
    teacher = WhisperTeacher.load(str(whisper_folder))
    with pytest.raises(ConfigError, match=r"only recognises speech: ask it 'asr'"):
        teacher.ask(heard(play))
    with pytest.raises(ConfigError, match="cannot fill the role 'audio'"):
        load_teachers({"audio": f"whisper:{whisper_folder}"})
    with pytest.raises(ModelNotFoundError, match="is not on this machine"):
        load_teachers({"asr": f"whisper:{tmp_path}"})
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(CheckpointError, match="a model of type 'qwen2', not a Whisper model"):
        load_teachers({"asr": f"whisper:{tmp_path}"})
    assert WhisperTeacher.load(str(whisper_folder), language="en").version != teacher.version
