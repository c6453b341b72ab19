"""A rendered handful of theatre clips and a tiny model of the real class, shared by the training tests."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

RECIPE = textwrap.dedent(
    """
    import dataclasses

    from avocet.models.salmonn2 import Salmonn2Config, Salmonn2Model
    from avocet.models.salmonn2.tokenizer import build_word_tokenizer
    from avocet.theatre.language import vocabulary_text
    from avocet.training.config import OptimizerConfig, Recipe, StageConfig, TheatreData


    def build_model():
        tokenizer = build_word_tokenizer(vocabulary_text())
        config = Salmonn2Config.nano(vocab_size=len(tokenizer))
        config = dataclasses.replace(
            config,
            vision=dataclasses.replace(config.vision, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=32,
                                       stem_channels=(4, 8)),
            audio=dataclasses.replace(config.audio, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=32),
            qformer=dataclasses.replace(config.qformer, hidden_size=32, num_layers=1, num_heads=2,
                                        intermediate_size=32),
            decoder=dataclasses.replace(config.decoder, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2,
                                        intermediate_size=32),
        )
        return Salmonn2Model(config, tokenizer)


    def stage(name, objective, mixture, trainable, **changes):
        settings = dict(
            name=name, objective=objective, stores=("av",), mixture=mixture, trainable=trainable,
            optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2), batch_size=2, max_steps=4, autocast=False,
            log_every=1, save_every=2,
        )
        return StageConfig(**{**settings, **changes})


    ALIGNER = ("segment_embedding", "query_tokens", "qformer", "audio_projection")


    def recipe():
        return Recipe(
            name="tiny",
            build_model=build_model,
            data=(
                TheatreData(name="av", kind="av", level=1, first_seed=7_000_000, num_clips=5, clips_per_shard=3),
                TheatreData(name="sound", kind="sound", level=2, first_seed=7_100_000, num_clips=2,
                            with_speech_only=True),
            ),
            towers=(
                stage("ears", "ctc", {"sound_caption": 1.0}, ("audio_encoder",), stores=("av", "sound")),
                stage("eyes", "frame_labels", {"caption": 1.0}, ("vision", "visual_aligner")),
            ),
            align=(stage("align", "tokens", {"sound_caption": 0.5, "asr": 0.5}, ALIGNER, stores=("sound",),
                         starts_from=("ears", "eyes")),),
            sft=(stage("sft", "tokens",
                       {"caption": 0.4, "caption_muted": 0.2, "caption_no_track": 0.2, "caption_black": 0.2},
                       ("vision", "visual_aligner", "audio_encoder", *ALIGNER, "decoder"),
                       starts_from=("ears", "eyes", "align"), ctc_weight=0.3, token_ctc_weight=0.3,
                       frame_weight=0.3,
                       evaluate_every=4, evaluate_store="av", evaluate_clips=2),),
        )
    """
)


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "recipe.py"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def run_dir(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with all data rendered and nothing trained."""
    from avocet.training.render import render_recipe

    folder = tmp_path_factory.mktemp("run")
    render_recipe(recipe_file, folder / "data", workers=1)
    return folder
