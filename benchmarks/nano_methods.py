"""What the training methods do to `nano`: figures of finished runs, gathered into one JSON file and a Markdown page.

    python benchmarks/nano_methods.py --rounds dpo=runs/nano_mrdpo ce=runs/ce ... --reports sft=sft.json all=all.json \\
        --out benchmarks/results/nano_methods.json --page docs/nano_methods.md

`--rounds` names run folders of `avocet train mrdpo` (or `.../rebirth/round`), whose held-out figures are taken;
`--reports` and `--loops` name files that `avocet evaluate theatre --json` printed. The page is made of the JSON:
without these options it is written anew from the file that is there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from pathlib import Path
from typing import Any

ROUND_KEYS = (
    *("total", "total_standard_error", "miss", "hall", "repetition", "unnatural", "collapse", "words", "qa_accuracy"),
    "num_questions",
)
REPORT_KEYS = (
    "total",
    "total_standard_error",
    "miss",
    "hall",
    "repetition",
    "collapse",
    "collapse_standard_error",
    "dialogue_f1",
    "dialogue_f1_standard_error",
    "dialogue_word_accuracy",
    "speaker_accuracy",
    "perfect",
    "num_clips",
    "seed",
    "num_cut_off",
    "binding_errors",
)
PARTS = {"reports": "Reinforcement on rewards", "loops": "Captions with loops, and the length reward"}


def of_rounds(folder: Path) -> dict[str, Any]:
    """The rounds of a run, each with its held-out figures and the gate's decision."""
    found = json.loads((folder / "rounds.json").read_text(encoding="utf-8"))
    plan = json.loads((folder / "run.json").read_text(encoding="utf-8"))["config"]
    rounds = []
    for one in found["rounds"]:
        line = {key: one["scores"][key] for key in ROUND_KEYS} | {"number": one["number"]}
        line["num_captions"] = one["scores"]["num_captions"]
        line["pairs"] = one["selection"]["num_pairs"] if one["selection"] else None
        line["decision"] = one["decision"]["decision"] if one["decision"] else "start"
        line["reasons"] = one["decision"]["reasons"] if one["decision"] else []
        rounds.append(line)
    settings = {
        "variant": plan["preference"]["variant"],
        "adapter": plan["adapter"],
        "learning_rate": plan["optimizer"]["learning_rate"],
        "seed": plan["seed"],
    }
    return {"rounds": rounds, "best": found["best"], "stopped": found["stopped"], "settings": settings}


def of_report(path: Path) -> dict[str, Any]:
    """The figures of one evaluation."""
    report = json.loads(path.read_text(encoding="utf-8"))
    return {key: report[key] for key in REPORT_KEYS} | {"temperature": report["sampling"]["temperature"]}


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def page(results: dict[str, Any]) -> str:
    """The Markdown page of the JSON file."""
    lines = [
        "# What the training methods do to nano",
        "",
        "Made by `benchmarks/nano_methods.py` of `benchmarks/results/nano_methods.json`; measured "
        f"{results['date']} on {results['machine']}. One seed each. {results['note']}",
        "",
    ]
    if results["rounds"]:
        lines += ["## Rounds of preference optimisation", "", results["rounds_note"], ""]
        lines += [*rounds_table(results["rounds"]), ""]
    for part, title in PARTS.items():
        if results[part]:
            lines += [f"## {title}", "", results[f"{part}_note"], "", *report_table(results[part]), ""]
    return "\n".join(lines)


def rounds_table(runs: dict[str, Any]) -> list[str]:
    """A line per round."""
    lines = [
        "| run | round | pairs | Total | Miss | Hall | repetition | unnatural | words | QA | gate |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        for one in run["rounds"]:
            cells = (
                name,
                str(one["number"]),
                str(one["pairs"] or "-"),
                f"{percent(one['total'])} ± {percent(one['total_standard_error'])}",
                *(percent(one[key]) for key in ("miss", "hall", "repetition", "unnatural")),
                f"{one['words']:.1f}",
                percent(one["qa_accuracy"]),
                one["decision"] + (" (best)" if one["number"] == run["best"] else ""),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def report_table(reports: dict[str, Any]) -> list[str]:
    """A line per evaluation."""
    lines = [
        "| model | Total | Miss | Hall | dialogue F1 | collapse | repetition | dialogue words | speakers | perfect |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in reports.items():
        keys = ("repetition", "dialogue_word_accuracy", "speaker_accuracy", "perfect")
        cells = (
            name,
            f"{percent(one['total'])} ± {percent(one['total_standard_error'])}",
            *map(percent, (one["miss"], one["hall"])),
            f"{percent(one['dialogue_f1'])} ± {percent(one['dialogue_f1_standard_error'])}",
            f"{percent(one['collapse'])} ± {percent(one['collapse_standard_error'])}",
            *map(percent, map(one.get, keys)),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def pairs(values: list[str]) -> dict[str, Path]:
    found = {}
    for value in values:
        name, separator, path = value.partition("=")
        if not separator:
            raise SystemExit(f"expected NAME=PATH, got {value!r}")
        found[name] = Path(path)
    return found


def main() -> None:
    """Gather and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", nargs="*", default=[])
    parser.add_argument("--reports", nargs="*", default=[])
    parser.add_argument("--loops", nargs="*", default=[], help="as --reports, after an SFT on captions with loops")
    parser.add_argument("--note", default="")
    parser.add_argument("--rounds-note", default="")
    parser.add_argument("--reports-note", default="")
    parser.add_argument("--loops-note", default="")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    if options.rounds or options.reports or options.loops:
        results = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": f"2 cores of {platform.machine()}, one thread",
            "note": options.note,
            "rounds_note": options.rounds_note,
            "reports_note": options.reports_note,
            "loops_note": options.loops_note,
            "rounds": {name: of_rounds(path) for name, path in pairs(options.rounds).items()},
            "reports": {name: of_report(path) for name, path in pairs(options.reports).items()},
            "loops": {name: of_report(path) for name, path in pairs(options.loops).items()},
        }
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.page:
        options.page.write_text(page(json.loads(options.out.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
