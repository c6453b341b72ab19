"""Both curation pipelines over a manifest of 10,000 clips: clips per second and memory, stage by stage.

    python benchmarks/curation_manifest.py --out benchmarks/results/curation_manifest.json

The media are stubbed: the clips come with the facts that measuring leaves, and the teachers answer at once, in this
process, with texts of about real length. So what is measured is the machinery: manifests, ledgers, digests, checks of
sentences, parsing, and the writing of the data set. Finding duplicates is left out; it holds fingerprints of all clips.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from avocet.curation import ManifestClip, StageSummary, read_manifest, write_manifest
from avocet.curation.data_card import make_card, write_card
from avocet.curation.outcomes import Cost
from avocet.curation.outputs import OutputSettings, write_examples
from avocet.curation.pipelines import PipelineSettings, front_steps, last_manifest, pipeline_steps, run_steps
from avocet.curation.pipelines.run import RunRecord, write_run_record
from avocet.curation.teachers import ROLES, Answer, Preview, Teachers, TeacherTask
from avocet.judging.completeness import FusedCaption
from avocet.records import Verdict

EVERY = 1000
WORKERS = 4


class StubTeacher:
    """Answers at once, and something else about every clip."""

    name = "stub"
    version = "1"
    reads_texts = True

    def ask(self, task: TeacherTask) -> Answer:
        cost = Cost(usd=0.001, num_calls=1)
        return Answer(text=_answer(task), cost=cost, bought=cost, teacher="stub", prompt_version="1", cached=False)

    def preview(self, task: TeacherTask) -> Preview:
        return Preview(tokens=0, reply_tokens=0, bytes=0)

    def close(self) -> None:
        """Nothing to give back."""


class StubJudge:
    """Finds every fusion complete."""

    identity = "stub"

    def score(self, item: FusedCaption, run_index: int) -> tuple[Verdict, Cost]:
        findings = {"score": 5, "missing": []}
        return Verdict(clip_id=item.clip_id, judge="stub", findings=findings), Cost(usd=0.001, num_calls=1)


def _answer(task: TeacherTask) -> str:
    # Without punctuation, which would make phrases that come again.
    name = "".join(filter(str.isalnum, "a text" if task.clip is None else task.clip.id))
    if task.prompt == "asr":
        return f"Bring four hats to Anna, says the person of {name}."
    if task.prompt in ("visual_caption", "audio_caption", "local_caption"):
        number = 8 if task.prompt == "audio_caption" else 20
        what = task.prompt.partition("_")[0]
        return " ".join(
            f"In {what} part {place} of {name} a bell number {place} moves to mark {place}." for place in range(number)
        )
    if task.prompt.startswith("fuse"):
        return "\n".join(text for key, text in sorted(task.fields.items()) if "caption" in key)
    caption = task.fields.get("caption", task.fields.get("visual_caption", ""))
    first = caption.splitlines()[0] if caption else ""
    events = [f"Thing {place} happens." for place in range(34)]
    count = len(task.fields.get("events", "").splitlines())
    times = {"start_seconds": 0.0, "end_seconds": 30.0}
    replies: dict[str, dict[str, Any]] = {
        "events": {"events": events},
        "local_intervals": {"events": [{"number": place + 1, **times} for place in range(count)]},
        "checklist": {"keypoints": [{"dimension": "auditory_elements", "text": event} for event in events[:20]]},
        "dialogue": {"utterances": []},
        "qa": {"pairs": [{"question": "What?", "answer": "A bell.", "evidence": first}]},
        "contradiction": {"contradictions": []},
        "sound_names": {"sounds": []},
    }
    return json.dumps({"reasoning": ""} | replies[task.prompt])


def clips(count: int) -> Iterator[ManifestClip]:
    """Clips of 30 s with the facts that measuring leaves."""
    for number in range(count):
        facts = {"duration_seconds": 30.0, "file_sha256": f"{number:064x}", "audio_status": "present"}
        yield ManifestClip(
            id=f"clip{number:06d}",
            path=f"/videos/{number // 3}.mp4",
            start_seconds=30.0 * (number % 3),
            end_seconds=30.0 * (number % 3) + 30.0,
            licence="CC-BY-4.0",
            facts={"measure": facts},
        )


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


class Watch:
    """Memory whenever another thousand clips have gone through a stage."""

    def __init__(self) -> None:
        self.memory_mib: dict[str, list[float]] = {}

    def __call__(self, summary: StageSummary) -> None:
        if summary.num_in % EVERY == 0:
            self.memory_mib.setdefault(summary.stage, []).append(resident_mib())


def run(pipeline: str, count: int) -> dict[str, Any]:
    """One pipeline from the manifest to the data card."""
    settings = PipelineSettings(pipeline=pipeline)  # type: ignore[arg-type]  # one of its names
    teachers = Teachers(dict.fromkeys(ROLES, StubTeacher()))
    steps = pipeline_steps(settings, teachers, StubJudge())[len(front_steps(settings)) :]
    watch, began = Watch(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "manifest.jsonl"
        write_manifest(manifest, clips(count))
        summaries = run_steps(steps, read_manifest(manifest), folder, workers=WORKERS, progress=watch)
        record = RunRecord(
            pipeline=pipeline,
            settings=settings.to_dict(),
            teachers={},
            judge=None,
            stages=tuple(step.name for step in steps),
        )
        write_run_record(folder, record)
        output = OutputSettings()
        wrote = time.monotonic()
        splits = write_examples(last_manifest(folder, record.stages), folder, output)
        write_card(folder, card := make_card(folder, output, splits))
        now = time.monotonic()
        num_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {
        "clips": count,
        "clips_out": card.num_clips_out,
        "calls": card.cost.num_calls,
        "usd": card.cost.usd,
        "seconds": round(now - began, 1),
        "clips_per_second": round(count / (now - began), 1),
        "write_seconds": round(now - wrote, 1),
        "disk_mb": round(num_bytes / 1e6, 1),
        "memory_mib_after": resident_mib(),
        "stages": {
            summary.stage: {
                "clips_per_second": round(summary.num_in / summary.wall_seconds),
                "calls": summary.cost.num_calls,
                "memory_mib": watch.memory_mib.get(summary.stage, []),
            }
            for summary in summaries
        },
    }


def main() -> None:
    """Run both and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--num-clips", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = {
        "what": f"{arguments.num_clips} clips of 30 s with stubbed media and teachers, {WORKERS} workers",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "memory_mib_before": resident_mib(),
        "pipelines": {pipeline: run(pipeline, arguments.num_clips) for pipeline in ("vs2", "avocado")},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
