"""Single stages of the pipelines with a teacher in this process: what they ask, keep, drop, and what it costs."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from told_teachers import Scores, clip_with, told

from avocet.curation import Dropped, Failed, Kept, ManifestClip
from avocet.curation.outcomes import Cost
from avocet.curation.outputs import OutputSettings, examples_of, split_of
from avocet.curation.pipelines import (
    CompletenessStage,
    DescribeStage,
    DialogueCheck,
    DialogueStage,
    EventsStage,
    FuseSentencesStage,
    LocalStage,
    PipelineSettings,
    QaStage,
    SoundCheck,
    annotation_steps,
    pipeline_steps,
    plan_notes,
)
from avocet.curation.pipelines.captions_in import annotated, caption_clips
from avocet.curation.pipelines.session import JudgeSettings, LazyJudge, LazyTeachers
from avocet.curation.teachers import TeacherError, Teachers, TeacherTask
from avocet.curation.teachers.bindings import TeacherOptions
from avocet.errors import ConfigError, MediaError, RecordError
from avocet.records import DIALOGUE_UNKNOWN, ClipRef, TrainingExample


def test_segments_are_asked_about_on_the_files_timeline_and_kept_on_the_clips() -> None:
    teachers, teacher = told(lambda task: "[no speech]" if task.clip.end_seconds == 110 else "Words.")  # type: ignore[union-attr]
    outcome = DescribeStage(name="asr", sense="asr", teachers=teachers).process(clip_with())
    assert isinstance(outcome, Kept)
    assert outcome.facts["segments"] == [
        {"start_seconds": 0.0, "end_seconds": 10.0, "text": ""},
        {"start_seconds": 10.0, "end_seconds": 20.0, "text": "Words."},
        {"start_seconds": 20.0, "end_seconds": 24.0, "text": "Words."},
    ]
    assert outcome.cost == Cost(usd=3.0, num_calls=3)
    asked = [
        (task.clip.start_seconds, task.clip.end_seconds, task.media, task.fps) for task in teacher.tasks if task.clip
    ]
    assert asked == [(100.0, 110.0, "sound", None), (110.0, 120.0, "sound", None), (120.0, 124.0, "sound", None)]
    DescribeStage(name="visual", sense="visual", teachers=teachers, segment_seconds=None, fps=2.0).process(clip_with())
    last = teacher.tasks[-1]
    assert (last.clip and last.clip.id, last.media, last.fps) == ("a", "frames", 2.0)


def test_a_question_without_answer_fails_and_unreadable_media_drops() -> None:
    def refuse(task: TeacherTask) -> str:
        assert task.clip is not None
        if task.clip.start_seconds == 110:
            raise TeacherError("rate_limited", "too many", at_once=False, cost=Cost(usd=0.5, num_calls=1))
        return "Fine."

    failed = DescribeStage(name="audio", sense="audio", teachers=told(refuse)[0]).process(clip_with())
    # The first answer is counted when the clip succeeds; now only what was paid for nothing.
    assert failed == Failed(reason="rate_limited", detail="too many", at_once=False, cost=Cost(usd=0.5, num_calls=1))

    def broken(task: TeacherTask) -> str:
        assert task.clip is not None
        if task.clip.start_seconds == 110:
            raise TeacherError("media_error", "x", media_error=MediaError("/v/a.mp4", "audio", "damaged"))
        return "Fine."

    dropped = DescribeStage(name="audio", sense="audio", teachers=told(broken)[0]).process(clip_with())
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.cost) == ("media_error", Cost(usd=1.0, num_calls=1))


@pytest.mark.parametrize("reason", ["no_sound", "no_picture", "too_large"])
def test_what_no_other_try_can_change_drops_the_clip_with_its_cost(reason: str) -> None:
    def lacking(task: TeacherTask) -> str:
        assert task.clip is not None
        if task.clip.start_seconds == 120:
            raise TeacherError(reason, "so it is", at_once=False)
        return "Fine."

    dropped = DescribeStage(name="audio", sense="audio", teachers=told(lacking)[0]).process(clip_with())
    # Two of the three segments were answered.
    assert dropped == Dropped(reason=reason, detail="so it is", cost=Cost(usd=2.0, num_calls=2))


def test_a_fusion_is_asked_for_until_it_holds_every_sentence() -> None:
    sources = {
        name: {"segments": [{"text": text}]} for name, text in (("visual", "It is dark."), ("audio", "It rains."))
    }
    fusions = ["It is dark.", "It rains. It is dark."]
    teachers, teacher = told(lambda task: fusions[task.index])
    outcome = FuseSentencesStage(teachers=teachers).process(clip_with(**sources))
    assert isinstance(outcome, Kept)
    assert outcome.facts == {"text": "It rains. It is dark.", "num_tries": 2, "num_sentences": 2}
    assert outcome.cost.num_calls == 2
    assert [(task.index, task.media) for task in teacher.tasks] == [(0, "both"), (1, "both")]
    lost = FuseSentencesStage(teachers=told("It is dark.")[0], tries=2, watch=False).process(clip_with(**sources))
    assert lost == Dropped(
        reason="sentence_lost",
        detail="after 2 tries: 1 of the audio caption, the first: It rains.",
        cost=Cost(usd=2.0, num_calls=2),
    )


def test_annotations_that_cannot_be_read_leave_the_clip() -> None:
    replies = ["no", '{"reasoning": "", "events": ["A dog barks.", "a dog  barks."]}']
    replies.append('{"reasoning": "", "events": ["A dog barks."]}')
    read = EventsStage(teachers=told(lambda task: replies[task.index])[0]).process(clip_with())
    assert isinstance(read, Kept)
    assert (read.facts, read.cost.num_calls) == ({"events": ["A dog barks."]}, 3)
    unread = EventsStage(teachers=told("no")[0], tries=2).process(clip_with())
    assert isinstance(unread, Kept)
    assert unread.facts["unread"].startswith("2 unreadable replies; the last: expected")
    assert unread.cost.num_calls == 2


def test_what_does_not_stand_in_the_caption_is_not_believed() -> None:
    lines = [{"speaker": "Ann", "text": "Come in."}, {"speaker": "Bob", "text": "Go away."}]
    made_up = json.dumps({"reasoning": "", "utterances": lines})
    outcome = DialogueStage(teachers=told(made_up)[0], tries=1).process(clip_with())
    assert isinstance(outcome, Kept)
    assert "'Go away.' does not stand in the caption" in outcome.facts["unread"]
    pairs = [
        {"question": f"Q{number}?", "answer": "yes", "evidence": text}
        for number, text in enumerate(("A dog barks", "A cat", ""))
    ]
    asked = QaStage(teachers=told(json.dumps({"reasoning": "", "pairs": pairs}))[0]).process(clip_with())
    assert isinstance(asked, Kept)
    assert [pair["question"] for pair in asked.facts["pairs"]] == ["Q0?"]
    assert asked.facts["num_without_evidence"] == 2
    rings = {"name": "bell", "heard": True, "evidence": "a bell  RINGS."}
    gong = {"name": "gong", "heard": True, "evidence": "a gong is struck"}
    replies = [json.dumps({"reasoning": "", "sounds": sounds}) for sounds in ([rings, gong], [rings])]
    clip = clip_with(audio={"segments": [{"text": "Far away a bell rings."}]})
    heard = SoundCheck(teachers=told(lambda task: replies[task.index])[0]).process(clip)
    assert isinstance(heard, Kept)
    assert (heard.facts, heard.cost.num_calls) == ({"not_heard": [], "num_sounds": 1, "flags": []}, 2)
    believed = SoundCheck(teachers=told(replies[0])[0]).process(clip)
    assert isinstance(believed, Kept)
    assert "'a gong is struck' does not stand in the audio caption" in believed.facts["unread"]


def test_a_local_part_has_the_events_that_overlap_it() -> None:
    events = ["A dog barks.", "A bell rings.", "Rain falls.", "Nothing more."]
    times = [(0.0, 24.5), (23.9, 24.0), (0.0, 0.1), (None, None)]

    def reply(task: TeacherTask) -> str:
        if task.prompt == "local_caption":
            return f"{task.fields['start_seconds']}-{task.fields['end_seconds']}: {task.fields['events']}"
        assert task.fields["events"].splitlines()[1] == "2. A bell rings."
        found = [
            {"number": number, "start_seconds": start, "end_seconds": end}
            for number, (start, end) in enumerate(times, 1)
        ]
        return json.dumps({"reasoning": "", "events": found[::-1]})

    clip = clip_with(events={"events": events})
    outcome = LocalStage(teachers=told(reply)[0]).process(clip)
    assert isinstance(outcome, Kept)
    local = outcome.facts["local"]
    # Drawn from the id: somewhere from 0.1 s (Rain has ended) to 13.9 s (the bell rings later).
    assert 0.1 <= local["start_seconds"] <= 13.9
    assert local["end_seconds"] == local["start_seconds"] + 10
    assert (local["events"], local["text"].partition(": ")[2]) == (["A dog barks."], "1. A dog barks.")
    assert outcome.facts["events"][3] == {"event": "Nothing more.", "start_seconds": None, "end_seconds": None}
    example = examples_of(clip.with_facts("local", outcome.facts), OutputSettings(tasks=("local_caption",)))[0]
    assert example.start_seconds == pytest.approx(100 + local["start_seconds"])
    assert f"{local['start_seconds']:g}" in example.instruction
    times[0] = (0.0, 25.1)
    late = LocalStage(teachers=told(reply)[0], tries=1).process(clip)
    assert isinstance(late, Kept)
    assert "event 1 ends at 25.1 s of 24 s" in late.facts["unread"]
    short = LocalStage(teachers=told(reply)[0], interval_seconds=20.0).process(clip)
    assert isinstance(short, Kept)
    assert (short.facts, short.cost.num_calls) == ({"events": [], "local": None}, 0)


def test_dialogue_is_compared_with_the_transcript() -> None:
    def check(transcript: str, **facts: dict[str, Any]) -> dict[str, Any]:
        outcome = DialogueCheck().process(clip_with(asr={"segments": [{"text": transcript}]}, **facts))
        assert isinstance(outcome, Kept)
        return outcome.facts

    assert check("Come in.")["flags"] == []
    assert check("Come in.")["word_error_rate"] == 0.0
    wrong = check("Go away now, please.")
    assert (wrong["flags"], wrong["worst_utterance"]) == (["words_not_heard"], "Come in.")
    silent = check("Go away now, please.", dialogue={"utterances": []})
    assert (silent["flags"], silent["word_error_rate"]) == (["speech_not_told"], None), "no rate of what is not told"
    # Four characters are four words.
    assert check("请你进来", dialogue={"utterances": []})["flags"] == ["speech_not_told"]
    written = {"segments": [{"text": 'A sign says "Come in."'}]}
    assert check("", visual=written) == {
        "word_error_rate": None,
        "num_utterances": 0,
        "worst_error_rate": 0.0,
        "worst_utterance": "",
        "flags": [],
    }


def test_completeness() -> None:
    clip = clip_with(visual={"segments": [{"text": "x"}]}, audio={"segments": [{"text": "y"}]})

    def outcome(*verdicts: int | str) -> Any:
        return CompletenessStage(judge=Scores(*verdicts)).process(clip)

    assert outcome(4).facts == {"score": 4, "missing": ["1: x"]}
    assert outcome(3) == Dropped(
        reason="incomplete", detail="score 3, at least 4; missing: 1: x", cost=Cost(usd=1.0, num_calls=1)
    )
    assert outcome("unreadable reply: x", 5).cost.num_calls == 2
    assert (outcome("unreadable", "unreadable").reason, outcome("no reply: timeout").kind) == ("unjudged", "failed")


def test_versions_follow_settings_and_teachers() -> None:
    stage = EventsStage(teachers=told("x")[0])
    assert EventsStage(teachers=told("y")[0]).version == stage.version
    assert EventsStage(teachers=told("x", "2")[0]).version != stage.version
    assert EventsStage(teachers=told("x")[0], tries=2).version != stage.version
    assert DialogueStage(teachers=told("x")[0]).version != stage.version
    with pytest.raises(RecordError, match=r"no facts of 'caption', only of no stage; run that stage before"):
        stage.process(ManifestClip(id="a", path="a.mp4"))


def test_plans_say_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="nobody is bound to the role 'visual'"):
        pipeline_steps(PipelineSettings(pipeline="vs2"), Teachers({}))
    with pytest.raises(ConfigError, match="local_seconds must be >= 0 and finite, got 3 and inf"):
        PipelineSettings(pipeline="vs2", local_seconds=float("inf"))
    with pytest.raises(ConfigError, match="name a judge"):
        pipeline_steps(PipelineSettings(pipeline="avocado"), told("x")[0])
    with pytest.raises(ConfigError, match="annotations are events, checklist, dialogue, qa; got songs"):
        annotation_steps(["songs"], told("x")[0])  # type: ignore[list-item]
    describing, captioner = told("x")
    captioner.reads_texts = False
    vs2 = PipelineSettings(pipeline="vs2")
    assert [step.name for step in pipeline_steps(vs2, told("x")[0])][-5:-3] == ["local", "local_filter"]
    assert "local" not in [step.name for step in pipeline_steps(vs2, describing)]
    (note,) = plan_notes(vs2, describing)
    assert note.startswith("no local captions: told describes clips and cannot say when")
    assert plan_notes(vs2, told("x")[0]) == ()
    assert plan_notes(dataclasses.replace(vs2, local_seconds=0.0), describing) == ()
    names = [
        step.name for step in pipeline_steps(PipelineSettings(pipeline="avocado", min_completeness=0), told("x")[0])
    ]
    assert "completeness" not in names
    assert names.index("asr") < names.index("dialogue_check")


def test_the_split_is_by_source_and_stable() -> None:
    settings = OutputSettings(val_fraction=0.2)
    sides = {name: split_of(name, settings) for name in map(str, range(2000))}
    assert 0.17 < sum(side == "val" for side in sides.values()) / 2000 < 0.23
    more = OutputSettings(val_fraction=0.4)
    assert all(split_of(name, more) == "val" for name, side in sides.items() if side == "val")
    assert {split_of(name, OutputSettings(val_fraction=0.0)) for name in sides} == {"train"}
    assert sides["7"] == split_of("7", settings)


def test_annotations_return_to_their_examples() -> None:
    ref = ClipRef(id="a", path="a.mp4")
    caption = TrainingExample(clip=ref, task="caption", instruction="Tell.", target="A dog.")
    other = TrainingExample(clip=ref, task="qa", instruction="Who?", target="A dog.")
    gone = dataclasses.replace(caption, clip=ClipRef(id="b", path="b.mp4"))
    clips = list(caption_clips([caption, other, gone]))
    assert [(clip.id, clip.facts["caption"]["text"]) for clip in clips] == [("a", "A dog."), ("b", "A dog.")]
    found = clips[0].with_facts("events", {"events": ["A dog."]}).with_facts("dialogue", {"utterances": []})
    done, unread = dataclasses.replace(ref, path=str(Path("a.mp4").absolute())), {DIALOGUE_UNKNOWN: True}
    lost = dataclasses.replace(gone.clip, path=str(Path("b.mp4").absolute()), meta=unread)
    assert list(annotated([other, caption, gone], [found])) == [
        dataclasses.replace(other, clip=done),
        dataclasses.replace(caption, clip=done, events=("A dog.",)),
        dataclasses.replace(gone, clip=lost),  # it failed: whether somebody speaks is not known
    ]
    unreadable = clips[0].with_facts("dialogue", {"unread": "three unreadable replies"})
    (example,) = annotated([caption], [unreadable])
    assert example.clip.meta == unread
    known = dataclasses.replace(caption, dialogue=({"speaker": "a man", "text": "Hello."},))
    (example,) = annotated([known], [unreadable])
    assert (example.dialogue, example.clip.meta) == (known.dialogue, {})
    with pytest.raises(RecordError, match="two captions"):
        list(caption_clips([caption, caption]))


def test_teachers_and_judge_travel_as_their_names() -> None:
    teachers = LazyTeachers({"check": "m@http://127.0.0.1:1/v1"}, TeacherOptions())
    judge = LazyJudge(JudgeSettings(model="m", base_url="http://127.0.0.1:1/v1"), teachers)
    stage = CompletenessStage(judge=judge)
    assert stage.version == CompletenessStage(judge=pickle.loads(pickle.dumps(judge))).version
    again = pickle.loads(pickle.dumps(EventsStage(teachers=teachers)))
    assert again.version == EventsStage(teachers=teachers).version
    assert "check" in again.teachers
    judge.close()
    teachers.close()
    again.teachers.close()
