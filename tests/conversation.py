"""Sounds, and ways to feed them to a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

import unils_sdk as unils

TRACKS = ("self", "other")
RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)


def voice(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Something like speech, (n,) float32: a buzz whose pitch and loudness wander, with pauses."""
    random = np.random.default_rng(seed)
    n = round(seconds * rate)
    time = np.arange(n) / rate
    knots = np.arange(0, seconds + 1, 0.25)
    pitch = np.interp(time, knots, random.uniform(90, 250, len(knots)))
    loudness = np.interp(time, knots, random.uniform(-0.3, 0.6, len(knots))).clip(0)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    buzz = sum(np.sin(k * phase) / k for k in range(1, 12))
    return (loudness * 0.4 * buzz + 0.003 * random.standard_normal(n)).clip(-1, 1).astype(np.float32)


def voices(seconds: float, rate: int = 16000, seed: int = 0) -> dict[str, np.ndarray]:
    """Both tracks of a conversation."""
    return {track: voice(seconds, rate, 2 * seed + i) for i, track in enumerate(TRACKS)}


def frames_of(
    model: unils.Model,
    tracks: Mapping[str, np.ndarray],
    rate: int = 16000,
    *,
    finish: bool = True,
    **options: object,
) -> unils.FrameBatch:
    """The frames of a session that gets every track in one push (10 s at most)."""
    session = unils.Session(model, **options)
    for track, samples in tracks.items():
        assert session.push_audio(samples, track, rate) == len(samples)
    if finish:
        session.finish()
    return session.pull_frames()


def drain(session: unils.Session) -> unils.FrameBatch:
    """Everything that can be pulled."""
    batches = [session.pull_frames()]
    while len(batches[-1]):
        batches.append(session.pull_frames())
    return unils.FrameBatch.concatenate(batches)


def stream(
    session: unils.Session, tracks: Mapping[str, np.ndarray], rate: int = 16000, push_seconds: float = 0.02
) -> unils.FrameBatch:
    """The frames of a session that is fed as a voice stack does it, and pulled after every push."""
    step = round(push_seconds * rate)
    batches = [session.pull_frames()]
    for start in range(0, max(map(len, tracks.values())), step):
        for track, samples in tracks.items():
            piece = samples[start : start + step]
            assert session.push_audio(piece, track, rate) == len(piece)
        batches.append(session.pull_frames())
    return unils.FrameBatch.concatenate(batches)


def assert_same_frames(actual: unils.FrameBatch, expected: unils.FrameBatch) -> None:
    """Bitwise the same motion at the same times."""
    np.testing.assert_array_equal(actual.index, expected.index)
    np.testing.assert_array_equal(actual.pts_seconds, expected.pts_seconds)
    np.testing.assert_array_equal(actual.values, expected.values)


def first_difference(one: unils.FrameBatch, two: unils.FrameBatch) -> int:
    """Position of the first frame that differs; the number of frames when none does."""
    differs = (one.values != two.values).any(axis=1)
    return int(differs.argmax()) if differs.any() else len(differs)


def pieces(samples: np.ndarray, cuts: Sequence[int]) -> list[np.ndarray]:
    """The samples cut at the given positions."""
    return np.split(samples, sorted(min(cut, len(samples)) for cut in cuts))
