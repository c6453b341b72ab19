"""Checking: real files, good and broken, and numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avocet.errors import ConfigError
from avocet.models.registry import load_model
from avocet.records import ClipRef, PreferencePair, TrainingExample
from avocet.training.data import ExampleSet, Rejected, check_examples
from avocet.training.data.check import CheckReport, count_words
from avocet.training.data.check_media import MediaFacts, MediaJob, describe, gather_facts, stamped
from avocet.training.data.check_report import distribution, histogram_lines


def example(path: Path | str, clip_id: str = "", **changes) -> TrainingExample:
    clip = ClipRef(id=clip_id or Path(path).name, path=str(path), **changes.pop("clip", {}))
    base = TrainingExample(clip=clip, task="caption", instruction="Describe.", target=f"A caption of {clip.id}.")
    return dataclasses.replace(base, **changes)


def kinds(report: CheckReport) -> list[tuple[str, str]]:
    return [(problem.kind, problem.clip_id) for problem in report.problems]


@pytest.fixture
def media(tmp_path, clip_writer, sound_writer) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    clip_writer(folder / "loud.mp4", seconds=2.0)
    clip_writer(folder / "mute.mp4", seconds=1.0, tone_hertz=None)
    sound_writer(folder / "tone.flac", seconds=3.0)
    sound_writer(folder / "silent.wav", seconds=1.0, tone_hertz=None)
    whole = (folder / "loud.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(folder / "picture.png")
    return folder


def test_a_good_set(media):
    examples = [
        example(media / "loud.mp4"),
        example(media / "mute.mp4"),
        example(media / "tone.flac", task="asr", clip={"meta": {"media": "audio"}}),
        example(media / "picture.png", clip={"meta": {"media": "image"}}),
        example(media / "loud.mp4", task="qa", instruction="What?", target="A tone, and grey."),
    ]
    report = check_examples(examples, workers=0)
    assert report.problems == ()
    assert report.num_broken == 0
    assert (report.num_examples, report.num_pairs, report.num_clips, report.decoded) == (5, 0, 4, False)
    assert report.tasks == {"caption": 3, "asr": 1, "qa": 1}
    assert report.sound == {"present": 3, "absent": 2}
    duration = report.lengths["duration"]
    # 2 + 1 + 3 + 2 seconds; the picture has no duration.
    assert duration.num == 4
    assert duration.total == pytest.approx(8.0, abs=0.2)
    assert duration.largest == pytest.approx(3.0, abs=0.05)
    words = report.lengths["target_words"]
    # "A caption of NAME." is four words, as is the answer.
    assert (words.num, words.smallest, words.largest, words.total) == (5, 4, 4, 20)
    assert set(report.lengths) == {"duration", "target_words"}


def test_broken_and_missing_files(media):
    examples = [example(media / "broken.mp4"), example(media / "none.mp4"), example(media / "loud.mp4")]
    report = check_examples(examples, decode=True, workers=0)
    assert kinds(report) == [("broken_media", "broken.mp4"), ("missing_file", "none.mp4")]
    assert report.num_broken == 2
    assert report.lengths["duration"].num == 1


def test_damage_inside_of_a_file_is_found_by_decoding_only(media, clip_writer):
    path = clip_writer(media / "hurt.mp4", seconds=4.0)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 8
    data[start : start + 4000] = bytes(4000)
    path.write_bytes(data)
    assert check_examples([example(path)], workers=0).num_broken == 0
    report = check_examples([example(path)], decode=True, workers=0)
    assert kinds(report)[0][0] in ("broken_media", "media_warning")


def test_sound_where_it_is_needed(media):
    needs = {"meta": {"audio_policy": "require", "audio_path": "/m/mute.wav"}}
    examples = [
        example(media / "mute.mp4", "asr", task="asr"),
        example(media / "mute.mp4", "captioned", task="audio_caption"),
        example(media / "mute.mp4", "required", clip=needs),
        example(media / "mute.mp4", "plain"),
        example(media / "mute.mp4", "ignored", clip={"meta": {"audio_policy": "ignore"}}),
        example(media / "silent.wav", "silent", task="asr"),
        example(media / "picture.png", "picture", task="asr"),
        example(media / "tone.flac", "deaf", clip={"meta": {"media": "video"}}),
    ]
    headers = check_examples(examples, workers=0)
    absent = [("missing_sound", name) for name in ("asr", "captioned", "required")]
    rest = [("missing_sound", "picture"), ("missing_picture", "deaf")]
    assert kinds(headers) == absent + rest
    assert "its sound is in /m/mute.wav: put both into one file first" in headers.problems[2].message
    decoded = check_examples(examples, decode=True, workers=0)
    problems = [one for one in kinds(decoded) if one[0] != "media_warning"]
    assert problems == [*absent, ("silent_sound", "silent"), *rest]
    assert decoded.num_broken == 4


def test_intervals_outside_of_the_file(media):
    path = media / "loud.mp4"  # two seconds
    examples = [
        example(path, "inside", clip={"start_seconds": 0.5, "end_seconds": 2.0}),
        example(path, "rounded", clip={"start_seconds": 0.5, "end_seconds": 2.4}),
        example(path, "too long", clip={"start_seconds": 0.5, "end_seconds": 3.0}),
        example(path, "after", clip={"start_seconds": 5.0}),
        example(
            path, "local", instruction="Describe 1 to 9 s.", task="local_caption", start_seconds=1.0, end_seconds=9.0
        ),
        example(media / "picture.png", "picture", clip={"start_seconds": 0.0, "end_seconds": 1.0}),
    ]
    for decode in (False, True):
        report = check_examples(examples, decode=decode, workers=0)
        found = [one for one in kinds(report) if one[0] != "media_warning"]
        assert found == [("interval_outside", name) for name in ("too long", "after", "local", "picture")]
    assert (
        "[5.0, None), but the file ends at 2.0"
        in report.problems[[one[1] for one in kinds(report)].index("after")].message
    )


def test_durations_are_those_of_the_intervals(media):
    path = media / "loud.mp4"
    cut = example(path, "cut", clip={"start_seconds": 0.5, "end_seconds": 1.25})
    tail = example(path, "tail", clip={"start_seconds": 1.5})
    lengths = check_examples([cut, tail], workers=0).lengths["duration"]
    assert lengths.largest == pytest.approx(0.75)
    assert lengths.smallest == pytest.approx(0.5, abs=0.1)


def test_problems_between_items(media):
    loud, mute = media / "loud.mp4", media / "mute.mp4"
    examples = [
        example(loud, "a", target="Same words."),
        example(mute, "b", target="Same words."),
        example(loud, "a", target="Same words."),
        example(mute, "a", target="Other words."),
        example(loud, "a", task="qa", instruction="Yes?", target="B"),
        example(mute, "b", task="qa", instruction="Yes?", target="B"),
    ]
    report = check_examples(examples, workers=0)
    assert kinds(report) == [("same_target", "b"), ("repeated_example", "a"), ("one_id_two_clips", "a")]
    assert report.num_broken == 1


def test_empty_texts(media):
    blank = example(media / "loud.mp4", target=" \n")
    mute = example(media / "mute.mp4", task="qa", instruction="")
    assert kinds(check_examples([blank, mute], workers=0)) == [("empty_text", "loud.mp4"), ("empty_text", "mute.mp4")]


def test_no_instruction_is_the_models_own(media, tiny_model_folder):
    own = load_model(str(tiny_model_folder), device="meta").model.default_instruction
    examples = [
        example(media / "loud.mp4", "none", instruction=""),
        example(media / "loud.mp4", "own", instruction=own),
    ]
    pairs = [pair(media / "loud.mp4", instruction="")]
    assert check_examples([*examples, *pairs], workers=0).problems == ()
    report = check_examples(examples, model=str(tiny_model_folder), workers=0)
    assert report.num_broken == 0
    assert report.lengths["prompt_tokens"].smallest == report.lengths["prompt_tokens"].largest
    # White space is neither an instruction nor none.
    blank = example(media / "loud.mp4", instruction=" ")
    assert kinds(check_examples([blank], workers=0)) == [("empty_text", "loud.mp4")]


def test_a_local_caption_names_its_interval(media):
    """Two seconds of video; intervals are on the file's timeline, questions count from the start of the clip."""
    path, cut = media / "loud.mp4", {"start_seconds": 0.5, "end_seconds": 1.5}

    def local(
        name: str, instruction: str, interval: tuple[float, float] | None = (1.0, 2.0), **clip
    ) -> TrainingExample:
        start, end = interval or (None, None)
        changes = {"task": "local_caption", "start_seconds": start, "end_seconds": end, "clip": clip}
        return example(path, name, instruction=instruction, **changes)

    examples = [
        local("named", "Describe the video from 1 to 2 seconds."),
        local("clock", "What happens between 0:01 and 0:02?"),
        local("from the cut", "Describe 0.5 to 1 seconds.", (1.0, 1.5), **cut),
        local("cut to it", "Describe.", (0.5, 1.5), **cut),
        local("cut", "", None, **cut),
        local("read from the question", "Describe the video from 1 to 2 seconds.", None),
        local("unnamed", "Describe the end."),
        local("other", "Describe the video from 0 to 1 seconds."),
        local("of the file", "Describe 11 to 12 seconds.", (1.0, 1.5), **cut),
        local("model's own", ""),
        local("nowhere", "Describe a part.", None),
    ]
    report = check_examples(examples, workers=0)
    wrong = ("unnamed", "other", "of the file", "model's own", "nowhere")
    assert kinds(report) == [("interval_unnamed", name) for name in wrong]
    assert report.num_broken == 0
    messages = [problem.message for problem in report.problems]
    assert (
        messages[0]
        == "the caption is of 1 to 2 seconds of the clip, which the question does not say: 'Describe the end.'"
    )
    assert messages[2].startswith("the caption is of 0.5 to 1 seconds of the clip, which")
    assert messages[4] == "neither the item nor its question says which seconds it is of"


