"""Captions that run in a loop: what the record says, and the second try."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from avocet.captioning import Captioner, caption_clips, load_captioner, open_caption_ledger
from avocet.captioning.retry import generate_guarded, retry_sampling
from avocet.errors import ConfigError
from avocet.models.interface import Completion, Prefix
from avocet.records import Caption, ClipRef, Sampling

FIRST_WARNING = (
    "the first try ran in a loop and was ended after 64 tokens; this caption is a second try with "
    "repetition_penalty=1.1"
)
LOOP_WARNING = "the caption ran in a loop and was ended after 80 tokens"


def looping_model(base: Callable[..., Any], tries: dict[str, int]) -> Any:
    """A scripted model whose clip `name` loops in its first `tries[name]` tries, after 64, 80, ... tokens."""

    class Looping(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[tuple[list[str], Sampling]] = []
            self.embeddings: list[torch.Tensor] = []

        def encode(self, prompts: Any) -> Prefix:
            prefix = super().encode(prompts)
            # Each row its own number, to see that the second try has the rows of the clips that looped.
            prefix.embeddings[:] = torch.arange(len(prefix))[:, None, None]
            return prefix

        def generate(self, prefix: Prefix, n: int, sampling: Sampling) -> list[list[Completion]]:
            assert n == 1
            self.calls.append((list(prefix.clip_ids), sampling))
            self.embeddings.append(prefix.embeddings)
            answers = super().generate(prefix, n, sampling)
            count = 48 + 16 * len(self.calls)
            loop = Completion(token_ids=(7,) * count, text="ha " * count, stop_reason="repetition")
            loops = [tries.get(clip_id, 0) >= len(self.calls) for clip_id in prefix.clip_ids]
            return [[loop] if looped else answer for answer, looped in zip(answers, loops, strict=True)]

    return Looping()


@pytest.fixture
def clips(media_folder: Path) -> list[ClipRef]:
    names = (("x", "a.mp4"), ("y", "b.mp4"), ("z", "sub/c.mp4"))
    return [ClipRef(id=name, path=str(media_folder / file)) for name, file in names]


def test_stop_says_where_the_loop_was_ended(clips: list[ClipRef], scripted_model: Callable) -> None:
    model = looping_model(scripted_model, {"y": 9})
    x, y, z = Captioner(model, "toy", "rev1").caption_batch(clips, sampling=Sampling(repetition_guard="stop"))
    assert (y.stop_reason, y.num_tokens) == ("repetition", 64)
    assert "the caption ran in a loop and was ended after 64 tokens" in y.warnings
    assert [record.stop_reason for record in (x, z)] == ["end", "end"]
    assert not any("loop" in warning for record in (x, z) for warning in record.warnings)
    assert len(model.calls) == 1
    assert "retry" not in y.timings_seconds


def test_retry_completes_only_what_looped_once_more(clips: list[ClipRef], scripted_model: Callable) -> None:
    model = looping_model(scripted_model, {"x": 1, "z": 2})
    sampling = Sampling(repetition_guard="retry", max_new_tokens=99)
    second = Sampling(repetition_guard="retry", max_new_tokens=99, repetition_penalty=1.1)
    x, y, z = Captioner(model, "toy", "rev1").caption_batch(clips, sampling=sampling)
    assert model.batches == [["x", "y", "z"]]  # encoded once
    assert model.calls == [(["x", "y", "z"], sampling), (["x", "z"], second)]
    assert model.embeddings[1][:, 0, 0].tolist() == [0, 2]
    assert (x.text, x.stop_reason, x.sampling) == ("A caption of x.", "end", second)
    assert FIRST_WARNING in x.warnings
    assert LOOP_WARNING not in x.warnings
    assert (y.stop_reason, y.sampling) == ("end", sampling)
    assert not any("loop" in warning for warning in y.warnings)
    assert (z.stop_reason, z.num_tokens, z.sampling) == ("repetition", 80, second)
    assert [warning for warning in z.warnings if "loop" in warning] == [FIRST_WARNING, LOOP_WARNING]
    assert ["retry" in record.timings_seconds for record in (x, y, z)] == [True, False, True]


@pytest.mark.parametrize(
    ("guard", "penalty", "second"),
    [("off", 1.0, None), ("stop", 1.0, None), ("retry", 1.0, 1.1), ("retry", 1.05, 1.1), ("retry", 0.9, 1.1)],
)
def test_what_a_second_try_is_sampled_with(guard: Any, penalty: float, second: float | None) -> None:
    sampling = Sampling(repetition_guard=guard, repetition_penalty=penalty, seed=3, temperature=0.5)
    changed = retry_sampling(sampling)
    if second is None:
        assert changed is None
    else:
        assert changed == Sampling(repetition_guard=guard, repetition_penalty=second, seed=3, temperature=0.5)


@pytest.mark.parametrize("penalty", [1.1, 1.3])
def test_a_second_try_that_would_be_the_first_is_left_out(
    clips: list[ClipRef], scripted_model: Callable, penalty: float
) -> None:
    model = looping_model(scripted_model, {"x": 1})
    sampling = Sampling(repetition_guard="retry", repetition_penalty=penalty)
    caption = Captioner(model, "toy", "rev1").caption(clips[0], sampling=sampling)
    assert len(model.calls) == 1
    assert caption.sampling == sampling
    assert f"there was no second try: with repetition_penalty={penalty:g} it would be the first" in caption.warnings


def test_a_caption_without_room_is_told_from_one_at_its_limit(scripted_model: Callable) -> None:
    class Short(scripted_model):  # type: ignore[misc, valid-type]
        def generate(self, prefix: Prefix, n: int, sampling: Sampling) -> list[list[Completion]]:
            return [[Completion(token_ids=(1,) * count, text="a", stop_reason="length")] for count in (3, 5)]

    prefix = Prefix(clip_ids=("a", "b"), embeddings=torch.zeros(2, 1, 2), lengths=torch.tensor([1, 1]))
    first, second = generate_guarded(Short(), prefix, Sampling(max_new_tokens=5))
    assert first.warnings == ("the caption was cut off after 3 tokens: the model has no room for more",)
    assert second.warnings == ("the caption was cut off after max_new_tokens=5 tokens",)


def test_a_real_model_that_loops(tiny_model_folder: Path, media_folder: Path) -> None:
    # Greedy decoding of random weights ends in a fixed point, with a penalty of 1.1 too.
    captioner = load_captioner(str(tiny_model_folder), device="cpu")
    path = media_folder / "a.mp4"
    loop = captioner.caption(path, sampling=Sampling(max_new_tokens=200, repetition_guard="off"), keep_logps=True)
    assert (loop.stop_reason, loop.num_tokens) == ("length", 200)
    stopped = captioner.caption(path, sampling=Sampling(max_new_tokens=200), keep_logps=True)
    assert stopped.stop_reason == "repetition"
    assert 64 <= stopped.num_tokens < 200
    assert stopped.token_logps == pytest.approx(loop.token_logps[: stopped.num_tokens], abs=1e-5)
    sampling = Sampling(max_new_tokens=200, repetition_guard="retry")
    again = captioner.caption(path, sampling=sampling)
    assert again.sampling.repetition_penalty == 1.1
    assert again.warnings.count(FIRST_WARNING.replace("64", str(stopped.num_tokens))) == 1
    assert Caption.from_json(again.to_json_line()) == again


def test_a_resumed_run_accepts_second_tries(clips: list[ClipRef], tmp_path: Path, scripted_model: Callable) -> None:
    out, sampling = tmp_path / "captions.jsonl", Sampling(repetition_guard="retry")
    captioner = Captioner(looping_model(scripted_model, {"x": 1}), "toy", "rev1")
    with open_caption_ledger(out, captioner, sampling=sampling) as ledger:
        made = list(caption_clips(captioner, clips[:2], ledger=ledger, sampling=sampling))
    assert [caption.sampling.repetition_penalty for caption in made] == [1.1, 1.0]
    with open_caption_ledger(out, captioner, sampling=sampling) as ledger:
        assert len(list(caption_clips(captioner, clips, ledger=ledger, sampling=sampling))) == 1
    with pytest.raises(ConfigError, match=r"of 'x' with sampling .*'repetition_penalty': 1.1.* this run has"):
        open_caption_ledger(out, captioner, sampling=Sampling(repetition_guard="stop"))
