"""Quick scores on held-out stored clips while training: the exact judge on greedy captions."""

from __future__ import annotations

import numpy as np
import torch

from avocet.metrics import event_rates
from avocet.records import Sampling
from avocet.theatre.judge import judge
from avocet.theatre.script import make_script
from avocet.training.model import TrainableModel
from avocet.training.objectives import to_tensor
from avocet.training.store import ClipStore

_BATCH = 25


def dev_scores(model: TrainableModel, store: ClipStore, num_clips: int) -> dict[str, float]:
    """Miss, hall, total, word and speaker accuracy of greedy captions of the store's first `num_clips` clips."""
    findings = []
    order = np.argsort(store.duration_seconds[:num_clips], kind="stable")
    for start in range(0, len(order), _BATCH):
        clips = [store[int(index)] for index in order[start : start + _BATCH]]
        prompts = [
            model.prompt_from_tensors(
                clip_id=str(clip.seed),
                instruction=model.default_instruction,
                frames=to_tensor(clip.frames, np.uint8),
                frame_times_seconds=clip.frame_times_seconds,
                mel=to_tensor(clip.mel.T, np.float32),
                duration_seconds=clip.duration_seconds,
            )
            for clip in clips
        ]
        with torch.no_grad():
            completions = model.generate(model.encode(prompts), 1, Sampling(max_new_tokens=160))
        for clip, samples in zip(clips, completions, strict=True):
            findings.append(judge(samples[0].text, make_script(clip.seed, clip.level)))
    rates = event_rates([findings], protocol="released")
    words = sum(finding.reference_words for finding in findings)
    speakers = sum(finding.speakers_total for finding in findings)
    return {
        "miss": rates.miss,
        "hall": rates.hall,
        "total": rates.total,
        "words": 1 - sum(finding.word_errors for finding in findings) / max(words, 1),
        "speakers": sum(finding.speakers_correct for finding in findings) / max(speakers, 1),
    }
