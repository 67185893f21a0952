"""Clips for training: which ones step n gets depends on the seed and n alone, so that a resumed run gets the same.

Shapes: B clips, T frames, D channels, d bits of the codec, n frames of a style clip.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unils_training.data.features import FeatureCache

START_CLIPS = 0.05
"""Share of clips that begin where a conversation begins, as every session does."""


@dataclasses.dataclass(frozen=True)
class ClipSampler:
    """Draws clips of `clip_frames` frames, with `extra_rows` more audio rows behind, uniformly over a split."""

    cache: FeatureCache
    clip_frames: int
    extra_rows: int = 0

    def __post_init__(self) -> None:
        if self._room().max() < 0:
            raise ValueError(
                f"no conversation of {self.cache.split} has {self.clip_frames + self.extra_rows} frames: shorten clips"
            )

    def _room(self) -> npt.NDArray[np.int64]:
        return np.diff(self.cache.offsets) - (self.clip_frames + self.extra_rows)

    def draw(self, rng: np.random.Generator, clips: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Conversation indices and first frames (absolute in the cache's arrays), (B,) each."""
        room = self._room()
        weights = np.maximum(room + 1, 0).astype(np.float64)
        chosen = rng.choice(len(room), clips, p=weights / weights.sum())
        begin = np.floor(rng.random(clips) * (room[chosen] + 1)).astype(np.int64)
        begin[rng.random(clips) < START_CLIPS] = 0
        return chosen.astype(np.int64), self.cache.offsets[chosen] + begin

    def gather(self, array: npt.NDArray[np.generic], begins: npt.NDArray[np.int64], frames: int) -> Tensor:
        """Frames [begin, begin + frames) of one of the cache's arrays, (B, frames, ...) float32."""
        return torch.from_numpy(np.stack([array[begin : begin + frames] for begin in begins]).astype(np.float32))

    def draw_style(
        self, rng: np.random.Generator, chosen: npt.NDArray[np.int64], avoid: npt.NDArray[np.int64], frames: int
    ) -> npt.NDArray[np.int64]:
        """First frames of style clips: the same person in another conversation, or elsewhere in the same one.

        Args:
            chosen, avoid: conversation indices and first frames of the clips that the styles are for.

        Returns:
            (B,) absolute first frames of clips of `frames` frames.
        """
        offsets, persons = self.cache.offsets, np.array(self.cache.persons)
        lengths = np.diff(offsets)
        begins = []
        for conversation, begin in zip(chosen, avoid, strict=True):
            others = np.flatnonzero((persons == persons[conversation]) & (lengths >= frames))
            others = others[others != conversation] if len(others) > 1 else others
            source = int(rng.choice(others)) if len(others) else int(conversation)
            room = max(int(lengths[source]) - frames, 0)
            start = int(offsets[source]) + int(rng.integers(room + 1))
            if source == conversation and abs(start - begin) < frames:
                shifted = start - offsets[source] + room // 2
                start = int(offsets[source] + shifted % (room + 1))
            begins.append(start)
        return np.array(begins, dtype=np.int64)
