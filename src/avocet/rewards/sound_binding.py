"""The sound-binding reward: does a caption tie what is heard to what is seen (not in AVoCaDO, which has it as one of
five dimensions of keypoints).

A *tie* says which visible person or thing a sound or speech comes from, or what is seen while it is heard. Ties of the
reference caption are listed once per example (`TieLister`); each caption is then asked about all of them in one call
(`TieJudge`): told rightly, wrongly, or not at all. With n ties, r right and w wrong ones, precision = r / (r + w),
recall = r / n, and the reward is their harmonic mean, 2r / (n + r + w). Telling everything as simultaneous with
everything makes for wrong ties, so it does not pay.

For theatre clips `avocet.rewards.exact.ExactBindingJudge` knows the ties.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from avocet.errors import ConfigError, RecordError
from avocet.judging.client import JudgeClient
from avocet.judging.events import NO_WORDS, DescribedClip, check_statements, has_words, is_blank, listing
from avocet.judging.judge import Examination, ItemT, Job, LlmJudge, Unscorable
from avocet.judging.messages import CallParameters
from avocet.judging.parsing import last_record, schema_of
from avocet.judging.prompts import Prompt, Untrusted
from avocet.records import Record, Verdict
from avocet.rewards.items import RewardItem, Unscored
from avocet.rewards.judged import JudgedReward

NO_TIES = Unscored(reason="no ties: nothing heard belongs to anything seen", left_out=True)

_ASSUMED = tuple(f"The {number}th sound comes from what is seen while it is heard." for number in range(1, 5))
"""About what an example has, for the estimate of a dry run."""


def binding_reward(num_ties: int, num_right: int, num_wrong: int) -> float | None:
    """2 * right / (ties + right + wrong), in [0, 1]; None without ties: unscored, never 1.

    Raises `ConfigError` for negative counts, and more right ties than there are.
    """
    if not 0 <= num_right <= num_ties or num_wrong < 0:
        raise ConfigError(
            f"binding_reward needs 0 <= num_right <= num_ties and num_wrong >= 0, got {num_right}, {num_ties} and "
            f"{num_wrong}"
        )
    return 2 * num_right / (num_ties + num_right + num_wrong) if num_ties else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BindingFindings(Record):
    """What a judge of ties found in one caption."""

    num_ties: int
    """Of the clip."""
    right: tuple[str, ...]
    """Ties that the caption tells."""
    wrong: tuple[str, ...]
    """Ties that it tells wrongly, or that are none."""

    def __post_init__(self) -> None:
        if not len(self.right) <= self.num_ties:
            raise RecordError(f"BindingFindings: {len(self.right)} right ties of only {self.num_ties}")

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> BindingFindings:
        """Raises `RecordError` for an unscored verdict and for one of another judge."""
        if verdict.status != "scored":
            raise RecordError(f"the verdict on {verdict.clip_id!r} is unscored: {verdict.reason}")
        return cls.from_dict({name: value for name, value in verdict.findings.items() if name != "notes"})


def binding_value(verdict: Verdict) -> float | Unscored:
    """The reward of `BindingFindings`."""
    found = BindingFindings.from_verdict(verdict)
    value = binding_reward(found.num_ties, len(found.right), len(found.wrong))
    return NO_TIES if value is None else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class TieList(Record):
    """What the judge is to reply when asked for the ties of a caption, and the findings of `TieLister`."""

    reasoning: str
    ties: tuple[str, ...]

    def __post_init__(self) -> None:
        check_statements("tie", self.ties)


class _PromptsHere(LlmJudge[ItemT]):
    """A judge whose prompts stand in this package."""

    def __init__(
        self,
        client: JudgeClient,
        *,
        parameters: CallParameters | None = None,
        prompts: Mapping[str, Prompt] | None = None,
    ) -> None:
        own = {name: _load(name) for name in self.prompt_names}
        super().__init__(client, parameters=parameters, prompts={**own, **(prompts or {})})


class TieLister(_PromptsHere[DescribedClip]):
    """Findings: `TieList` as JSON; an empty list for a caption in which nothing heard belongs to anything seen."""

    name = "sound-ties"
    prompt_names = ("sound_ties",)

    async def examine(self, item: DescribedClip, examination: Examination) -> dict[str, Any]:
        if not has_words(item.caption):
            raise Unscorable("no words: the reference caption has none")
        prompt = self.prompts["sound_ties"].render(caption=Untrusted(text=item.caption))
        reply = await examination.ask(prompt, lambda text: last_record(text, TieList), schema=schema_of(TieList))
        ties = tuple(" ".join(tie.split()) for tie in reply.ties)
        return _as_json(dataclasses.replace(reply, ties=ties))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionWithTies(Record):
    """A caption and the ties of its clip."""

    clip_id: str
    caption: str
    ties: tuple[str, ...]
    """At least one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TieAnswer(Record):
    """What the judge is to reply to one tie."""

    number: int
    evidence: str
    """Words of the caption on the sound or speech of the tie; "" when it is absent."""
    told: Literal["right", "wrong", "absent"]

    def __post_init__(self) -> None:
        if (self.told == "absent") != is_blank(self.evidence):
            raise RecordError(f"tie {self.number} is {self.told}, which contradicts its evidence {self.evidence!r:.60}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TieReply(Record):
    """What the judge is to reply. Ties are numbered from 1."""

    reasoning: str
    ties: tuple[TieAnswer, ...]

    def in_order(self, num_ties: int) -> tuple[TieAnswer, ...]:
        """Those on ties 1 to `num_ties`. Raises `RecordError` unless each number is there exactly once."""
        numbers = sorted(answer.number for answer in self.ties)
        if numbers != list(range(1, num_ties + 1)):
            raise RecordError(f"ties must have the numbers 1 to {num_ties}, each once; got {numbers!s:.200}")
        return tuple(sorted(self.ties, key=lambda answer: answer.number))


class TieJudge(_PromptsHere[CaptionWithTies]):
    """Findings: `BindingFindings` as JSON. A caption without words tells no tie, and no call is made for it."""

    name = "sound-binding"
    prompt_names = ("sound_binding",)

    async def examine(self, item: CaptionWithTies, examination: Examination) -> dict[str, Any]:
        if not has_words(item.caption):
            examination.notes.append(NO_WORDS)
            return _as_json(BindingFindings(num_ties=len(item.ties), right=(), wrong=()))
        prompt = self.prompts["sound_binding"].render(
            num_ties=len(item.ties), ties=listing("ties", item.ties), caption=Untrusted(text=item.caption)
        )
        answers = await examination.ask(
            prompt, lambda text: last_record(text, TieReply).in_order(len(item.ties)), schema=schema_of(TieReply)
        )
        told = [(tie, answer.told) for tie, answer in zip(item.ties, answers, strict=True)]
        right = tuple(tie for tie, how in told if how == "right")
        wrong = tuple(tie for tie, how in told if how == "wrong")
        return _as_json(BindingFindings(num_ties=len(item.ties), right=right, wrong=wrong))


class SoundBindingReward:
    """The reward by language models: ties from `example.target`, listed once per text, then one call per caption.

    An example whose ties cannot be listed leaves its whole group unscored; the next epoch asks again.
    """

    name: ClassVar[str] = "sound_binding"

    def __init__(self, lister: TieLister, judge: TieJudge, *, notes: str = "") -> None:
        self.lister = lister
        self.judge = judge
        self._notes = notes
        self._ties: dict[str, tuple[str, ...]] = {}

    @property
    def identity(self) -> str:
        """That of the judge and of what lists the ties, and what else the numbers rest on."""
        return f"{self.judge.identity}+{self.lister.identity}{self._notes}"

    async def score(self, items: Sequence[RewardItem]) -> list[float | Unscored]:
        failed = await self._list_ties(items)

        def item_of(item: RewardItem) -> CaptionWithTies | Unscored:
            if item.example.target in failed:
                return Unscored(reason=f"ties of the reference: {failed[item.example.target]}")
            ties = self._ties[item.example.target]
            return CaptionWithTies(clip_id=item.example.clip.id, caption=item.text, ties=ties) if ties else NO_TIES

        return await JudgedReward(self.name, self.judge, item_of, lambda _, verdict: binding_value(verdict)).score(
            items
        )

    async def disconnect(self) -> None:
        await self.lister.disconnect()
        await self.judge.disconnect()

    async def _list_ties(self, items: Sequence[RewardItem]) -> dict[str, str]:
        """Make sure that the ties of each reference are known; those that cannot be had, with the reason."""
        unknown = {item.example.target: item for item in items if item.example.target not in self._ties}
        jobs = (Job(item=DescribedClip(clip_id=item.example.clip.id, caption=text)) for text, item in unknown.items())
        failed: dict[str, str] = {}
        async for job, verdict in self.lister.verdicts(jobs):
            if self.lister.client.dry_run and str(verdict.reason).startswith("not sent"):
                self._ties[job.item.caption] = _ASSUMED
            elif verdict.status == "unscored":
                failed[job.item.caption] = str(verdict.reason)
            else:
                findings = {name: value for name, value in verdict.findings.items() if name != "notes"}
                self._ties[job.item.caption] = TieList.from_dict(findings).ties
        return failed


@functools.cache
def _load(name: str) -> Prompt:
    text = (importlib.resources.files("avocet.rewards") / "prompts" / f"{name}.txt").read_text(encoding="utf-8")
    return Prompt.from_text(name, text)


def _as_json(record: Record) -> dict[str, Any]:
    return dict(json.loads(record.to_json_line()))
