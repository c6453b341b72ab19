"""The theatre as a benchmark: staged mp4 files in, exact figures out.

    avocet evaluate theatre --level 1 --model nano --num-clips 200 --seed 990000 --json

Differs from the papers' caption test in that no language model judges: the truth of each clip is known,
so a parser counts, and the figures are the same on every run. Each caption is judged once; the rates are means over
captions (protocol `paper` with a single run), beside which the pooled counts are reported.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avocet import metrics
from avocet.captioning.captioner import Captioner
from avocet.errors import ConfigError
from avocet.evaluation.benchmarks.theatre_staging import Control, stage_scripts
from avocet.evaluation.exact_judge import exact_dialogue_scores
from avocet.evaluation.report import KindReport, TheatreReport
from avocet.evaluation.runner import JudgedItem, caption_and_judge
from avocet.records import Caption, ClipRef, Failure, Sampling
from avocet.theatre.judge import TheatreFindings, judge
from avocet.theatre.script import KIND_ORDER, Script, make_script

_NUM_RESAMPLES = 2000

TheatreItem = JudgedItem[TheatreFindings]


def evaluate_theatre(
    captioner: Captioner,
    level: int,
    num_clips: int,
    seed: int,
    *,
    control: Control = "none",
    out_dir: str | Path | None = None,
    sampling: Sampling | None = None,
    workers: int = 2,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> TheatreReport:
    """Measure `captioner` on the scripts of seeds `seed` ... `seed + num_clips - 1`.

    Args:
        control: spoil one stream of each file (see `theatre_staging`); captions are still judged against
            their own script.
        out_dir: keeps the clips, `items.jsonl` (caption and findings per clip) and `report.json`; a second run
            with the same settings does only what is missing. Without it everything is temporary.
        workers: processes that stage clips; more than 1 needs the caller's `__main__` guard.
        progress: called with (finished, all) after each caption.

    Raises `ConfigError` for a wrong level, seed, number of clips or control, or when `out_dir` holds captions
    that were made with other settings.
    """
    if num_clips < 1:
        raise ConfigError(f"num_clips must be >= 1, got {num_clips}")
    scripts = [make_script(seed + index, level) for index in range(num_clips)]
    with contextlib.ExitStack() as stack:
        if out_dir is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="avocet-theatre-")))
        else:
            folder = Path(out_dir)
        began = time.perf_counter()
        paths = stage_scripts(scripts, folder / "clips", control=control, workers=workers)
        staged = time.perf_counter()
        clips = [ClipRef(id=path.stem, path=str(path)) for path in paths]
        script_of = {clip.id: script for clip, script in zip(clips, scripts, strict=True)}
        items = caption_and_judge(
            captioner,
            clips,
            lambda text, clip: judge(text, script_of[clip.id]),
            items_path=None if out_dir is None else folder / "items.jsonl",
            batch_size=batch_size,
            sampling=sampling,
            progress=progress,
        )
        seconds = {"staging": staged - began, "captioning": time.perf_counter() - staged}
        report = build_report(captioner, scripts, items, control=control, sampling=sampling, seconds=seconds)
        if out_dir is not None:
            (folder / "report.json").write_text(report.to_json_line() + "\n", encoding="utf-8")
    return report


def build_report(
    captioner: Captioner,
    scripts: Sequence[Script],
    items: Sequence[TheatreItem],
    *,
    control: Control = "none",
    sampling: Sampling | None = None,
    seconds: Mapping[str, float] | None = None,
) -> TheatreReport:
    """Aggregate judged captions of `scripts` (consecutive seeds of one level, at least one)."""
    findings = [item.findings for item in items]
    scored = [item for item in findings if item is not None]
    captions = [item.outcome for item in items if isinstance(item.outcome, Caption)]
    perfect = metrics.mean_with_error([float(_is_perfect(item)) for item in scored])
    repetition = metrics.mean_with_error([metrics.repetition_rate(caption.text) for caption in captions])
    collapse = metrics.share(metrics.is_collapsed(caption.text, caption.stop_reason) for caption in captions)
    dialogue = metrics.mean_with_error(
        [
            exact_dialogue_scores(item.outcome.text, script).f1
            for item, script in zip(items, scripts, strict=True)
            if isinstance(item.outcome, Caption)
        ]
    )
    return TheatreReport(
        level=scripts[0].level,
        model=captioner.model_id,
        revision=captioner.revision,
        num_clips=len(scripts),
        seed=scripts[0].seed,
        control=control,
        instruction=captioner.model.default_instruction,
        sampling=sampling or captioner.model.default_sampling,
        **_event_figures(findings),
        **_dialogue_figures(scored),
        num_cut_off=sum(caption.stop_reason == "length" for caption in captions),
        perfect=_known(perfect.mean),
        perfect_standard_error=_known(perfect.standard_error),
        repetition=_known(repetition.mean),
        repetition_standard_error=_known(repetition.standard_error),
        dialogue_f1=_known(dialogue.mean),
        dialogue_f1_standard_error=_known(dialogue.standard_error),
        collapse=_known(collapse.rate),
        collapse_standard_error=_known(collapse.standard_error),
        order_errors=sum(item.order_errors for item in scored),
        binding_errors=sum(item.binding_errors for item in scored),
        per_kind=_per_kind(scored),
        warnings=dict(Counter(warning for caption in captions for warning in caption.warnings)),
        unscored=tuple(item.outcome for item in items if isinstance(item.outcome, Failure)),
        seconds={name: round(value, 3) for name, value in (seconds or {}).items()},
    )


def _event_figures(findings: Sequence[TheatreFindings | None]) -> dict[str, Any]:
    """The report's fields about events, by both protocols."""
    rates = metrics.event_rates([findings], protocol="paper")
    pooled = metrics.event_rates([findings], protocol="released")
    return {
        "miss": _known(rates.miss),
        "miss_standard_error": _known(rates.miss_standard_error),
        "hall": _known(rates.hall),
        "hall_standard_error": _known(rates.hall_standard_error),
        "total": _known(rates.total),
        "total_standard_error": _known(rates.standard_error),
        "pooled_miss": _known(pooled.miss),
        "pooled_hall": _known(pooled.hall),
        "pooled_total": _known(pooled.total),
        "pooled_total_standard_error": _known(pooled.standard_error),
        "num_events": rates.num_events,
        "num_scored": rates.num_scored,
        "num_unscored": rates.num_unscored,
    }


