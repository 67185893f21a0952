"""Detectors of what a face does, run alike on truth and on prediction.

Nods and shakes are found on either rig; the others read blendshapes, so only rig `arkit` has them: what a FLAME
expression coefficient does to lids, lips and brows is not written in the coefficients. Each takes `Motion` (T, D) at 25
frames/s and returns events (E, 2) in frames. Thresholds are in the rig's units (blendshapes 0..1, radians, radians a
second). `docs/metrics.md` says why each has the value it has.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unils_training.metrics.events import NO_EVENTS, Events, Floats, hysteresis, join, of_length
from unils_training.metrics.side import FRAME_RATE, Motion

HEAD_ANGLES: dict[str, tuple[str, str]] = {"arkit": ("headPitch", "headYaw"), "flame": ("headX", "headY")}
"""Pitch and yaw; the axis-angle of a head that turns little has them as its first two numbers."""


def smooth(signal: Floats, sigma: float) -> Floats:
    """Gaussian smoothing of (T,) over `sigma` frames, ends held."""
    reach = int(np.ceil(3.0 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.concatenate((np.full(reach, signal[0]), signal, np.full(reach, signal[-1])))
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def lip_gap(motion: Motion) -> Floats:
    """How far apart the lips are (T,), in units of `jawOpen`; 0 or less means that they touch.

    The jaw pulls them apart and `mouthClose` undoes that, one to one by ARKit's definition; the lips part by themselves
    (lower lip down, upper lip up); pressing and rolling bring them together.
    """
    apart = np.maximum(motion["jawOpen"] - motion["mouthClose"], 0.0)
    apart += 0.4 * motion.mean_of("mouthLowerDownLeft", "mouthLowerDownRight")
    apart += 0.4 * motion.mean_of("mouthUpperUpLeft", "mouthUpperUpRight")
    together = 0.3 * motion.mean_of("mouthPressLeft", "mouthPressRight")
    together += 0.3 * motion.mean_of("mouthRollLower", "mouthRollUpper")
    return apart - together


def lip_closures(motion: Motion) -> Events:
    """Lips pressed together for at most 0.4 s, as on p, b and m. At rest they meet too, but are not pressed."""
    return of_length(hysteresis(-lip_gap(motion), on=0.05, off=0.03), 1, 10)


def blinks(motion: Motion) -> Events:
    """Both lids down together: on at .5, off at .3, for at most 0.8 s."""
    lids = np.minimum(motion["eyeBlinkLeft"], motion["eyeBlinkRight"])
    return of_length(hysteresis(lids, on=0.5, off=0.3), 1, 20)


def _swings(angle: Floats, other_angle: Floats, sway: float, least_range: float, least_turns: int) -> Events:
    """Bursts of movement of one head angle (T,) that outweigh the other's; slower than `sway` frames is none."""
    if len(angle) < 2:
        return NO_EVENTS
    banded, other = (smooth(a, 1.0) - smooth(a, sway) for a in (angle, other_angle))
    velocity = np.gradient(banded) * FRAME_RATE
    bursts = of_length(join(hysteresis(np.abs(velocity), on=0.20, off=0.10), gap=2), 6, 75)
    kept = []
    for start, end in bursts:
        turns = np.count_nonzero(np.diff(np.signbit(velocity[start:end])))
        reach = float(np.ptp(banded[start:end]))
        if reach >= least_range and reach > float(np.ptp(other[start:end])) and turns >= least_turns:
            kept.append((start, end))
    return np.array(kept, np.int64).reshape(-1, 2)


def nods(motion: Motion) -> Events:
    """The head goes down and up again, once or more, faster than it sways."""
    pitch, yaw = HEAD_ANGLES[motion.rig]
    return _swings(motion[pitch], motion[yaw], sway=8.0, least_range=0.04, least_turns=1)


def shakes(motion: Motion) -> Events:
    """The head turns to and fro at least twice."""
    pitch, yaw = HEAD_ANGLES[motion.rig]
    return _swings(motion[yaw], motion[pitch], sway=12.0, least_range=0.06, least_turns=2)


def _raised(signal: Floats, sigma: float, shortest: int) -> Events:
    """Runs of (T,), smoothed over `sigma` frames, that rise over the clip's own lower quartile by .18, down to .09."""
    if len(signal) == 0:
        return NO_EVENTS
    calm = smooth(signal, sigma)
    above = calm - np.percentile(calm, 25)
    return of_length(join(hysteresis(above, on=0.18, off=0.09), gap=5), shortest, 10**9)


def smiles(motion: Motion) -> Events:
    """Both corners of the mouth rise over the clip's baseline for at least 0.4 s."""
    return _raised(np.minimum(motion["mouthSmileLeft"], motion["mouthSmileRight"]), sigma=2.0, shortest=10)


def brow_raises(motion: Motion) -> Events:
    """The brows rise over the clip's baseline for at least 0.2 s."""
    raised = motion.mean_of("browInnerUp", "browOuterUpLeft", "browOuterUpRight")
    return _raised(raised, sigma=1.0, shortest=5)


DETECTORS: dict[str, Callable[[Motion], Events]] = {
    "lip_closure": lip_closures,
    "blink": blinks,
    "nod": nods,
    "shake": shakes,
    "smile": smiles,
    "brow_raise": brow_raises,
}


def detectors(rig: str) -> dict[str, Callable[[Motion], Events]]:
    """The detectors that work on motion of `rig`, by kind of event."""
    return DETECTORS if rig == "arkit" else {kind: DETECTORS[kind] for kind in ("nod", "shake")}
