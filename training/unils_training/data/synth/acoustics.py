"""What reaches a microphone: level, room, noise, telephone band, clipping, cross-talk, nothing at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, sosfilt

from unils_training.data.synth.espeak import SAMPLE_RATE

Audio = NDArray[np.float32]


def noise(rng: np.random.Generator, samples: int) -> Audio:
    """Noise of unit RMS whose colour is drawn: spectrum falling with 0 to 9 dB an octave, with or without mains hum."""
    block = min(samples, 8 * SAMPLE_RATE)
    frequency = np.fft.rfftfreq(block, 1 / SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(block))
    spectrum *= np.maximum(frequency, 40.0) ** (-rng.uniform(0.0, 1.5))
    shaped = np.fft.irfft(spectrum, block)
    if rng.random() < 0.2:
        hum = rng.choice([50.0, 60.0])
        time = np.arange(block) / SAMPLE_RATE
        shaped += (
            shaped.std()
            * rng.uniform(0.2, 1.5)
            * (np.sin(2 * np.pi * hum * time) + 0.4 * np.sin(6 * np.pi * hum * time))
        )
    # A stretch of 8 s is repeated: long enough that nobody hears it, and a fifth of the cost.
    result = np.tile(shaped / (shaped.std() + 1e-12), -(-samples // block))[:samples]
    return result.astype(np.float32)


def room(rng: np.random.Generator, audio: Audio) -> Audio:
    """A small room: direct sound, a few early reflections and an exponential tail, reverberation time 0.1 to 0.5 s."""
    seconds = rng.uniform(0.1, 0.5)
    length = int(0.6 * seconds * SAMPLE_RATE)
    tail = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / (seconds * SAMPLE_RATE))
    tail[: int(0.004 * SAMPLE_RATE)] = 0.0
    tail *= rng.uniform(0.15, 0.7) / (np.sqrt(np.sum(tail**2)) + 1e-9)
    tail[0] = 1.0
    for _ in range(int(rng.integers(2, 6))):
        tail[int(rng.uniform(0.002, 0.025) * SAMPLE_RATE)] += rng.uniform(-0.4, 0.4)
    return np.asarray(fftconvolve(audio, tail.astype(np.float32))[: len(audio)], dtype=np.float32)


def telephone(audio: Audio) -> Audio:
    """The band of a telephone, 300 to 3400 Hz."""
    return np.asarray(
        sosfilt(butter(4, [300.0, 3400.0], "bandpass", fs=SAMPLE_RATE, output="sos"), audio), dtype=np.float32
    )


def _to_peak(audio: Audio, decibel: float) -> Audio:
    peak = float(np.abs(audio).max())
    return audio if peak < 1e-6 else (audio * (10 ** (decibel / 20) / peak)).astype(np.float32)


def _gain_changes(rng: np.random.Generator, samples: int, spread: float) -> Audio:
    """A gain that drifts or jumps by a few dB: (samples,)."""
    count = int(rng.integers(2, 6))
    at = np.sort(rng.uniform(0, samples, count))
    decibel = rng.normal(0, spread, count)
    return (10 ** (np.interp(np.arange(samples), at, decibel) / 20)).astype(np.float32)


def hear_self(rng: np.random.Generator, voice: Audio) -> Audio:
    """Own voice as the engine gets it: mostly clean speech of a synthesiser at some level, sometimes a microphone."""
    audio = _to_peak(voice, rng.uniform(-14.0, -1.0))
    if rng.random() < 0.3:
        audio = (audio * _gain_changes(rng, len(audio), 2.0)).astype(np.float32)
    style = rng.random()
    if style < 0.20:
        audio = room(rng, audio)
    if style < 0.45:
        audio = (audio + noise(rng, len(audio)) * 10 ** (rng.uniform(-75, -48) / 20)).astype(np.float32)
    return np.clip(audio, -1.0, 1.0)


def hear_other(rng: np.random.Generator, voice: Audio, own: Audio) -> Audio:
    """The other's voice through their microphone and line, with a little of one's own voice leaking back."""
    audio = voice
    if rng.random() < 0.55:
        audio = room(rng, audio)
    if rng.random() < 0.4:
        audio = (audio * _gain_changes(rng, len(audio), 4.0)).astype(np.float32)
    if rng.random() < 0.35:
        delay = int(rng.uniform(0.0, 0.18) * SAMPLE_RATE)
        echo = np.concatenate([np.zeros(delay, dtype=np.float32), own])[: len(own)]
        audio = (audio + echo * 10 ** (rng.uniform(-38, -14) / 20)).astype(np.float32)
    peak = rng.uniform(-30.0, 0.0) if rng.random() < 0.6 else rng.uniform(-12.0, 0.0)
    audio = _to_peak(audio, peak)
    if rng.random() < 0.15:
        audio = telephone(audio)
    if rng.random() < 0.65:
        snr = rng.uniform(8.0, 45.0)
        speech = audio[np.abs(audio) > 1e-4]
        rms = float(np.sqrt(np.mean(speech**2))) if len(speech) else 0.01
        audio = (audio + noise(rng, len(audio)) * rms * 10 ** (-snr / 20)).astype(np.float32)
    if rng.random() < 0.08:
        limit = float(np.abs(audio).max()) * rng.uniform(0.3, 0.7)
        audio = np.clip(audio, -limit, limit)
    return np.clip(audio, -1.0, 1.0)
