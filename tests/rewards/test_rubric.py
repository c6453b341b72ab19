"""The rubric: sums by hand, what failed and what is left out, and what a rubric refuses."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from collections.abc import Callable, Sequence

import pytest
from judge_server import Asked, JudgeServer, Step
from reading_judge import KITCHEN, kitchen, literal, rollout, scored, told

from avocet.errors import ConfigError, RecordError
from avocet.judging import JudgeClient
from avocet.judging.errors import AccessDenied
from avocet.judging.messages import CallParameters
from avocet.records import ClipRef
from avocet.rewards import RewardItem, Rubric, Scored, Unscored, WeightedReward, make_rubric, summarise

MakeClient = Callable[..., JudgeClient]
PAPER = {"checklist": 1.0, "dialogue": 1.0, "length": 1.0}


class Fixed:
    """A reward with the answers that it is given."""

    def __init__(self, name: str, *answers: float | Unscored, seconds: float = 0.0, error: Exception | None = None):
        self.name = name
        self.answers = answers
        self.seconds = seconds
        self.error = error
        self.finished = False

    async def score(self, items: Sequence[RewardItem]) -> list[float | Unscored]:
        await asyncio.sleep(self.seconds)
        self.finished = True
        if self.error is not None:
            raise self.error
        return list(self.answers)


def rubric_of(*weighted: tuple[Fixed, float]) -> Rubric:
    return Rubric([WeightedReward(reward=reward, weight=weight) for reward, weight in weighted])


FAILED = Unscored(reason="no reply: timeout")
LEFT_OUT = Unscored(reason="no keypoints: none", left_out=True)


def test_weighted_sum_and_breakdown() -> None:
    """2 * 0.5 + 1 * 0.25 = 1.25; the parts stand there without their weights, and a weight of 0 only logs."""
    rubric = rubric_of((Fixed("a", 0.5), 2.0), (Fixed("b", 0.25), 1.0), (Fixed("c", 0.75), 0.0))
    [found] = asyncio.run(rubric.score([rollout("x")]))
    assert found == Scored(total=1.25, parts={"a": 0.5, "b": 0.25, "c": 0.75}, reasons={})
    assert Scored.from_json(found.to_json_line()) == found
    assert rubric.weights == {"a": 2.0, "b": 1.0, "c": 0.0}
    assert asyncio.run(rubric.score([])) == []


def test_failures_unscore_and_are_never_zero() -> None:
    rubric = rubric_of((Fixed("a", 1.0, FAILED), 1.0), (Fixed("b", 0.5, 0.5), 1.0))
    good, bad = asyncio.run(rubric.score([rollout("x"), rollout("y")]))
    assert good.total == 1.5
    assert bad == Scored(total=None, parts={"a": None, "b": 0.5}, reasons={"a": "no reply: timeout"})
    assert bad.failed == ("a",)


def test_failures_of_what_is_only_logged_unscore_nothing() -> None:
    [found] = asyncio.run(rubric_of((Fixed("a", FAILED), 0.0), (Fixed("b", 0.5), 1.0)).score([rollout("x")]))
    assert found == Scored(total=0.5, parts={"a": None, "b": 0.5}, reasons={"a": FAILED.reason})


def test_left_out_for_the_whole_group() -> None:
    """The sum of the others; nothing left is no total."""
    items = [rollout("x"), rollout("y")]
    rubric = rubric_of((Fixed("a", LEFT_OUT, LEFT_OUT), 1.0), (Fixed("b", 0.5, 0.25), 1.0))
    found = asyncio.run(rubric.score(items))
    assert [one.total for one in found] == [0.5, 0.25]
    assert [(one.left_out, one.failed, one.parts["a"]) for one in found] == [(("a",), (), None)] * 2
    [nothing] = asyncio.run(rubric_of((Fixed("a", LEFT_OUT), 1.0)).score(items[:1]))
    assert (nothing.total, nothing.reasons) == (None, {"a": LEFT_OUT.reason})
    # What is only logged is no total.
    [logged] = asyncio.run(rubric_of((Fixed("a", LEFT_OUT), 1.0), (Fixed("b", 0.5), 0.0)).score(items[:1]))
    assert (logged.total, logged.parts["b"]) == (None, 0.5)


def test_left_out_for_half_a_group_is_refused() -> None:
    """Totals of two parts and of three cannot be compared; a failure beside a left-out one says nothing."""
    items = [rollout("x"), rollout("y")]
    with pytest.raises(ConfigError, match="left out for some rollouts of clip 'kitchen' and not for others"):
        asyncio.run(rubric_of((Fixed("a", LEFT_OUT, 0.5), 1.0)).score(items))
    assert asyncio.run(rubric_of((Fixed("a", LEFT_OUT, FAILED), 1.0)).score(items))[1].failed == ("a",)
    other = rollout("z", kitchen(clip=ClipRef(id="other", path="other.mp4")))
    asyncio.run(rubric_of((Fixed("a", LEFT_OUT, 0.5), 1.0)).score([items[0], other]))


def test_what_a_reward_may_not_answer() -> None:
    with pytest.raises(ConfigError, match="'a' gave nan on clip 'kitchen'"):
        asyncio.run(rubric_of((Fixed("a", math.nan), 1.0)).score([rollout("x")]))
    with pytest.raises(ConfigError, match="'a' gave 1 answers on 2 rollouts"):
        asyncio.run(rubric_of((Fixed("a", 1.0), 1.0)).score([rollout("x"), rollout("y")]))


def test_what_concerns_the_whole_run_comes_first_and_others_finish() -> None:
    slow = Fixed("slow", 1.0, seconds=0.05)
    errors = Fixed("bug", error=ValueError("a bug")), Fixed("key", error=AccessDenied("no key"), seconds=0.01)
    with pytest.raises(AccessDenied, match="no key"):
        asyncio.run(rubric_of((errors[0], 1.0), (errors[1], 1.0), (slow, 1.0)).score([rollout("x")]))
    assert slow.finished


def test_what_a_rubric_refuses() -> None:
    with pytest.raises(ConfigError, match="different names, got a, a"):
        rubric_of((Fixed("a"), 1.0), (Fixed("a"), 1.0))
    for rewards in ((), ((Fixed("a"), 0.0),)):
        with pytest.raises(ConfigError, match="at least one reward with a weight > 0"):
            rubric_of(*rewards)
    for weight in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="the weight of reward 'a' must be a number >= 0"):
            WeightedReward(reward=Fixed("a"), weight=weight)


def test_records_check_themselves() -> None:
    with pytest.raises(RecordError, match="num_tokens must be >= 0"):
        rollout("x", num_tokens=-1)
    with pytest.raises(RecordError, match="stop_reason must be one of end, length, repetition, got 'stop'"):
        rollout("x", stop="stop")
    with pytest.raises(RecordError, match="needs a reason"):
        Unscored(reason="")
    with pytest.raises(RecordError, match="exactly the parts without a value need a reason"):
        Scored(total=1.0, parts={"a": None}, reasons={})


@pytest.mark.parametrize(
    ("weights", "settings", "problem"),
    [
        ({}, {}, "must be some of checklist, .*; got none"),
        ({"checklists": 1}, {}, "got 'checklists'"),
        ({"events": 1}, {}, "reward 'events' needs a judge"),
        ({"length": 1}, {"length_hard": 100}, "0 <= soft < hard"),
        ({"length": 1}, {"speakers": "ears"}, "speakers must be one of video, text, labels"),
        ({"length": 1}, {"speaker_aliases": {}}, "leave them out"),
        ({"length": 1}, {"exact": True, "quoted_only": True}, "quoted_only needs a judge that quotes"),
        ({"dialogue": 1}, {"exact": True, "dialogue_threshold": 2}, r"threshold must be in \[0, 1\]"),
        ({"length": 0}, {}, "weight > 0"),
    ],
)
def test_what_cannot_be_made(weights: dict[str, float], settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_rubric(weights, **{"judge": None, "exact": False, **settings})  # type: ignore[arg-type]


def test_a_judge_beside_the_exact_one_is_refused(make_client: MakeClient) -> None:
    with pytest.raises(ConfigError, match="not both"):
        make_rubric(PAPER, judge=make_client(), exact=True)


def test_texts_need_no_judge() -> None:
    rubric = make_rubric({"length": 1, "repetition": 0.5}, judge=None, exact=False)
    [found] = asyncio.run(rubric.score([rollout(told(1, 2), num_tokens=3072)]))
    assert found.total == 0.5 + 0.5 * 1.0
    assert rubric.identity == {"length": "length/2048/4096", "repetition": "repetition"}


def test_identity_names_judge_model_and_prompt(make_client: MakeClient) -> None:
    identity = make_rubric({**PAPER, "sound_binding": 1}, judge=make_client(), exact=False).identity
    assert identity["checklist"].startswith("checklist/judge-model/")
    assert identity["dialogue"].startswith("dialogue/0.6/dialogue-extract/judge-model/")
    assert "sound-ties/judge-model/" in identity["sound_binding"]


def breaks_on(word: str, step: Step) -> Callable[[Asked], Step]:
    return lambda asked: step if word in asked.user_texts[0] and "<caption-" in asked.user_texts[0] else literal(asked)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Step(status=500), "no reply: server_error"),
        (Step(status=400), "no reply: rejected"),
        (Step(drop="middle"), "no reply: connection"),
        (Step(text="I cannot say."), "unreadable reply"),
        (Step(text='{"reasoning": "cut', finish_reason="length"), "unusable reply"),
    ],
)
def test_a_failed_judgement_drops_that_rollout(
    server: JudgeServer, make_client: MakeClient, step: Step, reason: str
) -> None:
    """Of four rollouts the one that the judge fails on has no total; the others are what they would be."""
    server.script = breaks_on("sabotage", step)
    texts = [told(1, 2, 3), told(1, 2), f"{told(1)} sabotage", told(2)]
    found = asyncio.run(scored(make_rubric(PAPER, judge=make_client(), exact=False), *map(rollout, texts)))
    assert [one.total for one in found] == [
        pytest.approx(2.5),
        pytest.approx(2 + 2 / 6),
        None,
        pytest.approx(2 + 1 / 6),
    ]
    assert found[2].parts == {"checklist": None, "dialogue": None, "length": 1.0}
    assert reason in found[2].reasons["checklist"]
    assert found[2].reasons["dialogue"].startswith(f"dialogue of the caption: {reason}")
    summary = summarise(found)
    assert (summary.num_rollouts, summary.num_unscored) == (4, 1)
    # (3/6 + 2/6 + 1/6) / 3; the deviations are 1/6, 0, -1/6, so s = 1/6 and the error is s / sqrt(3).
    checklist = summary.parts["checklist"]
    assert checklist.value.mean == pytest.approx(1 / 3)
    assert checklist.value.standard_error == pytest.approx(1 / 6 / math.sqrt(3))
    assert (checklist.num_failed, checklist.num_left_out) == (1, 0)
    assert summary.parts["length"].num_failed == 0
    assert summary.reasons == {
        f"checklist: {reason.partition(':')[0]}": 1,
        "dialogue: dialogue of the caption": 1,
    }
    assert "1 unscored of 4" in summary.line()


def test_no_keypoints_are_counted_and_leave_the_checklist_out(server: JudgeServer, make_client: MakeClient) -> None:
    """Design: no keypoints is unscored, never 1; the group is compared by what is left."""
    server.script = literal
    bare = kitchen(checklist=())
    found = asyncio.run(
        scored(make_rubric(PAPER, judge=make_client(), exact=False), rollout(told(1), bare), rollout(told(1, 2), bare))
    )
    assert [one.total for one in found] == [1.0, 2.0]
    summary = summarise(found)
    checklist = summary.parts["checklist"]
    assert (summary.num_unscored, checklist.num_left_out, checklist.num_failed) == (0, 2, 0)
    assert summary.reasons == {"checklist: no keypoints": 2}
    assert "checklist -" in summary.line()
    assert math.isnan(checklist.value.mean)
    assert not any("<keypoints-" in asked.text for asked in server.asked)


def test_equal_rollouts_are_judged_once(server: JudgeServer, make_client: MakeClient) -> None:
    """So a judge that wavers cannot tell equal captions apart."""
    answers = iter([{"hit": True, "evidence": "x"}, {"hit": False, "evidence": ""}])

    def wavers(asked: Asked) -> Step:
        answer = next(answers)
        reply = {"reasoning": "r", "keypoints": [{"number": 1, **answer}], "num_hit": int(bool(answer["hit"]))}
        return Step(text=json.dumps(reply))

    server.script = wavers
    item = rollout(told(1), kitchen(checklist=KITCHEN[:1]))
    rubric = make_rubric({"checklist": 1}, judge=make_client(), exact=False)
    others = dataclasses.replace(item, clip_id="kitchen#1"), dataclasses.replace(item, num_tokens=5)
    found = asyncio.run(scored(rubric, item, *others))
    assert [one.total for one in found] == [1.0, 1.0, 1.0]
    assert len(server.asked) == 1


def test_bad_examples_are_named(make_client: MakeClient) -> None:
    for changes, problem in (
        ({"checklist": ("", "x")}, "checklist of clip 'kitchen'"),
        ({"events": (" ",)}, "events of clip 'kitchen'"),
    ):
        rubric = make_rubric({"checklist": 1, "events": 1, "dialogue": 1}, judge=make_client(), exact=False)
        with pytest.raises(ConfigError, match=problem):
            asyncio.run(scored(rubric, rollout("", kitchen(**changes))))
        # The same before anything is sampled or asked.
        with pytest.raises(ConfigError, match=problem):
            rubric.check([kitchen(), kitchen(**changes)])


def test_labels_that_nobody_has_are_missed(make_client: MakeClient) -> None:
    weights = {"checklist": 1.0, "dialogue": 1.0, "length": 1.0, "sound_binding": 1.0}
    rubric = make_rubric(weights, judge=make_client(), exact=False)
    rubric.check([kitchen(), kitchen(checklist=(), dialogue=())])
    with pytest.raises(ConfigError, match="reward 'checklist': it needs examples with `checklist`, and none of 2 has"):
        rubric.check([kitchen(checklist=())] * 2)
    make_rubric({**weights, "checklist": 0.0}, judge=make_client(), exact=False).check([kitchen(checklist=())])
    with pytest.raises(ConfigError, match="theatre"):
        make_rubric({"checklist": 1}, judge=None, exact=True).check([kitchen()])


def test_the_judge_samples_as_it_is_told(server: JudgeServer, make_client: MakeClient) -> None:
    """Every question of every reward, and the identity tells, since rewards of two settings are not comparable."""
    server.script = literal
    weights = {"checklist": 1, "dialogue": 1, "events": 1, "sound_binding": 1}
    told_how = make_rubric(
        weights, judge=make_client(), exact=False, parameters=CallParameters(temperature=0.7, max_tokens=77)
    )
    asyncio.run(scored(told_how, rollout(told(1, 2, 3, 4, 5, 6))))
    assert len(server.asked) == 6  # checklist, dialogue, speakers, events, ties and their telling
    assert {(asked.body["temperature"], asked.body["max_tokens"]) for asked in server.asked} == {(0.7, 77)}
    usual = make_rubric(weights, judge=make_client(), exact=False).identity
    assert told_how.identity == {name: f"{value}/temperature=0.7/max_tokens=77" for name, value in usual.items()}
    quoting = make_rubric({"checklist": 1}, judge=make_client(), exact=False, quoted_only=True)
    assert quoting.identity["checklist"] == f"{usual['checklist']}/quoted only"
