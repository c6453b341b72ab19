"""One caption of a clip out of those of its picture and its sound."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from avocet.curation.checks import check_sentences, sentences
from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Dropped, Kept, Outcome
from avocet.curation.pipelines._asking import Asking, TeacherStage, facts_of, media_ref, text_of
from avocet.curation.teachers import Role, TeacherTask, segment_lines
from avocet.errors import ConfigError

_NOTHING_HEARD = "The video has no sound."
"""In place of the audio caption of a clip without sound; no sentence that a fusion must keep."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseSegmentsStage(TeacherStage):
    """Segment captions and transcripts -> one global caption (video-SALMONN 2, appendix C). Facts: text."""

    name: str = "caption"
    asks: ClassVar[tuple[tuple[Role, str], ...]] = (("fuse", "fuse_vs2"),)

    @property
    def reads(self) -> tuple[str, ...] | None:
        return ("visual", "audio", "asr")

    @property
    def reads_media(self) -> bool:
        return False

    def look(self, clip: ManifestClip, asking: Asking) -> Outcome:
        fields = {
            "visual_captions": self._lines(clip, "visual"),
            "audio_captions": self._lines(clip, "audio"),
            "transcripts": self._lines(clip, "asr"),
        }
        return Kept(
            facts={"text": asking.text("fuse", TeacherTask(prompt="fuse_vs2", fields=fields))}, cost=asking.cost
        )

    def _lines(self, clip: ManifestClip, stage: str) -> str:
        segments = facts_of(clip, stage, self.name)["segments"]
        return segment_lines((one["start_seconds"], one["end_seconds"], one["text"]) for one in segments)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseSentencesStage(TeacherStage):
    """A visual and an audio caption -> one that keeps every sentence of both (AVoCaDO, section 3.1).

    The paper's teacher is told to check itself. Here a program checks (`checks.check_sentences`): every sentence of
    either source is in the fusion, and those of one source in their order. A fusion that fails is asked for anew, up to
    `tries` times. Facts: text, num_tries, num_sentences. Drops `sentence_lost` and `sentence_out_of_order`, by the last
    try, since the same answers would come again from the cache.
    """

    name: str = "caption"
    similarity: float = 0.9
    tries: int = 3
    watch: bool = True
    """Send the clip with its captions, as the paper does; without it the teacher orders them by their words alone."""
    fps: float = 1.0
    asks: ClassVar[tuple[tuple[Role, str], ...]] = (("fuse", "fuse_avocado"),)
    revision: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.tries < 1 or not 0 < self.similarity <= 1:
            raise ConfigError(
                f"FuseSentencesStage: needs tries >= 1 and 0 < similarity <= 1, got {self.tries} and {self.similarity}"
            )

    @property
    def reads(self) -> tuple[str, ...] | None:
        return ("visual", "audio")

    @property
    def reads_media(self) -> bool:
        return self.watch

    def look(self, clip: ManifestClip, asking: Asking) -> Outcome:
        sources = {name: text_of(clip, name, self.name) for name in ("visual", "audio")}
        task = TeacherTask(
            prompt="fuse_avocado",
            fields={f"{name}_caption": text or _NOTHING_HEARD for name, text in sources.items()},
            clip=media_ref(clip) if self.watch else None,
            media="both" if self.watch else "none",
            fps=self.fps if self.watch else None,
        )
        reason = detail = ""
        for index in range(self.tries):
            fused = asking.text("fuse", dataclasses.replace(task, index=index))
            reason, detail = self._fault(sources, fused)
            if not reason:
                count = sum(len(sentences(source)) for source in sources.values())
                return Kept(facts={"text": fused, "num_tries": index + 1, "num_sentences": count}, cost=asking.cost)
        return Dropped(reason=reason, detail=f"after {self.tries} tries: {detail}", cost=asking.cost)

    def _fault(self, sources: dict[str, str], fused: str) -> tuple[str, str]:
        """Reason and detail; "" when nothing is lost."""
        for name, source in sources.items():
            check = check_sentences(source, fused, self.similarity)
            if check.lost:
                return "sentence_lost", f"{len(check.lost)} of the {name} caption, the first: {check.lost[0]}"
            if check.out_of_order:
                count, first = len(check.out_of_order), check.out_of_order[0]
                return "sentence_out_of_order", f"{count} of the {name} caption, the first: {first}"
        return "", ""
