"""TRL's GRPO loss as the yardstick of ours, on a tiny text-only model: the same ids, advantages and old policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from avocet.models.decoder import Decoder
from avocet.models.interface import Prefix
from avocet.models.prefix import score_shared
from avocet.models.qwen_omni.tiny import tiny_tokenizer
from avocet.training.grpo.config import LossVariant, PolicySettings
from avocet.training.grpo.objective import GroupPolicy, PolicyModule
from avocet.training.losses import grpo_loss

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PROMPT = [5, 6, 7, 8, 9]
COMPLETIONS = [[11, 12, 13, 14], [15, 16], [17, 18, 19], [20]]
ADVANTAGES = [1.2, -0.4, -0.9, 0.1]
LIMIT = 6


def tiny(folder: Path) -> Qwen2ForCausalLM:
    """From a folder, since TRL loads its reference from where the model came from."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tiny_tokenizer("qwen2.5-omni")),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def trainer(model: Qwen2ForCausalLM, folder: Path, loss_type: str) -> Any:
    pytest.importorskip("trl", reason="pip install 'avocet[oracle]'")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    arguments = GRPOConfig(
        output_dir=str(folder),
        loss_type=loss_type,
        beta=0.04,
        epsilon=0.2,
        use_bias_correction_kl=False,  # not in the paper: KL terms times the ratio
        num_generations=4,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        max_completion_length=LIMIT,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    return GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 4),
        processing_class=tiny_tokenizer("qwen2.5-omni"),
    )


@pytest.mark.parametrize("variant", ["grpo", "dapo", "dr_grpo"])
def test_our_loss_is_that_of_trl(tmp_path: Path, variant: LossVariant) -> None:
    model = tiny(tmp_path / "model")
    theirs = trainer(model, tmp_path / "trainer", variant)
    theirs.model.eval()
    generator = torch.Generator().manual_seed(1)
    width = max(map(len, COMPLETIONS))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in COMPLETIONS])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in COMPLETIONS])
    decoder = Decoder(backbone=model.model, lm_head=model.lm_head)
    with torch.no_grad():
        embedded = decoder.embed(torch.tensor([PROMPT]))
        prefix = Prefix(clip_ids=("p",), embeddings=embedded, lengths=torch.tensor([len(PROMPT)]))
        policy = score_shared(decoder, prefix, [COMPLETIONS])[0]
    old, reference = ([row + 0.3 * torch.randn(len(row), generator=generator) for row in policy] for _ in range(2))

    def padded(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    inputs = {
        "prompt_ids": torch.tensor([PROMPT] * 4),
        "prompt_mask": torch.ones(4, len(PROMPT), dtype=torch.long),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.tensor(ADVANTAGES),
        "old_per_token_logps": padded(old),
        "ref_per_token_logps": padded(reference),
        "num_items_in_batch": mask.sum(),
    }
    theirs.current_gradient_accumulation_steps = 1
    with torch.no_grad():
        expected = float(theirs._compute_loss(theirs.model, inputs))

    settings = PolicySettings(variant=variant)
    objective = GroupPolicy(settings, LIMIT)
    # Only its arithmetic is used, so it needs no model of ours.
    module = PolicyModule.__new__(PolicyModule)
    torch.nn.Module.__init__(module)
    module._settings, module._max_new_tokens = settings, LIMIT
    module.largest_log_ratio = torch.zeros(())
    from avocet.training.finetune.module import GroupTokens, Item

    group = GroupTokens(
        completions=tuple(map(tuple, COMPLETIONS)),
        advantages=tuple(ADVANTAGES),
        reference=tuple(reference),
        old=tuple(old),
    )
    item: Any = Item(index=0, task="caption", prompt=None, target=(), group=group)  # type: ignore[arg-type]
    found = float(module._row(group, policy)[0]) / objective.counts(item)[0]
    assert found == pytest.approx(expected, abs=1e-6)
    if variant == "grpo":
        public, _ = grpo_loss(
            padded(policy), padded(old), padded(reference), torch.tensor(ADVANTAGES), mask, kl_weight=0.04
        )
        assert public.item() == pytest.approx(expected, abs=1e-6)
