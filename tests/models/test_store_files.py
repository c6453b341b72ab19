"""Files of the feature store: what is read is what was written, the cap holds, processes do not disturb each other."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from avocet.errors import ConfigError
from avocet.models.store_files import DamagedEntryError, StoreFiles

KEYS = [f"{place:02x}" * 32 for place in range(40)]


def some(seed: int, size: int = 1000) -> dict[str, torch.Tensor]:
    return {"000": torch.randn(size, generator=torch.Generator().manual_seed(seed)), "001": torch.arange(3)}


def path_of(files: StoreFiles, key: str) -> Path:
    return files.folder / "objects" / key[:2] / f"{key}.safetensors"


def use(files: StoreFiles, key: str, seconds: int) -> None:
    """Set the moment of last use."""
    os.utime(path_of(files, key), ns=(seconds * 10**9, seconds * 10**9))


def test_what_is_read_is_what_was_written(tmp_path):
    files = StoreFiles(tmp_path / "store", 10**6)
    tensors = {
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "empty": torch.zeros(0, 7),
        "number": torch.tensor(1.5, dtype=torch.float64),
        "columns": torch.randn(4, 6).T,
    }
    assert files.read(KEYS[0]) is None
    written = files.write(KEYS[0], tensors, {"seconds": "0.5"})
    assert written == path_of(files, KEYS[0]).stat().st_size == files.num_bytes
    entry = StoreFiles(tmp_path / "store", 10**6).read(KEYS[0])
    assert entry.num_bytes == written
    assert entry.metadata == {"seconds": "0.5", "key": KEYS[0]}
    for name, tensor in tensors.items():
        found = entry.tensors[name]
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
        assert found.is_contiguous()
        assert found.data_ptr() % 64 == 0


def test_what_was_written_first_stays(tmp_path):
    files = StoreFiles(tmp_path / "store", 10**6)
    assert files.write(KEYS[0], some(0), {}) > 0
    assert files.write(KEYS[0], some(1), {}) == 0
    assert torch.equal(files.read(KEYS[0]).tensors["000"], some(0)["000"])


def test_another_process_finishes_the_same_key_in_between(tmp_path, monkeypatch):
    files, other = (StoreFiles(tmp_path / "store", 10**6) for _ in range(2))
    locked = files._locked

    def after_the_other():
        size.append(other.write(KEYS[0], some(1), {}))
        return locked()

    size: list[int] = []
    monkeypatch.setattr(files, "_locked", after_the_other)
    assert files.write(KEYS[0], some(0), {}) == 0
    assert other.num_bytes == size[0] > 0
    assert torch.equal(other.read(KEYS[0]).tensors["000"], some(1)["000"])
    assert list((tmp_path / "store" / "unfinished").iterdir()) == []


def test_above_the_cap_the_longest_unused_go(tmp_path):
    """Ten files of S bytes fit; the eleventh leaves nine tenths of the cap: eight old ones and itself."""
    size = StoreFiles(tmp_path / "probe", 10**6).write(KEYS[0], some(0), {})
    files = StoreFiles(tmp_path / "store", 10 * size)
    for place, key in enumerate(KEYS[:10]):
        files.write(key, some(place), {})
        use(files, key, 1000 + place)
    assert files.num_evicted == 0
    assert files.read(KEYS[0]) is not None  # used just now
    files.write(KEYS[10], some(10), {})
    assert files.num_evicted == 2
    assert [key for key in KEYS[:11] if key not in files] == [KEYS[1], KEYS[2]]
    assert files.num_bytes == 9 * size == sum(path.stat().st_size for path in files.folder.rglob("*.safetensors"))


def test_a_smaller_cap_holds_from_the_start(tmp_path):
    files = StoreFiles(tmp_path / "store", 10**6)
    sizes = [files.write(key, some(place), {}) for place, key in enumerate(KEYS[:10])]
    for place, key in enumerate(KEYS[:10]):
        use(files, key, 1000 + place)
    smaller = StoreFiles(tmp_path / "store", 5 * sizes[0])
    assert [key in smaller for key in KEYS[:10]] == [False] * 6 + [True] * 4
    assert smaller.num_bytes == 4 * sizes[0]


def test_an_entry_larger_than_the_cap_is_not_stored(tmp_path):
    files = StoreFiles(tmp_path / "store", 3000)
    assert files.write(KEYS[0], some(0, 100), {}) > 0
    assert files.write(KEYS[1], some(1, 1000), {}) == 0
    assert (KEYS[0] in files, KEYS[1] in files) == (True, False)


def test_what_is_being_read_is_not_deleted(tmp_path):
    size = StoreFiles(tmp_path / "probe", 10**6).write(KEYS[0], some(0), {})
    files = StoreFiles(tmp_path / "store", 3 * size)
    for place, key in enumerate(KEYS[:3]):
        files.write(key, some(place), {})
        use(files, key, 1000 + place)
    with path_of(files, KEYS[0]).open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        files.write(KEYS[3], some(3), {})
    assert [key in files for key in KEYS[:4]] == [True, False, False, True]
    assert files.num_evicted == 2


@pytest.mark.parametrize("where", [0, 4, 30, 200, 2000, -1])
def test_a_flipped_bit_anywhere_is_found_out(tmp_path, where):
    files = StoreFiles(tmp_path / "store", 10**6)
    files.write(KEYS[0], some(0), {"seconds": "1.0"})
    path = path_of(files, KEYS[0])
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedEntryError, match=KEYS[0]):
        files.read(KEYS[0])
    assert files.read(KEYS[0]) is None
    assert files.num_bytes == 0
    assert files.write(KEYS[0], some(0), {}) > 0


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff" * 100, None])
def test_files_cut_short_or_not_ours(tmp_path, content):
    files = StoreFiles(tmp_path / "store", 10**6)
    files.write(KEYS[0], some(0), {})
    path = path_of(files, KEYS[0])
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    with pytest.raises(DamagedEntryError):
        files.read(KEYS[0])


def test_a_whole_file_under_another_name_or_without_checksum(tmp_path):
    files = StoreFiles(tmp_path / "store", 10**6)
    files.write(KEYS[0], some(0), {})
    files.write(KEYS[1], some(1), {})
    path_of(files, KEYS[0]).rename(path_of(files, KEYS[1]))
    with pytest.raises(DamagedEntryError, match="checksum"):
        files.read(KEYS[1])
    path_of(files, KEYS[0]).write_bytes(safetensors.torch.save(some(0), {"key": KEYS[0]}))
    with pytest.raises(DamagedEntryError, match="digest"):
        files.read(KEYS[0])


def test_left_by_a_killed_process(tmp_path):
    """An unfinished file is cleared away when it is old, a count that was never finished is made anew."""
    files = StoreFiles(tmp_path / "store", 10**6)
    size = files.write(KEYS[0], some(0), {})
    old, new = (files.folder / "unfinished" / name for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 4000,) * 2)
    (files.folder / "lock").write_text("")
    assert files.num_bytes == size
    StoreFiles(tmp_path / "store", 10**6)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(ConfigError, match="holds other files"):
        StoreFiles(tmp_path, 100)
    with pytest.raises(ConfigError, match="max_bytes must be >= 1, got 0"):
        StoreFiles(tmp_path / "store", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def _write_and_read(folder: Path, seed: int, rounds: int, size: int) -> None:
    files = StoreFiles(folder, 12 * size)
    for turn in range(rounds):
        for place, key in enumerate(KEYS[:20]):
            files.write(key, some(place), {})
            entry = files.read(KEYS[(place * 7 + seed + turn) % 20])
            if entry is not None:
                expected = some(KEYS.index(entry.metadata["key"]))
                assert torch.equal(entry.tensors["000"], expected["000"])


def test_processes_write_the_same_keys_under_one_cap(tmp_path):
    """Three processes, 20 keys, room for 12: whole values only, and the count agrees with the disk afterwards."""
    size = StoreFiles(tmp_path / "probe", 10**6).write(KEYS[0], some(0), {})
    context = multiprocessing.get_context("spawn")
    arguments = [(tmp_path / "store", seed, 3, size) for seed in range(3)]
    processes = [context.Process(target=_write_and_read, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    counted = int((tmp_path / "store" / "lock").read_text())
    files = StoreFiles(tmp_path / "store", 12 * size)
    on_disk = [path.stat().st_size for path in (tmp_path / "store").rglob("*.safetensors")]
    assert 0 < sum(on_disk) == counted == files.num_bytes <= 12 * size
    assert list((tmp_path / "store" / "unfinished").iterdir()) == []
