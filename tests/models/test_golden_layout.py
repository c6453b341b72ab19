"""The faithful layouts of the released models against tables and tensors that the released code made.

Rows are told apart by their fields, and every field of every row is computed and compared; a field that is not known
here fails. `AVOCET_GOLDEN_DIR` may name another folder of the same kind with other durations and sizes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_files import golden_folder, require

from avocet.models.layout import AUDIO, VISUAL, TokenPlan
from avocet.models.salmonn2.released_layout import RELEASED_WINDOWS, AudioWindows, ReleasedPlan
from avocet.models.salmonn2.released_plus_layout import (
    even_audio_per_grid,
    generate_positions,
    grid_time_positions,
    plus_frame_indices,
    plus_frame_pixels,
    plus_grid_size,
    plus_layout,
    plus_seconds_per_grid,
    plus_stride_frame_indices,
    released_audio_per_grid,
    rope_delta,
)
from avocet.models.salmonn2.released_v1_layout import (
    NEWLINE,
    PATCH,
    TIME_TEXT,
    v1_frame_indices,
    v1_layout,
    v1_num_samples,
    v1_time_padding,
    v1_time_texts,
    v1_token_kinds,
)
from avocet.models.tmrope import prompt_positions
from avocet.records import SAMPLE_RATE

GOLDEN = golden_folder()
TABLES = GOLDEN / "layout"

Row = dict[str, Any]


def discovered_rows() -> Iterator[Any]:
    """Every row of every table of the layout folder, as (kind, table, row)."""
    for path in sorted(TABLES.glob("*.json")):
        table = json.loads(path.read_text())
        for section, rows in table.items():
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                continue
            for number, row in enumerate(rows):
                yield pytest.param(kind_of(row), table, row, id=f"{path.stem}-{section}-{number}")


def kind_of(row: Row) -> str:
    if "kernel_frames" in row:
        return "windows"
    if "grids_where_double_precision_floor_differs" in row:
        return "floors"
    return "v1" if "max_time" in row else "plus"


def num_samples(row: Row) -> int:
    seconds = row["audio_duration_s"]
    return 0 if seconds is None else round(seconds * SAMPLE_RATE)


def index_fields(row: Row, indices: np.ndarray) -> Row:
    return {
        "n_frames": len(indices),
        "frame_idx_first": indices[: len(row["frame_idx_first"])].tolist(),
        "frame_idx_last": indices[-len(row["frame_idx_last"]) :].tolist(),
        "frame_idx_sum": int(indices.sum()),
    }


def audio_behind_pictures(released: ReleasedPlan, tokens_per_picture: int) -> list[list[int]]:
    """The audio tokens shown behind each frame or grid, and that all its visual tokens stand before them."""
    groups: list[list[int]] = []
    visual = audio = 0
    for stream, index in zip(released.plan.stream, released.plan.index, strict=True):
        if stream == VISUAL:
            assert index == visual
            if visual % tokens_per_picture == 0:
                groups.append([])
            visual += 1
        else:
            assert index == audio
            assert visual % tokens_per_picture == 0
            groups[-1].append(int(released.audio_source[audio]))
            audio += 1
    assert visual == len(groups) * tokens_per_picture
    return groups


ROWS = list(discovered_rows())


@pytest.mark.parametrize(("kind", "table", "row"), ROWS or [("", {}, {})])
def test_golden_table_row(kind: str, table: Row, row: Row) -> None:
    require(ROWS, TABLES)
    compute = {"windows": window_fields, "floors": floor_fields, "plus": plus_fields, "v1": v1_fields}[kind]
    assert compute(table, row) == row


def test_golden_tables_of_every_kind_were_found() -> None:
    require(ROWS, TABLES)
    assert {parameters.values[0] for parameters in ROWS} == {"windows", "floors", "plus", "v1"}


def window_fields(table: Row, row: Row) -> Row:
    frames = table["encoder_frames_per_segment"]
    windows = AudioWindows.from_seconds(
        row["second_per_window"],
        row["second_stride"],
        segment_frames=frames,
        segment_seconds=table["segment_seconds"],
    )
    samples = 2 * table["segment_seconds"] * SAMPLE_RATE
    starts, ends = windows.seconds(np.arange(windows.num_tokens(samples)))
    first_frames = np.round(starts * frames / table["segment_seconds"]).astype(int).tolist()
    last_frames = np.round(ends * frames / table["segment_seconds"]).astype(int) - 1
    last, first = windows.num_windows - 1, windows.num_windows
    return {
        "second_per_window": row["second_per_window"],
        "second_stride": row["second_stride"],
        "kernel_frames": windows.kernel_frames,
        "windows_per_segment": windows.num_windows,
        "qformer_batch_for_two_segments": windows.num_tokens(samples),
        "first_frame_of_each_window": windows.starts.tolist(),
        "frames_of_last_window_segment0": [first_frames[last], last_frames[last]],
        "frames_of_first_window_segment1": [first_frames[first] - frames, last_frames[first] - frames],
        "frames_dropped_at_end": windows.num_dropped_frames,
        "all_mask_ones": True,
    }


def floor_fields(table: Row, row: Row) -> Row:
    seconds_per_grid = plus_seconds_per_grid(row["n_frames"], row["duration_s"])
    num_grids = -(-row["n_frames"] // 2)
    positions = grid_time_positions(num_grids, seconds_per_grid)
    double = np.floor(np.arange(num_grids) * seconds_per_grid * 2).astype(int)
    # Audio tokens behind the earlier grids are as many as the grid's own time position.
    shares = released_audio_per_grid(10 * len(positions), num_grids, seconds_per_grid)
    assert np.cumsum(shares[:-1]).tolist() == positions[1:].tolist()
    return {
        "duration_s": row["duration_s"],
        "setting": row["setting"],
        "n_frames": row["n_frames"],
        "second_per_grid": seconds_per_grid,
        "grid_t": num_grids,
        "cumulative_audio_tokens_at_grid_start": positions.tolist(),
        "grids_where_double_precision_floor_differs": np.flatnonzero(positions != double).tolist(),
    }


def plus_indices(setting: Row, row: Row) -> np.ndarray:
    given = (row["native_frames"], row["native_fps"], setting["interval"])
    if "stride" in row.get("loader", ""):
        return plus_stride_frame_indices(*given, setting["maxf"])
    return plus_frame_indices(*given, setting["minf"], setting["maxf"])


def plus_fields(table: Row, row: Row) -> Row:
    setting = table["settings"][row["setting"]]
    indices = plus_indices(setting, row)
    duration = row["native_frames"] / row["native_fps"]
    seconds_per_grid = plus_seconds_per_grid(len(indices), duration)
    times = (indices / row["native_fps"])[::2]
    max_pixels = plus_frame_pixels(len(indices), setting["maxf"], setting["mp"])
    rows, columns = plus_grid_size(*row["frame_hw_in"], max_pixels)
    fields = {name: row[name] for name in ("setting", "duration_s", "native_fps", "native_frames", "audio_duration_s")}
    fields |= {name: row[name] for name in ("note", "loader") if name in row}
    fields |= index_fields(row, indices) | {
        "effective_fps": len(indices) / duration,
        "second_per_grid": seconds_per_grid,
        "grid_t": len(times),
        "max_pixels_per_frame": max_pixels,
        "frame_hw_in": row["frame_hw_in"],
        # In patches, two by two of which make a token.
        "grid_h": 2 * rows,
        "grid_w": 2 * columns,
        "visual_tokens_per_grid": rows * columns,
        "visual_tokens": len(times) * rows * columns,
        "placeholders_video_in_sequence_2x2": 4 * len(times),
    }
    plans = {
        rule: plus_layout(rule, times, 2, 2, num_samples(row), seconds_per_grid, duration)
        for rule in ("train", "released_generate")
    }
    fields |= plus_audio_fields(row, len(times), seconds_per_grid, plans)
    if "loader" not in row:
        fields |= plus_position_fields(row, len(times), fields["placeholders_audio_in_sequence"], plans)
    elif num_samples(row):
        fields |= train_fields(plans["train"].plan)
        del fields["audio_tokens_legacy_even_split"], fields["train_time_index_per_grid"]
    return fields


def plus_audio_fields(row: Row, num_grids: int, seconds_per_grid: float, plans: dict[str, ReleasedPlan]) -> Row:
    """Counts, and what our plans do where the released code's last count is negative."""
    num_tokens = RELEASED_WINDOWS.num_tokens(num_samples(row))
    released = plans["train"]
    assert released.audio_source.tolist() == list(range(num_tokens))
    if not num_tokens:
        assert all(not plan.warnings for plan in plans.values())
        return {"placeholders_audio_in_sequence": 0}
    shares = released_audio_per_grid(num_tokens, num_grids, seconds_per_grid)
    groups = audio_behind_pictures(released, 4)
    assert [token for group in groups for token in group] == list(range(num_tokens))
    fails = bool(shares[-1] < 0)
    for plan in plans.values():
        assert bool(plan.warnings) == fails
        assert plan.plan.stream.tolist() == released.plan.stream.tolist()
    if not fails:
        assert [len(group) for group in groups] == shares.tolist()
    fields = {
        "audio_segments": RELEASED_WINDOWS.num_segments(num_samples(row)),
        "audio_tokens": num_tokens,
        "audio_tokens_per_grid": shares.tolist(),
        "audio_tokens_legacy_even_split": even_audio_per_grid(num_tokens, num_grids).tolist(),
        "placeholders_audio_in_sequence": int(shares.clip(min=0).sum()),
    }
    if fails:
        # The released position function sets out the features' positions in the first (visual + audio) tokens only.
        sequence = np.concatenate([[VISUAL] * 4 + [AUDIO] * max(share, 0) for share in shares])
        found = int(sequence[: 4 * num_grids + num_tokens].sum())
        error = row["train_positions_error"]
        assert re.findall(r"\[3, (\d+)\]", error) == [str(num_tokens), str(found)]
        fields["train_positions_error"] = error
    return fields


