"""Duplicates: exact and near, groups and their keepers, what is no duplicate, and 10,000 clips."""

from __future__ import annotations

import time

import numpy as np
import pytest

from avocet.curation.duplicates import (
    DuplicateRules,
    DuplicateStage,
    Fingerprint,
    compare_prints,
    find_duplicates,
)
from avocet.curation.fingerprints import encode_hashes
from avocet.curation.manifest import ManifestClip
from avocet.curation.outcomes import Dropped, Kept
from avocet.errors import ConfigError, RecordError

RULES = DuplicateRules()


def random_hashes(seed: int, length: int, kind: type) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, np.iinfo(kind).max, length, dtype=kind)


def flipped(hashes: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """The hashes with each bit changed with probability `share`."""
    rng, kind, width = np.random.default_rng(seed), hashes.dtype.type, 8 * hashes.dtype.itemsize
    masks = np.zeros(len(hashes), hashes.dtype)
    for bit in range(width):
        masks |= (rng.random(len(hashes)) < share).astype(hashes.dtype) << kind(bit)
    return hashes ^ masks


def make_print(name: str, seed: int, *, seconds: float = 20.0, quality: tuple[float, ...] = (), **other: object):
    values: dict[str, object] = {
        "pictures": random_hashes(seed, round(2 * seconds), np.uint64),
        "sounds": random_hashes(seed + 10_000, round(8 * seconds), np.uint32),
    }
    return Fingerprint(clip_id=name, duration_seconds=seconds, quality=quality, **(values | other))


def test_a_copy_is_found_and_the_better_one_kept() -> None:
    original = make_print("original", 1, quality=(1, 20, 100))
    copy = make_print(
        "copy",
        1,
        quality=(1, 20, 900),
        pictures=flipped(original.pictures, 0.08),
        sounds=flipped(original.sounds, 0.15),
    )
    found = find_duplicates([original, make_print("other", 2), copy])
    assert list(found) == ["original"]
    assert (found["original"].keeper, found["original"].kind, found["original"].like) == ("copy", "near", "copy")
    assert found["original"].picture_distance == pytest.approx(0.08, abs=0.02)
    assert found["original"].sound_distance == pytest.approx(0.15, abs=0.02)


def test_a_copy_that_begins_later_is_found() -> None:
    original = make_print("a", 1)
    late = make_print("b", 1, seconds=18.5, pictures=original.pictures[3:], sounds=original.sounds[12:])
    assert list(find_duplicates([original, late])) == ["b"]
    too_late = make_print("b", 1, seconds=17.5, pictures=original.pictures[5:], sounds=original.sounds[20:])
    assert find_duplicates([original, too_late]) == {}, "it begins 2.5 s later, 2 are allowed"
    excerpt = make_print("b", 1, seconds=15.0, pictures=original.pictures[:30], sounds=original.sounds[:120])
    assert find_duplicates([original, excerpt]) == {}, "three quarters of the longer one are too little"


def test_pictures_alone_and_sound_alone() -> None:
    original = make_print("a", 1)
    silence = np.zeros(160, np.uint32)
    dubbed = make_print("b", 1, sounds=random_hashes(77, 160, np.uint32))
    assert compare_prints(original, dubbed, RULES) is None, "the same pictures with other words are another clip"
    mute = make_print("b", 1, sounds=silence)
    assert compare_prints(original, mute, RULES) is not None
    rough = make_print("b", 1, sounds=silence, pictures=flipped(original.pictures, 0.1))
    assert compare_prints(original, rough, RULES) is None, "without sound 10 % is too much"
    other_pictures = make_print("b", 1, pictures=random_hashes(78, 40, np.uint64))
    assert compare_prints(original, other_pictures, RULES) is None, "the same music under other pictures"
    dark = [make_print(name, 1, pictures=np.zeros(40, np.uint64)) for name in "cd"]
    assert compare_prints(*dark, RULES) is not None, "the same sound in the dark"
    assert compare_prints(original, dark[0], RULES) is None
    black = [make_print(name, 1, pictures=np.zeros(40, np.uint64), sounds=silence) for name in "ef"]
    assert compare_prints(*black, RULES) is None, "nothing seen, nothing heard: nothing to tell by"
    heard = [make_print(name, 1, pictures=np.zeros(0, np.uint64)) for name in "gh"]
    assert compare_prints(*heard, RULES) is not None
    assert compare_prints(original, heard[0], RULES) is None, "a sound file is not the video that it is from"


def test_exact_duplicates_need_no_hashes() -> None:
    nothing = {"pictures": np.zeros(0, np.uint64), "sounds": np.zeros(0, np.uint32)}
    prints = [
        make_print("b", 1, exact=("file x", "content 1"), **nothing),
        make_print("a", 1, exact=("file y", "content 1"), **nothing),
        make_print("c", 1, exact=("file y", "content 2"), **nothing),
        make_print("d", 1, exact=("file z",), **nothing),
    ]
    found = find_duplicates(prints)
    assert {name: (one.keeper, one.kind, one.like) for name, one in found.items()} == {
        "b": ("a", "exact", "a"),
        "c": ("a", "exact", "a"),
    }


def test_groups_are_connected_and_do_not_depend_on_the_order() -> None:
    first = make_print("m1", 1, quality=(1,))
    second = make_print("m2", 1, pictures=flipped(first.pictures, 0.05, 1), quality=(3,))
    third = make_print("m3", 1, pictures=flipped(second.pictures, 0.05, 2), quality=(2,))
    others = [make_print(f"n{seed}", seed) for seed in range(2, 40)]
    prints = [first, second, third, *others]
    found = find_duplicates(prints)
    assert {name: one.keeper for name, one in found.items()} == {"m1": "m2", "m3": "m2"}
    shuffled = [prints[index] for index in np.random.default_rng(3).permutation(len(prints))]
    assert find_duplicates(shuffled) == found
    with pytest.raises(RecordError, match="ids of clips must differ"):
        find_duplicates([first, first])


def test_rules_check_themselves() -> None:
    with pytest.raises(ConfigError, match="sound_distance must be from 0 to below"):
        DuplicateRules(sound_distance=0.5)
    with pytest.raises(ConfigError, match="min_overlap"):
        DuplicateRules(min_overlap=0.0)


def measured(name: str, seed: int, width: int) -> ManifestClip:
    facts = {
        "duration_seconds": 20.0,
        "width": width,
        "height": 100,
        "content_sha256": name,
        "picture_hashes": encode_hashes(random_hashes(seed, 40, np.uint64)),
        "sound_hashes": encode_hashes(random_hashes(seed + 10_000, 160, np.uint32)),
    }
    return ManifestClip(id=name, path=f"{name}.mp4", facts={"measure": facts})


def test_the_stage_drops_with_the_keeper_and_forgets_fingerprints() -> None:
    clips = [measured("small", 1, 100), measured("large", 1, 200), measured("other", 2, 100)]
    stage = DuplicateStage.of_clips(iter(clips))
    small, large, other = (stage.process(clip) for clip in clips)
    assert small == Dropped(
        reason="near_duplicate", detail="same as large (pictures differ by 0.0 %; sound differ by 0.0 %)"
    )
    assert isinstance(large, Kept)
    assert large == other
    assert set(clips[1].with_facts("duplicates", large.facts, large.forget).facts["measure"]) == {
        *("duration_seconds", "width", "height", "content_sha256")
    }
    fewer = DuplicateStage.of_clips(clips[1:])
    assert fewer.version != stage.version, "the verdicts belong to the manifest that was compared"
    with pytest.raises(RecordError, match=r"has no fingerprints .* run MeasureStage before"):
        DuplicateStage.of_clips([ManifestClip(id="a", path="a.mp4")])


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_clips_with_a_common_intro_take_seconds(count: int) -> None:
    originals = count - 200
    rng = np.random.default_rng(0)
    intro = random_hashes(123_456, 6, np.uint64)
    prints = []
    for number in range(originals):
        seconds = float(rng.integers(10, 25))
        pictures = np.repeat(random_hashes(number, round(seconds / 2) + 1, np.uint64), 4)[: round(2 * seconds)]
        prints.append(make_print(f"c{number}", number, seconds=seconds, quality=(1.0,)))
        object.__setattr__(prints[-1], "pictures", np.concatenate([intro, pictures[6:]]))
    copied = rng.choice(originals, 200, replace=False).tolist()
    for number in copied:
        one = prints[number]
        copy = {"pictures": flipped(one.pictures, 0.05, number), "sounds": flipped(one.sounds, 0.1, number)}
        prints.append(make_print(f"d{number}", 0, seconds=one.duration_seconds, quality=(0.0,), **copy))
    began = time.process_time()
    found = find_duplicates(prints)
    took = time.process_time() - began
    assert {name: one.keeper for name, one in found.items()} == {f"d{number}": f"c{number}" for number in copied}
    # 6 s of a core for 10,000; comparing all pairs would be 50 million comparisons of 0.1 ms.
    assert took < 60 * count / 10_000, f"{took:.1f} s"
