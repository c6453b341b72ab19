"""Filters of captions, global and local, and clips without sound on their way through the stages."""

from __future__ import annotations

import pytest
from told_teachers import Scores, clip_with, told

from avocet.curation import Kept
from avocet.curation.checks import TranscriptRules, transcript_nonsense
from avocet.curation.data_card import count_findings
from avocet.curation.outcomes import apply_outcome
from avocet.curation.outputs import OutputSettings, examples_of
from avocet.curation.pipelines import (
    CaptionFilter,
    CompletenessStage,
    ContradictionCheck,
    DescribeStage,
    FuseSentencesStage,
    GenericSpeechFilter,
    LocalFilter,
    TranscriptFilter,
)
from avocet.curation.teachers import TeacherError, TeacherTask


def test_clips_without_sound_that_are_kept_have_empty_segments() -> None:
    def mute(task: TeacherTask) -> str:
        if task.clip is not None and task.media == "sound":
            raise TeacherError("no_sound", "absent", at_once=False)
        return "It is dark." if task.media == "frames" else "It is dark and quiet here, it is dark."

    teachers, teacher = told(mute)
    audio = DescribeStage(
        name="audio", sense="audio", teachers=teachers, segment_seconds=None, silence_is_empty=True
    ).process(clip_with())
    assert isinstance(audio, Kept)
    assert (audio.facts["segments"][0]["text"], audio.cost.num_calls) == ("", 0)
    clip = clip_with(audio=audio.facts, visual={"segments": [{"text": "It is dark."}]})
    assert GenericSpeechFilter().process(clip) == Kept()
    fused = FuseSentencesStage(teachers=teachers, watch=False).process(clip)
    assert isinstance(fused, Kept)
    assert fused.facts["num_sentences"] == 1
    assert teacher.tasks[-1].fields["audio_caption"] == "The video has no sound."
    assert CompletenessStage(judge=Scores(5)).process(clip).kind == "kept"
    contradictions = ContradictionCheck(teachers=teachers).process(clip)
    assert contradictions == Kept(facts={"contradictions": [], "flags": []})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A box moves on, " * 20, "repetitive"),
        ("A box moves.", "caption_too_short"),
        ("In this part a red box moves slowly to the left.", None),
    ],
)
def test_local_captions_pass_the_filter_of_captions(text: str, reason: str | None) -> None:
    local = {"start_seconds": 0.0, "end_seconds": 10.0, "text": text, "events": ["A box moves."]}
    clip = clip_with(local={"events": [], "local": local})
    outcome = LocalFilter().process(clip)
    assert isinstance(outcome, Kept)
    assert outcome.facts.get("left_out") == reason
    after = apply_outcome(clip, "local_filter", outcome)[0]
    assert len(examples_of(after, OutputSettings(tasks=("caption", "local_caption")))) == (1 if reason else 2)
    assert count_findings([after]).local_left_out == ({reason: 1} if reason else {})
    assert LocalFilter().process(clip_with(local={"events": [], "local": None})) == Kept()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("One two three.", "caption_too_short"),
        ("word " * 31, "caption_too_long"),
        ("A dog runs, a dog runs, a dog runs, and then it stops there.", "repetitive"),
        ("A dog runs to the door and barks at it. <|im_end|>", "unnatural"),
        ("A dog runs to the door and barks at it for long.", None),
        ("一个男人在红色的房间里慢慢地走向窗户。", None),
        ("ねこがまどのそばでねています。", None),
        ("고양이가 창가에서 자고 있다.", "caption_too_short"),
        ("走" * 31, "caption_too_long"),
    ],
)
def test_caption_filter(text: str, reason: str | None) -> None:
    outcome = CaptionFilter(max_words=30).process(clip_with(caption={"text": text}))
    assert getattr(outcome, "reason", None) == reason


def test_speech_in_scripts_without_spaces_is_no_nonsense() -> None:
    # 26 characters and a mark are 8.7 words: 3 per second in 3 s, as Japanese is spoken.
    spoken = "そうですねきのうはともだちとえいがをみにいきましたよ。"
    assert transcript_nonsense(spoken, 3.0, TranscriptRules()) is None
    # In 1.2 s they are 7.2 per second.
    assert transcript_nonsense(spoken, 1.2, TranscriptRules()) == "9 words in 1.2 s, at most 7 per second"
    clip = clip_with(asr={"segments": [{"start_seconds": 0.0, "end_seconds": 3.0, "text": spoken}]})
    assert TranscriptFilter().process(clip) == Kept()
