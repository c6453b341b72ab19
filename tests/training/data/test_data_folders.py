"""LibriSpeech and AudioCaps folders."""

from __future__ import annotations

import pytest

from avocet.training.data import read_examples, recognise
from avocet.training.data.formats_folders import ASR_INSTRUCTION, AUDIO_CAPTION_INSTRUCTION

HEADER = "audiocap_id,youtube_id,start_time,caption\n"


@pytest.fixture
def speech(tmp_path, sound_writer):
    chapter = tmp_path / "LibriSpeech" / "train-clean-100" / "84" / "121"
    for number in (0, 1, 3):
        sound_writer(chapter / f"84-121-{number:04d}.flac", seconds=0.2)
    (chapter / "84-121.trans.txt").write_text(
        "84-121-0000 GO DO YOU HEAR\n84-121-0001 BUT IN\n\n84-121-0002 LOST\n84-121-0001 AGAIN\n84-121-0004\n"
    )
    return tmp_path / "LibriSpeech"


def test_librispeech(speech):
    assert recognise(speech) == "librispeech"
    data = read_examples(speech)
    chapter = speech / "train-clean-100" / "84" / "121"
    assert [(one.clip.id, one.target, one.task, one.instruction) for one in data.examples] == [
        ("84-121-0000", "GO DO YOU HEAR", "asr", ASR_INSTRUCTION),
        ("84-121-0001", "BUT IN", "asr", ASR_INSTRUCTION),
    ]
    assert data.examples[0].clip.path == str(chapter / "84-121-0000.flac")
    table = chapter / "84-121.trans.txt"
    assert [(one.where, one.reason.split(",")[0]) for one in data.rejected] == [
        (f"{table}:4", "no file 84-121-0002.flac (or .wav) beside the transcripts"),
        (f"{table}:5", "the utterance is listed twice"),
        (f"{table}:6", "expected: UTTERANCE TEXT"),
        (str(chapter / "84-121-0003.flac"), "84-121.trans.txt has no transcript of it"),
    ]


def test_an_unreadable_table_leaves_the_others(speech):
    table = speech / "dev" / "1" / "2" / "1-2.trans.txt"
    table.parent.mkdir(parents=True)
    table.write_bytes(b"1-2-0000 \xff\xfe")
    data = read_examples(speech)
    assert len(data.examples) == 2
    assert data.rejected[0].where == str(table)


def test_audiocaps(tmp_path, sound_writer):
    folder = tmp_path / "audiocaps"
    for name in ("train/aaa_130", "val/aaa_130", "train/Ybbb", "train/91141"):
        sound_writer(folder / f"{name}.wav", seconds=0.2)
    rows = '1,aaa,130,"A woman talks, water pours"\n2,bbb,20,Clanging\n91141,ccc,5,Rain\n4,ddd,7,Nothing\n5,aaa,130,\n'
    (folder / "train.csv").write_text(HEADER + rows)
    (folder / "val.csv").write_text(HEADER + "9,aaa,130,Somebody speaks\n")
    assert recognise(folder) == "audiocaps"
    data = read_examples(folder)
    assert [(one.clip.id, one.target, one.clip.path.removeprefix(f"{folder}/")) for one in data.examples] == [
        ("aaa_130", "A woman talks, water pours", "train/aaa_130.wav"),
        ("bbb_20", "Clanging", "train/Ybbb.wav"),
        ("ccc_5", "Rain", "train/91141.wav"),
        ("aaa_130", "Somebody speaks", "val/aaa_130.wav"),
    ]
    assert {(one.task, one.instruction) for one in data.examples} == {("audio_caption", AUDIO_CAPTION_INSTRUCTION)}
    assert [one.where for one in data.rejected] == [f"{folder}/train.csv:5", f"{folder}/train.csv:6"]
    assert "no file of sound ddd_7" in data.rejected[0].reason
    assert read_examples(folder / "val.csv").examples == data.examples[3:]


def test_audiocaps_files_elsewhere_and_files_that_fit_twice(tmp_path, sound_writer):
    table = tmp_path / "test.csv"
    table.write_text(HEADER + "1,aaa,1,Rain\n")
    for folder in ("x", "y"):
        sound_writer(tmp_path / "sounds" / folder / "aaa_1.flac", seconds=0.2)
    data = read_examples(table, media_root=tmp_path / "sounds")
    assert "2 files fit" in data.rejected[0].reason
    data = read_examples(table, media_root=tmp_path / "sounds" / "y")
    assert data.examples[0].clip.path == str(tmp_path / "sounds" / "y" / "aaa_1.flac")


def test_a_field_that_csv_refuses_ends_the_table_only(tmp_path, sound_writer):
    sound_writer(tmp_path / "aaa_1.wav", seconds=0.2)
    (tmp_path / "a.csv").write_text(HEADER + f"1,aaa,1,Rain\n2,aaa,1,{'x' * 200_000}\n")
    data = read_examples(tmp_path)
    assert len(data.examples) == 1
    assert "cannot be read on" in data.rejected[0].reason
