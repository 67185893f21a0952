"""Pitch, energy and speech activity of a clean voice, 100 rows a second; row i describes the sound around i/100 s."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.signal import medfilt

from unils_training.data.synth.espeak import SAMPLE_RATE

RATE = 100
_HOP = SAMPLE_RATE // RATE
_WINDOW = 640
_FFT = 1024
_SHORTEST, _LONGEST = 36, 250
_VOICED = 0.5

Track = NDArray[np.float32]


@dataclass(frozen=True)
class Prosody:
    """All (N,): `pitch` in Hz (0 where unvoiced), `rank` its rank 0..1 in the person's voiced rows (else nan).

    `energy` is the RMS over 40 ms, `speech` whether the person speaks (pauses under 200 ms included).
    """

    pitch: Track
    rank: Track
    energy: Track
    speech: NDArray[np.bool_]


def analyse(audio: NDArray[np.float32]) -> Prosody:
    """Prosody of a clean voice (N samples at 16 kHz): N/160 rows."""
    rows = len(audio) // _HOP
    padded = np.pad(audio, (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:rows]
    energy = np.sqrt(np.einsum("ij,ij->i", frames, frames) / _WINDOW).astype(np.float32)
    pitch = np.zeros(rows, dtype=np.float32)
    loud = np.flatnonzero(energy > 0.004)
    if len(loud):
        window = np.hanning(_WINDOW).astype(np.float32)
        spectrum = fft.rfft(frames[loud] * window, _FFT, axis=1)
        correlation = fft.irfft(spectrum.real**2 + spectrum.imag**2, _FFT, axis=1)[:, :_LONGEST]
        own = fft.irfft(np.abs(fft.rfft(window, _FFT)) ** 2, _FFT)[:_LONGEST]
        correlation = correlation / (correlation[:, :1] + 1e-9) / (own / own[0])
        # Twice the period correlates as well as the period: prefer the shorter.
        preference = np.linspace(1.0, 0.88, _LONGEST - _SHORTEST)
        lags = correlation[:, _SHORTEST:] * preference
        best = np.argmax(lags, axis=1)
        strength = correlation[np.arange(len(loud)), best + _SHORTEST]
        pitch[loud] = np.where(strength > _VOICED, SAMPLE_RATE / (best + _SHORTEST), 0.0)
    pitch = medfilt(pitch, 5)
    voiced = pitch > 0
    rank = np.full(rows, np.nan, dtype=np.float32)
    if voiced.any():
        ordered = np.sort(pitch[voiced])
        rank[voiced] = np.searchsorted(ordered, pitch[voiced]) / len(ordered)
    return Prosody(pitch, rank, energy, close_gaps(energy > 0.003, 20))


def close_gaps(mask: NDArray[np.bool_], shorter_than: int) -> NDArray[np.bool_]:
    """`mask` with its false stretches of fewer than `shorter_than` rows between true ones filled."""
    result: NDArray[np.bool_] = mask.copy()
    for begin, end in runs(~mask):
        if begin > 0 and end < len(mask) and end - begin < shorter_than:
            result[begin:end] = True
    return result


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The true stretches of `mask` as (begin, end), end exclusive."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
