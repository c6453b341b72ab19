"""The event reward: 1 - Total, from a judge of events (not in AVoCaDO; the measure of video-SALMONN 2, section 4.2).

The checklist reward has no term for inventions; this one has. It is clipped at 0: captions with more errors than the
clip has events are all equally bad.
"""

from __future__ import annotations

from avocet.metrics import EventFindings


def event_reward(findings: EventFindings) -> float | None:
    """1 - (missed + incorrect + hallucinated) / events, at least 0; None without events: unscored, never 1."""
    return max(0.0, 1.0 - findings.total) if findings.num_events else None
