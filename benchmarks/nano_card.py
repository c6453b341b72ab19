"""Measure nano on the theatre and write its model card from the numbers.

    python benchmarks/nano_card.py training RUN # writes benchmarks/results/nano_training.json from a run folder's logs
    python benchmarks/nano_card.py measure      # about 15 minutes on 2 cores; writes benchmarks/results/nano_*.json
    python benchmarks/nano_card.py write        # writes src/avocet/assets/nano/README.md from those files

Every number of the card is read from the committed JSON; a test checks that the card is up to date.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CARD = ROOT / "src" / "avocet" / "assets" / "nano" / "README.md"
SEED = 990_000
RUNS = (
    *((level, "none", 0.0) for level in (1, 2)),
    *((1, control, 0.0) for control in ("muted", "black", "swapped")),
    (1, "none", 1.0),
)
"""(level, control, temperature) of every evaluation behind the card."""


def result_path(level: int, control: str, temperature: float) -> Path:
    """Where the report of one evaluation is committed."""
    sampled = "" if temperature == 0 else f"_t{temperature:g}"
    return RESULTS / f"nano_level{level}_{control}{sampled}.json"


def measure(num_clips: int = 200) -> None:
    """Run every evaluation and write one JSON file each, with the machine and the date."""
    import dataclasses

    from avocet.captioning.captioner import load_captioner
    from avocet.evaluation.benchmarks.theatre import evaluate_theatre

    captioner = load_captioner("nano")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU"
    for level, control, temperature in RUNS:
        sampling = dataclasses.replace(captioner.model.default_sampling, temperature=temperature)
        report = evaluate_theatre(captioner, level, num_clips, SEED, control=control, sampling=sampling)  # type: ignore[arg-type]
        facts = {**report.to_dict(), "machine": machine, "date": datetime.date.today().isoformat()}
        path = result_path(level, control, temperature)
        path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(path.name, f"total {report.total:.3f}", flush=True)


def training_facts(run_dir: Path) -> dict[str, Any]:
    """What `run_dir` says about the training: stages, clips seen, wall time, curve on the development clips."""
    from avocet.training.recipes import load_recipe

    recipe = load_recipe(ROOT / "recipes" / "nano" / "recipe.py")
    stages = []
    for stage in recipe.stages():
        lines = [json.loads(line) for line in (run_dir / stage.name / "log.jsonl").read_text().splitlines()]
        timed = [line for line in lines if "clips_per_second" in line]
        steps = [0, *(line["step"] for line in timed)]
        seconds = sum(
            (step - before) * stage.batch_size / line["clips_per_second"]
            for before, step, line in zip(steps, steps[1:], timed, strict=False)
        )
        development = [line for line in lines if "dev_total" in line]
        stages.append(
            {
                "stage": stage.name,
                "steps": steps[-1],
                "batch_size": stage.batch_size,
                "processes": stage.num_processes,
                "minutes": round(seconds / 60, 1),
                "development": development,
            }
        )
    weights = CARD.parent / "model.safetensors"
    with safe_open(weights, "pt") as file:
        parameters = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "date": datetime.date.today().isoformat(),
        "million_parameters": round(parameters / 1e6, 2),
        "megabytes": round(weights.stat().st_size / 1e6, 1),
        "clips": {data.name: data.num_clips for data in recipe.data},
        "stages": stages,
    }


def _training_table(facts: dict[str, Any]) -> str:
    lines = ["| stage | steps x clips | processes | minutes |", "|---|---|---|---|"]
    lines += [
        f"| {stage['stage']} | {stage['steps']} x {stage['batch_size']} | {stage['processes']} | {stage['minutes']} |"
        for stage in facts["stages"]
    ]
    lines.append("\nTotal error on 100 development clips of level 1 (pooled, percent), by step:\n")
    for stage in facts["stages"]:
        if stage["development"]:
            curve = ", ".join(f"{line['step']}: {100 * line['dev_total']:.0f}" for line in stage["development"])
            lines.append(f"- {stage['stage']}: {curve}")
    return "\n".join(lines)


def card_text() -> str:
    """The model card, every number from `benchmarks/results` and the recipe's training facts."""
    reports = {run: json.loads(result_path(*run).read_text(encoding="utf-8")) for run in RUNS}
    first = reports[(1, "none", 0.0)]
    training = json.loads((RESULTS / "nano_training.json").read_text(encoding="utf-8"))
    kinds = ["visual", "text", "sound", "speech", "scene"]
    clips = ", ".join(f"{name} {count}" for name, count in training["clips"].items())
    introduction = _INTRODUCTION.format(
        **{key: training[key] for key in ("million_parameters", "megabytes", "machine", "date")},
        revision=first["revision"],
        clips=clips,
        table=_training_table(training),
    )
    lines = [introduction]
    lines.append(
        f"Measured on {first['num_clips']} clips per row, staged to mp4 from seeds {first['seed']} to\n"
        f"{first['seed'] + first['num_clips'] - 1} (training drew no seed below 10,000,000), greedy unless\nsaid; "
        f"{first['machine']}, {first['date']}. Percent, ± standard error. The last columns:\n"
        "events of a kind that are missed or told wrong.\n"
    )
    lines.append(
        "| clips | Miss | Hall | Total | repetition | dialogue words right | speakers right | perfect | "
        + " | ".join(f"{kind} not right" for kind in kinds)
        + " |"
    )
    lines.append("|" + "---|" * (8 + len(kinds)))
    lines += [_row(run, report, kinds) for run, report in reports.items()]
    lines.append(_READING)
    return "\n".join(lines)


