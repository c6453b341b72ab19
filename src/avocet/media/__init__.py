"""Media files in, `Clip` records out: one decoder, frames chosen by time, sound at 16 kHz mono."""

from __future__ import annotations

from avocet.media._open import open_clip
from avocet.media._probe import probe

__all__ = ["open_clip", "probe"]
