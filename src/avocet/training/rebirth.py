"""Rebirth tuning (video-SALMONN 2, section 3.4): what the last good round knows, taught anew to the aligned model.

    caption  a large set of clips with the best model of the rounds, greedily
    filter   drop what reads unnaturally, ran into the token limit, or collapsed
    sft      from the *aligned* model (before any caption was learnt), on those captions and on QA data
    round    one more round of guided DPO

Rounds of DPO bend a model's language: the paper counts 12 % unnatural captions after the sixth. A model that is trained
on its good captions alone keeps their content without the habit. Every arrow leaves a file, as in `mrdpo`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from avocet.errors import ConfigError
from avocet.metrics import is_collapsed, is_unnatural
from avocet.models.registry import load_model
from avocet.records import Record, Sampling, TrainingExample
from avocet.training.data.mixture import DataSource, load_mixture
from avocet.training.finetune.config import FineTune, ReadSettings
from avocet.training.finetune.export import export_merged
from avocet.training.finetune.inputs import ClipReader
from avocet.training.finetune.loop import fine_tune
from avocet.training.mrdpo.config import MrDpo
from avocet.training.mrdpo.data import CAPTION_TASKS, check_held_out, clips_of, read_round_data
from avocet.training.mrdpo.driver import MrDpoResult, run_mrdpo
from avocet.training.mrdpo.records import SampledCaption, example_key
from avocet.training.mrdpo.sampling import sample_captions
from avocet.training.mrdpo.scoring import CaptionScorer
from avocet.training.run_folder import claim_run

TEACHER_FILE = "teacher.json"
"""Which model teaches, as it was resolved at the first start."""
CAPTIONS_FILE = "captions.jsonl"
DATA_FILE = "data.jsonl"
DROPPED_FILE = "dropped.jsonl"

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rebirth:
    """The whole of it."""

    name: str
    teacher: str
    """The model whose captions are learnt: a folder, or the run folder of rounds, whose `best.json` names it as rebirth
    begins."""
    sources: tuple[DataSource, ...]
    """Clips to caption. Their own captions are not read; examples of other tasks (questions) are taken as they are."""
    sft: FineTune
    """From the aligned model. Its `sources` are replaced by the new captions and `beside`."""
    round: MrDpo | None
    """The round afterwards, whose `model` is replaced by the result; None: none."""
    sampling: Sampling = dataclasses.field(default_factory=lambda: Sampling(max_new_tokens=1024))
    sampling_batch: int = 8
    read: ReadSettings = dataclasses.field(default_factory=ReadSettings)
    beside: tuple[DataSource, ...] = ()
    """What the SFT learns beside the new captions, such as QA data."""
    max_dropped: float = 0.5
    """Stop when a larger share of captions is dropped: then the teacher is not fit to teach."""

    def __post_init__(self) -> None:
        if self.sft.stage != "sft":
            raise ConfigError(f"Rebirth {self.name!r}: `sft` must be of stage sft, got {self.sft.stage!r}")
        if self.round is not None and self.round.rounds != 1:
            raise ConfigError(f"Rebirth {self.name!r}: `round` is one round, got {self.round.rounds}")
        if not 0 <= self.max_dropped < 1 or self.sampling_batch < 1:
            raise ConfigError(
                f"Rebirth {self.name!r}: max_dropped must lie in [0, 1) and sampling_batch be >= 1, got "
                f"{self.max_dropped} and {self.sampling_batch}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterReport(Record):
    """What became of the teacher's captions."""

    num_captions: int
    num_kept: int
    num_failed: int
    """Clips that could not be read."""
    dropped: dict[str, int]
    """Reason -> captions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RebirthResult(Record):
    """What came of it."""

    filtered: FilterReport
    reborn: str
    """Folder of the model after the SFT."""
    final: str
    """Folder of the final model: after the round if that was kept, else the reborn one."""
    rounds: MrDpoResult | None


def run_rebirth(plan: Rebirth, run_dir: Path, scorer: CaptionScorer | None, *, say: Say = print) -> RebirthResult:
    """Run it, or what is missing of it.

    Args:
        plan: what to do.
        run_dir: everything goes to `run_dir/NAME`; going on there needs the same plan.
        scorer: judges the captions of the round; may be None without one.
        say: what is told of the progress.

    Raises `ConfigError` for a folder of another plan, a missing scorer or teacher, clips that cannot be read, held-out
    clips that would be learnt, and too many dropped captions.
    """
    if plan.round is not None and scorer is None:
        raise ConfigError(f"rebirth {plan.name!r} ends with a round of DPO, which needs a judge")
    _check_data(plan)
    folder = run_dir / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    claim_run(folder, plan, begun=(folder / TEACHER_FILE).exists())
    filtered = _teach(plan, folder)
    say(f"{filtered.num_kept} of {filtered.num_captions} captions are natural; dropped {filtered.dropped or 'nothing'}")
    reborn = _sft(plan, folder)
    say(f"reborn model: {reborn}")
    rounds, final = None, reborn
    if plan.round is not None and scorer is not None:
        rounds = run_mrdpo(dataclasses.replace(plan.round, model=str(reborn)), folder / "round", scorer, say=say)
        final = Path(rounds.rounds[rounds.best].model)
    result = RebirthResult(filtered=filtered, reborn=str(reborn), final=str(final), rounds=rounds)
    _put(folder / "result.json", result.to_json_line() + "\n")
    return result


def caption_reason(caption: SampledCaption, example: TrainingExample) -> str | None:
    """Why a caption is not taught, None for a good one."""
    duration = None
    if example.clip.start_seconds is not None and example.clip.end_seconds is not None:
        duration = example.clip.end_seconds - example.clip.start_seconds
    if not caption.text:
        return "empty"
    if caption.stop_reason == "length":
        return "cut off"
    if is_collapsed(caption.text, caption.stop_reason):
        return "collapsed"
    if is_unnatural(caption.text, duration_seconds=duration, instruction=example.instruction or None):
        return "unnatural"
    return None


def _teach(plan: Rebirth, folder: Path) -> FilterReport:
    """Caption the clips and write what is fit to learn to `data.jsonl`, together with the sources' questions."""
    report_file = folder / "filtered.json"
    if report_file.exists():
        return FilterReport.from_json(report_file.read_text(encoding="utf-8"))
    examples = load_mixture(plan.sources)[0]
    asked = [example for example in examples if example.task in CAPTION_TASKS]
    teacher = _teacher(plan, folder)
    loaded = load_model(teacher, device="auto", dtype=plan.sft.precision)
    _put(folder / TEACHER_FILE, json.dumps({"model": teacher}) + "\n")
    reader = ClipReader(loaded.model, plan.read)
    try:
        told, failures = sample_captions(
            loaded,
            reader,
            asked,
            folder / CAPTIONS_FILE,
            samples_per_clip=1,
            sampling=plan.sampling,
            batch_size=plan.sampling_batch,
            broken=plan.read.broken,
        )
    finally:
        reader.close()
    captions = {one.key: one.captions[0] for one in told}
    lines, dropped, counts = [], [], Counter[str]()
    for example in asked:
        caption = captions.get(example_key(example))
        if caption is None:
            continue
        reason = caption_reason(caption, example)
        if reason is None:
            lines.append(_line(dataclasses.replace(example, target=caption.text)))
        else:
            counts[reason] += 1
            dropped.append(json.dumps({"clip_id": example.clip.id, "reason": reason, "caption": caption.text}) + "\n")
    report = FilterReport(
        num_captions=len(captions), num_kept=len(lines), num_failed=len(failures), dropped=dict(counts)
    )
    _put(folder / DROPPED_FILE, "".join(dropped))
    if not lines or sum(counts.values()) > plan.max_dropped * len(captions):
        raise ConfigError(
            f"{sum(counts.values())} of {len(captions)} captions of {teacher} are unfit ({dict(counts)}), more "
            f"than max_dropped {plan.max_dropped:g} allows; teach with an earlier round. They are in "
            f"{folder / DROPPED_FILE}"
        )
    lines += [_line(example) for example in examples if example.task not in CAPTION_TASKS]
    _put(folder / DATA_FILE, "".join(lines))
    _put(report_file, report.to_json_line() + "\n")
    return report


