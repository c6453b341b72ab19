"""Manifests: hand-written lines, provenance, pieces, facts, digests, and files that break the rules."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from avocet.curation.manifest import (
    ManifestClip,
    file_sha256,
    find_manifest_clips,
    read_manifest,
    replacing,
    write_manifest,
)
from avocet.errors import ConfigError, RecordError


def test_a_line_needs_a_path_only(tmp_path: Path) -> None:
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text(
        '{"path": "a.mp4"}\n\n'
        '{"path": "sub/b.mp4", "start_seconds": 2, "end_seconds": 7.5, "licence": "CC-BY-4.0"}\n'
        '{"path": "https://host/c.mp4", "id": "c", "source_id": "film", "meta": {"title": "C"}}\n'
    )
    a, b, c = read_manifest(manifest)
    place = str(tmp_path / "a.mp4")
    assert (a.id, a.path, a.source_id, a.licence) == (place, place, place, None)
    other = str(tmp_path / "sub" / "b.mp4")
    assert (b.id, b.path, b.licence) == (f"{other}#t=2,7.5", other, "CC-BY-4.0")
    assert (b.source_id, b.duration_seconds) == (other, 5.5)
    assert (c.path, c.source_id, c.ref.meta) == ("https://host/c.mp4", "film", {"title": "C"})
    assert c.duration_seconds is None


def test_writing_and_reading_gives_the_same_clips(tmp_path: Path) -> None:
    clips = [
        ManifestClip(id="x", path="/media/x.mp4", licence="MIT", url="https://host/x", sha256="0" * 64),
        ManifestClip(id="é", path="/media/y.mp4", start_seconds=1.0, end_seconds=2.0, facts={"probe": {"width": 5}}),
    ]
    assert write_manifest(tmp_path / "new" / "m.jsonl", clips) == 2
    assert list(read_manifest(tmp_path / "new" / "m.jsonl")) == clips


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"id": "a"}', "a clip needs a path .*, got None"),
        ('{"path": ""}', "a clip needs a path .*, got ''"),
        ('{"path": "a", "colour": "red"}', "colour"),
        ('{"path": "a", "start_seconds": 5, "end_seconds": 5}', r"the interval \[5.0, 5.0\) is empty"),
        ('{"path": "a", "sha256": "abc"}', "64 lower-case hex digits"),
        ('{"path": "./first"}', "id '.*/first' was already given in line 1"),
        ('{"path": "a", "meta": {"b": NaN}}', "NaN is no JSON; write null"),
        ('{"path": "a", "facts": {"probe": {"b": -Infinity}}}', "-Infinity is no JSON"),
        ('{"path": "a", "meta": {"b": 1e400}}', "meta cannot be written to a manifest: it is no JSON"),
        ('{"path": "a", "meta": {"b": "\\ud83d"}}', "half of a surrogate pair"),
        ('{"path": "a", "licence": "\\ud83d"}', "half of a surrogate pair"),
        ('{"path": "a", "facts": {"caption": {"text": "\\ud83d"}}}', "half of a surrogate pair"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, problem: str) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"path": "first"}\n' + line + "\n")
    with pytest.raises(RecordError, match=rf"m\.jsonl:2: .*{problem}"):
        list(read_manifest(manifest))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read manifest"):
        list(read_manifest(tmp_path / "none.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"path": "\xe9"}\n')
    with pytest.raises(RecordError, match="not UTF-8"):
        list(read_manifest(tmp_path / "latin.jsonl"))


def test_folders_files_and_manifests_together(media_folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"path": str(media_folder / "a.mp4")}) + "\n")
    clips = list(find_manifest_clips([manifest, media_folder]))
    assert [Path(clip.path).name for clip in clips] == ["a.mp4", "b.mp4", "c.mp4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no media files"):
        list(find_manifest_clips([tmp_path / "empty"]))


def test_relative_paths_mean_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x")
    (tmp_path / "m.jsonl").write_text('{"path": "videos/a.mp4", "id": "b"}\n')
    monkeypatch.chdir(tmp_path)
    clips = [*find_manifest_clips(["videos", "m.jsonl"]), ManifestClip(id="c", path="videos/a.mp4")]
    write_manifest("out/deep/n.jsonl", clips)
    again = list(read_manifest("out/deep/n.jsonl"))
    assert [clip.id for clip in again] == [str(tmp_path / "videos" / "a.mp4"), "b", "c"]
    assert {clip.path for clip in again} == {str(tmp_path / "videos" / "a.mp4")}


def test_names_that_are_no_unicode_are_refused() -> None:
    with pytest.raises(RecordError, match="not valid Unicode, which no manifest can hold; rename"):
        ManifestClip(id="a", path="caf\udce9.mp4")
    with pytest.raises(RecordError, match=r"url cannot be written to a manifest: it holds half of .*'.udce9'"):
        ManifestClip(id="a", path="a.mp4", url="https://host/\udce9")
    assert ManifestClip(id="a", path="a\0b").source_id == "a\0b", "no file, but a record"


def test_equal_names_in_two_manifests_are_two_clips(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.jsonl").write_text('{"path": "clip.mp4"}\n')
    clips = list(find_manifest_clips([tmp_path / "one" / "m.jsonl", tmp_path / "two" / "m.jsonl"]))
    places = [str(tmp_path / folder / "clip.mp4") for folder in ("one", "two")]
    assert [clip.id for clip in clips] == [clip.source_id for clip in clips] == places


def test_a_clip_that_comes_twice_is_merged_and_one_that_differs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"path": "a.mp4"}\n{"path": "b.mp4", "id": "b"}\n')
    (tmp_path / "n.jsonl").write_text('{"path": "./a.mp4"}\n')
    merged: list[str] = []
    clips = list(find_manifest_clips([tmp_path / "m.jsonl", tmp_path / "n.jsonl"], merged))
    assert [clip.id for clip in clips] == [str(tmp_path / "a.mp4"), "b"]
    assert merged == [str(tmp_path / "a.mp4")]
    (tmp_path / "o.jsonl").write_text('{"path": "c.mp4", "id": "b"}\n')
    with pytest.raises(RecordError, match=r"o\.jsonl: id 'b' was already given in .*m\.jsonl, to a clip with another"):
        list(find_manifest_clips([tmp_path / "m.jsonl", tmp_path / "o.jsonl"]))


def test_one_file_under_several_names_is_one_source(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    names = ("a.mp4", "./a.mp4", "link.mp4", f"../{tmp_path.name}/a.mp4")
    lines = (json.dumps({"path": name, "start_seconds": 10 * place}) for place, name in enumerate(names))
    (tmp_path / "m.jsonl").write_text("\n".join(lines) + "\n")
    assert {clip.source_id for clip in read_manifest(tmp_path / "m.jsonl")} == {str(tmp_path / "a.mp4")}


def test_pieces_keep_provenance_and_no_facts() -> None:
    facts = {"probe": {"width": 9, "file_sha256": "a" * 64}}
    film = ManifestClip(id="film", path="/v/f.mp4", licence="CC0", url="https://host/f", facts=facts)
    piece = film.piece(10.0, 20.5)
    assert (piece.id, piece.start_seconds, piece.end_seconds) == ("film#t=10,20.5", 10.0, 20.5)
    assert (piece.source_id, piece.licence, piece.url, piece.facts) == ("/v/f.mp4", "CC0", "https://host/f", {})
    assert piece.sha256 == piece.file_sha256 == film.file_sha256 == "a" * 64
    assert film.sha256 is None, "nobody stated it"
    assert piece.piece(10.0, 12.0).id == "film#t=10,20.5#t=10,12"


def test_facts_are_replaced_by_stage_and_forgotten_by_name() -> None:
    clip = ManifestClip(id="a", path="a.mp4").with_facts("measure", {"hash": "x", "loud": 1})
    later = clip.with_facts("other", {"z": 2}, forget=("measure.hash", "nothing.there"))
    assert later.facts == {"measure": {"loud": 1}, "other": {"z": 2}}
    assert clip.facts == {"measure": {"hash": "x", "loud": 1}}
    assert later.with_facts("measure", {"loud": 3}).facts == {"other": {"z": 2}, "measure": {"loud": 3}}


def test_a_measured_duration_counts_more_than_the_interval() -> None:
    clip = ManifestClip(id="a", path="a.mp4", start_seconds=5.0, end_seconds=100.0)
    assert clip.duration_seconds == 95.0
    assert clip.with_facts("probe", {"duration_seconds": 25.0}).duration_seconds == 25.0


def test_the_digest_changes_with_what_a_stage_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1234")
    clip = ManifestClip(id="a", path=str(path), facts={"one": {"x": 1}, "two": {"y": 1}})
    changed = clip.with_facts("two", {"y": 2})

    def same(reads: tuple[str, ...] | None, other: ManifestClip) -> bool:
        return clip.digest(reads, reads_media=True) == other.digest(reads, reads_media=True)

    assert same(("one",), changed)
    assert same((), changed)
    assert not same(("two",), changed)
    assert not same(None, changed)
    assert not same((), clip.piece(0, 1))
    before = clip.digest((), reads_media=True)
    without_media = clip.digest((), reads_media=False)
    path.write_bytes(b"12345")
    assert clip.digest((), reads_media=True) != before
    assert clip.digest((), reads_media=False) == without_media
    # Another file of the same size, and one whose size and time are kept but whose hash was measured anew.
    five = clip.digest((), reads_media=True)
    os.utime(path, ns=(1, 1))
    touched = clip.digest((), reads_media=True)
    assert touched != five
    hashed = clip.with_facts("probe", {"file_sha256": "b" * 64}).digest((), reads_media=True)
    assert hashed != touched
    assert hashed != clip.with_facts("probe", {"file_sha256": "c" * 64}).digest((), reads_media=True)


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 1_000_000)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_an_unfinished_file_never_has_the_name(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("old")

    def spoil() -> None:
        with replacing(tmp_path / "out.jsonl") as file:
            file.write("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        spoil()
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "old"
