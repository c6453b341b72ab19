"""`avocet caption`: what is asked, how repetition is met, reading options, subtitles and one file per caption."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from avocet.captioning import choose_instruction
from avocet.cli import main
from avocet.records import Caption


def caption(*arguments: object, model: Path) -> int:
    return main(["caption", *map(str, arguments), "--model", str(model), "--device", "cpu"])


def records(capsys: pytest.CaptureFixture[str]) -> list[Caption]:
    return [Caption.from_json(line) for line in capsys.readouterr().out.splitlines()]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_style_with_its_seed(media_folder: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--style", "dream", "--instruction-seed", 5, "--format", "json")
    assert caption(media_folder, *flags, model=tiny_model_folder) == 0
    for record in records(capsys):
        wanted = choose_instruction("dream", 5, record.clip_id)
        assert (record.instruction, record.instruction_source) == (wanted.text, wanted.source)
        assert re.fullmatch(r"dream\[[012]\] \(seed 5\)", record.instruction_source)


def test_the_seed_is_0_if_not_given(
    media_folder: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert caption(media_folder / "a.mp4", "--style", "full", "--format", "json", model=tiny_model_folder) == 0
    [record] = records(capsys)
    assert record.instruction_source.endswith("] (seed 0)")


def test_instructions_of_a_file(
    media_folder: Path, tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ask.jsonl"
    lines = [{"video": "media/a.mp4", "instruction": "First?"}, {"video": "c.mp4", "instruction": "Third?"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "captions.jsonl"
    flags = ("--instructions-from", file, "--out", out)
    assert caption(media_folder, *flags, "--format", "json", model=tiny_model_folder) == 2
    captured = capsys.readouterr()
    made = [Caption.from_json(line) for line in captured.out.splitlines()]
    assert [(record.instruction, record.instruction_source) for record in made] == [
        *(("First?", "file:ask.jsonl"), ("Third?", "file:ask.jsonl"))
    ]
    assert "ask.jsonl has no instruction for clip" in captured.err
    assert "3 clips asked for; 1 failed" in captured.err
    assert str(media_folder / "b.mp4") in (tmp_path / "captions.failures.jsonl").read_text()
    with file.open("a") as more:
        more.write(json.dumps({"video": "b.mp4", "instruction": "Second?"}) + "\n")
    assert caption(media_folder, *flags, model=tiny_model_folder) == 0
    assert "2 were there already" in capsys.readouterr().err
    assert [Caption.from_json(line).instruction for line in out.read_text().splitlines()] == [
        *("First?", "Third?", "Second?")
    ]


def test_no_model_is_loaded_for_nothing(media_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ask.jsonl").write_text('{"video": "z.mp4", "instruction": "What?"}')
    flags = ("--instructions-from", tmp_path / "ask.jsonl")
    assert caption(media_folder / "a.mp4", *flags, model=tmp_path / "no model") == 2
    assert "ask.jsonl has no instruction for clip" in one_line(capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--instruction", "What?", "--style", "full"), "--instruction and --style exclude each other"),
        (("--style", "full", "--instructions-from", "x.txt"), "--style and --instructions-from exclude each other"),
        (("--instruction-seed", 3), "--instruction-seed chooses among the wordings of a --style"),
        (("--instructions-from", "gone.json"), "gone.json: the instructions cannot be read"),
        (("--instruction", " "), "the instruction (given) is empty"),
    ],
)
def test_impossible_choices(
    flags: tuple[object, ...],
    message: str,
    media_folder: Path,
    tiny_model_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert caption(media_folder / "a.mp4", *flags, model=tiny_model_folder) == 2
    assert message in one_line(capsys)


def test_another_style_does_not_go_into_the_same_file(
    media_folder: Path, tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (media_folder / "a.mp4", "--out", tmp_path / "captions.jsonl")
    assert caption(*flags, "--style", "full", model=tiny_model_folder) == 0
    assert caption(*flags, "--style", "full", model=tiny_model_folder) == 0
    capsys.readouterr()
    for other in (("--style", "ugc"), ("--style", "full", "--instruction-seed", 1), ()):
        assert caption(*flags, *other, model=tiny_model_folder) == 2
        assert "with instruction" in one_line(capsys)
    assert caption(*flags, "--style", "full", "--logprobs", model=tiny_model_folder) == 2
    assert "with log-probabilities False, this run has True" in one_line(capsys)


def test_repetition_and_log_probabilities(
    media_folder: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The random model says the same token for ever; the guard needs 64 tokens to see it.
    common = (media_folder / "a.mp4", "--format", "json", "--max-new-tokens", 100, "--logprobs")
    expected = {
        ("off",): ("length", 100, 1.0),
        ("stop",): ("repetition", 64, 1.0),
        ("retry",): ("repetition", 64, 1.1),
        ("off", "--repetition-penalty", 1.4): ("length", 100, 1.4),
    }
    for flags, (reason, num_tokens, penalty) in expected.items():
        assert caption(*common, "--repetition-guard", *flags, model=tiny_model_folder) == 0
        [record] = records(capsys)
        assert (record.stop_reason, record.num_tokens) == (reason, num_tokens)
        assert (record.sampling.repetition_guard, record.sampling.repetition_penalty) == (flags[0], penalty)
        assert len(record.token_logps) == num_tokens
        assert all(logp <= 0 for logp in record.token_logps)


def test_reading_options(
    media_folder: Path, tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from avocet.models.qwen_omni.tiny import tiny_model

    tiny_model().save(tmp_path / "omni")
    side = 28  # pixels of one visual token of the tiny model
    options = ("--fps", 5, "--max-frames", 4, "--patch-pixels", 6 * side**2, "--total-pixels", 8 * side**2)
    flags = (media_folder / "sub" / "c.mp4", "--format", "json", "--layout", "released", *options)
    assert caption(*flags, model=tmp_path / "omni") == 0
    [record] = records(capsys)
    assert record.num_frames == 4  # of the 10 that 5 a second would be
    assert record.layout_rule == "tmrope_released"
    # Two patches of two frames share 8 tokens.
    assert record.media["num_visual_tokens"] <= 8
    assert record.media["options"] == {
        "layout": "released",
        "fps": 5.0,
        "max_frames": 4,
        "patch_pixels": 6 * 28**2,
        "total_pixels": 8 * 28**2,
    }
    assert caption(media_folder / "a.mp4", "--fps", 1, model=tiny_model_folder) == 2
    assert "has no settings fps" in one_line(capsys)


def test_subtitles_of_one_clip(media_folder: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (media_folder / "sub" / "c.mp4", "--start", 0.5, "--end", 1.5, "--seed", 1, "--temperature", 2)
    assert caption(*flags, "--format", "srt", model=tiny_model_folder) == 0
    number, times, *text = capsys.readouterr().out.rstrip("\n").split("\n")
    assert (number, times) == ("1", "00:00:00,500 --> 00:00:01,500")
    assert text
    assert caption(*flags, "--format", "vtt", model=tiny_model_folder) == 0
    blocks = capsys.readouterr().out.rstrip("\n").split("\n\n")
    assert blocks[0] == "WEBVTT"
    assert blocks[1].startswith(f"NOTE\n{media_folder / 'sub' / 'c.mp4'} (0:00.5-0:01.5, 2 frames")
    # At this temperature rounding may change a token, so the words of two runs are not compared.
    times, *text = blocks[2].split("\n")
    assert times == "00:00:00.500 --> 00:00:01.500"
    assert text


def test_subtitles_of_several_clips_need_a_folder(
    media_folder: Path, tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert caption(media_folder, "--format", "vtt", model=tmp_path / "no model") == 2
    assert "--format vtt describes one clip, not 3; add --documents FOLDER" in one_line(capsys)
    folder = tmp_path / "subtitles"
    assert caption(media_folder, "--format", "vtt", "--documents", folder, model=tiny_model_folder) == 0
    paths = [folder / "a.vtt", folder / "b.vtt", folder / "sub" / "c.vtt"]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths]
    assert all(path.read_text().startswith("WEBVTT\n\nNOTE\n") for path in paths)


def test_a_resumed_run_writes_the_files_of_recorded_captions(
    media_folder: Path, tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "captions.jsonl", tmp_path / "pages"
    assert caption(media_folder / "a.mp4", "--out", out, model=tiny_model_folder) == 0
    capsys.readouterr()
    flags = ("--out", out, "--format", "markdown", "--documents", folder)
    assert caption(media_folder / "a.mp4", media_folder / "b.mp4", *flags, model=tiny_model_folder) == 0
    assert capsys.readouterr().out.splitlines() == [str(folder / "b.md")]
    assert (folder / "a.md").read_text().startswith("## ")


def test_a_still_image_has_no_subtitles(
    media_folder: Path, tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30), (200, 20, 20)).save(tmp_path / "p.png")
    out, folder = tmp_path / "captions.jsonl", tmp_path / "subtitles"
    flags = ("--out", out, "--format", "srt", "--documents", folder)
    for _ in range(2):  # the second run finds the caption recorded
        assert caption(tmp_path / "p.png", media_folder / "a.mp4", *flags, model=tiny_model_folder) == 2
        error = capsys.readouterr().err.splitlines()[0]
        assert re.search(r"p\.png is a still image: it has no interval", error)
    assert len(out.read_text().splitlines()) == 2
    assert [path.name for path in folder.rglob("*.srt")] == ["a.srt"]
