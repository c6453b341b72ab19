"""Folders of the data sets for audio alignment: LibriSpeech (speech, transcripts) and AudioCaps (sounds, captions).

Targets are the official annotations as they are: LibriSpeech's are upper case without punctuation. Both instructions
are Avocet's own; `instruction` replaces them.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from avocet.errors import RecordError
from avocet.records import TrainingExample
from avocet.training.data.formats_common import Context, ItemMedia, clean_answer, clip_of
from avocet.training.data.records import Outcome, Rejected

ASR_INSTRUCTION = "Transcribe the speech in this recording."
AUDIO_CAPTION_INSTRUCTION = "Describe what can be heard in this recording."

SOUND_SUFFIXES = frozenset({".flac", ".wav", ".mp3", ".m4a", ".ogg", ".opus", ".aac", ".mp4", ".mkv", ".webm"})
AUDIOCAPS_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
_TRANSCRIPTS = "*.trans.txt"
_MAX_LINE = 2**20


def is_librispeech(folder: Path) -> bool:
    """Whether a folder holds transcripts in LibriSpeech's layout, at any depth."""
    return folder.is_dir() and next(folder.rglob(_TRANSCRIPTS), None) is not None


def is_audiocaps(path: Path) -> bool:
    """Whether a table of AudioCaps, or a folder that holds one, also in a folder in it."""
    return bool(_tables(path))


def read_librispeech(folder: Path, context: Context) -> Iterator[Outcome]:
    """`SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt` with lines `UTTERANCE TEXT`, and `UTTERANCE.flac` beside it."""
    for table in sorted(folder.rglob(_TRANSCRIPTS)):
        named: set[str] = set()
        try:
            lines = table.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            yield Rejected(where=str(table), reason=f"cannot be read: {error}")
            continue
        for number, line in enumerate(lines, start=1):
            where = f"{table}:{number}"
            utterance, _, text = line.strip().partition(" ")
            if not utterance:
                continue
            if utterance in named or not text.strip() or "/" in utterance:
                reason = "the utterance is listed twice" if utterance in named else "expected: UTTERANCE TEXT"
                yield Rejected(where=where, reason=f"{reason}, got {line.strip()!r:.60}")
                continue
            named.add(utterance)
            files = [table.parent / (utterance + suffix) for suffix in (".flac", ".wav")]
            if (file := next((file for file in files if file.is_file()), None)) is None:
                yield Rejected(where=where, reason=f"no file {utterance}.flac (or .wav) beside the transcripts")
            else:
                yield _example(context, file, utterance, text, ASR_INSTRUCTION, "asr")
        for file in sorted(table.parent.glob("*.flac")):
            if file.stem not in named:
                yield Rejected(where=str(file), reason=f"{table.name} has no transcript of it")


def read_audiocaps(path: Path, context: Context) -> Iterator[Outcome]:
    """Tables with the columns audiocap_id, youtube_id, start_time, caption, and files of sound below them.

    A row's file is `YOUTUBE-ID_START`, `YOUTUBE-ID`, `Y` + one of these, or `AUDIOCAP-ID`, with any suffix of sound. Of
    several, one in a folder called like the table counts (train.csv: train/); else the row is rejected.
    """
    files = _sound_files(path if path.is_dir() else path.parent, context)
    for table in _tables(path):
        try:
            with table.open(encoding="utf-8-sig", newline="") as lines:
                for number, row in enumerate(csv.DictReader(lines), start=2):
                    yield _audiocaps_row(f"{table}:{number}", table, row, files, context)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            yield Rejected(where=str(table), reason=f"cannot be read on: {error}")


def _audiocaps_row(
    where: str, table: Path, row: Mapping[str, str | None], files: Mapping[str, list[Path]], context: Context
) -> Outcome:
    identity, youtube, start, caption = (row.get(column) for column in AUDIOCAPS_COLUMNS)
    if not identity or not youtube or not start or not caption or not caption.strip():
        return Rejected(where=where, reason=f"a row needs {', '.join(AUDIOCAPS_COLUMNS)}")
    stems = (f"{youtube}_{start}", f"Y{youtube}_{start}", youtube, f"Y{youtube}", identity)
    for stem in stems:
        found = files.get(stem, [])
        if len(found) > 1:
            found = [file for file in found if file.parent.name == table.stem] or found
        if len(found) > 1:
            return Rejected(where=where, reason=f"{len(found)} files fit: {', '.join(map(str, found[:3]))}")
        if found:
            name = f"{youtube}_{start}"
            return _example(context, found[0], name, caption, AUDIO_CAPTION_INSTRUCTION, "audio_caption")
    return Rejected(where=where, reason=f"no file of sound {stems[0]}.* or {identity}.* (nor one of the other names)")


def _example(
    context: Context, file: Path, clip_id: str, text: str, instruction: str, task: str
) -> TrainingExample | Rejected:
    media = ItemMedia(kind="audio", path=str(file.absolute()))
    try:
        return TrainingExample(
            clip=clip_of(context, media, clip_id=clip_id),
            task=context.task or task,  # type: ignore[arg-type]  # one of two literals
            instruction=instruction,
            target=clean_answer(text),
        )
    except RecordError as error:
        return Rejected(where=str(file), reason=str(error))


def _sound_files(folder: Path, context: Context) -> Mapping[str, list[Path]]:
    """Stem -> files, below the media root if one is given."""
    files: dict[str, list[Path]] = defaultdict(list)
    for file in sorted((context.media_root or folder).rglob("*")):
        if file.suffix.lower() in SOUND_SUFFIXES and file.is_file():
            files[file.stem].append(file)
    return files


def _tables(path: Path) -> list[Path]:
    """The AudioCaps tables that a path stands for."""
    candidates = [path] if path.is_file() else sorted([*path.glob("*.csv"), *path.glob("*/*.csv")])
    return [table for table in candidates if table.suffix.lower() == ".csv" and _has_columns(table)]


def _has_columns(table: Path) -> bool:
    try:
        with table.open("rb") as file:
            head = file.readline(_MAX_LINE).decode("utf-8-sig")
        columns = next(csv.reader([head]), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return set(AUDIOCAPS_COLUMNS) <= {column.strip() for column in columns}
