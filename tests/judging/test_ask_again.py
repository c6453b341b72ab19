"""Replies that cannot be read stay in the cache until somebody asks again; questions stay open until answered."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
from judge_server import Asked, JudgeServer, Step

from avocet.judging import (
    CallParameters,
    CaptionQaJudge,
    CaptionQuestions,
    ChoiceQuestion,
    CompletenessJudge,
    DialogueExtractor,
    DialogueJudge,
    FusedCaption,
    JudgeClient,
    LabelSpeakerJudge,
    ReplyCache,
    ShortQuestion,
    VdcItem,
    VdcJudge,
)

MakeClient = Callable[..., JudgeClient]

ITEM = FusedCaption(clip_id="v", caption="A dog barks.", sources=("A dog.", "A bark."))
GOOD = json.dumps({"reasoning": "r", "missing": [], "score": 5})


def test_only_who_asks_again_is_answered_again(server: JudgeServer, make_client: MakeClient, cache: ReplyCache) -> None:
    server.script = lambda asked: Step(text="The service is overloaded.")
    client = make_client(cache=cache)
    assert CompletenessJudge(client).judge_many([ITEM])[0][0].status == "unscored"
    assert len(server.asked) == 2  # the question, and once more with what was wrong
    server.script = lambda asked: Step(text=GOOD)
    again = CompletenessJudge(make_client(cache=cache)).judge_many([ITEM])[0][0]
    assert (again.status, len(server.asked)) == ("unscored", 2)
    anew = make_client(cache=cache, ask_again=True)
    assert CompletenessJudge(anew).judge_many([ITEM])[0][0].status == "scored"
    assert len(server.asked) == 3
    # The new reply is the one that stays; the old call stays in the accounts.
    assert CompletenessJudge(make_client(cache=cache)).judge_many([ITEM])[0][0].status == "scored"
    assert len(server.asked) == 3
    assert cache.accounts()[0]["calls"] == 3


def test_asking_again_is_done_once_per_run(server: JudgeServer, make_client: MakeClient, cache: ReplyCache) -> None:
    server.script = lambda asked: Step(text="no")
    CompletenessJudge(make_client(cache=cache)).judge_many([ITEM])
    assert len(server.asked) == 2
    # Four items with the same texts and one run: the question and its correction are sent once more, not four times.
    items = [dataclasses.replace(ITEM, clip_id=name) for name in "abcd"]
    verdicts = CompletenessJudge(make_client(cache=cache, ask_again=True)).judge_many(items)[0]
    assert {verdict.status for verdict in verdicts} == {"unscored"}
    assert len(server.asked) == 4


def test_a_dry_run_counts_what_would_be_asked_again_and_forgets_nothing(
    server: JudgeServer, make_client: MakeClient, cache: ReplyCache
) -> None:
    server.script = lambda asked: Step(text="no")
    CompletenessJudge(make_client(cache=cache)).judge_many([ITEM])
    client = make_client(cache=cache, ask_again=True, dry_run=True)
    assert CompletenessJudge(client).judge_many([ITEM])[0][0].reason == "not sent: dry run (1 calls)"
    assert len(cache) == 2


def choice(number: int, **given: str) -> ChoiceQuestion:
    return ChoiceQuestion(id=str(number), text=f"What is {number}?", choices=("A. one", "B. two"), answer="A", **given)


@pytest.mark.parametrize(("reply", "is_final"), [('{"reasoning": "", "answer": "A"}', True), ("no idea", False)])
def test_a_caption_is_judged_until_every_question_has_an_answer(
    server: JudgeServer, make_client: MakeClient, reply: str, is_final: bool
) -> None:
    good = '{"reasoning": "", "answer": "A"}'
    server.script = lambda asked: Step(text=good if "What is 1?" in asked.text else reply)
    # A question with a defect can never be answered, so nobody waits for it.
    questions = (choice(1), choice(2), choice(3, defect="the answer is missing"))
    item = CaptionQuestions(clip_id="v", caption="c", questions=questions)
    judge = CaptionQaJudge(make_client())
    verdict = judge.judge_many([item])[0][0]
    assert verdict.status == "scored"
    assert judge.is_final(item, verdict) is is_final


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_a_cut_off_comparison_leaves_a_caption_open(
    server: JudgeServer, make_client: MakeClient, finish_reason: str
) -> None:
    def script(asked: Asked) -> Step:
        if '"stated"' in asked.text:
            return Step(text=json.dumps({"reasoning": "", "stated": True, "answer": "cat"}))
        reason = finish_reason if "What is 2?" in asked.text else "stop"
        return Step(text=json.dumps({"reasoning": "", "match": "yes", "score": 5}), finish_reason=reason)

    server.script = script
    questions = tuple(
        ShortQuestion(id=str(number), question=f"What is {number}?", answer="cat", defect=defect)
        for number, defect in ((1, None), (2, None), (3, "the file has no answer"))
    )
    item = VdcItem(clip_id="v", caption="c", questions=questions)
    judge = VdcJudge(make_client())
    verdict = judge.judge_many([item])[0][0]
    assert verdict.status == "scored"
    assert judge.is_final(item, verdict) is (finish_reason == "stop")


def test_an_unscored_caption_is_never_final(make_client: MakeClient) -> None:
    judge = CaptionQaJudge(make_client(dry_run=True))
    item = CaptionQuestions(clip_id="v", caption="c", questions=(choice(1),))
    assert judge.is_final(item, judge.judge_many([item])[0][0]) is False


def test_reasons_name_every_cause_before_the_colon(server: JudgeServer, make_client: MakeClient) -> None:
    server.script = lambda asked: Step(text="no idea")
    questions = (choice(1), choice(2, defect="the answer is missing"))
    item = CaptionQuestions(clip_id="v", caption="c", questions=questions)
    reason = CaptionQaJudge(make_client()).judge_many([item])[0][0].reason
    assert str(reason).startswith("unreadable reply and the answer is missing: none of 2 questions could be scored")


def test_settings_say_how_and_where_a_judge_asks(server: JudgeServer, make_client: MakeClient) -> None:
    parameters = CallParameters(temperature=0.5, max_tokens=9)
    judge = CompletenessJudge(make_client(), parameters=parameters)
    assert judge.settings == {"temperature": 0.5, "max_tokens": 9}
    assert judge.server == server.base_url
    dialogue = DialogueJudge(DialogueExtractor(make_client(), parameters=parameters), LabelSpeakerJudge({}))
    assert dialogue.settings == {"extractor": judge.settings, "speakers": {}}
    assert dialogue.server == server.base_url
