"""Savitzky-Golay smoothing of a finished clip, as the released code offers it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.signal import savgol_filter

WINDOW_FRAMES, ORDER = 9, 3


def smooth(motion: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Least-squares cubic over 9 frames: motion (T, D) -> (T, D).

    A frame needs 4 frames of its future; the first and last 4 come from the cubic of the clip's first and last 9
    frames. A clip shorter than 9 frames comes back as it is.
    """
    values = np.asarray(motion, dtype=np.float32)
    if len(values) < WINDOW_FRAMES:
        return values.copy()
    smoothed: npt.NDArray[np.float32] = savgol_filter(values, WINDOW_FRAMES, ORDER, axis=0)
    return smoothed
