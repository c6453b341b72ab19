"""Checks beyond the papers: what a caption says against what was heard. They flag and count; nothing is changed.

A flag is for people and for filters of later: `meta["flags"]` of every training example names those of its clip.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from avocet.curation.checks import passage_error_rate, quoted_passages, word_error_rate
from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Kept, Outcome
from avocet.curation.pipelines._asking import Asking, facts_of, text_of
from avocet.curation.pipelines.annotate import AnnotateStage, stands_in
from avocet.curation.stage import Stage
from avocet.curation.teachers import Role, TeacherTask
from avocet.curation.teachers.replies import ContradictionReply, SoundNamesReply
from avocet.errors import ConfigError, RecordError
from avocet.judging._words import words_of

FLAGS = ("words_not_heard", "speech_not_told", "sound_not_heard", "sources_contradict")
"""Quoted words that the transcript does not have; a transcript of which the caption quotes nothing; a sound that the
audio caption does not tell of; captions of picture and sound that cannot both be true."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueCheck(Stage):
    """The caption's dialogue against the transcript, by words.

    What is said is what `DialogueStage` found. Without it, it is what stands in quotation marks, but for what the
    caption of the picture quotes too: whoever sees frames only quotes writing.
    Facts: word_error_rate (of all that is said, against the whole transcript; null where the caption or the transcript
    has no words: `speech_not_told` says when it should have), the worst utterance with its own error
    rate (against the passage of the transcript that is most like it), and flags.
    """

    name: str = "dialogue_check"
    caption_of: str = "caption"
    max_error: float = 0.3
    """Of an utterance; recognisers err too."""
    min_words: int = 4
    """Of a transcript that a caption should not leave out."""
    revision: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 <= self.max_error <= 1 or self.min_words < 1:
            raise ConfigError(
                f"DialogueCheck: needs max_error from 0 to 1 and min_words >= 1, got {self.max_error}, {self.min_words}"
            )

    @property
    def reads(self) -> tuple[str, ...] | None:
        return ("asr", "dialogue", "visual", self.caption_of)

    @property
    def reads_media(self) -> bool:
        return False

    def process(self, clip: ManifestClip) -> Outcome:
        transcript = text_of(clip, "asr", self.name)
        said = self._said(clip)
        errors = [(passage_error_rate(text, transcript), text) for text in said]
        worst = max(errors, default=(0.0, ""))
        rate = word_error_rate(" ".join(said), transcript) if said else None
        flags = ["words_not_heard"] if worst[0] > self.max_error else []
        flags += ["speech_not_told"] if not said and len(words_of(transcript)) >= self.min_words else []
        return Kept(
            facts={
                "word_error_rate": None if rate is None else round(rate, 4),
                "num_utterances": len(said),
                "worst_error_rate": round(worst[0], 4),
                "worst_utterance": worst[1],
                "flags": flags,
            }
        )

    def _said(self, clip: ManifestClip) -> list[str]:
        found = clip.facts.get("dialogue", {}).get("utterances")
        if found is not None:
            return [str(line["text"]) for line in found]
        seen = text_of(clip, "visual", self.name) if "visual" in clip.facts else ""
        written = {tuple(words_of(passage)) for passage in quoted_passages(seen)}
        quoted = quoted_passages(text_of(clip, self.caption_of, self.name))
        return [passage for passage in quoted if tuple(words_of(passage)) not in written]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundCheck(AnnotateStage):
    """The sounds that the caption names against the audio-only caption. Facts: not_heard, num_sounds, flags.

    An answer whose evidence does not stand in the audio caption is asked for anew.
    """

    name: str = "sound_check"
    revision: ClassVar[int] = 2
    asks: ClassVar[tuple[tuple[Role, str], ...]] = (("check", "sound_names"),)

    @property
    def reads(self) -> tuple[str, ...] | None:
        return (self.caption_of, "audio")

    def annotate(self, clip: ManifestClip, caption: str, asking: Asking) -> dict[str, Any]:
        heard = text_of(clip, "audio", self.name)
        task = TeacherTask(prompt="sound_names", fields={"caption": caption, "audio_caption": heard})

        def check(reply: SoundNamesReply) -> None:
            for sound in reply.sounds:
                if sound.heard and not stands_in(sound.evidence, heard):
                    raise RecordError(f"the evidence {sound.evidence!r:.80} does not stand in the audio caption")

        reply = asking.record("check", task, SoundNamesReply, check=check, tries=self.tries)
        not_heard = [sound.name for sound in reply.sounds if not sound.heard]
        flags = ["sound_not_heard"] if not_heard else []
        return {"not_heard": not_heard, "num_sounds": len(reply.sounds), "flags": flags}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContradictionCheck(AnnotateStage):
    """The captions of picture and sound against each other. Facts: contradictions, flags.

    A clip without sound has nothing to contradict; nobody is asked.
    """

    name: str = "contradiction_check"
    asks: ClassVar[tuple[tuple[Role, str], ...]] = (("check", "contradiction"),)

    @property
    def reads(self) -> tuple[str, ...] | None:
        return (self.caption_of, "visual", "audio")

    def annotate(self, clip: ManifestClip, caption: str, asking: Asking) -> dict[str, Any]:
        fields = {f"{name}_caption": text_of(clip, name, self.name) for name in ("visual", "audio")}
        if not all(fields.values()):
            return {"contradictions": [], "flags": []}
        task = TeacherTask(prompt="contradiction", fields=fields)
        reply = asking.record("check", task, ContradictionReply, tries=self.tries)
        flags = ["sources_contradict"] if reply.contradictions else []
        return {"contradictions": [one.to_dict() for one in reply.contradictions], "flags": flags}


def flags_of(clip: ManifestClip) -> list[str]:
    """All flags of a clip, in the order of its stages."""
    return [str(flag) for found in clip.facts.values() for flag in found.get("flags", ())]


def unread_of(clip: ManifestClip) -> list[str]:
    """The stages whose answer about the clip could not be read."""
    return [stage for stage in clip.facts if "unread" in facts_of(clip, stage, "report")]