def _dialogue_figures(scored: Sequence[TheatreFindings]) -> dict[str, Any]:
    """The report's fields about speech."""
    # Accuracy is 1 - errors / words; its lower bound comes from the upper bound of the errors.
    errors, errors_range = _ratio([(item.word_errors, item.reference_words) for item in scored])
    speakers, speakers_range = _ratio([(item.speakers_correct, item.speakers_total) for item in scored])
    accuracy_range = None
    if errors_range is not None:
        accuracy_range = (max(0.0, 1 - errors_range[1]), max(0.0, 1 - errors_range[0]))
    return {
        "dialogue_word_accuracy": None if errors is None else max(0.0, 1 - errors),
        "dialogue_word_accuracy_interval": accuracy_range,
        "num_reference_words": sum(item.reference_words for item in scored),
        "speaker_accuracy": speakers,
        "speaker_accuracy_interval": speakers_range,
        "num_utterances": sum(item.speakers_total for item in scored),
    }


def _is_perfect(findings: TheatreFindings) -> bool:
    wrong = len(findings.missed) + len(findings.incorrect) + len(findings.hallucinated)
    return wrong + findings.order_errors + findings.binding_errors == 0


def _per_kind(scored: Sequence[TheatreFindings]) -> dict[str, KindReport]:
    """The kinds that occur, in the script's order of kinds."""
    reports: dict[str, KindReport] = {}
    for kind in KIND_ORDER:
        counts = [item.by_kind[kind] for item in scored]
        num_events = sum(count.num_events for count in counts)
        missed, incorrect = sum(count.missed for count in counts), sum(count.incorrect for count in counts)
        hallucinated = sum(count.hallucinated for count in counts)
        if num_events or hallucinated:
            reports[kind] = KindReport(
                num_events=num_events,
                missed=missed,
                incorrect=incorrect,
                hallucinated=hallucinated,
                miss=missed / num_events if num_events else None,
                not_right=(missed + incorrect) / num_events if num_events else None,
            )
    return reports


def _ratio(counts: Sequence[tuple[int, int]]) -> tuple[float | None, tuple[float, float] | None]:
    """Sum of the firsts / sum of the seconds, with its bootstrap 95 % interval over the items.

    The interval is None with fewer than two items that have anything in the denominator.
    """
    used = np.array([pair for pair in counts if pair[1]], dtype=np.float64).reshape(-1, 2)
    if not len(used):
        return None, None
    rate = float(used[:, 0].sum() / used[:, 1].sum())
    if len(used) < 2:
        return rate, None
    drawn = np.random.default_rng(0).integers(0, len(used), (_NUM_RESAMPLES, len(used)))
    sums = used[drawn].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    return rate, (float(low), float(high))


def _known(value: float) -> float | None:
    """JSON knows no nan."""
    return None if math.isnan(value) else value
