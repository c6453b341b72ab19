"""Mixtures: weights, shares and reports."""

from __future__ import annotations

import pytest

from avocet.errors import ConfigError
from avocet.training.data import DataSource, load_mixture
from avocet.training.data.mixture import load_pairs


def talk(answer: str, **more: str) -> dict[str, object]:
    roles = {"human": "Describe.", "gpt": answer, **more}
    return {"video": f"{answer}.mp4", "conversations": [{"from": role, "value": text} for role, text in roles.items()]}


@pytest.fixture
def files(tmp_path, dumper):
    first = dumper(tmp_path / "a.json", [talk("a"), talk("b"), talk("c"), {"video": "x", "conversations": []}])
    pairs = [talk("good", reject_gpt="bad", gt="true"), talk("d")]
    return str(first), str(dumper(tmp_path / "b.jsonl", pairs))


def test_weights_and_shares(files):
    first, second = files
    sources = [
        DataSource(path=first, weight=0.5, limit=2),
        DataSource(path=second, weight=3.0, task="qa"),
    ]
    examples, weights, report = load_mixture(sources)
    assert [(one.target, one.task) for one in examples] == [("a", "caption"), ("b", "caption"), ("d", "qa")]
    assert weights == (0.5, 0.5, 3.0)
    # 2 x 0.5 = 1 and 1 x 3 = 3 of 4.
    assert [source.share for source in report.sources] == [0.25, 0.75]
    assert [source.format for source in report.sources] == ["llava", "v1"]
    assert (report.num_examples, report.num_pairs, report.num_rejected) == (3, 1, 0)
    assert report.tasks == {"caption": 2, "qa": 1}
    assert report.lines()[0] == (f"{first}: llava, 2 examples and 0 pairs, weight 0.5, 25.0 % of the draws; 0 rejected")
    assert report.lines()[-1] == "together 3 examples (caption 2, qa 1) and 1 pairs"


def test_rejected_items_are_counted(files):
    assert load_mixture([DataSource(path=files[0])])[2].num_rejected == 1


def test_pairs_have_a_mixture_of_their_own(files):
    mixture = load_pairs([DataSource(path=files[0]), DataSource(path=files[1], weight=2.0)])
    assert [pair.chosen for pair in mixture.pairs] == ["good"]
    assert mixture.weights == (2.0,)
    assert [source.share for source in mixture.report.sources] == [0.0, 1.0]


def test_a_mixture_without_anything(files, tmp_path, dumper):
    with pytest.raises(ConfigError, match="at least one DataSource"):
        load_mixture([])
    only_pairs = dumper(tmp_path / "p.json", [talk("good", reject_gpt="bad", gt="true")])
    with pytest.raises(ConfigError, match="holds pairs, which are read by load_pairs"):
        load_mixture([DataSource(path=str(only_pairs))])
    broken = dumper(tmp_path / "q.json", [{"video": "x", "conversations": []}])
    with pytest.raises(ConfigError, match=r"1 items were rejected, the first: .*at least one turn"):
        load_mixture([DataSource(path=str(broken))])
    with pytest.raises(ConfigError, match="no pair in"):
        load_pairs([DataSource(path=files[0])])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": ""}, "path must not be empty"),
        ({"path": "x", "weight": 0.0}, "weight must be a number > 0"),
        ({"path": "x", "weight": float("nan")}, "weight must be a number > 0"),
        ({"path": "x", "limit": 0}, "limit must be >= 1"),
    ],
)
def test_wrong_sources(fields, message):
    with pytest.raises(ConfigError, match=message):
        DataSource(**fields)
