"""Preference pairs to TRL, ms-swift and the released formats and back, and released files as a stage's data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from avocet.cli.data import main
from avocet.errors import ConfigError
from avocet.records import ClipRef, PreferencePair, TrainingExample
from avocet.theatre.language import reference_caption
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.data import DataSource, ExampleSet, convert_examples, read_examples
from avocet.training.finetune import BatchSettings, FineTune, FineTuneOptimizer, LoraSettings, ReadSettings
from avocet.training.finetune.config import PreferenceSettings
from avocet.training.finetune.loop import fine_tune
from avocet.training.finetune.watch import METRICS_FILE, read_metrics

FORMATS = {"trl": "x.jsonl", "ms-swift": "x.jsonl", "vs2-dpo": "x.json", "v1": "x.json"}
"""Name of the format to write, a file for it."""
READ_AS = {"trl": "trl", "ms-swift": "ms_swift", "vs2-dpo": "plus", "v1": "v1"}


def pair(**changes: Any) -> PreferencePair:
    base = PreferencePair(
        clip=ClipRef(id="a", path="/m/a.mp4", meta={"theatre": {"seed": 7, "level": 1}}),
        instruction="Describe it.",
        chosen="A dog barks.",
        rejected="A cat sits \u2028 still.",
        ground_truth="A dog barks and runs.",
        chosen_metrics={"error_rate": 0.25, "miss": 0.25, "hall": 0.0, "repetition_rate": 0.0},
        rejected_metrics={"error_rate": 1.0, "miss": 0.5, "hall": 0.5, "repetition_rate": 0.125},
        round=3,
    )
    return dataclasses.replace(base, **changes)


def clip(**changes: Any) -> ClipRef:
    return dataclasses.replace(ClipRef(id="b", path="/m/b.mp4"), **changes)


PAIRS = (
    pair(),
    pair(clip=clip(id="plain"), chosen_metrics={}, rejected_metrics={}, round=1),
    pair(clip=clip(id="loud", meta={"audio_policy": "require", "fields": {"x": [1, {"y": None}]}})),
    pair(clip=clip(id="mute", meta={"audio_policy": "ignore"})),
    pair(clip=clip(id="spaces"), chosen=" A dog barks.\n", rejected="A cat.\n\n", ground_truth="True. "),
    pair(clip=clip(id="sound", path="/m/s.wav", meta={"media": "audio"})),
    pair(clip=clip(id="odd"), chosen='He says "avocet": {} and \\ <b>.', rejected="日本語 and 🎬"),
)


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_exported_is_read_again_to_the_same_pairs(format: Any, tmp_path: Path) -> None:
    path = tmp_path / FORMATS[format]
    report = convert_examples(ExampleSet(pairs=PAIRS), format, path)
    assert (report.num_pairs, report.skipped) == (len(PAIRS), ())
    assert report.format == READ_AS[format]
    back = read_examples(path)
    assert back.formats == {str(path): READ_AS[format]}
    assert back.rejected == ()
    assert back.pairs == PAIRS
    assert not [note for note in back.notes if "without a ground truth" in note]
    # And from there to another format and back.
    convert_examples(back, "native", tmp_path / "native.jsonl")
    assert read_examples(tmp_path / "native.jsonl").pairs == PAIRS


@pytest.mark.parametrize("format", ["trl", "ms-swift"])
def test_pairs_without_a_ground_truth_stay_without(format: Any, tmp_path: Path) -> None:
    given = (pair(ground_truth=""), pair(clip=clip()))
    convert_examples(ExampleSet(pairs=given), format, tmp_path / "x.jsonl")
    back = read_examples(tmp_path / "x.jsonl")
    assert back.pairs == given
    assert sum(count for note, count in back.notes.items() if "without a ground truth" in note) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_instruction_is_asked_in_words_and_empty_again(format: Any, tmp_path: Path) -> None:
    """In our data it means what the model asks by default; other trainers know no such thing."""
    data = ExampleSet(pairs=(pair(instruction=""),))
    path = tmp_path / FORMATS[format]
    report = convert_examples(data, format, path)
    assert [one.reason for one in report.skipped] == [
        "the question has no words; give what is to be asked (`instruction`)"
    ]
    path.unlink()
    assert convert_examples(data, format, path, instruction="What happens?").skipped == ()
    assert "What happens?" in path.read_text()
    assert read_examples(path).pairs == data.pairs


def test_rows_of_trl(tmp_path: Path) -> None:
    convert_examples(ExampleSet(pairs=PAIRS[:1]), "trl", tmp_path / "x.jsonl")
    row = json.loads((tmp_path / "x.jsonl").read_text())
    kept = json.loads(row.pop("avocet"))
    assert row == {
        "id": "a",
        "prompt": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Describe it."}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A dog barks."}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A cat sits \u2028 still."}]}],
        "videos": ["/m/a.mp4"],
    }
    assert kept == {
        "chosen_metrics": PAIRS[0].chosen_metrics,
        "rejected_metrics": PAIRS[0].rejected_metrics,
        "ground_truth": "A dog barks and runs.",
        "round": 3,
        "meta": {"theatre": {"seed": 7, "level": 1}},
    }


def test_rows_of_ms_swift_and_of_the_release(tmp_path: Path) -> None:
    convert_examples(ExampleSet(pairs=PAIRS[1:2]), "ms-swift", tmp_path / "s.jsonl")
    row = json.loads((tmp_path / "s.jsonl").read_text())
    assert row == {
        "id": "plain",
        "messages": [
            {"role": "user", "content": "<video>Describe it."},
            {"role": "assistant", "content": "A dog barks."},
        ],
        "rejected_response": "A cat sits \u2028 still.",
        "videos": ["/m/b.mp4"],
        "avocet": '{"ground_truth": "A dog barks and runs."}',
    }
    loud = pair(clip=clip(meta={"audio_policy": "require"}), chosen_metrics={}, rejected_metrics={}, round=1)
    convert_examples(ExampleSet(pairs=(loud,)), "vs2-dpo", tmp_path / "r.json")
    (item,) = json.loads((tmp_path / "r.json").read_text())
    # Everything has a place, so there is no field of ours.
    assert item == {
        "id": "b",
        "video": "/m/b.mp4",
        "use_audio": True,
        "conversations": [
            {"from": "human", "value": "<video>\nDescribe it."},
            {"from": "gpt", "value": "A dog barks and runs."},
            {"from": "chosen", "value": "A dog barks."},
            {"from": "reject", "value": "A cat sits \u2028 still."},
        ],
    }


def test_every_column_has_one_type_in_all_rows(tmp_path: Path) -> None:
    """Tables of columns would fill what a row lacks with nulls, and read a null `video` of a text part as a video."""
    given = tuple(one for one in PAIRS if "media" not in one.clip.meta)
    for format in ("trl", "ms-swift"):
        path = tmp_path / f"{format}.jsonl"
        convert_examples(ExampleSet(pairs=given), format, path)
        rows = [json.loads(line) for line in path.read_text().split("\n") if line]
        assert len(rows) == len(given)
        assert len({frozenset(row) for row in rows}) == 1
        assert {type(row["avocet"]) for row in rows} == {str}
        parts = [part for row in rows for turn in row.get("prompt", ()) for part in turn["content"]]
        assert all(set(part) == ({"type", "text"} if part["type"] == "text" else {"type"}) for part in parts)


def test_trl_takes_the_rows_for_conversations(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from trl import is_conversational

    convert_examples(ExampleSet(pairs=PAIRS[:1]), "trl", tmp_path / "x.jsonl")
    assert is_conversational(json.loads((tmp_path / "x.jsonl").read_text()))


def test_what_cannot_be_exported_is_skipped_with_the_reason(tmp_path: Path) -> None:
    given = ExampleSet(
        examples=(TrainingExample(clip=clip(id="sft"), task="caption", instruction="Describe.", target="A dog."),),
        pairs=(
            pair(clip=clip(id="collapsed"), rejected=" \n"),
            pair(clip=clip(id="cut", start_seconds=1.0, end_seconds=2.5)),
            pair(clip=clip(id="marked"), instruction="<video><video> Which?"),
            pair(clip=clip(id="good")),
        ),
    )
    expected = {
        "sft": "trl holds preference pairs only",
        "collapsed": "'rejected' has no words",
        "cut": "trl has no place for an interval of a clip; cut the file first",
        "marked": "2 placeholders <video> in a question: one clip per item",
    }
    report = convert_examples(given, "trl", tmp_path / "x.jsonl")
    assert {one.where: one.reason for one in report.skipped} == expected
    assert read_examples(tmp_path / "x.jsonl").pairs == given.pairs[-1:]
    # v1 cuts clips itself.
    report = convert_examples(given, "v1", tmp_path / "x.json")
    assert [one.where for one in report.skipped] == ["collapsed", "marked"]
    assert read_examples(tmp_path / "x.json").pairs == (given.pairs[1], given.pairs[3])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda kept: "{", "is no JSON text"),
        (lambda kept: json.dumps({"clip": {}}), "must be an object of chosen, chosen_metrics"),
        (lambda kept: "[1]", "must be an object"),
        (lambda kept: json.dumps({**kept, "round": 0}), "round starts at 1"),
        (lambda kept: json.dumps({**kept, "round": "many"}), "round"),
        (lambda kept: json.dumps({**kept, "chosen": "Another text."}), "holds another chosen than the item"),
    ],
)
def test_a_damaged_field_rejects_its_item_alone(
    change: Callable[[dict[str, Any]], str], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    convert_examples(ExampleSet(pairs=PAIRS[:2]), "ms-swift", path)
    first, second = (json.loads(line) for line in path.read_text().split("\n") if line)
    first["avocet"] = change(json.loads(first["avocet"]))
    path.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    back = read_examples(path)
    assert back.pairs == PAIRS[1:2]
    assert [reason in one.reason for one in back.rejected] == [True]


def turns(*said: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in said]


def test_rows_of_others_in_trls_format(tmp_path: Path, dumper: Callable[..., Path]) -> None:
    answers = {"chosen": turns(("assistant", "good")), "rejected": turns(("assistant", "bad"))}
    parts = [{"type": "video", "video": "b.mp4"}, {"type": "text", "text": "And here?"}]
    rows = [
        {"prompt": "What is seen?", "chosen": "good", "rejected": "bad", "videos": ["a.mp4"], "margin": 2},
        {"prompt": turns(("system", "Be brief."), ("user", parts)), **answers},
        {"prompt": turns(("user", "a?"), ("assistant", "b"), ("user", "c?")), **answers, "videos": ["a.mp4"]},
        {"prompt": "What?", "chosen": turns(("user", "What?"), ("assistant", "good")), "rejected": "bad", "video": "c"},
        {"prompt": "What?", "chosen": "good", "rejected": "bad"},
        {"prompt": "What?", "chosen": 3, "rejected": "bad", "video": "c.mp4"},
    ]
    back = read_examples(dumper(tmp_path / "x.jsonl", rows))
    assert [(one.clip.path, one.instruction, one.chosen, one.rejected) for one in back.pairs] == [
        (str(tmp_path / "a.mp4"), "What is seen?", "good", "bad"),
        (str(tmp_path / "b.mp4"), "And here?", "good", "bad"),
    ]
    assert back.pairs[0].clip.meta == {"fields": {"margin": 2}}
    assert back.pairs[1].clip.meta == {"system": "Be brief."}
    reasons = [one.reason for one in back.rejected]
    assert "one question without history, got the roles user, assistant, user" in reasons[0]
    assert "(implicit prompt) is not read" in reasons[1]
    assert "names no video, audio or image" in reasons[2]
    assert "'chosen' must hold messages" in reasons[3]


# The command, and training on what was exported.


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def staged_pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreferencePair, ...]:
    """Three staged clips with sound: the truth against another clip's truth."""
    folder = tmp_path_factory.mktemp("pairs")
    scripts = [make_script(seed, 1) for seed in range(4)]
    truths = [reference_caption(script) for script in scripts]
    made = []
    for seed in range(3):
        stage(scripts[seed], folder / f"{seed}.mp4")
        made.append(
            pair(
                clip=ClipRef(id=f"clip-{seed}", path=str(folder / f"{seed}.mp4"), meta={"audio_policy": "require"}),
                instruction="Describe the video.",
                chosen=truths[seed],
                rejected=truths[seed + 1],
                ground_truth=" ".join(truths[seed].split()[:6]),
            )
        )
    return tuple(made)


