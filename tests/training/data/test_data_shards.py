"""WebDataset shards: reading as a stream, safety, and writing."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from avocet.errors import ConfigError
from avocet.media import probe
from avocet.training.data import convert_examples, read_examples, recognise, shards
from avocet.training.data.shards import split_name

WAV = b"RIFF0000WAVE"


def make_shard(path: Path, members: list[tuple[str, bytes | Any]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as shard:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, tarfile.TarInfo):
                shard.addfile(content)
                continue
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_samples_of_every_kind(mode, tmp_path):
    talk = {"video": "old.mp4", "use_audio": True, "conversations": [{"from": "human", "value": "Describe."}]}
    talk["conversations"].append({"from": "gpt", "value": "A dog."})  # type: ignore[attr-defined]
    path = make_shard(
        tmp_path / ("a.tar" if mode == "w" else "a.tar.gz"),
        [
            ("clips/001.mp4", b"video"),
            ("clips/001.json", talk),
            ("002.txt", b"Rain falls.\n"),
            ("002.wav", WAV),
            ("003.json", {"caption": "A cat.", "instruction": "What is it?", "task": "qa"}),
            ("003.JPG", b"picture"),
            (
                "004.json",
                [
                    {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "He."}]},
                    {"clip": {"id": "x", "path": "gone.mp4"}, "task": "caption", "instruction": "D", "target": "T"},
                    7,
                ],
            ),
            ("004.mp4", b"video 4"),
        ],
        mode,
    )
    assert recognise(path) == "webdataset"
    data = read_examples(path, cache=tmp_path / "cache")
    assert [(one.clip.id, one.instruction, one.target, one.task) for one in data.examples] == [
        ("clips/001", "Describe.", "A dog.", "caption"),
        ("002", "Describe what can be heard in this recording.", "Rain falls.", "audio_caption"),
        ("003", "What is it?", "A cat.", "qa"),
        ("004", "Who?", "He.", "qa"),
        ("x", "D", "T", "caption"),
    ]
    contents = [Path(one.clip.path).read_bytes() for one in data.examples]
    assert contents == [b"video", WAV, b"picture", b"video 4", b"video 4"]
    assert data.examples[0].clip.meta == {"audio_policy": "require"}
    assert [(one.where, one.reason) for one in data.rejected] == [
        (f"{path}: 004, record 3", "no JSON object but int"),
    ]


def test_a_caption_beside_a_record_does_not_take_its_place(tmp_path):
    """Data sets of the web keep the page's text in a field `caption` or `text`."""
    turns = [("human", "Describe."), ("gpt", "Truth."), ("chosen", "Good."), ("reject", "Bad.")]
    talk = {"caption": "alt text", "conversations": [{"from": role, "value": text} for role, text in turns]}
    swift = {"text": "ocr", "messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}]}
    native = {"text": "ocr", "clip": {"id": "x", "path": "y"}, "task": "caption", "instruction": "D", "target": "T"}
    members = [("0.mp4", b"0"), ("0.json", talk), ("1.mp4", b"1"), ("1.json", swift), ("2.mp4", b"2")]
    data = read_examples(make_shard(tmp_path / "a.tar", [*members, ("2.json", native)], "w"))
    assert [(pair.chosen, pair.rejected, pair.ground_truth) for pair in data.pairs] == [("Good.", "Bad.", "Truth.")]
    assert [(one.instruction, one.target) for one in data.examples] == [("Q?", "A")]
    # A native record has the fields of a record and no others.
    assert "text" in data.rejected[0].reason


def test_extracted_once_and_anew_when_the_shard_changes(tmp_path):
    path = make_shard(tmp_path / "a.tar", [("1.wav", WAV), ("1.txt", b"Rain")])
    first = Path(read_examples(path).examples[0].clip.path)
    assert first.parent.parent == tmp_path / "avocet-media"
    before = first.stat().st_mtime_ns
    assert Path(read_examples(path).examples[0].clip.path) == first
    assert first.stat().st_mtime_ns == before
    make_shard(path, [("1.wav", WAV + b"more"), ("1.txt", b"Rain")])
    second = Path(read_examples(path).examples[0].clip.path)
    assert second != first
    assert second.read_bytes() == WAV + b"more"


def test_members_cannot_lead_out_of_the_cache(tmp_path):
    link = tarfile.TarInfo("2.wav")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("3.wav")
    device.type = tarfile.CHRTYPE
    (tmp_path / "in").mkdir()
    path = make_shard(
        tmp_path / "in" / "a.tar",
        [
            ("../../evil.wav", WAV),
            ("/evil.wav", WAV),
            ("a/../../../evil.wav", WAV),
            ("", link),
            ("", device),
            ("x" * 300 + ".wav", WAV),
            ("ok.wav", WAV),
            ("ok.txt", b"Rain"),
        ],
    )
    data = read_examples(path, cache=tmp_path / "cache")
    assert [one.target for one in data.examples] == ["Rain"]
    reasons = [one.reason for one in data.rejected]
    assert reasons[:3] == ["its name leads out of the shard"] * 3
    assert reasons[3:5] == ["neither a regular file nor a folder"] * 2
    assert reasons[5:] == ["its name is too long"]
    assert [file.name for file in tmp_path.rglob("*.wav")] == ["ok.wav"]


@pytest.mark.parametrize(
    ("members", "where", "reason"),
    [
        ([("1.wav", WAV)], ": 1", "neither a .json nor a .txt member"),
        ([("1.txt", b"Rain")], ": 1", "the sample has no clip"),
        ([("1.wav", WAV), ("1.mp4", b"x"), ("1.txt", b"Rain")], ": 1.mp4", "second clip (the first is 1.wav)"),
        ([("1.wav", WAV), ("1.txt", b"Rain"), ("1.a.txt", b"Sun")], ": 1.a.txt", "second .txt member"),
        ([("1.wav", WAV), ("1.npy", b"x"), ("1.txt", b"Rain")], ": 1.npy", "unknown kind of member '.npy'"),
        ([("1.wav", WAV), ("1.txt", b"\xff")], ": 1", "can't decode"),
        ([("1.wav", WAV), ("1.json", b"{")], ": 1", "not JSON"),
        ([("1.wav", WAV), ("1.json", {"a": 1})], ": 1", "of no known format: its fields are 'a'"),
        ([("1.wav", WAV), ("1.txt", b" \n")], ": 1", "the caption has no words"),
        ([("1.wav", WAV), ("1.json", {"caption": "x", "instruction": 3})], ": 1", "must be texts"),
        (
            [("1.wav", WAV), ("1.txt", b"Rain"), ("2.wav", WAV), ("2.txt", b"Sun"), ("1.flac", WAV)],
            ": 1.flac",
            "stands in two places",
        ),
    ],
)
def test_defects_of_samples(members, where, reason, tmp_path):
    path = make_shard(tmp_path / "a.tar", members)
    data = read_examples(path)
    assert [one.where for one in data.rejected] == [f"{path}{where}"]
    assert reason in data.rejected[0].reason


def test_sizes_are_limited(tmp_path, monkeypatch):
    path = make_shard(tmp_path / "a.tar", [("1.wav", WAV), ("1.txt", b"Rain"), ("2.wav", WAV * 9), ("2.txt", b"Sun")])
    monkeypatch.setattr(shards, "MAX_MEMBER_BYTES", 50)
    data = read_examples(path)
    assert [one.target for one in data.examples] == ["Rain"]
    assert "108 bytes; a member may have at most 50" in data.rejected[0].reason
    monkeypatch.setattr(shards, "MAX_ITEM_BYTES", 3)
    assert "a text may have at most 3" in read_examples(path).rejected[0].reason
    monkeypatch.setattr(shards, "MAX_SHARD_MEMBERS", 1)
    assert "more than 1 members" in read_examples(path).rejected[0].reason


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    path = make_shard(tmp_path / "a.tar", [("1.wav", WAV), ("1.txt", b"Rain")])
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda _: shards.shutil._ntuple_diskusage(1, 1, 0))
    (one,) = read_examples(path).rejected
    assert "needs 12 bytes, the disk has 0" in one.reason


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_shard_that_is_cut_off_keeps_what_was_whole(mode, tmp_path):
    members = [
        (f"{n}.{kind}", bytes([n]) * 5000 if kind == "wav" else b"Rain") for n in range(9) for kind in ("txt", "wav")
    ]
    path = make_shard(tmp_path / "a.tar", members, mode)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    data = read_examples(path, format="webdataset")
    assert "cannot be read on" in data.rejected[-1].reason
    assert len(data.examples) < 9
    assert all(Path(one.clip.path).stat().st_size == 5000 for one in data.examples)
    assert not list(tmp_path.rglob(".extracting-*"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.c/001.left.jpg", ("a/b.c/001", ".left.jpg")),
        ("001.MP4", ("001", ".mp4")),
        ("plain", ("plain", "")),
        (".hidden", (".hidden", ".hidden")),
    ],
)
def test_stems_end_at_the_first_dot(name, expected):
    assert split_name(name) == expected