def _row(run: tuple[int, str, float], report: dict[str, Any], kinds: list[str]) -> str:
    level, control, temperature = run
    names = {"none": "", "muted": ", sound muted", "black": ", picture black", "swapped": ", another clip's sound"}
    name = f"level {level}{names[control]}" + ("" if temperature == 0 else f", sampled at temperature {temperature:g}")

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    rates = [
        f"{percent(report[key])} ± {percent(report[f'{key}_standard_error'])}" for key in ("miss", "hall", "total")
    ]
    singles = ("repetition", "dialogue_word_accuracy", "speaker_accuracy", "perfect")
    cells = [*rates, *(percent(report[key]) for key in singles)]
    cells += [percent(report["per_kind"][kind]["not_right"]) if kind in report["per_kind"] else "–" for kind in kinds]
    return f"| {name} | " + " | ".join(cells) + " |"


_INTRODUCTION = """# nano

A captioner of {million_parameters} million parameters, trained from scratch by `recipes/nano` on the procedural
theatre: the video-SALMONN 2 architecture (SigLIP-style vision encoder, visual aligner, Whisper encoder, segment
positions, windowed Q-Former, chronological interleaving, Qwen2 decoder), only small. Weights: float16,
{megabytes} MB, revision `{revision}`.

**It knows only the theatre.** On any other video it answers in the theatre's words, and every such caption carries a
warning. It exists to prove that the training methods work and to make the demo run without a download.

## Training

`avocet train all nano`, on {machine}, {date}. Rendered clips:
{clips}; the
`av` and `dev` ones went through the real mp4 encoder and decoder. Minutes are wall time; the machine did other work
beside it, and the single-process towers ran two at a time. The stages ran while the code was being finished: the
`picture` clips were drawn by an earlier version of the picture code, and the two towers drew their augmentation
otherwise than today, so a new training gives other weights.

{table}

## Figures
"""

_READING = """
The three controls spoil one stream and are judged against the unspoiled script: without sound, what is heard must be
lost; without picture, what is seen; with another clip's sound, the hearing part must be wrong. The other stream's
columns should stay as they are in the first row; how far they do not is how much one stream leans on the other.
Miss, Hall and Total are means over captions of one run; the exact judge counts a wrong detail as one incorrect event.

Repeat with `python benchmarks/nano_card.py measure` and `write`; each row is one
`avocet evaluate theatre --level L --control C --num-clips 200 --seed 990000`.
"""


def main() -> int:
    """`measure` or `write`."""
    if sys.argv[1:] == ["measure"]:
        measure()
    elif len(sys.argv) == 3 and sys.argv[1] == "training":
        path = RESULTS / "nano_training.json"
        path.write_text(json.dumps(training_facts(Path(sys.argv[2])), indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path}")
    elif sys.argv[1:] == ["write"]:
        CARD.write_text(card_text(), encoding="utf-8")
        print(f"wrote {CARD}")
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
