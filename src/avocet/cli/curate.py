"""`avocet curate`: from raw videos to training data, by the pipelines of both papers.

- avocet curate avocado videos/ --out data --teacher visual=gemini-2.5-pro@https://HOST/v1 --teacher audio=...
  --teacher fuse=... --teacher check=... --judge gpt-4.1

- avocet curate vs2 clips.jsonl --out data --teacher asr=whisper:openai/whisper-large-v3 ... --dry-run

- avocet curate annotate captions.jsonl --out annotated --teacher check=gpt-4o@https://HOST/v1

- avocet curate card data

PATHS are folders, media files or manifests (.jsonl, docs/curation.md). Everything can be killed at any instant; the
same command continues. Exit codes: 0 all clips have an outcome, 1 some failed and will be tried by the next run (or
lines of captions could not be read), 2 it could not be done.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from avocet.captioning.formats import printable
from avocet.cli._judge_options import JudgeOptions, default_cache_path
from avocet.errors import ConfigError

if TYPE_CHECKING:
    from avocet.curation.pipelines.plan import PipelineSettings

Verb = Literal["avocado", "vs2", "annotate", "card"]
OutputFormat = Literal["webdataset", "parquet", "v1", "plus", "llava", "ms_swift"]
ChosenTask = Literal["caption", "local_caption", "qa", "asr", "audio_caption"]
ChosenAnnotation = Literal["events", "checklist", "dialogue", "qa"]

TEACHER_CACHE = "teachers.sqlite"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurateArguments:
    """Make training data from videos, or annotate captions."""

    verb: Annotated[Positional[Verb], arg(metavar="{avocado,vs2,annotate,card}")]
    """avocado, vs2: the pipelines; annotate: captions that are there; card: write the data card of a run again."""
    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="PATHS")]
    """avocet curate avocado|vs2: folders, media files, manifests; annotate: one file of captions or training data;
    card: the folder of a run."""
    judging: Annotated[JudgeOptions, arg(name="")] = dataclasses.field(default_factory=JudgeOptions)
    out: Path | None = None
    """Folder for everything that is written."""
    teacher: UseAppendAction[tuple[str, ...]] = ()
    """ROLE=TEACHER, once per role: visual, audio, asr, fuse, check. A TEACHER is MODEL@https://HOST/v1,
    whisper:FOLDER_OR_ID or one of Avocet's captioners."""
    teacher_price: UseAppendAction[tuple[str, ...]] = ()
    """MODEL=IN,OUT in USD per million tokens, for models that are not in the table."""
    teacher_temperature: float = 0.5
    """Of the roles fuse and check, whose answers are asked for again when they are not good enough; the others are
    sampled at 0. Negative leaves it to the server, for models that refuse it."""
    media_as: Literal["images+audio", "video_url"] = "images+audio"
    """How pictures and sound go to servers."""
    workers: int = 8
    """Clips that are looked at at once."""
    max_attempts: int = 3
    """Looks at a clip in this run, when they fail."""
    min_seconds: float | None = None
    """Shortest clip; the paper's if not given (vs2 30, avocado 0)."""
    max_seconds: float | None = None
    """Longest clip; the paper's if not given (vs2 60, avocado 100)."""
    cut_shots: bool = False
    """Cut files at shots into clips of these lengths."""
    keep_all_sounds: bool = False
    """Keep silent, black and static clips, and those without sound, whose audio captions and transcripts are empty.
    vs2 drops clips without words all the same, but for --min-transcript-words 0."""
    segment_seconds: float = 10.0
    """vs2: of what is captioned and transcribed at a time."""
    min_transcript_words: int = 3
    """vs2: fewer in any segment drop the clip."""
    min_caption_words: int = 10
    """Shorter captions are dropped."""
    max_repetition: float = 0.25
    """Captions with a higher repetition rate are dropped."""
    local_seconds: float = 10.0
    """vs2: of the interval that a local caption tells; 0 for none."""
    min_completeness: int = 4
    """avocado: lowest score of the judge that is kept; 0 does without the judge."""
    num_questions: int = 3
    """avocado, annotate: per clip."""
    annotations: tuple[ChosenAnnotation, ...] = ("events", "checklist", "dialogue", "qa")
    """annotate: what is made."""
    keep_cut_off: bool = False
    """annotate: also captions that their model did not end (token limit, loop); they are left out otherwise."""
    tasks: tuple[ChosenTask, ...] = ("caption", "local_caption", "qa")
    """What training examples are made of each clip."""
    val_fraction: float = 0.05
    """Share of the source videos that go to validation."""
    seed: int = 0
    """Another split, other wordings of the instructions."""
    format: tuple[OutputFormat, ...] = ()
    """Written beside train.jsonl and val.jsonl, which are always there."""
    ray: bool = False
    """Look at the clips with Ray Data."""
    ray_address: str | None = None
    """Of a Ray cluster; Ray starts on this machine if not given."""
    ray_actors: int | None = None
    """Processes; one per CPU if not given."""
    json: bool = False
    """Print the data card as JSON."""


