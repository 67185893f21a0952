"""Causal log-mel rows: docs/stream-model.md, "Log-mel rows"."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE = 16000
HOP_SAMPLES = 640
FRAME_RATE = 25
WINDOW_SAMPLES = 400
STEP_SAMPLES = 160
FFT_SIZE = 512
MELS = 64
LOW_HZ = 60.0
HIGH_HZ = 7600.0
FLOOR = 1e-5
STEPS_PER_FRAME = HOP_SAMPLES // STEP_SAMPLES
ROW_VALUES = STEPS_PER_FRAME * MELS


@functools.cache
def mel_filters() -> np.ndarray:
    """Triangular filters of peak 1 on the HTK mel scale, (MELS, FFT_SIZE // 2 + 1) float64."""
    low, high = (2595.0 * np.log10(1.0 + hz / 700.0) for hz in (LOW_HZ, HIGH_HZ))
    corners = 700.0 * (10.0 ** (np.linspace(low, high, MELS + 2) / 2595.0) - 1.0)
    bins = np.arange(FFT_SIZE // 2 + 1) * (SAMPLE_RATE / FFT_SIZE)
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    return np.maximum(0.0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))


def log_mel_rows(audio: Tensor) -> Tensor:
    """Log-mel energies of every whole frame of `audio`.

    Args:
        audio: (..., samples) in [-1, 1] at 16 kHz, float32 or float64; samples beyond the last whole frame are ignored.

    Returns:
        (..., frames, 256), time-major within a row, of the type of `audio`.
    """
    frames = audio.shape[-1] // HOP_SAMPLES
    padded = torch.nn.functional.pad(audio[..., : frames * HOP_SAMPLES], (WINDOW_SAMPLES - STEP_SAMPLES, 0))
    if frames == 0:
        return audio.new_zeros((*audio.shape[:-1], 0, ROW_VALUES))
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES)
    windowed = padded.unfold(-1, WINDOW_SAMPLES, STEP_SAMPLES) * torch.from_numpy(window).to(audio)
    spectrum = torch.fft.rfft(windowed, n=FFT_SIZE)
    power = spectrum.real.square() + spectrum.imag.square()
    energy = power @ torch.from_numpy(mel_filters().T.copy()).to(audio)
    return energy.clamp_min(FLOOR).log().reshape(*audio.shape[:-1], frames, ROW_VALUES)
