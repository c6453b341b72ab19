"""`nano`: a captioner of a few million parameters, trained from scratch on the theatre.

Differs from the paper's recipe (video-SALMONN 2) in two ways. Real models start from pretrained encoders
and a pretrained visual LLM; nano has to make its own (stage 0 `towers`). And everything is trained in SFT,
since there are no pretrained weights worth protecting.

    avocet train all nano
"""

from __future__ import annotations

from avocet.models.salmonn2 import Salmonn2Config, Salmonn2Model
from avocet.models.salmonn2.tokenizer import build_word_tokenizer
from avocet.theatre.language import vocabulary_text
from avocet.training.config import ExampleKind, OptimizerConfig, Recipe, StageConfig, TheatreData

TRAIN_SEEDS = 10_000_000
"""Training and development clips use seeds from here on; every smaller seed is fresh for tests."""

DATA = (
    TheatreData(name="sound_1", kind="sound", level=1, first_seed=30_000_000, num_clips=10_000, with_speech_only=True),
    TheatreData(name="sound_2", kind="sound", level=2, first_seed=40_000_000, num_clips=10_000, with_speech_only=True),
    TheatreData(name="picture_1", kind="picture", level=1, first_seed=35_000_000, num_clips=4_000),
    TheatreData(name="picture_2", kind="picture", level=2, first_seed=45_000_000, num_clips=4_000),
    TheatreData(name="dev_1", kind="av", level=1, first_seed=50_000_000, num_clips=200, clips_per_shard=200),
    TheatreData(name="dev_2", kind="av", level=2, first_seed=60_000_000, num_clips=200, clips_per_shard=200),
    TheatreData(name="av_1", kind="av", level=1, first_seed=10_000_000, num_clips=9_000),
    TheatreData(name="av_2", kind="av", level=2, first_seed=20_000_000, num_clips=5_000),
)

AUDIO_ALIGNER = ("segment_embedding", "query_tokens", "qformer", "audio_projection")

TOWERS = (
    StageConfig(
        name="audio_tower",
        objective="ctc",
        stores=("sound_1", "sound_2"),
        mixture={"sound_caption": 1.0},
        trainable=("audio_encoder",),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        batch_size=16,
        max_steps=3000,
    ),
    StageConfig(
        name="vision_tower",
        objective="frame_labels",
        stores=("picture_1", "picture_2"),
        mixture={"caption": 1.0},
        trainable=("vision", "visual_aligner"),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        batch_size=16,
        max_steps=1200,
    ),
    StageConfig(
        name="visual_llm",
        objective="tokens",
        stores=("picture_1", "picture_2"),
        mixture={"caption_no_track": 0.6, "text": 0.4},
        trainable=("visual_aligner", "decoder"),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        batch_size=16,
        max_steps=800,
        starts_from=("vision_tower",),
    ),
)

ALIGN = (
    StageConfig(
        name="align",
        objective="tokens",
        stores=("sound_1", "sound_2"),
        mixture={"sound_caption": 0.6, "asr": 0.4},
        trainable=AUDIO_ALIGNER,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        batch_size=16,
        max_steps=400,
        num_processes=2,
        starts_from=("audio_tower", "vision_tower", "visual_llm"),
    ),
)

EVERYTHING = ("vision", "visual_aligner", "audio_encoder", *AUDIO_ALIGNER, "decoder")
SPOILED: dict[ExampleKind, float] = {"caption_muted": 0.05, "caption_no_track": 0.03, "caption_black": 0.04}
"""Without them the model invents speech in silence."""

SFT = (
    # After sft_1 pictures, sounds and speakers are mostly right, but of an utterance only its sentence pattern: the
    # decoder does not read the words yet, though the encoder hears them (CTC error 4 %).
    StageConfig(
        name="sft_1",
        objective="tokens",
        stores=("av_1", "av_2"),
        mixture={"caption": 0.85, **SPOILED, "sound_caption": 0.03},
        trainable=EVERYTHING,
        optimizer=OptimizerConfig(learning_rate=1e-3, decay_steps=3800),
        batch_size=16,
        max_steps=1500,
        starts_from=("audio_tower", "vision_tower", "visual_llm", "align"),
        ctc_weight=0.3,
        frame_weight=0.3,
        num_processes=2,
        evaluate_every=500,
        evaluate_store="dev_1",
    ),
    # So sft_2 mixes in sound-only clips with a diet of transcripts.
    StageConfig(
        name="sft_2",
        objective="tokens",
        stores=("av_1", "av_2", "sound_1", "sound_2"),
        mixture={"caption": 0.84, **SPOILED, "sound_caption": 0.015, "asr": 0.025},
        trainable=EVERYTHING,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, decay_steps=3600),
        batch_size=16,
        max_steps=500,
        starts_from=("sft_1",),
        ctc_weight=0.3,
        frame_weight=0.3,
        num_processes=2,
        evaluate_every=400,
        evaluate_store="dev_1",
    ),
    # And sft_3 asks of the audio tokens themselves that the words can be read off them.
    StageConfig(
        name="sft_3",
        objective="tokens",
        stores=("av_1", "av_2", "sound_1", "sound_2"),
        mixture={"caption": 0.84, **SPOILED, "sound_caption": 0.015, "asr": 0.025},
        trainable=EVERYTHING,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50),
        batch_size=16,
        max_steps=2600,
        starts_from=("sft_2",),
        ctc_weight=0.2,
        token_ctc_weight=0.3,
        frame_weight=0.3,
        num_processes=2,
        evaluate_every=300,
        evaluate_store="dev_1",
    ),
)


def build_model() -> Salmonn2Model:
    """The untrained model."""
    tokenizer = build_word_tokenizer(vocabulary_text())
    return Salmonn2Model(Salmonn2Config.nano(vocab_size=len(tokenizer)), tokenizer)


def recipe() -> Recipe:
    """The whole plan."""
    return Recipe(name="nano", build_model=build_model, data=DATA, towers=TOWERS, align=ALIGN, sft=SFT)