def _sft(plan: Rebirth, folder: Path) -> Path:
    """The aligned model, trained on the new captions."""
    merged = folder / "model"
    if merged.is_dir():
        return merged
    config = dataclasses.replace(plan.sft, sources=(DataSource(path=str(folder / DATA_FILE)), *plan.beside))
    fine_tune(config, folder, resume=True)
    partial = folder / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    export_merged(config, (config,), folder, partial, precision="float32")
    partial.rename(merged)
    return merged


def _teacher(plan: Rebirth, folder: Path) -> str:
    """The model that teaches: the one this rebirth began with, whatever the rounds have come to since."""
    for file in (folder / TEACHER_FILE, Path(plan.teacher) / "best.json"):
        if file.is_file():
            return str(json.loads(file.read_text(encoding="utf-8"))["model"])
    return plan.teacher


def _check_data(plan: Rebirth) -> None:
    """Raise `ConfigError` for data that the round cannot use, and for held-out clips that the SFT would train on."""
    if plan.round is not None:
        _, held_out = read_round_data(plan.round)
        check_held_out(held_out, clips_of((*plan.sources, *plan.beside)))


def _line(example: TrainingExample) -> str:
    """The example with an absolute path, since the file lies elsewhere."""
    return dataclasses.replace(example, clip=example.clip.absolute()).to_json_line() + "\n"


def _put(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def describe(plan: Rebirth, run_dir: Path) -> str:
    """What a run would do, without doing it. Raises `ConfigError` for data that it would refuse."""
    _check_data(plan)
    folder = run_dir / plan.name
    examples: Sequence[TrainingExample] = load_mixture(plan.sources)[0]
    others = sum(example.task not in CAPTION_TASKS for example in examples)
    done = [name for name in ("filtered.json", "model", "result.json") if (folder / name).exists()]
    return "\n".join(
        [
            f"{plan.name}: {len(examples) - others} clips captioned by {_teacher(plan, folder)}, then SFT of "
            f"{plan.sft.model} with {others} examples of other tasks beside them"
            + ("" if plan.round is None else ", then one round of DPO"),
            f"finished: {', '.join(done) or 'nothing'}",
        ]
    )
