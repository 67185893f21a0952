"""Philox4x32-10 (Salmon et al., SC 2011), vectorised: the random numbers of every backend."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
ROUNDS = 10

Words = npt.NDArray[np.uint64]


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, ...]:
    """Ten rounds of Philox on 32-bit words held in uint64 arrays that broadcast together; four words back."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _MASK, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + np.uint64(_WEYL[0])) & _MASK, (k1 + np.uint64(_WEYL[1])) & _MASK
    return c0, c1, c2, c3


def uniforms(seeds: npt.NDArray[np.uint64], frame: int, level: int, bits: int) -> npt.NDArray[np.float32]:
    """The uniform numbers in [0, 1) that decide the bits of one level of one frame.

    Args:
        seeds: (B,) one 64-bit seed a row.

    Returns:
        (B, bits): `(w0 >> 8) * 2^-24` for key (seed low, seed high) and counter (bit, level, frame low, frame high).
    """
    bit = np.arange(bits, dtype=np.uint64)[None, :]
    words = (np.full((1, 1), value, np.uint64) for value in (level, frame & 0xFFFFFFFF, frame >> 32))
    key = (seeds[:, None] & _MASK, seeds[:, None] >> _SHIFT)
    w0 = philox4x32((bit, *words), key)[0]  # type: ignore[arg-type]
    return (w0 >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)


def token_uniforms(
    seeds: npt.NDArray[np.uint64], chunk: int, begin: int, tokens: int, bits: int
) -> npt.NDArray[np.float32]:
    """The uniform numbers in [0, 1) of tokens [begin, begin + tokens) of one window of the `published` family.

    Args:
        seeds: (B,) one 64-bit seed a row.
        chunk: index of the window.
        begin: index of the first token among those of all scales, coarse ones first.

    Returns:
        (B, tokens, bits): as `uniforms`, for counter (bit, token, chunk low, chunk high).
    """
    return np.stack([uniforms(seeds, chunk, token, bits) for token in range(begin, begin + tokens)], axis=1)
