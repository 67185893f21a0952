"""Who does what when: speaking, listening, or neither. T frames at 25 a second."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unils_training.metrics.side import LISTENING_HANGOVER_FRAMES

Mask = NDArray[np.bool_]


def within_last(mask: Mask, frames: int) -> Mask:
    """Whether `mask` holds now or did in the last `frames` (T,)."""
    now = np.arange(len(mask))
    result: Mask = now - np.maximum.accumulate(np.where(mask, now, -frames - 1)) <= frames
    return result


def listening(own: Mask, other: Mask) -> Mask:
    """Silent oneself while the other speaks, or did within the last 2 s (T,)."""
    return ~own & within_last(other, LISTENING_HANGOVER_FRAMES)
