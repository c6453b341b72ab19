"""Adapters as others read them: PEFT itself, `avocet convert`, and `--model FOLDER`. All give the merged model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from avocet.cli import main
from avocet.errors import CheckpointError
from avocet.models.registry import load_model
from avocet.training.finetune import LoraSettings
from avocet.training.finetune.export import export_stage
from avocet.training.finetune.loop import fine_tune

LORA = LoraSettings(rank=4, alpha=8)
TRAINED = {
    "paper": ("audio_projection",),
    "v1": ("visual_aligner", "audio_qformer"),
    "plus": ("visual_aligner", "audio_qformer"),
    "omni": ("visual_aligner", "audio_aligner"),
}
"""Without the bare parameters for which PEFT has no place, but for v1's `newline`."""


def load(name: str) -> Any:
    return load_model(name, device="cpu", dtype="float32").model


def exported(config: Any, folder: Path) -> tuple[Path, Any]:
    """The adapter, and the merged model that it must give."""
    fine_tune(config, folder)
    adapter = export_stage((config,), folder, None, "adapter")
    merged = export_stage((config,), folder, None, "merged")
    return adapter, load(f"avocado@{merged}" if config.model.startswith("avocado@") else str(merged))


def states(model: Any, length: int = 5) -> torch.Tensor:
    """What the decoder makes of some embeddings."""
    decoder = model.language_decoder()
    width = decoder.embed(torch.zeros(1, dtype=torch.long)).shape[-1]
    embeddings = torch.randn(1, length, width, generator=torch.Generator().manual_seed(0))
    positions = decoder.expand_positions(torch.arange(length)[None])
    with torch.no_grad():
        hidden: torch.Tensor = decoder.run(embeddings, positions=positions)[0]
    return hidden


@pytest.mark.parametrize("family", ["paper", "v1", "plus", "omni"])
def test_peft_reads_an_exported_adapter(family, make_stage, tmp_path) -> None:
    """A missing tensor would be a warning, which is an error here."""
    config = make_stage(family, trainable=TRAINED[family], lora=LORA, gradient_checkpointing=False)
    adapter, merged = exported(config, tmp_path)
    base = load(config.model)
    before = states(base)
    if family == "omni":
        base.thinker = PeftModel.from_pretrained(base.thinker, str(adapter)).base_model.model.eval()
        model = base
    else:
        model = PeftModel.from_pretrained(base, str(adapter)).base_model.model.eval()
    assert not torch.equal(states(merged), before)
    torch.testing.assert_close(states(model), states(merged), atol=1e-5, rtol=1e-5)
    # What was trained beside LoRA lies in PEFT's wrappers.
    trained = {
        name.replace(".modules_to_save.default", ""): value
        for name, value in model.named_parameters()
        if ".modules_to_save.default" in name
    }
    assert trained
    for name, value in trained.items():
        assert torch.equal(value, merged.get_parameter(name)), name


def test_parameters_for_which_peft_has_no_place_are_named(make_stage, tmp_path, capsys) -> None:
    config = make_stage("plus", trainable=("audio_queries", "audio_qformer"), lora=LORA)
    adapter, _ = exported(config, tmp_path)
    assert "no place for 1 of the trained parameters (audio.query_tokens)" in capsys.readouterr().out
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert "audio" not in settings["modules_to_save"]
    assert all(name.startswith("audio.qformer.") for name in settings["modules_to_save"])
    PeftModel.from_pretrained(load(config.model), str(adapter))


@pytest.mark.parametrize("family", ["paper", "v1", "plus", "omni"])
def test_the_command_line_and_model_names_read_an_exported_adapter(family, make_stage, tmp_path) -> None:
    config = make_stage(family, trainable=("audio_aligner",), lora=LORA)
    adapter, merged = exported(config, tmp_path)
    base = config.model.rpartition("@")[2]
    assert main(["convert", base, str(tmp_path / "out"), "--adapter", str(adapter), "--dtype", "float32"]) == 0
    loaded = load_model(str(adapter), device="cpu", dtype="float32")
    assert loaded.model_id == "export-sft-adapter"
    assert loaded.revision != load_model(config.model, device="cpu").revision
    settings_of = "avocado@" if family == "omni" else ""
    for model in (load(f"{settings_of}{tmp_path / 'out'}"), loaded.model):
        state: dict[str, torch.Tensor] = model.state_dict()
        for name, value in merged.state_dict().items():
            assert torch.equal(state[name], value), name


def test_an_adapter_without_a_base_is_refused(tmp_path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": null}')
    with pytest.raises(CheckpointError, match="an adapter must name its model in base_model_name_or_path, got None"):
        load_model(str(tmp_path), device="cpu")
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: not a JSON object"):
        load_model(str(tmp_path), device="cpu")
