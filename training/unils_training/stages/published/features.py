"""Audio features of windows: encoded as they come, or, of a frozen encoder, once for all windows of a grid.

Shapes: B clips, J rows of a window, A audio width, G windows of the grid.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from unils_training.data.features import FeatureCache
from unils_training.models.published.audio_encoder import SILENCE
from unils_training.models.published.model import HOP_SAMPLES, PublishedModel

BATCH = 8
FULL_SCALE = 32768.0
TRACKS = ("self", "other")


def gather_audio(cache: FeatureCache, track: str, begins: npt.NDArray[np.int64], frames: int) -> Tensor:
    """Waveforms (B, frames * 640) float32 in [-1, 1] of windows that begin at frames `begins`."""
    audio = cache.self_audio if track == "self" else cache.other_audio
    assert audio is not None, "the cache was opened without waveforms"
    pieces = [audio[begin * HOP_SAMPLES : (begin + frames) * HOP_SAMPLES] for begin in begins]
    return torch.from_numpy(np.stack(pieces).astype(np.float32) / FULL_SCALE)


class GridFeatures:
    """A frozen encoder's features of every window that begins at a multiple of `grid` frames, float16 on disk.

    They lie in the cache's folder under a digest of the encoder's weights, what it hears as silence and the grid, and
    are made where missing.
    """

    def __init__(self, model: PublishedModel, cache: FeatureCache, grid: int) -> None:
        self.grid, self.offsets = grid, cache.offsets
        frames = model.config.window_frames
        room = np.maximum(np.diff(cache.offsets) - frames, -1)
        counts = np.where(room >= 0, room // grid + 1, 0)
        self.first = np.concatenate(([0], np.cumsum(counts)))
        digest = hashlib.sha256(f"{grid} {frames} {SILENCE}".encode())
        for parameter in model.audio_encoder.parameters():
            digest.update(parameter.detach().cpu().numpy().tobytes())
        self.arrays = {}
        for track in TRACKS:
            path = cache.folder / f"wav2vec.{track}.{digest.hexdigest()[:16]}.npy"
            if not path.exists():
                self._make(path, model, cache, track)
            self.arrays[track] = np.load(path, mmap_mode="r")

    def _make(self, path: Path, model: PublishedModel, cache: FeatureCache, track: str) -> None:
        begins = np.concatenate(
            [
                offset + np.arange(count) * self.grid
                for offset, count in zip(self.offsets[:-1], np.diff(self.first), strict=True)
            ]
        ).astype(np.int64)
        device = model.codec.motion_mean.device
        partial, array = path.with_suffix(".part"), None
        with torch.inference_mode(), tqdm(total=len(begins), desc=f"wav2vec2 {cache.split} {track}") as bar:
            for at in range(0, len(begins), BATCH):
                samples = gather_audio(cache, track, begins[at : at + BATCH], model.config.window_frames)
                rows = model.audio_encoder(samples.to(device)).float().cpu().numpy()
                if array is None:
                    shape = (len(begins), *rows.shape[1:])
                    array = np.lib.format.open_memmap(partial, "w+", dtype=np.float16, shape=shape)
                array[at : at + len(rows)] = rows
                bar.update(len(rows))
        assert array is not None
        array.flush()
        partial.replace(path)

    def __call__(self, track: str, begins: npt.NDArray[np.int64]) -> Tensor:
        """(B, J, A) float32 of windows that begin on the grid."""
        clip = np.searchsorted(self.offsets, begins, side="right") - 1
        inside = begins - self.offsets[clip]
        if (inside % self.grid).any():
            raise ValueError(f"windows do not all begin at multiples of {self.grid} frames")
        return torch.from_numpy(self.arrays[track][self.first[clip] + inside // self.grid].astype(np.float32))
