"""Untrusted JSON: what is read, what is rejected with which place, and what never crashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from avocet.errors import ConfigError
from avocet.training.data import formats_json
from avocet.training.data.formats_json import Item, read_items
from avocet.training.data.records import Rejected


def outcomes(path: Path, data: str | bytes) -> list[tuple[str, object]]:
    """(place without the folder, value or reason) of each item."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    found = []
    for item in read_items(path):
        place = item.where.removeprefix(str(path))
        found.append((place, item.value if isinstance(item, Item) else item.reason))
    return found


def test_lines_keep_their_numbers_and_bad_ones_do_not_take_others_with_them(tmp_path):
    data = '\ufeff{"a": 1}\n\n{"a": \n[1]\n{"a": 1, "a": 2}\n{"b": {"c": 1, "c": 1}}\n{"z": 3}\r\n{"a": "\\ud800"}'
    found = outcomes(tmp_path / "x.jsonl", data)
    assert [place for place, _ in found] == [":1", ":3", ":4", ":5", ":6", ":7", ":8"]
    assert found[0][1] == {"a": 1}
    assert found[5][1] == {"z": 3}
    assert "not JSON" in str(found[1][1])
    assert found[2][1] == "no JSON object but list [1]"
    assert found[3][1] == "the key 'a' occurs more than once in one object"
    assert "the key 'c'" in str(found[4][1])
    assert "surrogate" in str(found[6][1])


def test_a_list_gives_items_with_number_and_line(tmp_path):
    found = outcomes(tmp_path / "x.json", '[\n {"a": 1},\n 7,\n {"a": 1, "a": 1}, {"b":\n 2}\n]\n')
    assert found == [
        (": item 1 (line 2)", {"a": 1}),
        (": item 2 (line 3)", "no JSON object but int 7"),
        (": item 3 (line 4)", "the key 'a' occurs more than once in one object"),
        (": item 4 (line 4)", {"b": 2}),
    ]


@pytest.mark.parametrize(
    ("data", "good", "reason"),
    [
        ('[{"a": 1}, {"a": 2', 1, "nothing after this place was read"),
        ('[{"a": 1} {"a": 2}]', 1, "no comma between two items"),
        ('[{"a": 1}', 1, "the file is cut off"),
        ('[{"a": 1}] {"b": 1}', 1, "text after the end of the list"),
        ("", 0, "the file is empty"),
        ("  \n ", 0, "the file is empty"),
        (b'[{"a": "\xff"}]', 0, "not UTF-8"),
        (b'{"a": "\xff"}\n{"a": 1}', 1, "not JSON"),
        ('{"a": ' + "9" * 5000 + '}\n{"a": 1}', 1, "not JSON"),
        ('{"a": ' + "[" * 100_000 + '\n{"a": 1}', 1, "not JSON"),
    ],
)
def test_broken_files_are_read_as_far_as_they_go(data, good, reason, tmp_path):
    found = outcomes(tmp_path / "x.jsonl", data)
    assert sum(isinstance(value, dict) for _, value in found) == good
    assert [value for _, value in found if isinstance(value, str) and reason in value]


def test_objects_over_several_lines(tmp_path):
    found = outcomes(tmp_path / "x.json", '{\n "a": 1\n}\n{"b": 2}\n')
    assert [value for _, value in found] == [{"a": 1}, {"b": 2}]


def test_sizes_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(formats_json, "MAX_ITEM_BYTES", 50)
    long = '{"a": "' + "x" * 100 + '"}'
    lines = outcomes(tmp_path / "x.jsonl", f'{{"a": 1}}\n{long}\n{{"a": 2}}\n')
    assert [value if isinstance(value, dict) else "long" for _, value in lines] == [{"a": 1}, "long", {"a": 2}]
    listed = outcomes(tmp_path / "x.json", f'[{{"a": 1}}, {long}, {{"a": 2}}]')
    assert [value if isinstance(value, dict) else "long" for _, value in listed] == [{"a": 1}, "long", {"a": 2}]
    monkeypatch.setattr(formats_json, "MAX_LIST_BYTES", 10)
    assert "use JSONL" in str(outcomes(tmp_path / "x.json", '[{"a": 1}, {"a": 2}]')[0][1])


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_items(tmp_path / "none.jsonl"))


def test_rejected_is_a_record():
    one = Rejected(where="x:1", reason="y")
    assert Rejected.from_json(one.to_json_line()) == one