def plus_position_fields(row: Row, num_grids: int, num_audio: int, plans: dict[str, ReleasedPlan]) -> Row:
    # `num_audio` is what the released code puts into the sequence, which may be more than there are.
    positions, end = generate_positions(num_grids, 2, 2, 4 * num_grids + num_audio)
    generate: Row = {
        "first_text_after_block": [end] * 3,
        "max_position_in_block": int(positions.max()),
        "last_block_position": positions[:, -1].tolist(),
        "rope_delta": int(end) - positions.shape[1],
    }
    if "block_positions" in row["generate_2x2"]:
        generate["block_positions"] = positions.T.tolist()
    if "train_positions_error" in row:
        return {"generate_2x2": generate}
    plan = plans["released_generate"].plan
    assert plan.positions is not None
    assert plan.positions.tolist() == positions.tolist()
    assert (plan.end_position, rope_delta(plan)) == (end, generate["rope_delta"])
    return {"generate_2x2": generate} | train_fields(plans["train"].plan)


def train_fields(plan: TokenPlan) -> Row:
    assert plan.positions is not None
    visual, audio = plan.positions[:, plan.stream == VISUAL], plan.positions[:, plan.stream == AUDIO]
    fields: Row = {
        "train_time_index_per_grid": visual[0, ::4].tolist(),
        "train_first_text_after_block": [plan.end_position] * 3,
    }
    if audio.size:
        fields["train_audio_first_last"] = audio[:, [0, -1]].T.tolist()
    return fields


