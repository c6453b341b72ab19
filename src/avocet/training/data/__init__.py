"""Training data: readers of all formats, checks before a GPU is spent, conversion, mixtures."""

from __future__ import annotations

from avocet.training.data.check import CheckReport, check_examples
from avocet.training.data.convert import ConvertReport, convert_examples
from avocet.training.data.examples import Format, read_examples, recognise
from avocet.training.data.formats_common import audio_policy
from avocet.training.data.mixture import DataSource, load_mixture
from avocet.training.data.records import ExampleSet, Rejected

__all__ = [
    "CheckReport",
    "ConvertReport",
    "DataSource",
    "ExampleSet",
    "Format",
    "Rejected",
    "audio_policy",
    "check_examples",
    "convert_examples",
    "load_mixture",
    "read_examples",
    "recognise",
]
