"""How much of its sources a fused caption still holds, 1 to 5, by a judge (AVoCaDO, section 3.1)."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import hashlib
import json
from collections import Counter
from typing import Any, Protocol, cast

from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Cost, Dropped, Failed, Kept, Outcome
from avocet.curation.pipelines._asking import text_of
from avocet.curation.stage import Stage
from avocet.curation.teachers.endpoint import LoopThread, reply_cost
from avocet.errors import ConfigError
from avocet.judging.client import JudgeClient
from avocet.judging.completeness import KEPT_FROM_SCORE, CompletenessJudge, FusedCaption
from avocet.judging.messages import CallParameters, ChatRequest, Reply
from avocet.records import Verdict

_replies: contextvars.ContextVar[list[Reply]] = contextvars.ContextVar("replies")


class FusionJudge(Protocol):
    """Who scores fusions; called from several threads at once."""

    @property
    def identity(self) -> str:
        """Changes whenever the judge may score otherwise."""

    def score(self, item: FusedCaption, run_index: int) -> tuple[Verdict, Cost]:
        """The verdict, and what its replies cost when they were bought. Raises `JudgeStop`."""


class ClientFusionJudge:
    """`CompletenessJudge` for callers without an event loop, with the cost of each verdict.

    Args:
        client: where to ask; with a cache, or nothing is kept.
        loop: where its calls run.
    """

    def __init__(self, client: JudgeClient, loop: LoopThread, *, parameters: CallParameters | None = None) -> None:
        self._client = client
        self._loop = loop
        self._judge = CompletenessJudge(cast(JudgeClient, _CountingClient(client)), parameters=parameters)

    @property
    def identity(self) -> str:
        return f"{self._judge.identity} {json.dumps(self._judge.parameters.to_dict(), sort_keys=True)}"

    def score(self, item: FusedCaption, run_index: int) -> tuple[Verdict, Cost]:
        verdict, replies = self._loop.run(self._score(item, run_index))
        numbers: Counter[str] = Counter()
        cost = Cost()
        for reply in replies:
            numbers[reply.key] += 1
            cost += reply_cost(self._client, reply, numbers[reply.key])
        return verdict, cost

    def close(self) -> None:
        """Close the connections; the loop stays."""
        self._loop.run(self._client.disconnect())

    async def _score(self, item: FusedCaption, run_index: int) -> tuple[Verdict, list[Reply]]:
        replies: list[Reply] = []
        _replies.set(replies)  # of this task alone
        return await self._judge.judge(item, run_index), replies


class _CountingClient:
    """A client that notes every reply for whoever asked for the verdict."""

    def __init__(self, client: JudgeClient) -> None:
        self._client = client

    async def complete(self, request: ChatRequest) -> Reply:
        reply = await self._client.complete(request)
        _replies.get().append(reply)
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletenessStage(Stage):
    """Drops `incomplete` fusions (score under `min_score`) and `unjudged` ones (no readable verdict after `tries`).

    Facts: score, missing.
    """

    name: str = "completeness"
    judge: FusionJudge = dataclasses.field(repr=False, compare=False)
    min_score: int = KEPT_FROM_SCORE
    tries: int = 2
    caption_of: str = "caption"
    sources: tuple[str, ...] = ("visual", "audio")

    def __post_init__(self) -> None:
        if not 1 <= self.min_score <= 5 or self.tries < 1:
            raise ConfigError(
                f"CompletenessStage: needs min_score from 1 to 5 and tries >= 1, got {self.min_score}, {self.tries}"
            )

    @functools.cached_property
    def version(self) -> str:
        told = [type(self).__name__, self.revision, self.judge.identity, self.min_score, self.tries]
        return hashlib.sha256(json.dumps([*told, self.caption_of, self.sources]).encode()).hexdigest()[:12]

    @property
    def reads(self) -> tuple[str, ...] | None:
        return (self.caption_of, *self.sources)

    @property
    def reads_media(self) -> bool:
        return False

    def process(self, clip: ManifestClip) -> Outcome:
        item = FusedCaption(
            clip_id=clip.id,
            caption=text_of(clip, self.caption_of, self.name),
            # A clip without sound has no audio caption that could be left out.
            sources=tuple(text for source in self.sources if (text := text_of(clip, source, self.name))),
        )
        cost, reason = Cost(), ""
        for run_index in range(self.tries):
            verdict, paid = self.judge.score(item, run_index)
            cost += paid
            if verdict.status == "scored":
                return self._decided(verdict.findings, cost)
            reason = str(verdict.reason)
            if reason.startswith("no reply"):
                # Earlier replies are counted when the clip is finished.
                return Failed(reason="no_reply", detail=reason, at_once=False)
        return Dropped(reason="unjudged", detail=reason, cost=cost)

    def _decided(self, findings: dict[str, Any], cost: Cost) -> Outcome:
        score, missing = int(findings["score"]), list(findings["missing"])
        if score < self.min_score:
            detail = f"score {score}, at least {self.min_score}; missing: {'; '.join(missing)}"
            return Dropped(reason="incomplete", detail=detail, cost=cost)
        return Kept(facts={"score": score, "missing": missing}, cost=cost)
