"""Multi-round guided DPO (video-SALMONN 2): sample, judge, select, train, gate, round after round.

One file per arrow, each of which can be killed and goes on: `sampling`, `scoring`, `selection`.
"""
