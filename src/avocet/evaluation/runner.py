"""What every benchmark shares: caption its clips, judge each caption, keep one line per item, resume.

A benchmark says which clips there are and how one caption is judged; the counting is in its report.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from avocet.captioning.bulk import caption_clips, check_same_settings
from avocet.captioning.captioner import Captioner
from avocet.captioning.instructions import InstructionChoice
from avocet.ledger import Ledger
from avocet.records import AudioPolicy, Caption, ClipRef, Failure, Sampling

FindingsT = TypeVar("FindingsT")
Judge = Callable[[str, ClipRef], FindingsT]
"""From caption text and clip to what is wrong with the caption."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedItem(Generic[FindingsT]):
    """One clip of a benchmark, with its caption and findings; a clip without caption has no findings."""

    clip: ClipRef
    outcome: Caption | Failure
    findings: FindingsT | None


def caption_and_judge(
    captioner: Captioner,
    clips: Sequence[ClipRef],
    judge: Judge[FindingsT],
    *,
    items_path: Path | None = None,
    batch_size: int = 8,
    instruction: InstructionChoice = None,
    sampling: Sampling | None = None,
    audio: AudioPolicy = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> list[JudgedItem[FindingsT]]:
    """Caption and judge every clip, in the order of `clips`.

    Args:
        judge: must be exact and cheap: captions that `items_path` already holds are judged again, so a
            better judge never meets stale findings.
        items_path: a JSONL ledger with one line {clip_id, caption, findings} per captioned clip. Clips in it
            are not captioned again; failed clips are not in it and are tried again.
        instruction: of all clips, a rule that gives each its own, or None for the model's.
        progress: called with (finished, all) after each clip.

    Raises `ConfigError` when `items_path` holds captions made with other settings.
    """
    outcomes: dict[str, Caption | Failure] = {}
    with contextlib.ExitStack() as stack:
        ledger = None
        if items_path is not None:
            ledger = stack.enter_context(Ledger(items_path, key="clip_id"))
            for record in ledger.records():
                check_same_settings(record["caption"], captioner, instruction, sampling, items_path)
                outcomes[record["clip_id"]] = Caption.from_dict(record["caption"])
        missing = [clip for clip in clips if clip.id not in outcomes]
        num_done = len(clips) - len(missing)
        made = caption_clips(
            captioner, missing, batch_size=batch_size, instruction=instruction, sampling=sampling, audio=audio
        )
        for count, (clip, outcome) in enumerate(zip(missing, made, strict=True), start=num_done + 1):
            outcomes[clip.id] = outcome
            if ledger is not None and isinstance(outcome, Caption):
                ledger.append(_line(outcome, judge(outcome.text, clip)))
            if progress is not None:
                progress(count, len(clips))
    return [_judged(clip, outcomes[clip.id], judge) for clip in clips]


def _judged(clip: ClipRef, outcome: Caption | Failure, judge: Judge[FindingsT]) -> JudgedItem[FindingsT]:
    findings = judge(outcome.text, clip) if isinstance(outcome, Caption) else None
    return JudgedItem(clip=clip, outcome=outcome, findings=findings)


def _line(caption: Caption, findings: Any) -> dict[str, Any]:
    return {"clip_id": caption.clip_id, "caption": caption.to_dict(), "findings": dataclasses.asdict(findings)}
