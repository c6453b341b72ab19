"""The data set and its card: one side of the split per file, and a card of one run only."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from avocet.curation.data_card import count_findings, make_card, write_card
from avocet.curation.manifest import ManifestClip, read_manifest, write_manifest
from avocet.curation.outcomes import Kept, Outcome
from avocet.curation.outputs import OutputSettings, read_native, shared_sources, split_of, write_examples
from avocet.curation.pipelines.run import (
    RunRecord,
    last_manifest,
    read_run_record,
    read_summaries,
    run_lock,
    run_steps,
    write_run_record,
)
from avocet.curation.stage import Stage
from avocet.errors import ConfigError
from avocet.provenance import code_facts


def clip(number: int, source: str, digest: str | None = None) -> ManifestClip:
    facts = {"caption": {"text": f"Dog {number} barks."}} | ({"measure": {"file_sha256": digest}} if digest else {})
    return ManifestClip(id=str(number), path=f"/v/{source}.mp4", source_id=source, facts=facts)


def test_sources_that_share_a_file_are_one(tmp_path: Path) -> None:
    # c-b share file 1, b-a share file 2, so all three hang together; d is alone, e has no hash.
    clips = [
        clip(0, "c", "1"),
        clip(1, "b", "1"),
        clip(2, "b", "2"),
        clip(3, "a", "2"),
        clip(4, "d", "3"),
        clip(5, "e"),
    ]
    assert shared_sources(clips) == {"b": "a", "c": "a"}
    write_manifest(tmp_path / "m.jsonl", clips)
    sides = set()
    for seed in range(20):
        settings = OutputSettings(val_fraction=0.5, seed=seed, tasks=("caption",))
        counts = write_examples(tmp_path / "m.jsonl", tmp_path, settings)
        found: dict[str, set[str]] = {"1": set(), "2": set(), "3": set()}
        for side in ("train", "val"):
            for example in read_native(tmp_path / f"{side}.jsonl"):
                if "sha256" in example.clip.meta:
                    found[example.clip.meta["sha256"]].add(side)
        assert found["1"] == found["2"] == {split_of("a", settings)}
        assert counts["train"].num_sources + counts["val"].num_sources == 3
        sides |= found["1"]
    assert sides == {"train", "val"}
    assert count_findings(clips, shared_sources(clips)).num_sources == 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Telling(Stage):
    """Keeps clips with a caption, or stops."""

    stop: bool = False

    @property
    def reads_media(self) -> bool:
        return False

    def process(self, clip: ManifestClip) -> Outcome:
        if self.stop:
            raise RuntimeError("stop")
        return Kept(facts={"text": f"Dog {clip.id} barks."})


def record(*stages: str, **more: object) -> RunRecord:
    return RunRecord(pipeline="vs2", settings={}, teachers={}, judge=None, stages=stages, **more)  # type: ignore[arg-type]


def finish(folder: Path, count: int) -> None:
    clips = [ManifestClip(id=str(number), path=f"/v/{number}.mp4") for number in range(count)]
    run_steps([Telling(name="one"), Telling(name="caption")], clips, folder)
    done = record("one", "caption", inputs=(str(count),))
    write_run_record(folder, done)
    splits = write_examples(last_manifest(folder, done.stages), folder, output := OutputSettings())
    write_card(folder, make_card(folder, output, splits))


def test_a_run_that_was_begun_again_has_no_card_until_it_is_finished(tmp_path: Path) -> None:
    finish(tmp_path, 2)
    assert make_card(tmp_path).num_clips_out == 2
    more = [ManifestClip(id=str(number), path=f"/v/{number}.mp4") for number in range(5)]
    with pytest.raises(RuntimeError, match="stop"):
        run_steps([Telling(name="one"), Telling(name="caption", stop=True)], more, tmp_path)
    assert [summary.num_in for summary in read_summaries(tmp_path, ("one", "caption"))] == [5]
    with pytest.raises(ConfigError, match="unfinished: it has not gone through stage 'caption'; run it again"):
        make_card(tmp_path)
    # All stages are through, but the data set is still that of two clips.
    run_steps([Telling(name="one"), Telling(name="caption")], more, tmp_path)
    write_run_record(tmp_path, record("one", "caption", inputs=("5",)))
    with pytest.raises(ConfigError, match="unfinished: its data set has not been written, only that of an earlier run"):
        make_card(tmp_path)
    finish(tmp_path, 5)
    assert make_card(tmp_path).splits["train"].num_clips + make_card(tmp_path).splits["val"].num_clips == 5


def test_stages_that_do_not_follow_one_another_are_no_run(tmp_path: Path) -> None:
    finish(tmp_path, 3)
    path = tmp_path / "stages" / "caption" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_in": 9}))
    with pytest.raises(ConfigError, match="stage 'caption' took 9 clips, but 'one' before it let 3 through"):
        make_card(tmp_path)


def test_steps_that_were_just_run_are_not_entered_again(tmp_path: Path) -> None:
    clips = [ManifestClip(id="a", path="/v/a.mp4")]
    first = run_steps([Telling(name="one")], clips, tmp_path)
    steps = [Telling(name="one", stop=True), Telling(name="caption")]
    both = run_steps(steps, (), tmp_path, gone_through=first)
    assert (both[0], both[1].num_in) == (first[0], 1)
    assert len(list(read_manifest(last_manifest(tmp_path, ("one", "caption"))))) == 1


def test_one_process_has_the_folder(tmp_path: Path) -> None:
    second = pytest.raises(ConfigError, match=r"another process works in .*out; wait for it, or choose another --out")
    with run_lock(tmp_path / "out"), second, run_lock(tmp_path / "out"):
        pass
    with run_lock(tmp_path / "out"):
        pass
    (tmp_path / "file").write_text("x")
    no_folder = pytest.raises(ConfigError, match="file cannot be used as the folder of a run: File exists; choose")
    with no_folder, run_lock(tmp_path / "file"):
        pass


def test_a_run_says_with_what_it_was_made(tmp_path: Path) -> None:
    facts = code_facts(("avocet", "no-such-package"))
    assert list(facts["versions"]) == ["avocet"]
    assert set(facts) == {"commit", "uncommitted", "versions", "python", "processor"}
    write_run_record(tmp_path, made := record("one", code=facts, notes=("no local captions",)))
    assert read_run_record(tmp_path) == made
    old = {"pipeline": "vs2", "settings": {}, "teachers": {}, "judge": None, "stages": ["one"]}
    (tmp_path / "run.json").write_text(json.dumps(old))
    assert read_run_record(tmp_path) == record("one"), "runs of before had less on record"
