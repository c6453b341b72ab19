"""Filters over texts that teachers wrote. They ask nobody, so other thresholds are tried in seconds."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from avocet.curation.checks import TranscriptRules, is_generic_speech, transcript_nonsense
from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Dropped, Kept, Outcome
from avocet.curation.pipelines._asking import facts_of, text_of
from avocet.curation.stage import Stage
from avocet.errors import ConfigError
from avocet.judging._words import words_of
from avocet.metrics import repetition_rate, unnatural_patterns


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFilter(Stage):
    """Base: a stage that looks at facts and opens no media."""

    facts_of: str

    @property
    def reads(self) -> tuple[str, ...] | None:
        return (self.facts_of,)

    @property
    def reads_media(self) -> bool:
        return False

    def process(self, clip: ManifestClip) -> Outcome:
        """Raises `RecordError` for a clip without the facts: the stages stand in the wrong order."""
        return self.judge(clip) or Kept()

    def judge(self, clip: ManifestClip) -> Dropped | None:
        """Why the clip is dropped; None to keep it."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenericSpeechFilter(TextFilter):
    """Drops `generic_speech`: an audio caption says no more than that somebody speaks (appendix C).

    One such segment is enough: all of them must pass. A segment without sound has no caption and passes.
    """

    name: str = "generic_speech"
    facts_of: str = "audio"
    revision: ClassVar[int] = 2

    def judge(self, clip: ManifestClip) -> Dropped | None:
        for segment in facts_of(clip, self.facts_of, self.name)["segments"]:
            if segment["text"] and is_generic_speech(segment["text"]):
                return Dropped(reason="generic_speech", detail=f"{_place(segment)}: {segment['text']}")
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranscriptFilter(TextFilter):
    """Drops `transcript_too_short` and `transcript_nonsense` (appendix C). All segments must pass."""

    name: str = "transcript"
    facts_of: str = "asr"
    rules: TranscriptRules = dataclasses.field(default_factory=TranscriptRules)
    revision: ClassVar[int] = 2

    def judge(self, clip: ManifestClip) -> Dropped | None:
        for segment in facts_of(clip, self.facts_of, self.name)["segments"]:
            text, count = segment["text"], len(words_of(segment["text"]))
            if count < self.rules.min_words:
                detail = f"{_place(segment)}: {count} words, at least {self.rules.min_words}: {text!r}"
                return Dropped(reason="transcript_too_short", detail=detail)
            seconds = segment["end_seconds"] - segment["start_seconds"]
            problem = transcript_nonsense(text, seconds, self.rules)
            if problem is not None:
                return Dropped(reason="transcript_nonsense", detail=f"{_place(segment)}: {problem}")
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionFilter(TextFilter):
    """Drops `caption_too_short`, `caption_too_long`, `repetitive` and `unnatural` captions.

    AVoCaDO drops by length and repetition without stating thresholds; these are ours. Facts of kept clips: none.
    """

    name: str = "caption_filter"
    facts_of: str = "caption"
    min_words: int = 10
    max_words: int = 3000
    """About 4,000 tokens of English, where AVoCaDO's length reward ends."""
    max_repetition: float = 0.25
    """Repetition rate (words in phrases that come twice or more)."""
    allow_unnatural: bool = False
    revision: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 <= self.min_words < self.max_words or not 0 <= self.max_repetition <= 1:
            raise ConfigError(
                "CaptionFilter: needs 0 <= min_words < max_words and max_repetition from 0 to 1, got "
                f"{self.min_words}, {self.max_words} and {self.max_repetition}"
            )

    def judge(self, clip: ManifestClip) -> Dropped | None:
        return self.judge_text(text_of(clip, self.facts_of, self.name))

    def judge_text(self, text: str) -> Dropped | None:
        """Why a caption is none; None for a good one."""
        count, rate = len(words_of(text)), repetition_rate(text)
        if count < self.min_words:
            return Dropped(reason="caption_too_short", detail=f"{count} words, at least {self.min_words}")
        if count > self.max_words:
            return Dropped(reason="caption_too_long", detail=f"{count} words, at most {self.max_words}")
        if rate > self.max_repetition:
            return Dropped(reason="repetitive", detail=f"repetition rate {rate:.2f}, at most {self.max_repetition:g}")
        found = () if self.allow_unnatural else unnatural_patterns(text)
        if found:
            return Dropped(reason="unnatural", detail=f"{found[0].kind}: {found[0].excerpt}")
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalFilter(CaptionFilter):
    """The same for the local caption: one that does not pass is taken from its clip, which goes on without it.

    Facts: left_out (the reason) and detail, where it was taken; none otherwise.
    """

    name: str = "local_filter"
    facts_of: str = "local"

    def process(self, clip: ManifestClip) -> Outcome:
        local = facts_of(clip, self.facts_of, self.name).get("local")
        fault = None if local is None else self.judge_text(str(local["text"]))
        if fault is None:
            return Kept()
        return Kept(facts={"left_out": fault.reason, "detail": fault.detail}, forget=(f"{self.facts_of}.local",))


def _place(segment: dict[str, float]) -> str:
    return f"{segment['start_seconds']:g} to {segment['end_seconds']:g} s"
