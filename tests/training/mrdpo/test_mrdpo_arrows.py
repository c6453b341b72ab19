"""Sampling, scoring and selection of a round, each by itself."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from avocet.errors import ConfigError
from avocet.evaluation.exact_judge import ExactEventJudge
from avocet.models.registry import load_model
from avocet.records import ClipRef, Failure, Sampling, TrainingExample
from avocet.theatre.language import local_script, reference_caption
from avocet.theatre.script import make_script
from avocet.theatre.stage import stage
from avocet.training.finetune.config import Broken, ReadSettings
from avocet.training.finetune.inputs import ClipReader
from avocet.training.mrdpo.records import Candidates, CaptionScore, SampledCaption, example_key
from avocet.training.mrdpo.sampling import sample_captions
from avocet.training.mrdpo.scoring import CaptionScorer, item_with_events, theatre_item
from avocet.training.mrdpo.selection import read_pairs, select_pairs, write_pairs
from avocet.training.pairs import ROUND_THRESHOLDS


def example(name: str, **fields: object) -> TrainingExample:
    given = {"task": "caption", "instruction": "Describe.", "target": f"The truth of {name}.", **fields}
    return TrainingExample(clip=ClipRef(id=name, path=f"{name}.mp4"), **given)  # type: ignore[arg-type]


def captions(*texts: str) -> tuple[SampledCaption, ...]:
    return tuple(SampledCaption(text=text, stop_reason="end", num_tokens=3) for text in texts)


def score(error: float, repetition: float = 0.0, reason: str | None = None) -> CaptionScore:
    return CaptionScore(
        miss=error, hall=0.0, error_rate=error, repetition_rate=repetition, unnatural=False, reason=reason
    )


class TestSelection:
    # Round 2, Table 3: whole clips need 20 points less error and may repeat 1 point more; intervals need 45 and 0.
    THRESHOLDS = ROUND_THRESHOLDS[2]

    def test_the_largest_gap_that_passes_wins(self) -> None:
        examples = [example("a")]
        candidates = [Candidates(key="a", captions=captions("one", "two", "three"))]
        # one - three: 0.5 - 0.1 = 0.4 of error, but three repeats 3 points more: refused. one - two: 0.5 - 0.25 passes.
        scores = [[score(0.5), score(0.25, 0.01), score(0.1, 0.03)]]
        pairs, report = select_pairs(examples, candidates, scores, self.THRESHOLDS, 2)
        assert [(pair.chosen, pair.rejected, pair.round) for pair in pairs] == [("two", "one", 2)]
        assert pairs[0].ground_truth == "The truth of a."
        assert pairs[0].chosen_metrics == {"error_rate": 0.25, "miss": 0.25, "hall": 0.0, "repetition_rate": 0.01}
        assert (report.num_pairs, report.mean_chosen_error, report.mean_rejected_error) == (1, 0.25, 0.5)

    def test_why_there_is_no_pair(self) -> None:
        names = ("close", "same", "unscored", "local")
        examples = [example(name) for name in names[:3]]
        examples.append(example("local", task="local_caption", start_seconds=0.0, end_seconds=10.0))
        candidates = [
            Candidates(key="close", captions=captions("one", "two")),
            Candidates(key="same", captions=captions("one", "one")),
            Candidates(key="unscored", captions=captions("one", "two")),
            Candidates(key="local|0.0,10.0", captions=captions("one", "two")),
        ]
        nothing = score(math.nan, reason="unreadable reply: of many words")
        scores = [
            [score(0.3), score(0.11)],
            [score(0.3), score(0.3)],
            [score(0.9), nothing],
            [score(0.9), score(0.5)],  # 40 points are enough for a whole clip, not for an interval
        ]
        pairs, report = select_pairs(examples, candidates, scores, self.THRESHOLDS, 2)
        assert pairs == []
        assert (report.num_no_winner, report.num_same, report.num_unscored) == (2, 1, 1)
        assert report.unscored_reasons == {"unreadable reply": 1}
        assert (report.num_examples, report.num_failed) == (4, 0)
        assert report.mean_chosen_error is None

    def test_pairs_survive_the_file(self, tmp_path: Path) -> None:
        candidates = [Candidates(key="a", captions=captions("good \u2028 one", "bad"))]
        pairs, _ = select_pairs([example("a")], candidates, [[score(0.0), score(0.9)]], self.THRESHOLDS, 2)
        write_pairs(tmp_path / "pairs.jsonl", pairs)
        here = [
            dataclasses.replace(pair, clip=dataclasses.replace(pair.clip, path=str(Path.cwd() / "a.mp4")))
            for pair in pairs
        ]
        assert read_pairs(tmp_path / "pairs.jsonl") == here
        away = ClipRef(id="a", path="https://example.org/a.mp4")
        write_pairs(tmp_path / "pairs.jsonl", [dataclasses.replace(pairs[0], clip=away)])
        assert read_pairs(tmp_path / "pairs.jsonl")[0].clip == away


class TestScoring:
    def theatre_example(self, seed: int) -> TrainingExample:
        clip = ClipRef(id=f"theatre-{seed}", path="x.mp4", meta={"theatre": {"seed": seed, "level": 1}})
        return TrainingExample(clip=clip, task="caption", instruction="Describe.", target="truth")

    def test_exact_judge_and_text_measures(self, tmp_path: Path) -> None:
        one = self.theatre_example(5)
        truth = reference_caption(make_script(5, 1))
        candidates = [Candidates(key=one.clip.id, captions=captions(truth, "Nothing moves.", f"{truth} {truth}"))]
        scorer = CaptionScorer(ExactEventJudge(), theatre_item)
        scores = scorer.score([one], candidates, tmp_path)[0]
        assert scores[0].error_rate == 0.0
        assert scores[1].miss == 1.0
        assert scores[2].repetition_rate == 1.0  # everything is said twice
        assert scores[2].hall > 0
        assert (tmp_path / "verdicts.jsonl").exists()

    def test_local_captions_are_judged_by_what_happens_in_their_interval(self) -> None:
        script = make_script(5, 1)
        middle = script.duration_seconds / 2
        whole = self.theatre_example(5)
        parts = [
            dataclasses.replace(whole, task="local_caption", start_seconds=start, end_seconds=end)
            for start, end in ((0.0, middle), (middle, script.duration_seconds))
        ]
        told = [reference_caption(local_script(script, start, end)) for start, end in ((0.0, middle), (middle, 1e3))]
        candidates = [Candidates(key=example_key(part), captions=captions(*told)) for part in parts]
        first, second = CaptionScorer(ExactEventJudge(), theatre_item).score(parts, candidates)
        assert (first[0].error_rate, second[1].error_rate) == (0.0, 0.0)
        assert first[1].error_rate > 0
        assert second[0].error_rate > 0

    def test_examples_must_say_what_the_judge_needs(self) -> None:
        with pytest.raises(ConfigError, match="no events"):
            item_with_events(example("a"), "caption")
        with pytest.raises(ConfigError, match="not from the theatre"):
            theatre_item(example("a"), "caption")
        scorer = CaptionScorer(ExactEventJudge(), theatre_item)
        with pytest.raises(ConfigError, match="none of 1 examples"):
            scorer.score([example("a")], [Candidates(key="b", captions=captions("x"))])

    def test_unscored_is_nan_with_a_reason_and_null_in_json(self) -> None:
        nothing = score(math.nan, reason="no reply: server down")
        assert not nothing.is_scored
        assert json.loads(nothing.to_json_line())["error_rate"] is None
        back = CaptionScore.from_json(nothing.to_json_line())
        assert not back.is_scored
        assert (math.isnan(back.miss), back.hall, back.reason) == (True, 0.0, "no reply: server down")


class TestSampling:
    SAMPLING = Sampling(temperature=1.0, max_new_tokens=8)

    @pytest.fixture(scope="class")
    def examples(self, tmp_path_factory: pytest.TempPathFactory) -> list[TrainingExample]:
        folder = tmp_path_factory.mktemp("clips")
        made = []
        for seed in range(3):
            script = make_script(seed, 1)
            stage(script, folder / f"{seed}.mp4")
            clip = ClipRef(id=f"clip-{seed}", path=str(folder / f"{seed}.mp4"))
            made.append(TrainingExample(clip=clip, task="caption", instruction="", target=reference_caption(script)))
        gone = ClipRef(id="gone", path=str(folder / "gone.mp4"))
        return [*made, TrainingExample(clip=gone, task="caption", instruction="", target="none")]

    def sample(
        self,
        folder: Path,
        examples: list[TrainingExample],
        path: Path,
        batch_size: int = 2,
        broken: Broken = "leave_out",
    ) -> tuple[list[Candidates], list[Failure]]:
        loaded = load_model(str(folder), device="cpu")
        reader = ClipReader(loaded.model, ReadSettings(num_workers=0))
        try:
            return sample_captions(
                loaded,
                reader,
                examples,
                path,
                samples_per_clip=2,
                sampling=self.SAMPLING,
                batch_size=batch_size,
                broken=broken,
            )
        finally:
            reader.close()

    def test_resumed_equals_undisturbed_whatever_the_batch(
        self, tiny_model_folder: Path, examples: list[TrainingExample], tmp_path: Path
    ) -> None:
        whole, failures = self.sample(tiny_model_folder, examples, tmp_path / "whole.jsonl")
        assert [one.key for one in whole] == ["clip-0", "clip-1", "clip-2"]
        assert [failure.clip_id for failure in failures] == ["gone"]
        assert all(len(one.captions) == 2 for one in whole)
        self.sample(tiny_model_folder, examples[:1], tmp_path / "parts.jsonl")
        parts, _ = self.sample(tiny_model_folder, examples, tmp_path / "parts.jsonl", batch_size=1)
        assert parts == whole

    def test_clips_that_cannot_be_read_stop_it_or_are_listed(
        self, tiny_model_folder: Path, examples: list[TrainingExample], tmp_path: Path
    ) -> None:
        path = tmp_path / "samples.jsonl"
        with pytest.raises(ConfigError, match=r"1 clips cannot be read: .*gone.mp4: .*what was sampled is kept"):
            self.sample(tiny_model_folder, examples, path, broken="stop")
        assert len(path.read_text().splitlines()) == 2  # of the batch before
        self.sample(tiny_model_folder, examples, path)
        (line,) = (tmp_path / "samples.failed.jsonl").read_text().splitlines()
        assert Failure.from_json(line).clip_id == "gone"
        # Repaired, or taken out: there is nothing to list any more.
        self.sample(tiny_model_folder, examples[:3], path, broken="stop")
        assert not (tmp_path / "samples.failed.jsonl").exists()

    def test_other_settings_are_refused(
        self, tiny_model_folder: Path, examples: list[TrainingExample], tmp_path: Path
    ) -> None:
        path = tmp_path / "samples.jsonl"
        self.sample(tiny_model_folder, examples[:1], path)
        loaded = load_model(str(tiny_model_folder), device="cpu")
        reader = ClipReader(loaded.model, ReadSettings(num_workers=0))
        with pytest.raises(ConfigError, match="sampled with"):
            sample_captions(loaded, reader, examples, path, samples_per_clip=3, sampling=self.SAMPLING)
        with pytest.raises(ConfigError, match="temperature > 0"):
            sample_captions(loaded, reader, examples, path, samples_per_clip=2, sampling=Sampling())
        other = dataclasses.replace(loaded, revision="0123456789ab")
        with pytest.raises(ConfigError, match=r"sampled with .* this run has .*'revision': '0123456789ab'"):
            sample_captions(other, reader, examples, path, samples_per_clip=2, sampling=self.SAMPLING)
        with pytest.raises(ConfigError, match="same clip and interval"):
            sample_captions(loaded, reader, examples[:1] * 2, path, samples_per_clip=2, sampling=self.SAMPLING)
        reader.close()

    def test_keys_tell_intervals_apart(self) -> None:
        assert example_key(example("a")) == "a"
        local = example("a", task="local_caption", start_seconds=1.0, end_seconds=2.5)
        assert example_key(local) == "a|1.0,2.5"