def main(argv: list[str]) -> int:
    """Run `avocet curate`."""
    arguments = tyro.cli(
        CurateArguments, args=argv, prog="avocet curate", config=(FlagCreatePairsOff,), description=__doc__
    )
    if not arguments.paths:
        raise ConfigError(f"name something to work on: avocet curate {arguments.verb} PATHS")
    if arguments.verb == "card":
        return _card(arguments)
    if arguments.out is None:
        raise ConfigError(f"name a folder for the output: avocet curate {arguments.verb} PATHS --out DIR")
    if arguments.ray and arguments.judging.max_cost is not None:
        raise ConfigError("--max-cost cannot hold over the processes of Ray; leave out one of --max-cost and --ray")
    from avocet.cli import _curate_run
    from avocet.curation.pipelines.run import run_lock

    with contextlib.ExitStack() as stack, _told_errors(arguments.out):
        stack.enter_context(run_lock(arguments.out))
        if arguments.verb == "annotate":
            return _curate_run.annotate(arguments, arguments.out, stack)
        return _curate_run.run_pipeline(arguments, arguments.out, pipeline_settings(arguments), stack)


@contextlib.contextmanager
def _told_errors(out: Path) -> Iterator[None]:
    """A full disk and the like as errors of the command."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{error.filename or out}: {error.strerror or error}; what was recorded in {out} stays, and the same "
            "command continues when that is mended"
        ) from error


def pipeline_settings(arguments: CurateArguments) -> PipelineSettings:
    """What the options set about the pipeline. Raises `ConfigError`."""
    from avocet.curation.checks import TranscriptRules
    from avocet.curation.pipelines.plan import PipelineSettings

    assert arguments.verb in ("avocado", "vs2")
    names = (
        *("min_seconds", "max_seconds", "cut_shots", "keep_all_sounds", "segment_seconds", "min_caption_words"),
        *("max_repetition", "local_seconds", "min_completeness", "num_questions"),
    )
    return PipelineSettings(
        pipeline=arguments.verb,
        transcript=TranscriptRules(min_words=arguments.min_transcript_words),
        **{name: getattr(arguments, name) for name in names},
    )


def teacher_cache(arguments: CurateArguments) -> Path:
    """Where the teachers' answers are kept: the cache that is named, else one beside the judge's."""
    return arguments.judging.cache or default_cache_path().with_name(TEACHER_CACHE)


def show(arguments: CurateArguments, markdown: str, as_json: str) -> None:
    """Print a card."""
    print(as_json if arguments.json else printable(markdown.rstrip()))


def _card(arguments: CurateArguments) -> int:
    from avocet.curation.data_card import make_card, write_card
    from avocet.curation.pipelines.run import read_run_record, run_lock

    if len(arguments.paths) != 1:
        raise ConfigError(f"give the folder of one run: avocet curate card DIR; got {len(arguments.paths)}")
    folder = Path(arguments.paths[0])
    read_run_record(folder)  # before a lock makes a folder of it
    with _told_errors(folder), run_lock(folder):
        card = make_card(folder)
        write_card(folder, card)
    show(arguments, card.markdown(), card.to_json_line())
    return 0
