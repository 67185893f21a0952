"""Rolling generation: frames every few hops instead of every window (docs/published-model.md, "Rolling").

A step makes `hop_frames` frames. Its window holds the frames shown before, the new ones, and what is left of the window
behind them, which is made too and thrown away. Tokens that describe shown frames are not sampled: they get the codec's
bits of those frames. Shapes: those of `model.py`; s frames of the window are shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from unils_training.models.published.codec import Codec
from unils_training.models.published.model import HOP_SAMPLES, PublishedModel, Sampling, Window
from unils_training.rigs import HEAD_CHANNELS

SEAM_DECAY, HEAD_SEAM_DECAY = 0.7, 0.95
"""What is left, a frame later, of the offset that joins new frames to the shown: of the face, which must arrive for
its lips to close, and of the head, which may drift."""


@dataclasses.dataclass(frozen=True)
class Rolling:
    """Frames a step makes, and how many frames of a track's future it hears: of `self`, of `other`."""

    hop_frames: int = 5
    look_ahead: tuple[int, int] = (0, 0)

    def check(self, window_frames: int) -> None:
        """Raises ValueError where a window cannot hold a step."""
        ahead = max(self.look_ahead)
        if not (self.hop_frames >= 1 and min(self.look_ahead) >= 0 and self.hop_frames + ahead <= window_frames):
            raise ValueError(
                f"hop_frames is at least 1 and, with the look-ahead, at most {window_frames}, not {self.hop_frames} "
                f"and {ahead}"
            )


class Shown:
    """The frames of a window that are shown already: which tokens they fix, and to which bits."""

    def __init__(self, codec: Codec, motion: Tensor) -> None:
        """motion (B, s, D), s > 0: the first frames of the window, in the rig's units."""
        self.codec, self.frames = codec, motion.shape[1]
        held = motion[:, -1:].expand(-1, codec.frames - self.frames, -1)
        self.z = codec.encode(torch.cat((motion, held), dim=1))

    def fix(self, level: int, latent: Tensor, bits: Tensor) -> Tensor:
        """The bits (B, n, d) of a level, those of fixed tokens put in place of sampled ones.

        A token is fixed when all of its frames are shown. A coarse one that reaches into the new frames is sampled, or
        nothing slow would ever begin; the finer ones behind it make up for what that does to shown frames.

        latent: of the levels before, (B, F, d).
        """
        fixed = self.frames * self.codec.scales[level] // self.codec.frames
        told = self.codec.unit(self.z - latent, level) > 0
        return torch.cat((told[:, :fixed], bits[:, fixed:]), dim=1)


@torch.inference_mode()
def roll_batch(
    model: PublishedModel,
    self_audio: Tensor,
    other_audio: Tensor,
    sampling: Sampling,
    seeds: Sequence[int],
    rolling: Rolling,
    style: Tensor | None = None,
    windows: list[Window] | None = None,
) -> Tensor:
    """As `PublishedModel.generate_batch`, step by step; `windows` is given what every step made.

    Returns:
        Motion (B, T, D).
    """
    F, hop = model.config.window_frames, rolling.hop_frames
    rolling.check(F)
    batch, samples = self_audio.shape
    frames = -(-samples // HOP_SAMPLES)
    steps = -(-frames // hop)
    # Whole hops, with the silence that windows near the end hear.
    size = (steps * hop + F) * HOP_SAMPLES
    tracks = [functional.pad(track, (0, size - samples)) for track in (self_audio, other_audio)]
    latent = model.style_latent(style).expand(batch, -1, -1)
    keys = np.asarray(seeds, dtype=np.uint64)
    head = HEAD_CHANNELS[model.config.rig]
    decay = self_audio.new_tensor([HEAD_SEAM_DECAY if name in head else SEAM_DECAY for name in model.channels])
    # F still frames, then those shown; frame t is row F + t.
    motion = self_audio.new_zeros(batch, F + steps * hop, len(model.channels))
    for step in range(steps):
        first = step * hop
        begin = max(0, first + hop + max(rolling.look_ahead) - F)
        heard = []
        for track, ahead in zip(tracks, rolling.look_ahead, strict=True):
            audio = track[:, begin * HOP_SAMPLES : (begin + F) * HOP_SAMPLES].clone()
            audio[:, (first + hop + ahead - begin) * HOP_SAMPLES :] = 0.0
            heard.append(audio)
        before = motion[:, begin : begin + F]
        previous = model.codec.quantise(model.codec.encode(before))[1] if begin > 0 else None
        past = motion[:, F + begin : F + first]
        shown = Shown(model.codec, past) if past.shape[1] else None
        window = model.generate_window(model.hear(*heard), latent, previous, sampling, keys, step, shown)
        new = window.motion[:, first - begin : first - begin + hop]
        if shown is not None:
            offset = past[:, -1] - window.motion[:, first - begin - 1]
            new = new + offset[:, None] * decay ** torch.arange(1, hop + 1, device=new.device)[:, None]
        motion[:, F + first : F + first + hop] = new
        if windows is not None:
            windows.append(window)
    return motion[:, F : F + frames]


def roll(
    model: PublishedModel,
    self_audio: npt.ArrayLike,
    other_audio: npt.ArrayLike,
    rolling: Rolling,
    sampling: Sampling | None = None,
    seed: int = 0,
    style: npt.ArrayLike | None = None,
) -> dict[str, npt.NDArray[np.generic]]:
    """As `PublishedModel.generate`, step by step: motion (T, D), and bits and logits with a step for a window."""
    audio = [torch.as_tensor(np.asarray(track, dtype=np.float32)) for track in (self_audio, other_audio)]
    samples = max(len(track) for track in audio)
    own, other = (functional.pad(track, (0, samples - len(track)))[None] for track in audio)
    clip = None if style is None else torch.as_tensor(np.asarray(style, dtype=np.float32))
    windows: list[Window] = []
    motion = roll_batch(model, own, other, sampling or Sampling(), [seed], rolling, clip, windows)
    return {
        "motion": motion[0].numpy(),
        "bits": np.stack([window.bits[0].numpy() for window in windows]),
        "logits": np.stack([window.logits[0].numpy() for window in windows]),
    }