def pair(path: Path, **changes) -> PreferencePair:
    base = PreferencePair(
        clip=ClipRef(id="p", path=str(path)),
        instruction="Describe.",
        chosen="one two three",
        rejected="one",
        ground_truth="",
        chosen_metrics={},
        rejected_metrics={},
        round=1,
    )
    return dataclasses.replace(base, **changes)


def test_pairs_and_rejected_items_are_in_the_report(media):
    rejected = (Rejected(where="x.json: item 1", reason="no words"),)
    data = ExampleSet(pairs=(pair(media / "loud.mp4"),), rejected=rejected, notes={"a note": 2})
    report = check_examples(data, workers=0)
    assert (report.num_examples, report.num_pairs, report.num_broken) == (0, 1, 1)
    assert report.lengths["target_words"].total == 3
    assert kinds(check_examples([pair(media / "loud.mp4", rejected=" ")], workers=0)) == [("empty_text", "p")]
    assert CheckReport.from_json(report.to_json_line()) == report


def test_token_budgets_are_those_of_the_model(media, tiny_model_folder):
    from avocet.media import open_clip

    name = str(tiny_model_folder)
    examples = [
        example(media / "loud.mp4", "a", target="a red ball appears"),
        example(media / "loud.mp4", "a", instruction="Describe the video with its sound.", target="a dog barks"),
        example(media / "mute.mp4", "b"),
    ]
    report = check_examples(examples, model=name, workers=0)
    # Decoding says of the mute clip that it is mute.
    assert kinds(report) == [("media_warning", "b")]
    assert report.decoded
    assert report.sound == {"present": 2, "absent": 1}
    model = load_model(name, device="cpu").model
    prompts, targets = [], []
    for one in examples:
        clip = open_clip(one.clip.path, fps=model.clip_fps, max_frames=model.max_frames, min_frames=model.min_frames)
        prompts.append(len(model.prepare(clip, one.instruction).token_ids))
        targets.append(len(model.encode_text(one.target, end=True)))  # type: ignore[attr-defined]
    assert report.lengths["prompt_tokens"].total == sum(prompts)
    assert report.lengths["target_tokens"].total == sum(targets)
    sums = [prompt + target for prompt, target in zip(prompts, targets, strict=True)]
    assert (report.lengths["all_tokens"].largest, report.lengths["all_tokens"].total) == (max(sums), sum(sums))
    tight = check_examples(examples, model=name, max_tokens=max(sums) - 1, workers=0)
    assert [problem.kind for problem in tight.problems if not problem.is_warning] == ["too_long"] * sums.count(
        max(sums)
    )
    assert f"at most {max(sums) - 1} are allowed" in tight.problems[0].message
    with pytest.raises(ConfigError, match="name one"):
        check_examples(examples, max_tokens=5)