def v1_fields(table: Row, row: Row) -> Row:
    fields = {
        name: row[name]
        for name in ("duration_s", "native_fps", "native_frames", "audio_duration_s", "max_time", "video_fps")
    }
    max_frames = round(row["max_time"] * row["video_fps"])
    indices = v1_frame_indices(row["native_frames"], row["native_fps"], row["video_fps"], max_frames)
    duration = row["native_frames"] / row["native_fps"]
    times = indices / row["native_fps"]
    if "official_get_item" in row:
        assert len(indices) == 1
        released = v1_layout("released", times, 182, num_samples(row), duration)
        assert any("refuses clips of one frame" in warning for warning in released.warnings)
        return fields | {"official_get_item": row["official_get_item"]}

    texts = () if num_samples(row) else v1_time_texts(len(indices), duration)
    # In the table's tokenizer each character of a time text is one token.
    lengths = [len(text) for text in texts]
    side = math.isqrt(row["kind_counts"]["visual"] // row["n_frames"])
    kinds = v1_token_kinds(side, side, max(lengths, default=0))
    released = v1_layout("released", times, len(kinds), num_samples(row), duration)
    counts = np.bincount(kinds, minlength=3) * len(indices)
    padding = v1_time_padding(lengths)
    fields |= index_fields(row, indices) | {
        "real_time": duration,
        "modality": "audio-video" if num_samples(row) else "video",
        "audio_segments": RELEASED_WINDOWS.num_segments(v1_num_samples(num_samples(row), duration)),
        "audio_tokens": RELEASED_WINDOWS.num_tokens(v1_num_samples(num_samples(row), duration)),
        "av_block_length": len(released.plan),
        "kind_counts": {
            "visual": counts[PATCH],
            "newline": counts[NEWLINE],
            "time_token": counts[TIME_TEXT] - sum(padding),
            "zero_padding": sum(padding),
            "audio": released.plan.num_audio_tokens,
        },
        "visual_pattern_ok": True,
        "visual_tokens_per_frame_with_newline": int(np.count_nonzero(kinds != TIME_TEXT)),
    }
    if texts:
        assert any("without sound" in warning for warning in released.warnings)
        return fields | {
            "time_text_per_frame": list(texts),
            "extra_tokens_per_frame": max(lengths),
            "zero_vectors_per_frame": list(padding),
        }
    assert released.warnings == ()
    return fields | v1_share_fields(audio_behind_pictures(released, len(kinds)))


def v1_share_fields(groups: list[list[int]]) -> Row:
    share = len(groups[0])
    trailing = groups[-1][share:]
    groups[-1] = groups[-1][:share]
    return {
        "audio_tokens_per_frame": share,
        "audio_tokens_after_last_frame_extra": len(trailing),
        "audio_source_index_per_frame": groups,
        "trailing_audio_source_index": trailing,
        "all_frames_same_count": len({len(group) for group in groups}) == 1,
    }


def discovered_cases(with_array: str) -> list[Any]:
    """(folder, case, path of the arrays) of every model folder whose cases have such an array."""
    found = []
    for path in sorted(GOLDEN.glob("*/cases.json")):
        for name, case in json.loads(path.read_text())["cases"].items():
            arrays = path.parent / f"{name}.npz"
            if arrays.exists() and with_array in np.load(arrays).files:
                found.append(pytest.param(path.parent, case, arrays, id=f"{path.parent.name}-{arrays.stem}"))
    return found


PLUS_CASES = discovered_cases("position_ids_train")
V1_CASES = discovered_cases("av_start_and_length")


@pytest.mark.parametrize("rule", ["train", "released_generate"])
@pytest.mark.parametrize(("folder", "case", "path"), PLUS_CASES or [(GOLDEN, {}, GOLDEN)])
def test_golden_positions_of_whole_prompts(folder: Path, case: Row, path: Path, rule: str) -> None:
    require(PLUS_CASES, GOLDEN / "plus" / "cases.json")
    arrays = np.load(path)
    ids, prompt_length = arrays["input_ids"], int(arrays["prompt_len"])
    if "video_grid_thw" not in arrays and "audio_lengths" not in arrays:
        np.testing.assert_array_equal(arrays["position_ids_train"], np.tile(np.arange(len(ids)), (3, 1)))
        return
    plan = case_plan(folder, case, arrays, rule)
    tokens = json.loads((folder / "cases.json").read_text())["token_ids"]
    start = int(np.flatnonzero(ids == tokens["vision_start"])[0])
    block = ids[start + 1 : start + 1 + len(plan)]
    np.testing.assert_array_equal(block == tokens["audio_pad"], plan.stream == AUDIO)
    assert ids[start + 1 + len(plan)] == tokens["vision_end"]
    after = len(ids) - start - 1 - len(plan) - 1
    positions = prompt_positions(plan, start, after, 1, shared_markers=False)
    if rule == "train":
        np.testing.assert_array_equal(positions, arrays["position_ids_train"])
        return
    np.testing.assert_array_equal(positions[:, :prompt_length], arrays["position_ids_generate_prompt"])
    assert rope_delta(plan) == arrays["rope_delta_generate"][0]
    steps = arrays["position_ids_generate_steps"]
    expected = prompt_length + rope_delta(plan) + np.arange(steps.shape[1])
    np.testing.assert_array_equal(steps, np.tile(expected, (3, 1)))


def case_plan(folder: Path, case: Row, arrays: Any, rule: str) -> TokenPlan:
    config = json.loads((folder / "model" / "config.json").read_text())
    merge = config["vision_config"]["spatial_merge_size"]
    settings = config["audio_config"]
    windows = AudioWindows.from_seconds(settings["second_per_window"], settings["second_stride"])
    rows, columns, times, seconds_per_grid, duration = 0, 0, np.zeros(0), 1.0, case.get("audio_seconds", 0.0)
    if "video_grid_thw" in arrays:
        grids, rows, columns = (int(size) for size in arrays["video_grid_thw"][0] // [1, merge, merge])
        sampler = (case["base_interval"], case["min_frames"], case["max_frames"])
        indices = plus_frame_indices(case["native_frames"], case["native_fps"], *sampler)
        assert indices.tolist() == case["frame_idx"]
        times, duration = (indices / case["native_fps"])[::2], case["native_frames"] / case["native_fps"]
        assert len(times) == grids
        seconds_per_grid = plus_seconds_per_grid(len(indices), duration)
        assert seconds_per_grid == arrays["second_per_grid_ts"][0]
    samples = case.get("audio_samples", 0)
    return plus_layout(rule, times, rows, columns, samples, seconds_per_grid, duration, windows=windows).plan


@pytest.mark.parametrize(("folder", "case", "path"), V1_CASES or [(GOLDEN, {}, GOLDEN)])
def test_golden_embeddings_stand_where_the_layout_says(folder: Path, case: Row, path: Path) -> None:
    """Audio placeholders hold their sources' embeddings, newlines all one vector, padding zeros."""
    require(V1_CASES, GOLDEN / "v1" / "cases.json")
    arrays = np.load(path)
    settings = json.loads((folder / "cases.json").read_text())["hyperparameters_not_in_config"]["audio_load_arguments"]
    windows = AudioWindows.from_seconds(settings["second_per_window"], settings["second_stride"])
    times, kinds, padding = np.zeros(0), np.zeros(0, dtype=np.uint8), ()
    if "n_frames" in case:
        times, kinds, padding = case_frames(folder, case, arrays, settings["video_fps"])
    released = v1_layout("released", times, len(kinds), case.get("audio_samples", 0), case["real_time"], windows)
    plan = released.plan
    start, length = arrays["av_start_and_length"]
    assert len(plan) == length == case["av_block_length"]
    block = arrays["inputs_embeds"][start : start + length]
    if plan.num_audio_tokens:
        np.testing.assert_array_equal(block[plan.stream == AUDIO], arrays["speech_embeds"][released.audio_source])
    if len(times):
        visual = block[plan.stream == VISUAL].reshape(len(times), len(kinds), -1)
        newline = visual[0, list(kinds).index(NEWLINE)]
        assert ((visual == newline).all(axis=2) == (kinds == NEWLINE)).all()
        zeros = (visual[:, kinds == TIME_TEXT] == 0).all(axis=2)
        assert zeros.sum(axis=1).tolist() == list(padding)


def case_frames(
    folder: Path, case: Row, arrays: Any, video_fps: float
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Times of the frames, kinds of a frame's tokens, zero vectors of each frame."""
    max_frames = round(case["max_time"] * video_fps)
    indices = v1_frame_indices(case["native_frames"], case["native_fps"], video_fps, max_frames)
    assert indices.tolist() == case["frame_idx"]
    texts = [""] * len(indices) if "audio_samples" in case else v1_time_texts(len(indices), case["real_time"])
    # In the case's tokenizer each character of a time text is one token.
    lengths = [len(text) for text in texts]
    stride = json.loads((folder / "model" / "config.json").read_text())["mm_spatial_pool_stride"]
    side = math.isqrt(len(arrays["siglip_out_frame0"])) // stride
    return indices / case["native_fps"], v1_token_kinds(side, side, max(lengths)), v1_time_padding(lengths)
