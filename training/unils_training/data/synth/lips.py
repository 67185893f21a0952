# ruff: noqa: RUF001
# IPA is full of letters that look like others.
"""Lip, jaw and tongue motion from the times of phones, with coarticulation.

Every phone has a target; targets are held for the phone's time and smoothed with a short window, so that neighbours
blend and a movement begins a few hundredths of a second before its sound. Closures of p, b and m are laid over that:
the lips meet whatever the vowels around them ask for.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unils_training.data.synth.people import Person

FEATURES = ("jaw", "spread", "funnel", "pucker", "tuck", "tongue", "bare")
_JAW, _SPREAD, _FUNNEL, _PUCKER, _TUCK, _TONGUE, _BARE = range(len(FEATURES))
RATE = 200

Track = NDArray[np.float64]


def _shape(
    jaw: float,
    spread: float = 0.0,
    funnel: float = 0.0,
    pucker: float = 0.0,
    tuck: float = 0.0,
    tongue: float = 0.0,
    bare: float = 0.0,
) -> tuple[float, ...]:
    return (jaw, spread, funnel, pucker, tuck, tongue, bare)


_SHAPES: dict[str, tuple[float, ...]] = {
    # open vowels
    "a": _shape(0.56),
    "ɑ": _shape(0.54),
    "æ": _shape(0.50, spread=0.15),
    "ɐ": _shape(0.42),
    "ʌ": _shape(0.42),
    "ɒ": _shape(0.46, funnel=0.25),
    "ä": _shape(0.55),
    # front vowels
    "ɛ": _shape(0.36, spread=0.25),
    "e": _shape(0.27, spread=0.35),
    "ɪ": _shape(0.19, spread=0.32),
    "i": _shape(0.14, spread=0.50),
    # rounded vowels
    "y": _shape(0.13, funnel=0.25, pucker=0.60),
    "ʏ": _shape(0.17, funnel=0.25, pucker=0.45),
    "ø": _shape(0.24, funnel=0.40, pucker=0.35),
    "œ": _shape(0.32, funnel=0.42, pucker=0.20),
    "u": _shape(0.14, funnel=0.30, pucker=0.65),
    "ʊ": _shape(0.19, funnel=0.25, pucker=0.45),
    "ʉ": _shape(0.15, funnel=0.28, pucker=0.55),
    "o": _shape(0.29, funnel=0.45, pucker=0.35),
    "ɔ": _shape(0.40, funnel=0.42, pucker=0.12),
    "ɵ": _shape(0.24, funnel=0.3, pucker=0.3),
    # central vowels
    "ə": _shape(0.22),
    "ɜ": _shape(0.27, funnel=0.12),
    "ɚ": _shape(0.22, funnel=0.18),
    "ᵻ": _shape(0.18, spread=0.2),
    "ɨ": _shape(0.17, spread=0.2),
    "ɯ": _shape(0.16, spread=0.1),
    # lips meet
    "p": _shape(0.06),
    "b": _shape(0.06),
    "m": _shape(0.06),
    # lower lip under the teeth
    "f": _shape(0.09, tuck=0.75),
    "v": _shape(0.09, tuck=0.70),
    "ʋ": _shape(0.10, tuck=0.45),
    "β": _shape(0.08, tuck=0.2),
    # tongue between the teeth
    "θ": _shape(0.15, tongue=0.45, spread=0.1),
    "ð": _shape(0.15, tongue=0.35, spread=0.1),
    # alveolars
    "t": _shape(0.10, spread=0.15, bare=0.2),
    "d": _shape(0.11, spread=0.12, bare=0.2),
    "n": _shape(0.11, spread=0.10, bare=0.1),
    "l": _shape(0.16, spread=0.10, tongue=0.04),
    "s": _shape(0.07, spread=0.30, bare=0.45),
    "z": _shape(0.07, spread=0.28, bare=0.45),
    "ɾ": _shape(0.13),
    "r": _shape(0.14, funnel=0.05),
    "ɹ": _shape(0.13, funnel=0.22, pucker=0.18),
    "ʁ": _shape(0.17),
    "ʀ": _shape(0.17),
    # hushing sounds
    "ʃ": _shape(0.09, funnel=0.55, pucker=0.10, bare=0.3),
    "ʒ": _shape(0.09, funnel=0.50, pucker=0.10, bare=0.3),
    "ɕ": _shape(0.09, funnel=0.35, spread=0.1, bare=0.3),
    "ʑ": _shape(0.09, funnel=0.35, spread=0.1, bare=0.3),
    "ʂ": _shape(0.10, funnel=0.45, bare=0.25),
    "ʐ": _shape(0.10, funnel=0.42, bare=0.25),
    "ɧ": _shape(0.10, funnel=0.40, pucker=0.15),
    # backs and glides
    "k": _shape(0.16),
    "ɡ": _shape(0.16),
    "g": _shape(0.16),
    "ŋ": _shape(0.16),
    "x": _shape(0.18),
    "χ": _shape(0.18),
    "ɣ": _shape(0.17),
    "h": _shape(0.24),
    "ɦ": _shape(0.24),
    "ç": _shape(0.12, spread=0.3),
    "j": _shape(0.12, spread=0.35),
    "ʝ": _shape(0.12, spread=0.3),
    "ɲ": _shape(0.13, spread=0.2),
    "ʎ": _shape(0.14, spread=0.2),
    "ɟ": _shape(0.13, spread=0.2),
    "c": _shape(0.13, spread=0.2),
    "w": _shape(0.10, funnel=0.30, pucker=0.70),
    "ɥ": _shape(0.10, funnel=0.25, pucker=0.6),
    "ɫ": _shape(0.18),
    "ʔ": _shape(0.14),
    "ɳ": _shape(0.12),
    "ɭ": _shape(0.14),
    "ɖ": _shape(0.12),
    "ʈ": _shape(0.11),
    "ʟ": _shape(0.16),
    "ð̞": _shape(0.15, tongue=0.2),
}
_UNKNOWN = _shape(0.16)

_LABIALS = ("p", "b", "m")
# A movement of this half width (s): visible some 20 to 40 ms before its sound.
_BLEND_SECONDS = 0.060
_CLOSE_SECONDS = 0.018
_REST_AFTER_SECONDS = 0.10


@dataclass(frozen=True)
class Lips:
    """`shape` (N, len(FEATURES)) before closures and `closed` (N,) 0..1, 200 rows a second; `closures` in seconds."""

    shape: Track
    closed: Track
    closures: list[tuple[float, float]]


def _smooth(track: Track, half_seconds: float) -> Track:
    half = max(1, round(half_seconds * RATE))
    kernel = np.hanning(2 * half + 3)[1:-1]
    kernel /= kernel.sum()
    if track.ndim == 1:
        return np.convolve(track, kernel, mode="same")
    return np.stack([np.convolve(column, kernel, mode="same") for column in track.T], axis=1)


def targets_of(phone: str) -> list[tuple[float, ...]]:
    """The targets a phone passes through, in order: two for a diphthong or an affricate, one for most."""
    found = [_SHAPES[letter] for letter in unicodedata.normalize("NFC", phone) if letter in _SHAPES]
    return found or [_UNKNOWN]


def move(phones: list[tuple[str, float, float, float]], seconds: float, person: Person) -> Lips:
    """Lips of a person over `seconds`; `phones` are (IPA, begin, end, effort): seconds, and 1 at usual loudness."""
    rows = int(np.ceil(seconds * RATE)) + 1
    shape = np.zeros((rows, len(FEATURES)))
    closed = np.zeros(rows)
    closures: list[tuple[float, float]] = []
    for phone, begin, end, effort in phones:
        if phone == "":
            # A short stop inside a word is no rest: the mouth keeps its shape until the next sound.
            if end - begin > _REST_AFTER_SECONDS or begin <= 0:
                continue
            row = max(0, round(begin * RATE) - 1)
            shape[row + 1 : round(end * RATE)] = 0.6 * shape[row]
            continue
        targets = targets_of(phone)
        edges = np.linspace(begin, end, len(targets) + 1)
        for target, first, last in zip(targets, edges[:-1], edges[1:], strict=True):
            value = np.array(target)
            value[_JAW] *= effort
            shape[max(0, round(first * RATE)) : round(last * RATE)] = value
        if phone[0] in _LABIALS:
            # espeak-ng's time of p and b is that of the release: the lips are shut in the silence or murmur before it.
            if phone[0] == "p":
                span = (begin - 0.065, begin + 0.012)
            elif phone[0] == "b":
                span = (begin - 0.045, begin + 0.035)
            else:
                length = max(end - begin, 0.07)
                span = (begin - 0.010, begin + min(length, 0.20) - 0.004)
            closures.append((max(0.0, span[0]), span[1]))
            closed[max(0, round(span[0] * RATE)) : round(span[1] * RATE) + 1] = 1.0
    gains = np.ones(len(FEATURES))
    gains[_JAW] = person.jaw_gain
    gains[_SPREAD] = person.spread_gain
    gains[[_FUNNEL, _PUCKER, _TUCK, _BARE]] = person.lip_gain
    shape = _smooth(shape, _BLEND_SECONDS) * gains
    return Lips(np.clip(shape, 0.0, 1.0), np.clip(_smooth(closed, _CLOSE_SECONDS), 0.0, 1.0), closures)