def test_a_ledger_does_only_what_is_missing_and_notices_changed_files(media, tmp_path, clip_writer):
    looked = []

    def look(job: MediaJob) -> MediaFacts:
        looked.append(Path(job.path).name)
        return describe(job)

    ledger = tmp_path / "media.jsonl"

    def facts(*names: str) -> list[str | None]:
        looked.clear()
        jobs = [stamped(MediaJob(path=str(media / name))) for name in names]
        found = gather_facts(jobs, workers=0, ledger=ledger, look=look)
        return [found[job.key].error for job in jobs]

    assert facts("loud.mp4", "none.mp4") == [None, "no such file"]
    assert looked == ["loud.mp4", "none.mp4"]
    # A missing file may come; a finished one is not read again.
    assert facts("loud.mp4", "none.mp4", "mute.mp4") == [None, "no such file", None]
    assert looked == ["none.mp4", "mute.mp4"]
    clip_writer(media / "loud.mp4", seconds=1.0)
    os.utime(media / "loud.mp4", ns=(1, 1))
    assert facts("loud.mp4", "mute.mp4") == [None, None]
    assert looked == ["loud.mp4"]


def die_on_mute(job: MediaJob) -> MediaFacts:
    """In a worker process: what a crash of a decoder looks like."""
    if job.path.endswith("mute.mp4"):
        os._exit(9)
    return describe(job)