def test_written_shards_hold_everything(tmp_path, dumper, clip_writer):
    for name in ("a", "b", "c"):
        clip_writer(tmp_path / f"{name}.mp4", seconds=0.3)
    base = {"task": "caption", "instruction": "Describe.", "events": ["x"], "start_seconds": 0.0, "end_seconds": 0.2}
    records: list[dict[str, Any]] = [
        base | {"clip": {"id": "1", "path": "a.mp4", "meta": {"k": 1}}, "target": "one"},
        base | {"clip": {"id": "2", "path": "b.mp4"}, "target": "two"},
        base | {"clip": {"id": "1", "path": "a.mp4"}, "target": "three"},
        base | {"clip": {"id": "3", "path": "gone.mp4"}, "target": "four"},
    ]
    data = read_examples(dumper(tmp_path / "x.jsonl", records))
    size = (tmp_path / "a.mp4").stat().st_size
    report = convert_examples(data, "webdataset", tmp_path / "out", shard_bytes=size + 1)
    assert [Path(path).name for path in report.paths] == ["shard-00000.tar", "shard-00001.tar"]
    assert (report.num_examples, report.lost, [one.where for one in report.skipped]) == (3, {}, ["3"])
    back = read_examples(tmp_path / "out")
    assert not back.rejected
    # Files travel once: what is asked about one clip stands together.
    assert [one.target for one in back.examples] == ["one", "three", "two"]
    kept = {one.target: one for one in data.examples}
    for one in back.examples:
        old, new = kept[one.target].to_dict(), one.to_dict()
        assert new["clip"].pop("path") != old["clip"].pop("path")
        assert new == old
        assert probe(one.clip.path).video_codec == "h264"
    with pytest.raises(ConfigError, match="holds shards already"):
        convert_examples(data, "webdataset", tmp_path / "out")
