"""When a micro-model is retrained without anybody asking for it. Imports nothing, so that a server can."""

from __future__ import annotations

__all__ = ["HELD_OUT_SHARE", "RETRAIN_CORRECTIONS", "retraining_is_due"]

HELD_OUT_SHARE = 0.25
"""The newest share of human labels, on which a new micro-model is compared with the old one."""

RETRAIN_CORRECTIONS = 2
"""How many frames must be drawn after a training before another one, where nobody says otherwise."""


def retraining_is_due(drawn: int, unseen: int, fresh: int, corrections: int) -> bool:
    """Whether it is time.

    Args:
        drawn: frames with human labels.
        unseen: those of them that the last training had not seen.
        fresh: those of them that were drawn since a training was last tried.
        corrections: how many of those there must be; 0 for never.
    """
    return 0 < corrections <= fresh and unseen >= HELD_OUT_SHARE * drawn
