"""What a training step reads: which examples form it, and their clips, decoded ahead in processes of their own."""

from __future__ import annotations

from avocet.training.inputs._pool import WorkerError
from avocet.training.inputs.loading import ClipLoader, LoaderStatistics
from avocet.training.inputs.plan import LengthPlan
from avocet.training.inputs.prefetch import Prefetcher

__all__ = ["ClipLoader", "LengthPlan", "LoaderStatistics", "Prefetcher", "WorkerError"]
