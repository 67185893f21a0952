"""Clips for training: which ones step n gets depends on the seed and n alone, so that a resumed run gets the same.

Shapes: B clips, T frames, D channels, d bits of the codec, n frames of a style clip.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unils_training.config import SamplingConfig
from unils_training.data.features import FeatureCache, MotionCache
from unils_training.data.states import listening

START_CLIPS = 0.05
"""Share of clips that begin where a conversation begins, as every session does."""


def frame_weights(
    weights: SamplingConfig, own: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """The weight of every frame of a conversation, (T,), by who speaks, (T,) each.

    Listening is being silent while the other speaks, or did within the last 2 s; silent is what remains.
    """
    return np.where(own, weights.speaking, np.where(listening(own, other), weights.listening, weights.silent))


@dataclasses.dataclass(frozen=True)
class ClipSampler:
    """Draws clips of `clip_frames` frames, with `extra_rows` more audio rows behind, from a split.

    A clip is drawn with a probability in proportion to the mean of its frames' `weights`; equal ones draw uniformly.
    Weights other than equal ones need a cache that knows who speaks, a `FeatureCache`.
    """

    cache: MotionCache
    clip_frames: int
    extra_rows: int = 0
    weights: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if self._room.max() < 0:
            raise ValueError(
                f"no conversation of {self.cache.split} has {self.clip_frames + self.extra_rows} frames: shorten clips"
            )
        if not self._uniform and not isinstance(self.cache, FeatureCache):
            raise ValueError("a cache without sound does not know who listens: only equal weights can be drawn from it")
        if self._shares.sum() <= 0:
            raise ValueError(f"no clip of {self.cache.split} has a frame of a state whose weight is more than 0")

    @property
    def _uniform(self) -> bool:
        return self.weights.speaking == self.weights.listening == self.weights.silent

    @functools.cached_property
    def _room(self) -> npt.NDArray[np.int64]:
        return np.diff(self.cache.offsets) - (self.clip_frames + self.extra_rows)

    @functools.cached_property
    def _shares(self) -> npt.NDArray[np.float64]:
        """The weight of each conversation: the sum over the clips that can begin in it."""
        if self._uniform:
            return np.maximum(self._room + 1, 0).astype(np.float64)
        return np.array([self._begin_weights(i).sum() for i in range(len(self._room))])

    def _begin_weights(self, conversation: int) -> npt.NDArray[np.float64]:
        """The weight of the clip that begins at each frame of a conversation, (room + 1,)."""
        room = int(self._room[conversation])
        if room < 0:
            return np.zeros(0)
        assert isinstance(self.cache, FeatureCache)
        span = slice(*self.cache.offsets[conversation : conversation + 2])
        frames = frame_weights(self.weights, self.cache.speech_mask[span], self.cache.other_speech_mask[span])
        sums = np.concatenate(([0.0], np.cumsum(frames)))
        return (sums[self.clip_frames :] - sums[: -self.clip_frames])[: room + 1] / self.clip_frames

    def draw(self, rng: np.random.Generator, clips: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Conversation indices and first frames (absolute in the cache's arrays), (B,) each.

        `START_CLIPS` of them begin where their conversation does, whatever the weights.
        """
        chosen = rng.choice(len(self._room), clips, p=self._shares / self._shares.sum())
        at = rng.random(clips)
        if self._uniform:
            begin = np.floor(at * (self._room[chosen] + 1)).astype(np.int64)
        else:
            begin = np.array([self._inverse(int(i), u) for i, u in zip(chosen, at, strict=True)], np.int64)
        begin[rng.random(clips) < START_CLIPS] = 0
        return chosen.astype(np.int64), self.cache.offsets[chosen] + begin

    def _inverse(self, conversation: int, at: float) -> int:
        """The begin at which a share `at` of the conversation's weight lies behind."""
        sums = np.cumsum(self._begin_weights(conversation))
        return min(int(np.searchsorted(sums, at * sums[-1], side="right")), len(sums) - 1)

    def gather(self, array: npt.NDArray[np.generic], begins: npt.NDArray[np.int64], frames: int) -> Tensor:
        """Frames [begin, begin + frames) of one of the cache's arrays, (B, frames, ...) float32."""
        return torch.from_numpy(np.stack([array[begin : begin + frames] for begin in begins]).astype(np.float32))

    @functools.cached_property
    def _conversations_of(self) -> dict[str, npt.NDArray[np.int64]]:
        """Indices of the conversations of each person."""
        indices: dict[str, list[int]] = {}
        for i, person in enumerate(self.cache.persons):
            indices.setdefault(person, []).append(i)
        return {person: np.array(found, np.int64) for person, found in indices.items()}

    def draw_style(
        self, rng: np.random.Generator, chosen: npt.NDArray[np.int64], avoid: npt.NDArray[np.int64], frames: int
    ) -> npt.NDArray[np.int64]:
        """First frames of style clips: the same person in another conversation, or elsewhere in the same one.

        Args:
            chosen, avoid: conversation indices and first frames of the clips that the styles are for.

        Returns:
            (B,) absolute first frames of clips of `frames` frames.
        """
        offsets = self.cache.offsets
        lengths = np.diff(offsets)
        begins = []
        for conversation, begin in zip(chosen, avoid, strict=True):
            others = self._conversations_of[self.cache.persons[conversation]]
            others = others[lengths[others] >= frames]
            others = others[others != conversation] if len(others) > 1 else others
            source = int(rng.choice(others)) if len(others) else int(conversation)
            room = max(int(lengths[source]) - frames, 0)
            start = int(offsets[source]) + int(rng.integers(room + 1))
            if source == conversation and abs(start - begin) < frames:
                shifted = start - offsets[source] + room // 2
                start = int(offsets[source] + shifted % (room + 1))
            begins.append(start)
        return np.array(begins, dtype=np.int64)
