"""The rewards by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from avocet.errors import ConfigError
from avocet.evaluation.exact_judge import ExactEventJudge
from avocet.judging.checklist import ChecklistJudge
from avocet.judging.client import JudgeClient
from avocet.judging.dialogue import DialogueExtractor, DialogueJudge
from avocet.judging.events import EventJudge
from avocet.judging.messages import CallParameters
from avocet.judging.speakers import LabelSpeakerJudge, SpeakerJudge, TextSpeakerJudge, WatchingSpeakerJudge
from avocet.rewards.exact import (
    ExactBindingJudge,
    ExactChecklistJudge,
    ExactDialogueJudge,
    theatre_checklist_item,
    theatre_item,
)
from avocet.rewards.items import Reward
from avocet.rewards.judged import (
    JudgedReward,
    checklist_item,
    checklist_value,
    dialogue_item,
    dialogue_value,
    event_item,
    event_value,
    watched_dialogue_item,
)
from avocet.rewards.length import LengthReward
from avocet.rewards.repetition import RepetitionReward
from avocet.rewards.sound_binding import SoundBindingReward, TieJudge, TieLister, binding_value

SpeakerCheck = Literal["video", "text", "labels"]
"""Who decides whether two utterances have the same speaker: a judge that watches, one that reads, a table of names."""

REWARD_NAMES = ("checklist", "dialogue", "length", "events", "repetition", "sound_binding")
JUDGED_NAMES = ("checklist", "dialogue", "events", "sound_binding")
"""Those that need a judge."""


def make_rewards(
    names: Sequence[str],
    *,
    client: JudgeClient | None,
    exact: bool,
    length_soft: int,
    length_hard: int,
    speakers: SpeakerCheck,
    speaker_aliases: Mapping[str, Sequence[str]] | None,
    dialogue_threshold: float,
    quoted_only: bool,
    parameters: CallParameters | None,
) -> dict[str, Reward]:
    """Name -> reward. The arguments are those of `make_rubric`, and so is what is raised."""
    _check(names, client, exact, speakers, speaker_aliases, quoted_only)
    rewards: dict[str, Reward] = {}
    if "length" in names:
        rewards["length"] = LengthReward(length_soft, length_hard)
    if "repetition" in names:
        rewards["repetition"] = RepetitionReward()
    judged = set(names) & set(JUDGED_NAMES)
    if exact:
        every = _exact_rewards(dialogue_threshold)
    elif client is not None and judged:
        speaker_judge = _speaker_judge(client, speakers, speaker_aliases, parameters)
        extractor = DialogueExtractor(client, parameters=parameters)
        dialogue = DialogueJudge(extractor, speaker_judge, threshold=dialogue_threshold)
        every = _rewards_by_model(client, dialogue, speakers == "video", quoted_only, parameters)
    else:
        every = {}
    return {**rewards, **{name: every[name] for name in judged}}


def _check(
    names: Sequence[str],
    client: JudgeClient | None,
    exact: bool,
    speakers: SpeakerCheck,
    speaker_aliases: Mapping[str, Sequence[str]] | None,
    quoted_only: bool,
) -> None:
    unknown = [name for name in names if name not in REWARD_NAMES]
    if unknown or not names:
        given = f"got {', '.join(map(repr, unknown))}" if unknown else "got none"
        raise ConfigError(f"rewards must be some of {', '.join(REWARD_NAMES)}; {given}")
    if exact and client is not None:
        raise ConfigError("rewards are judged exactly or by a language model: give a judge or exact=True, not both")
    judged = [name for name in names if name in JUDGED_NAMES]
    if judged and client is None and not exact:
        raise ConfigError(f"reward {judged[0]!r} needs a judge; give one, or exact=True for clips of the theatre")
    if speakers not in get_args(SpeakerCheck):
        raise ConfigError(f"speakers must be one of {', '.join(get_args(SpeakerCheck))}, got {speakers!r}")
    if speaker_aliases is not None and (speakers != "labels" or exact):
        raise ConfigError('speaker_aliases are for speakers="labels" with a judge; leave them out')
    if quoted_only and exact:
        raise ConfigError("quoted_only needs a judge that quotes; the exact judge does not, and needs no checking")


def _exact_rewards(dialogue_threshold: float) -> dict[str, Reward]:
    return {
        "checklist": JudgedReward(
            "checklist", ExactChecklistJudge(), theatre_checklist_item, lambda _, verdict: checklist_value(verdict)
        ),
        "dialogue": JudgedReward(
            "dialogue", ExactDialogueJudge(dialogue_threshold), theatre_item, lambda _, verdict: dialogue_value(verdict)
        ),
        "events": JudgedReward("events", ExactEventJudge(), theatre_item, lambda _, verdict: event_value(verdict)),
        "sound_binding": JudgedReward(
            "sound_binding", ExactBindingJudge(), theatre_item, lambda _, verdict: binding_value(verdict)
        ),
    }


def _rewards_by_model(
    client: JudgeClient,
    dialogue: DialogueJudge,
    watching: bool,
    quoted_only: bool,
    parameters: CallParameters | None,
) -> dict[str, Reward]:
    notes = _notes(parameters)
    ties = TieLister(client, parameters=parameters), TieJudge(client, parameters=parameters)
    return {
        "checklist": JudgedReward(
            "checklist",
            ChecklistJudge(client, parameters=parameters),
            checklist_item,
            lambda item, verdict: checklist_value(verdict, item.caption if quoted_only else None),
            labels="checklist",
            notes=notes + ("/quoted only" if quoted_only else ""),
        ),
        "dialogue": JudgedReward(
            "dialogue",
            dialogue,
            watched_dialogue_item if watching else dialogue_item,
            lambda _, verdict: dialogue_value(verdict),
            labels="dialogue",
            notes=notes,
        ),
        "events": JudgedReward(
            "events",
            EventJudge(client, parameters=parameters),
            event_item,
            lambda _, verdict: event_value(verdict),
            labels="events",
            notes=notes,
        ),
        "sound_binding": SoundBindingReward(*ties, notes=notes),
    }


def _notes(parameters: CallParameters | None) -> str:
    """What of the judge's sampling is not as by default; judges do not name it themselves."""
    usual, given = CallParameters(), parameters or CallParameters()
    return "".join(
        f"/{field.name}={getattr(given, field.name)}"
        for field in dataclasses.fields(given)
        if getattr(given, field.name) != getattr(usual, field.name)
    )


def _speaker_judge(
    client: JudgeClient,
    speakers: SpeakerCheck,
    aliases: Mapping[str, Sequence[str]] | None,
    parameters: CallParameters | None,
) -> SpeakerJudge:
    if speakers == "video":
        return WatchingSpeakerJudge(client, parameters=parameters)
    if speakers == "text":
        return TextSpeakerJudge(client, parameters=parameters)
    return LabelSpeakerJudge(aliases)