def train(source: Path, model: Path, folder: Path) -> list[dict[str, float]]:
    """What two steps of stage dpo log."""
    config = FineTune(
        name="dpo",
        stage="dpo",
        model=str(model),
        sources=(DataSource(path=str(source)),),
        trainable=("audio_aligner",),
        lora=LoraSettings(rank=4, alpha=8, targets=("q_proj", "v_proj")),
        preference=PreferenceSettings(),
        optimizer=FineTuneOptimizer(learning_rate=1e-2),
        batch=BatchSettings(max_examples=3, micro_examples=3),
        read=ReadSettings(num_workers=0),
        max_steps=2,
        precision="float32",
    )
    lines = read_metrics(fine_tune(config, folder) / METRICS_FILE)
    names = ("loss", "mean/dpo", "mean/guide", "mean/chosen_reward", "mean/rejected_reward")
    return [{name: line[name] for name in names} for line in lines]


def test_the_released_files_train_as_our_pairs_do(
    staged_pairs: tuple[PreferencePair, ...], tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Both releases' own files, written by hand: in v1 `gpt` is the chosen answer, in plus it is the ground truth."""
    v1, plus = [], []
    for one in staged_pairs:
        human = {"from": "human", "value": f"<image>\n{one.instruction}"}
        said = {"gpt": one.chosen, "reject_gpt": one.rejected, "gt": one.ground_truth}
        v1.append({"video": one.clip.path, "audio": one.clip.path, "conversations": [human, *map(turn, said.items())]})
        human = {"from": "human", "value": f"<video>\n{one.instruction}"}
        said = {"gpt": one.ground_truth, "chosen": one.chosen, "reject": one.rejected}
        plus.append({"video": one.clip.path, "use_audio": True, "conversations": [human, *map(turn, said.items())]})
    (tmp_path / "v1.json").write_text(json.dumps(v1))
    (tmp_path / "plus.json").write_text(json.dumps(plus))
    convert_examples(ExampleSet(pairs=staged_pairs), "native", tmp_path / "native.jsonl")
    expected = train(tmp_path / "native.jsonl", tiny_model_folder, tmp_path / "native")
    assert expected[0]["mean/dpo"] == pytest.approx(0.6931, abs=1e-4)
    assert expected[1]["mean/dpo"] < expected[0]["mean/dpo"] - 1e-4
    for name in ("v1", "plus"):
        assert train(tmp_path / f"{name}.json", tiny_model_folder, tmp_path / name) == expected


def turn(said: tuple[str, str]) -> dict[str, str]:
    return {"from": said[0], "value": said[1]}


@pytest.mark.parametrize("format", FORMATS)
def test_the_command_and_training_on_its_files(
    format: str,
    staged_pairs: tuple[PreferencePair, ...],
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = tuple(dataclasses.replace(one, instruction="") for one in staged_pairs)
    given = tmp_path / "pairs.jsonl"
    given.write_text("".join(one.to_json_line() + "\n" for one in asked))
    out = tmp_path / FORMATS[format]
    command = ["convert", str(given), "--to", format, "--out", str(out)]
    assert main(command) == 1
    assert "skipped: clip-0: the question has no words" in capsys.readouterr().out
    out.unlink()
    assert main([*command, "--instruction", "Describe the video."]) == 0
    said = capsys.readouterr().out
    assert f"{out}: 0 examples and 3 pairs as {READ_AS[format]}" in said
    assert "in 3, trainers do not see (the field 'avocet' keeps it): metrics" in said
    lost = [line for line in said.splitlines() if line.startswith("lost")]
    assert all("sound: v1 reads it only from separate files" in line for line in lost)
    assert bool(lost) == (format == "v1")
    assert read_examples(out).pairs == asked
    expected = train(given, tiny_model_folder, tmp_path / "ours")
    assert train(out, tiny_model_folder, tmp_path / "theirs") == expected


def test_an_instruction_for_our_own_formats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keeps empty instructions"):
        convert_examples(ExampleSet(), "native", tmp_path / "x.jsonl", instruction="Describe.")
    with pytest.raises(ConfigError, match="--instruction belongs to avocet data convert"):
        main(["check", "x.jsonl", "--instruction", "Describe."])
