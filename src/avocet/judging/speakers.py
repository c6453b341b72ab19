"""Whether two descriptions of a speaker mean the same person, for utterances that were aligned with each other.

Three judges of the same question, any of which serves as the second step of `DialogueJudge`:

- `WatchingSpeakerJudge` sends the video, as the paper does (AVoCaDO, section 3.2.3); for models that can watch.
- `TextSpeakerJudge` compares the descriptions alone.
- `LabelSpeakerJudge` compares names by a table, without a language model.

Other than in the paper, answers are numbered and every pair must be answered exactly once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from avocet.errors import ConfigError, RecordError
from avocet.judging._words import words_of
from avocet.judging.judge import Examination, Judge, LlmJudge, Unscorable
from avocet.judging.messages import VideoPart
from avocet.judging.parsing import last_record, schema_of
from avocet.judging.prompts import RenderedPrompt, Untrusted
from avocet.metrics import Utterance
from avocet.records import Record, Verdict

_ARTICLES = ("the", "a", "an")
_URL = re.compile(r"(?:https?://|data:)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeakerPairs(Record):
    """Aligned utterances of two dialogues, generated and reference."""

    clip_id: str
    generated: tuple[Utterance, ...]
    reference: tuple[Utterance, ...]
    pairs: tuple[tuple[int, int], ...]
    """(index in generated, index in reference), both increasing."""
    video: str | None = None
    """Path or URL, for judges that watch."""
    video_seconds: float | None = None
    """Its length, which decides what a call may cost."""

    def __post_init__(self) -> None:
        for i, j in self.pairs:
            if not (0 <= i < len(self.generated) and 0 <= j < len(self.reference)):
                raise RecordError(
                    f"SpeakerPairs {self.clip_id!r}: pair ({i}, {j}) is none of {len(self.generated)} generated and "
                    f"{len(self.reference)} reference utterances"
                )
        for before, after in itertools.pairwise(self.pairs):
            if not (before[0] < after[0] and before[1] < after[1]):
                raise RecordError(
                    f"SpeakerPairs {self.clip_id!r}: pairs must increase on both sides, got {before} then {after}"
                )
        check_video(f"SpeakerPairs {self.clip_id!r}", self.video, self.video_seconds)


def check_video(name: str, video: str | None, video_seconds: float | None) -> None:
    """Raises `RecordError` for a video without its length, or a length that is none."""
    if (video is None) != (video_seconds is None):
        raise RecordError(f"{name}: video and video_seconds must be given together")
    if video_seconds is not None and not 0 < video_seconds < float("inf"):
        raise RecordError(f"{name}: video_seconds must be > 0, got {video_seconds}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumberedSame(Record):
    """The answer on one pair."""

    number: int
    same: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeakersReply(Record):
    """What a judge is to reply."""

    reasoning: str
    pairs: tuple[NumberedSame, ...]

    def in_order(self, num_pairs: int) -> tuple[bool, ...]:
        """The answers on pairs 1 to `num_pairs`. Raises `RecordError` unless each number is there exactly once."""
        numbers = sorted(pair.number for pair in self.pairs)
        if numbers != list(range(1, num_pairs + 1)):
            raise RecordError(
                f"pairs must be answered for the numbers 1 to {num_pairs}, each once; got {numbers!s:.200}"
            )
        return tuple(pair.same for pair in sorted(self.pairs, key=lambda pair: pair.number))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeakerFindings(Record):
    """The findings of a speaker judge on one clip."""

    same_speaker: tuple[tuple[int, int, bool], ...]
    """(index in generated, index in reference, whether both name the same person) of each pair, in their order."""

    @classmethod
    def from_verdict(cls, verdict: Verdict, pairs: Sequence[tuple[int, int]]) -> SpeakerFindings:
        """Raises `RecordError` for an unscored verdict, one of another judge, and one on other pairs than these."""
        if verdict.status != "scored":
            raise RecordError(f"the verdict on {verdict.clip_id!r} is unscored: {verdict.reason}")
        found = cls.from_dict({name: value for name, value in verdict.findings.items() if name != "notes"})
        answered = [(i, j) for i, j, _ in found.same_speaker]
        if answered != list(pairs):
            raise RecordError(f"the verdict on {verdict.clip_id!r} answers {answered!s:.200}, not {list(pairs)!s:.200}")
        return found

    @property
    def num_same(self) -> int:
        return sum(same for _, _, same in self.same_speaker)


SpeakerJudge: TypeAlias = Judge[SpeakerPairs]
"""What decides on speakers: any judge of `SpeakerPairs` whose findings are `SpeakerFindings` as JSON."""


class TextSpeakerJudge(LlmJudge[SpeakerPairs]):
    """Findings: `SpeakerFindings` as JSON. Decides from how both dialogues describe their speakers."""

    name = "speakers"
    prompt_names = ("dialogue_speakers",)

    async def examine(self, item: SpeakerPairs, examination: Examination) -> dict[str, Any]:
        if not item.pairs:
            return _findings(item, ())
        return _findings(item, await _ask(self.render(item), item, examination))

    def render(self, item: SpeakerPairs) -> RenderedPrompt:
        return self.prompts["dialogue_speakers"].render(
            num_pairs=len(item.pairs),
            all_generated=Untrusted.listing(_distinct(item.generated)),
            all_reference=Untrusted.listing(_distinct(item.reference)),
            **_paired(item),
        )


class WatchingSpeakerJudge(LlmJudge[SpeakerPairs]):
    """Findings: `SpeakerFindings` as JSON. Decides from the video; an item without one is unscored."""

    name = "speakers-watching"
    prompt_names = ("dialogue_speakers_watching",)

    async def examine(self, item: SpeakerPairs, examination: Examination) -> dict[str, Any]:
        if not item.pairs:
            return _findings(item, ())
        if item.video is None or item.video_seconds is None:
            raise Unscorable("there is no video to watch; give video and video_seconds, or use another speaker judge")
        prompt = self.prompts["dialogue_speakers_watching"].render(
            num_pairs=len(item.pairs),
            words=Untrusted.listing(item.reference[j].text for _, j in item.pairs),
            **_paired(item),
        )
        try:
            video = _video_part(item.video, item.video_seconds)
        except ConfigError as error:
            raise Unscorable(f"the video cannot be sent: {error}") from error
        return _findings(item, await _ask(prompt.with_parts([video]), item, examination))


class LabelSpeakerJudge(Judge[SpeakerPairs]):
    """Findings: `SpeakerFindings` as JSON. Two speakers are the same if their names are, or stand for the same label.

    Names are compared without case, articles, punctuation and spacing.

    Args:
        aliases: label -> other names of the same speaker.

    Raises `ConfigError` for a name that stands for two labels, and for one without a letter or digit.
    """

    name: ClassVar[str] = "speakers-labels"

    def __init__(self, aliases: Mapping[str, Sequence[str]] | None = None) -> None:
        self._labels: dict[str, str] = {}
        for label, names in (aliases or {}).items():
            for name in (label, *names):
                plain = _plain_name(name)
                if not plain:
                    raise ConfigError(f"the name {name!r} of speaker {label!r} has no letter or digit")
                if (known := self._labels.setdefault(plain, _plain_name(label))) != _plain_name(label):
                    raise ConfigError(f"the name {name!r} stands for two speakers, {known!r} and {label!r}")

    @property
    def identity(self) -> str:
        """name, with a hash of the aliases if there are any."""
        if not self._labels:
            return self.name
        return f"{self.name}/{hashlib.sha256(json.dumps(sorted(self._labels.items())).encode()).hexdigest()[:12]}"

    async def judge(self, item: SpeakerPairs, run_index: int = 0) -> Verdict:
        answers = [self._label(item.generated[i]) == self._label(item.reference[j]) for i, j in item.pairs]
        return Verdict(
            clip_id=item.clip_id, judge=self.identity, run_index=run_index, findings=_findings(item, answers)
        )

    def _label(self, utterance: Utterance) -> str:
        name = _plain_name(utterance.speaker)
        return self._labels.get(name, name)


def _paired(item: SpeakerPairs) -> dict[str, Untrusted]:
    """Both speakers of each pair, as lists in which a pair has the same number."""
    return {
        "generated": Untrusted.listing(item.generated[i].speaker for i, _ in item.pairs),
        "reference": Untrusted.listing(item.reference[j].speaker for _, j in item.pairs),
    }


async def _ask(prompt: RenderedPrompt, item: SpeakerPairs, examination: Examination) -> tuple[bool, ...]:
    return await examination.ask(
        prompt,
        lambda text: last_record(text, SpeakersReply).in_order(len(item.pairs)),
        schema=schema_of(SpeakersReply),
        assumed=(False,) * len(item.pairs),
    )


def _findings(item: SpeakerPairs, answers: Sequence[bool]) -> dict[str, Any]:
    same_speaker = tuple((i, j, same) for (i, j), same in zip(item.pairs, answers, strict=True))
    return dict(json.loads(SpeakerFindings(same_speaker=same_speaker).to_json_line()))


def _distinct(utterances: Sequence[Utterance]) -> list[str]:
    return list(dict.fromkeys(utterance.speaker for utterance in utterances))


def _video_part(video: str, seconds: float) -> VideoPart:
    if _URL.match(video):
        return VideoPart(url=video, duration_seconds=seconds)
    return VideoPart.from_file(video, seconds)


def _plain_name(name: str) -> str:
    words = words_of(name)
    return " ".join(words[1:] if len(words) > 1 and words[0] in _ARTICLES else words)