def test_processes_and_one_that_dies(media):
    names = ("mute.mp4", "loud.mp4", "broken.mp4", "tone.flac")
    jobs = [stamped(MediaJob(path=str(media / name))) for name in names]
    steps: list[tuple[int, int]] = []
    found = gather_facts(jobs, workers=1, look=die_on_mute, progress=lambda done, total: steps.append((done, total)))
    errors = [found[job.key].error for job in jobs]
    assert errors[0] is not None
    assert "died" in errors[0]
    assert errors[1] is None
    assert found[jobs[1].key].duration_seconds == pytest.approx(2.0, abs=0.1)
    assert found[jobs[2].key].error != errors[0]
    assert found[jobs[3].key].error is None
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(ConfigError, match="workers must be"):
        gather_facts(jobs, workers=-1)


def test_strange_paths_are_missing_files(tmp_path):
    report = check_examples([example("a\0.mp4", "nul"), example(tmp_path, "folder")], workers=0)
    assert kinds(report) == [("missing_file", "nul"), ("missing_file", "folder")]


def test_the_page(media):
    names = ["a|b", "<script>", "[x](y)"]
    examples = [example(media / f"none{number}.mp4", name) for number, name in enumerate(names)]
    examples.append(example(media / "loud.mp4"))
    rejected = tuple(Rejected(where=f"x:{number}", reason="bad") for number in range(30))
    data = ExampleSet(examples=tuple(examples), rejected=rejected, notes={"a note": 2})
    report = check_examples(data, workers=0)
    page = report.markdown()
    assert "**33 broken**, 0 warnings" in page
    assert "## missing\\_file" not in page
    assert "## missing_file (3, broken)" in page
    for written in ("a\\|b", "\\<script\\>", "\\[x\\]"):
        assert written in page
    assert "... and 10 more" in page
    assert "- 2 x a note" in page
    assert "### duration (seconds)" in page
    json.loads(report.to_json_line())


def test_distributions_by_hand():
    one = distribution([1, 2, 3, 4, 100], "words")
    assert one is not None
    assert (one.num, one.total, one.mean, one.median, one.largest) == (5, 110, 22, 3, 100)
    # 100 / 10 bins: steps of 10 from 0 to 100.
    assert one.edges == tuple(range(0, 101, 10))
    assert one.counts == (4, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    assert histogram_lines(one)[0] == "  0 -  10         4  " + "#" * 30
    assert histogram_lines(one)[1] == " 10 -  20         0"
    zeros = distribution([0, 0], "words")
    assert zeros is not None
    assert sum(zeros.counts) == 2
    assert distribution([], "words") is None
    # Two words at most: steps of a word, not of a fifth of one.
    few = distribution([1, 2], "words")
    assert few is not None
    assert (few.edges, few.counts) == ((0, 1, 2), (0, 2))
    small = distribution([0.1, 0.25], "seconds")
    assert small is not None
    assert small.edges == pytest.approx((0, 0.05, 0.1, 0.15, 0.2, 0.25))
    assert sum(small.counts) == 2


@pytest.mark.parametrize(("text", "count"), [("a b  c.", 3), ("", 0), ("一只狗 barks", 4), ("it's-fine", 1)])
def test_words(text, count):
    assert count_words(text) == count
