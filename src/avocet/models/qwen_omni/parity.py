"""Self-test: our path from a clip to logits against transformers' own processor and model, on the same weights.

Each case makes a clip in memory, runs it both ways and compares token ids, rotary positions and logits. Where
transformers is known to be wrong, the case says why, and passes when transformers still differs there: a fix in a later
version should be noticed too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from avocet.errors import ConfigError
from avocet.models.decoder import Decoder
from avocet.models.interface import Prompt
from avocet.models.qwen_omni import towers
from avocet.models.qwen_omni.modeling import QwenOmniModel
from avocet.models.qwen_omni.reference import reference_inputs, reference_positions
from avocet.models.qwen_omni.tiny import tiny_model
from avocet.records import SAMPLE_RATE, Clip, Record, SourceFacts

INSTRUCTION = "Describe this video in full detail."
TOLERANCE = 1e-4
"""Largest difference of logits in float32."""

EQUAL = "equal"
_CUT = "transformers cuts sound at 300 s"
_FULL = "transformers fills sound up to 300 s with silence, and mirrors the end of sound that leaves no room for any"
_CHUNKS = "transformers counts chunks of 2 s but advances one chunk per patch, and patches are more than 2 s apart"
_IRREGULAR = "transformers takes one frame rate for all frames"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One clip of the table."""

    name: str
    seconds: float
    source_fps: float = 30.0
    fps: float = 2.0
    max_frames: int = 600
    has_picture: bool = True
    has_sound: bool = True
    is_image: bool = False
    freeze_from_seconds: float | None = None
    """The picture stands still from here on, so that later frames are no new ones."""
    wrong: tuple[tuple[str, str], ...] = ()
    """(family, why transformers is wrong)."""

    def expected(self, family: str) -> str:
        return dict(self.wrong).get(family, EQUAL)


CASES = (
    *(Case(name=f"{seconds:g} s", seconds=seconds) for seconds in (1, 5.5, 29.9, 30.1, 45, 128.5, 299.9)),
    Case(name="300 s", seconds=300, wrong=(("qwen2.5-omni", _FULL),)),
    *(Case(name=f"{fps:g} fps source", seconds=10, source_fps=fps) for fps in (24, 25, 29.97, 60)),
    Case(name="no sound track", seconds=5.5, has_sound=False),
    Case(name="sound only", seconds=5.5, has_picture=False),
    Case(name="image", seconds=0.5, has_sound=False, is_image=True),
    Case(name="1 fps", seconds=20, fps=1.0),
    Case(name="300 s, 256 frames", seconds=300, max_frames=256, wrong=(("qwen2.5-omni", _CHUNKS),)),
    Case(name="310 s", seconds=310, max_frames=310, wrong=(("qwen2.5-omni", _CUT),)),
    Case(
        name="still picture from 3.2 s to 9 s",
        seconds=10,
        freeze_from_seconds=3.2,
        wrong=(("qwen2.5-omni", _IRREGULAR), ("qwen3-omni", _IRREGULAR)),
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityRow(Record):
    """What came out of one case."""

    family: str
    case: str
    num_tokens: int
    ids_equal: bool
    positions_equal: bool
    max_logit_difference: float | None
    """None where the sequences differ in length or order, so that logits cannot be compared."""
    expected: str
    """"equal", or why transformers is wrong here."""
    passed: bool


def check_parity(model: str | None = None, *, cases: Sequence[str] | None = None) -> Iterator[ParityRow]:
    """Run the table, yielding each row as soon as it is known.

    Args:
        model: a Qwen-Omni folder or name; None takes a tiny random model of each generation.
        cases: names of `CASES`; None takes all.

    Raises:
        ConfigError: an unknown case, or a model of another family.
    """
    known = {case.name: case for case in CASES}
    unknown = [name for name in cases or () if name not in known]
    if unknown:
        raise ConfigError(f"unknown parity cases {unknown}; there are: {', '.join(known)}")
    for tested in [_load(model)] if model else [tiny_model("qwen2.5-omni"), tiny_model("qwen3-omni")]:
        for name in cases or known:
            yield compare(tested, known[name])


@torch.no_grad()
def compare(model: QwenOmniModel, case: Case) -> ParityRow:
    """Run one case both ways."""
    clip = make_clip(case)
    prompt = model.prepare(clip, INSTRUCTION)
    inputs = reference_inputs(model, clip, prompt)
    ids = inputs["input_ids"][0].tolist()
    ids_equal = ids == list(prompt.token_ids)
    positions = reference_positions(model, inputs)
    ours = torch.from_numpy(prompt.positions)
    positions_equal = positions.shape == ours.shape and bool((positions.double() - ours).abs().max() < 1e-3)
    difference = None
    if ids_equal:
        theirs = model.thinker(**inputs).logits[0].float().cpu()
        difference = float((theirs - logits(model, prompt)).abs().max())
    equal = ids_equal and positions_equal and difference is not None and difference <= TOLERANCE
    expected = case.expected(model.family.name)
    return ParityRow(
        family=model.family.name,
        case=case.name,
        num_tokens=len(prompt.token_ids),
        ids_equal=ids_equal,
        positions_equal=positions_equal,
        max_logit_difference=difference,
        expected=expected,
        passed=equal == (expected == EQUAL),
    )


def logits(model: QwenOmniModel, prompt: Prompt) -> torch.Tensor:
    """float32 (L, V) of a prompt by our path, on the CPU."""
    prefix = model.encode([prompt])
    decoder: Decoder = towers.decoder_of(model.thinker)
    hidden, _ = decoder.run(prefix.embeddings, positions=prefix.positions, deepstack=prefix.deepstack)
    return decoder.logits(hidden)[0].cpu()


def make_clip(case: Case) -> Clip:
    """A clip as `open_clip` would sample it from a source of that frame rate: noise in picture and sound."""
    source = np.random.default_rng(7)
    step = max(1 / case.fps, case.seconds / case.max_frames)
    targets = np.arange(0 if not case.has_picture else max(1, int(np.ceil(case.seconds / step - 1e-9)))) * step
    times = np.floor(targets * case.source_fps + 1e-6) / case.source_fps
    if case.is_image:
        times = times[:1]
    if case.freeze_from_seconds is not None:
        times = times[(times < case.freeze_from_seconds) | (times >= 9)]
    waveform = source.standard_normal(round(case.seconds * SAMPLE_RATE)).astype(np.float32) * 0.1
    return Clip(
        id=case.name,
        frames=source.integers(0, 256, (len(times), 3, 58, 90), dtype=np.uint8),
        frame_times_seconds=times,
        waveform=waveform if case.has_sound else None,
        start_seconds=0.0,
        duration_seconds=case.seconds,
        audio_status="present" if case.has_sound else "absent",
        source=SourceFacts(path=case.name, container="memory", duration_seconds=case.seconds, is_image=case.is_image),
        sampling_step_seconds=step,
    )


def _load(name: str) -> QwenOmniModel:
    from avocet.models.registry import load_model

    model = load_model(name).model
    if not isinstance(model, QwenOmniModel):
        raise ConfigError(f"the parity test is of the Qwen-Omni family; {name!r} is another model")
    return model
