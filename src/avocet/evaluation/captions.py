"""Captions from files, ours and other people's, matched to the items of a benchmark.

    captions = read_captions("captions.jsonl")
    matched = match(benchmark.read("video_salmonn2_test.json"), captions)
    print(matched.summary())

Read are, each entry for itself, so that files may mix them:

    Avocet            lines of `avocet caption` (and its failures), `items.jsonl` of an evaluation
    AVoCaDO           {"video_id", "caption"} per line; {"id": [path], "prompt", "pred"} in a list; DREAM-1K lines with
                      the caption as the assistant's text; merged Daily-Omni and WorldSense files (`caption_field`)
    video-SALMONN 2   {"id": [video, audio], "prompt", "pred" or "pred1" and "pred2", "ref"} in a list
    video-SALMONN 2+  {"video", "image", "audio", "use_audio", "prompt", "ref", "should_use", "pred": text or list},
                      one list per process: give all the files, or their folder
    plain             {video: caption}, {video: [captions]}; objects with a field for the video and one for the caption
    tables            .csv and .tsv with a header line and two such columns

A caption that a script could not make becomes a `Failure`: null, "<error>", an empty table cell, an entry of a merged
file without the named field. An empty text elsewhere is a caption without words. Nothing is dropped without being
listed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

from avocet.errors import ConfigError, RecordError
from avocet.evaluation.benchmarks._names import EXACT, Fit, NameIndex
from avocet.evaluation.benchmarks._outputs import FoundCaption, read_outputs
from avocet.evaluation.items import BenchmarkItem
from avocet.records import Caption, Failure, Record

Several = Literal["refuse", "keep"]

_ENDINGS = (".json", ".jsonl", ".csv", ".tsv")
_RUN_FILES = ("items.jsonl", "report.json")
"""What tells the folder of an evaluation; the first holds its captions."""
_TOLERANCE_SECONDS = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportedCaption(Record):
    """One caption as a file holds it."""

    video: str
    """As the file names it: a path, a file name, or an id."""
    text: str
    """Exactly as in the file."""
    run_index: int = 0
    """Counts the captions of one video (and interval) in the order they were read."""
    clip_id: str | None = None
    """The id of the clip, where the file has one beside the video."""
    start_seconds: float | None = None
    """The interval that was asked for; None: the whole video, or nothing is said."""
    end_seconds: float | None = None
    instruction: str | None = None
    audio_used: bool | None = None
    """None: the file does not say."""
    where: str
    """File and place in it."""
    record: Caption | None = None
    """All that is known, where the caption is Avocet's own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionSet(Record):
    """The captions of one or more files."""

    captions: tuple[ImportedCaption, ...]
    failures: tuple[Failure, ...] = ()
    """Videos that the files list without a caption."""
    files: tuple[str, ...] = ()
    """Names without folders, in the order read."""
    formats: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many captions and failures were read in each format."""
    repeats: tuple[str, ...] = ()
    """Places of captions left out since the same text stands for the same video further up."""
    skipped: tuple[str, ...] = ()
    """Places left out for another reason, with the reason."""
    mended: tuple[str, ...] = ()
    """Places of texts in which half of a surrogate pair, which is no character, became U+FFFD."""

    @property
    def num_runs(self) -> int:
        """The most captions that one video (and interval) has."""
        return max((caption.run_index + 1 for caption in self.captions), default=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair(Record):
    """An item with its caption, or with all of its runs."""

    item: BenchmarkItem
    captions: tuple[ImportedCaption, ...]

    @property
    def caption(self) -> ImportedCaption:
        """The only caption. Raises `ConfigError` when there are several runs."""
        if len(self.captions) != 1:
            raise ConfigError(f"{self.item.id!r} has {len(self.captions)} captions; use `captions`")
        return self.captions[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MissingItem(Record):
    """An item without a caption."""

    item: BenchmarkItem
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnknownCaption(Record):
    """A caption that is of no item."""

    caption: ImportedCaption
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class AmbiguousMatch(Record):
    """Captions and items that fit each other equally well; none of them is paired."""

    item_ids: tuple[str, ...]
    captions: tuple[ImportedCaption, ...]
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matched(Record):
    """Every item is in `pairs` or in `missing_items`, every caption in exactly one of the other three."""

    pairs: tuple[Pair, ...]
    """In the order of the items."""
    missing_items: tuple[MissingItem, ...]
    unknown_captions: tuple[UnknownCaption, ...]
    ambiguous: tuple[AmbiguousMatch, ...]

    def summary(self, num_examples: int = 3) -> str:
        """For people: how many of each, with the first few by name."""
        num_items = len(self.pairs) + len(self.missing_items)
        lines = [f"{len(self.pairs)} of {num_items} items have a caption"]
        for title, examples in (
            ("items without a caption", [f"{one.item.id}: {one.reason}" for one in self.missing_items]),
            ("captions of no item", [f"{one.caption.video}: {one.reason}" for one in self.unknown_captions]),
            ("ambiguous", [one.reason for one in self.ambiguous]),
        ):
            if examples:
                lines.append(f"{len(examples)} {title}:")
                lines += [f"  {example}" for example in examples[:num_examples]]
                lines += [f"  and {len(examples) - num_examples} more"] * (len(examples) > num_examples)
        return "\n".join(lines)


def read_captions(
    paths: str | Path | Sequence[str | Path],
    *,
    several: Several = "refuse",
    video_field: str | None = None,
    caption_field: str | None = None,
) -> CaptionSet:
    """Read captions from files and folders; see the module's description for the formats.

    Args:
        paths: of a folder that `avocet evaluate` left behind, its items are read; of another, the outputs of each
            process (`test_results_rank*.json`) when it has them, else all its .json, .jsonl, .csv and .tsv files;
            folders below are not searched.
        several: what to do when one video (and interval) has different captions: an error, or keep all as runs in
            the order read. With "refuse", the same text twice is one caption, and `repeats` says so; with "keep" it
            is two runs.
        video_field: name of the field (or table column) with the video's name, where it is not a usual one.
        caption_field: likewise of the caption; it also picks one model's captions from a merged benchmark file.

    Raises `ConfigError` for files that cannot be read and videos with several captions, `RecordError` naming file and
    place for entries of no known form.
    """
    if several not in get_args(Several):
        raise ConfigError(f"several must be one of {', '.join(get_args(Several))}, got {several!r}")
    files = _expand([paths] if isinstance(paths, (str, Path)) else paths)
    found = [one for file in files for one in read_outputs(file, video_field, caption_field)]
    captions, repeats = _number_runs([one for one in found if one.text is not None], several)
    formats: dict[str, int] = {}
    for one in found:
        formats[one.format_name] = formats.get(one.format_name, 0) + (one.skip_reason is None)
    result = CaptionSet(
        captions=tuple(captions),
        failures=tuple(one.failure for one in found if one.failure is not None),
        files=tuple(file.name for file in files),
        formats=formats,
        repeats=tuple(repeats),
        skipped=tuple(f"{one.where}: {one.skip_reason}" for one in found if one.skip_reason is not None),
        mended=tuple(one.where for one in found if one.is_mended),
    )
    if not result.captions and not result.failures:
        raise ConfigError(f"{', '.join(map(str, files))}: no captions found")
    return result


def take_sample(captions: CaptionSet, number: int) -> CaptionSet:
    """Of videos with several captions (read with several="keep") the one with this number, counted from 1.

    Raises `ConfigError` when no video has so many.
    """
    if not 1 <= number <= captions.num_runs:
        raise ConfigError(f"sample {number} was asked for, but the videos have up to {captions.num_runs} captions")
    kept = (dataclasses.replace(one, run_index=0) for one in captions.captions if one.run_index == number - 1)
    return dataclasses.replace(captions, captions=tuple(kept))


def match(items: Sequence[BenchmarkItem], captions: CaptionSet) -> Matched:
    """Give each item its caption.

    An item's id or a name of its video decides when a caption has exactly it; else the names are compared as paths (see
    `avocet.evaluation.benchmarks._names`). Items about an interval take captions of that interval, others take none
    that were asked for an interval. Where captions under different names claim one item, the best name wins and the
    others are listed as unknown; a tie is ambiguous. Raises `RecordError` for items with the same id.
    """
    finder = _Finder(items)
    claims: dict[int, list[tuple[Fit, ImportedCaption]]] = {}
    unknown: list[UnknownCaption] = []
    ambiguous: list[AmbiguousMatch] = []
    for caption in captions.captions:
        indices, fit = finder.find(caption.clip_id, caption.video, caption.start_seconds, caption.end_seconds)
        if fit is None or not indices:
            reason = "no item has such a name" if fit is None else "no item is about this interval"
            unknown.append(UnknownCaption(caption=caption, reason=reason))
        elif len(indices) > 1:
            ids = tuple(items[index].id for index in indices)
            reason = f"{caption.where}: {caption.video!r} fits {len(ids)} items equally well: {_some(ids)}"
            ambiguous.append(AmbiguousMatch(item_ids=ids, captions=(caption,), reason=reason))
        else:
            claims.setdefault(indices[0], []).append((fit, caption))
    pairs: dict[int, Pair] = {}
    for index, claimed in claims.items():
        _settle(index, items[index], claimed, pairs, unknown, ambiguous)
    return Matched(
        pairs=tuple(pairs[index] for index in sorted(pairs)),
        missing_items=tuple(_missing(items, pairs, ambiguous, finder, captions.failures)),
        unknown_captions=tuple(unknown),
        ambiguous=tuple(ambiguous),
    )


class _Finder:
    """From the name of a caption to the items it may be of."""

    def __init__(self, items: Sequence[BenchmarkItem]) -> None:
        self._items = items
        self._by_id = {item.id: index for index, item in enumerate(items)}
        if len(self._by_id) < len(items):
            raise RecordError(f"{len(items) - len(self._by_id)} items have an id that another item has too")
        self._names = NameIndex((name, index) for index, item in enumerate(items) for name in item.names)

    def find(
        self, clip_id: str | None, video: str, start_seconds: float | None, end_seconds: float | None
    ) -> tuple[list[int], Fit | None]:
        """(indices of the items, fit of the name); no fit: the name is unknown, no indices: only the interval is."""
        asked = (start_seconds, end_seconds)
        if clip_id in self._by_id:
            return [self._by_id[clip_id]], EXACT
        if video in self._by_id and _same_interval(self._items[self._by_id[video]], asked):
            return [self._by_id[video]], EXACT
        indices, fit = self._names.find(video)
        return [index for index in indices if _same_interval(self._items[index], asked)], fit


def _same_interval(item: BenchmarkItem, asked: tuple[float | None, float | None]) -> bool:
    own = (item.start_seconds, item.end_seconds)
    return all(
        one is other or (one is not None and other is not None and abs(one - other) <= _TOLERANCE_SECONDS)
        for one, other in zip(own, asked, strict=True)
    )


def _settle(
    index: int,
    item: BenchmarkItem,
    claimed: Sequence[tuple[Fit, ImportedCaption]],
    pairs: dict[int, Pair],
    unknown: list[UnknownCaption],
    ambiguous: list[AmbiguousMatch],
) -> None:
    """Decide which of the captions that fit an item are its own."""
    best = max(fit for fit, _ in claimed)
    chosen = tuple(caption for fit, caption in claimed if fit == best)
    others = [caption for fit, caption in claimed if fit != best]
    unknown += [
        UnknownCaption(caption=one, reason=f"{chosen[0].video!r} fits item {item.id!r} better") for one in others
    ]
    videos = list(dict.fromkeys((caption.clip_id or caption.video) for caption in chosen))
    if len(videos) > 1:
        reason = f"item {item.id!r} is fitted equally well by captions of {len(videos)} videos: {_some(videos)}"
        ambiguous.append(AmbiguousMatch(item_ids=(item.id,), captions=chosen, reason=reason))
    else:
        pairs[index] = Pair(item=item, captions=chosen)


def _missing(
    items: Sequence[BenchmarkItem],
    pairs: dict[int, Pair],
    ambiguous: Sequence[AmbiguousMatch],
    finder: _Finder,
    failures: Iterable[Failure],
) -> list[MissingItem]:
    reasons: dict[int, str] = {}
    for failure in failures:
        indices, _ = finder.find(failure.clip_id, failure.path, None, None)
        reasons |= dict.fromkeys(indices, f"no caption ({failure.stage}): {failure.error}")
    unclear = {item_id for one in ambiguous for item_id in one.item_ids}
    return [
        MissingItem(
            item=item,
            reason="ambiguous captions" if item.id in unclear else reasons.get(index, "not among the captions"),
        )
        for index, item in enumerate(items)
        if index not in pairs
    ]


def _expand(paths: Iterable[str | Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        if all((path / name).is_file() for name in _RUN_FILES):
            files.append(path / _RUN_FILES[0])
            continue
        inside = sorted(path.glob("test_results_rank*.json")) or sorted(
            file for file in path.iterdir() if file.suffix.lower() in _ENDINGS and file.is_file()
        )
        if not inside:
            raise ConfigError(f"{path}: the folder holds no files ending in {', '.join(_ENDINGS)}")
        files += inside
    if not files:
        raise ConfigError("no file with captions was given")
    return list(dict.fromkeys(files))


def _number_runs(found: Sequence[FoundCaption], several: Several) -> tuple[list[ImportedCaption], list[str]]:
    """Captions with their run index, and the places of repeats."""
    captions: list[ImportedCaption] = []
    repeats: list[str] = []
    runs: dict[tuple[str, float | None, float | None], list[FoundCaption]] = {}
    for one in found:
        earlier = runs.setdefault((one.clip_id or one.video, one.start_seconds, one.end_seconds), [])
        if earlier and several == "refuse":
            if earlier[0].text != one.text:
                raise ConfigError(
                    f"{one.where}: {one.video!r} already has another caption ({earlier[0].where}); keep all of them as "
                    "runs with several='keep' (avocet evaluate: take one of them with --sample NUMBER), or give files "
                    "with one caption per video"
                )
            repeats.append(one.where)
            continue
        assert one.text is not None
        captions.append(
            ImportedCaption(
                video=one.video,
                text=one.text,
                run_index=len(earlier),
                clip_id=one.clip_id,
                start_seconds=one.start_seconds,
                end_seconds=one.end_seconds,
                instruction=one.instruction,
                audio_used=one.audio_used,
                where=one.where,
                record=one.record,
            )
        )
        earlier.append(one)
    return captions, repeats


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
