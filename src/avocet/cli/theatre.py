"""`avocet theatre make|show`: clips of the procedural theatre with their exact truth."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from avocet.captioning.formats import clock

if TYPE_CHECKING:
    from avocet.records import ClipRef, TrainingExample
    from avocet.theatre.script import Event, Script


def make(
    level: int = 1,
    seed: int = 0,
    num_clips: int = 10,
    out: Path = Path("theatre"),
    workers: int = 2,
    examples: Path | None = None,
    captions: Literal["reference", "teacher", "looping_teacher"] = "reference",
    questions: Path | None = None,
    answers: Literal["words", "letter"] = "words",
) -> int:
    """Stage clips to mp4 and write what is true about them.

    Args:
        level: Difficulty, 1 or 2.
        seed: First seed; clip i is the script of seed + i.
        num_clips: How many clips.
        out: Folder for the mp4 files and truth.jsonl.
        workers: Processes that stage clips.
        examples: Also write a training example of every clip to this JSONL file. Seeds below 10,000,000 are for tests;
            train on later ones.
        captions: What the examples say: the truth, or what a teacher with faults would write (events left out, some
            told wrongly, sentences repeated; the last one again and again in 15 % of the looping one's).
        questions: Also write questions about the clips with their true answers, as examples of the task qa, to this
            JSONL file.
        answers: "words": questions with one right answer, in words; "letter": four options each, the answer is the
            letter of one.
    """
    from avocet.errors import ConfigError
    from avocet.evaluation.benchmarks.theatre_staging import stage_scripts
    from avocet.theatre.script import make_script

    if num_clips < 1:
        raise ConfigError(f"--num-clips must be >= 1, got {num_clips}")
    scripts = [make_script(seed + index, level) for index in range(num_clips)]
    paths = stage_scripts(scripts, out, workers=workers)
    lines = [truth_line(script, path.name) + "\n" for script, path in zip(scripts, paths, strict=True)]
    (out / "truth.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{num_clips} clips and truth.jsonl are in {out}")
    staged = list(zip(scripts, paths, strict=True))
    if examples is not None:
        write = caption_writer(captions)
        told = [caption_example(script, path, examples, write(script)) for script, path in staged]
        _write_examples(examples, told, "training examples")
    if questions is not None:
        asked = [one for script, path in staged for one in question_examples(script, path, questions, answers)]
        _write_examples(questions, asked, "questions")
    return 0


def _write_examples(file: Path, examples: Sequence[TrainingExample], what: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{example.to_json_line()}\n" for example in examples), encoding="utf-8")
    print(f"{len(examples)} {what} are in {file}")


def show(seed: Annotated[Positional[int], arg(metavar="SEED")], level: int = 1, num_captions: int = 3) -> int:
    """Print the timeline of a script, reference captions and questions.

    Args:
        seed: Which script.
        level: Difficulty, 1 or 2.
        num_captions: How many wordings of the reference caption.
    """
    from avocet.theatre.language import reference_captions
    from avocet.theatre.questions import make_questions
    from avocet.theatre.script import make_script

    script = make_script(seed, level)
    print(f"{script.id}: {script.duration_seconds:g} s, background {script.background}")
    for event in script.events:
        times = f"{clock(event.start_seconds)} - {clock(event.end_seconds)}"
        print(f"  {times}  {event.kind:<6}  {event_text(event)}")
    print("\nreference captions")
    for caption in reference_captions(script, num_captions):
        print(f"  {caption}")
    print("\nquestions")
    for question in make_questions(script):
        print(f"  {question.text}  [{question.letter}]")
    return 0


def main(argv: list[str]) -> int:
    """Run `avocet theatre`."""
    code: int = tyro.extras.subcommand_cli_from_dict(
        {"make": make, "show": show},
        prog="avocet theatre",
        description=__doc__,
        args=argv,
        config=(FlagCreatePairsOff,),
    )
    return code


def event_text(event: Event) -> str:
    """An event in a few plain words, for timelines."""
    if event.kind == "visual":
        place = ("", " (left)", " (right)")[event.lane]
        return f"{event.colour} {event.shape}: {event.motion}{place}"
    if event.kind == "speech":
        return f'{event.speaker}: "{event.utterance}"'
    return event.word or event.sound or event.scene


def truth_line(script: Script, file_name: str) -> str:
    """Everything that is true about a staged script, as one line of JSON."""
    from avocet.theatre.language import reference_captions, sound_caption
    from avocet.theatre.questions import make_questions

    speech = [event for event in script.events if event.kind == "speech"]
    truth: dict[str, Any] = {
        "clip_id": script.id,
        "path": file_name,
        "script": dataclasses.asdict(script),
        "events": [
            {
                "kind": event.kind,
                "text": event_text(event),
                "start_seconds": event.start_seconds,
                "end_seconds": event.end_seconds,
            }
            for event in script.events
        ],
        "dialogue": [{"speaker": event.speaker, "text": event.utterance} for event in speech],
        "captions": reference_captions(script, 4),
        "sound_caption": sound_caption(script),
        "questions": [{**question.to_dict(), "letter": question.letter} for question in make_questions(script)],
    }
    return json.dumps(truth, ensure_ascii=False)


def caption_writer(captions: str) -> Callable[[Script], str]:
    """What writes the captions of examples: the truth, or a teacher with faults."""
    from avocet.theatre.language import reference_caption
    from avocet.theatre.teacher import LOOPING, TeacherFaults, teacher_caption

    if captions == "looping_teacher":
        return lambda script: teacher_caption(script, faults=TeacherFaults(loops=LOOPING))
    return teacher_caption if captions == "teacher" else reference_caption


def staged_clip(script: Script, clip: Path, file: Path) -> ClipRef:
    """A staged script as examples in `file` name it: by its path from there."""
    from avocet.records import ClipRef

    path = Path(os.path.relpath(clip, file.parent)).as_posix()
    return ClipRef(id=script.id, path=path, meta={"theatre": {"seed": script.seed, "level": script.level}})


def caption_example(script: Script, clip: Path, file: Path, target: str) -> TrainingExample:
    """A caption of a staged script, with all that rewards and judges need, for `file`."""
    from avocet.records import TrainingExample
    from avocet.rewards.exact import script_checklist
    from avocet.theatre.language import INSTRUCTIONS

    wordings = INSTRUCTIONS["caption"]
    speech = [event for event in script.events if event.kind == "speech"]
    return TrainingExample(
        clip=staged_clip(script, clip, file),
        task="caption",
        instruction=wordings[script.seed % len(wordings)],
        target=target,
        events=tuple(event_text(event) for event in script.events),
        checklist=tuple(keypoint.text for keypoint in script_checklist(script)),
        dialogue=tuple({"speaker": event.speaker, "text": event.utterance} for event in speech),
    )


def question_examples(script: Script, clip: Path, file: Path, answers: str) -> list[TrainingExample]:
    """Questions about a staged script, for `file`, with answers in words or as letters of options."""
    from avocet.records import TrainingExample
    from avocet.theatre.questions import make_questions, open_questions

    if answers == "letter":
        asked = [(question.text, question.letter) for question in make_questions(script)]
    else:
        asked = [(question.question, question.right_option) for question in open_questions(script)]
    where = staged_clip(script, clip, file)
    return [TrainingExample(clip=where, task="qa", instruction=text, target=answer) for text, answer in asked]
