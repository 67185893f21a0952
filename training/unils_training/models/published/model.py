"""The `published` model: UniLS as released. docs/published-model.md is its contract.

Shapes: B clips, T frames, F frames of a window, S samples of a window, D channels, N tokens of all scales, d bits a
token, J audio rows, A audio width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from unils_training.config import PublishedConfig
from unils_training.models.philox import token_uniforms
from unils_training.models.published.audio_encoder import AudioEncoder
from unils_training.models.published.codec import Codec
from unils_training.models.published.generator import Generator
from unils_training.models.sampling import sample_bits

if TYPE_CHECKING:
    from unils_training.models.published.rolling import Shown

HOP_SAMPLES = 640


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How bits are drawn; temperature 0 is greedy, cfg_scale 1 (or less) no guidance."""

    temperature: float = 1.0
    top_p: float = 0.97
    cfg_scale: float = 1.5


@dataclasses.dataclass(frozen=True)
class Window:
    """One window: motion (B, F, D), bits (B, N, d) bool, logits (B, N, d, 2) after guidance, latent (B, F, d)."""

    motion: Tensor
    bits: Tensor
    logits: Tensor
    latent: Tensor


class PublishedModel(nn.Module):
    """Codec, generator and audio encoder; `generate` is the reference that other engines are compared with."""

    def __init__(self, config: PublishedConfig, channels: Sequence[str], audio_encoder: AudioEncoder) -> None:
        super().__init__()
        self.config = config
        self.channels = tuple(channels)
        self.audio_encoder = audio_encoder
        self.codec = Codec(len(self.channels), config.window_frames, config.codec)
        self.generator = Generator(config, audio_encoder.width)

    @classmethod
    def from_checkpoint(cls, path: str | Path, audio_encoder: str | Path) -> PublishedModel:
        """Loads a checkpoint in the released format, ready to generate.

        Args:
            path: the file, `{"model": ..., "meta_cfg": ...}`.
            audio_encoder: folder in the Hugging Face layout, or a hub id; the file holds no encoder.

        Raises:
            CheckpointError: naming the first key or shape that does not fit.
            FileNotFoundError: no such file, or no such encoder.
        """
        from unils_training.models.published.checkpoint import load_model

        return load_model(path, audio_encoder)

    @property
    def window_samples(self) -> int:
        return self.config.window_frames * HOP_SAMPLES

    def rest_latent(self) -> Tensor:
        """The quantised latent of a window whose every value is zero, (1, F, d): no style, nothing before."""
        mean = self.codec.motion_mean
        zeros = mean.new_zeros(1, self.config.window_frames, len(mean))
        return self.codec.quantise(self.codec.encode(zeros))[1]

    def hear(self, self_audio: Tensor, other_audio: Tensor) -> tuple[Tensor, Tensor]:
        """Features of one window of both tracks: (B, S) each -> (B, J, A) each."""
        own, other = self.audio_encoder(torch.cat((self_audio, other_audio))).chunk(2)
        return own, other

    @torch.no_grad()
    def generate_window(
        self,
        features: tuple[Tensor, Tensor],
        style: Tensor,
        previous: Tensor | None,
        sampling: Sampling,
        seeds: npt.NDArray[np.uint64],
        chunk: int,
        shown: Shown | None = None,
    ) -> Window:
        """One window, every scale on top of what is cached of the coarser ones.

        Args:
            features: of `hear`.
            style: quantised latent (B, F, d).
            previous: quantised latent of the window before, (B, F, d); None at the first window.
            seeds: (B,), one for each clip.
            chunk: index of the window, of which its random numbers depend.
            shown: frames of this window that are shown already (rolling generation); None where all are new.
        """
        codec, generator = self.codec, self.generator
        batch, guided = len(style), sampling.cfg_scale > 1.0
        rest = self.rest_latent().expand(batch, -1, -1)
        before = rest if previous is None else previous
        if guided:
            # The second half of the batch hears nothing and has no style, but does remember the window before.
            features = tuple(torch.cat((track, torch.zeros_like(track))) for track in features)  # type: ignore[assignment]
            style, before = torch.cat((style, rest)), before.repeat(2, 1, 1)
        audio = generator.audio(*features)
        cache = generator.prefill(style, before, audio)
        latent = torch.zeros_like(rest)
        all_bits, all_logits = [], []
        for level, (span, tokens) in enumerate(zip(codec.spans, codec.scales, strict=True)):
            inputs = generator.start(batch) if level == 0 else generator.embed(codec.down(latent, level), level)
            inputs = inputs.repeat(2, 1, 1) if guided else inputs
            logits, keys_values = generator.step(inputs, span.start, cache, audio)
            cache = torch.cat((cache, keys_values), dim=4)
            if guided:
                conditional, unconditional = logits.chunk(2)
                logits = sampling.cfg_scale * conditional + (1.0 - sampling.cfg_scale) * unconditional
            u = token_uniforms(seeds, chunk, span.start, tokens, codec.config.bits)
            bits = sample_bits(logits[..., 1] - logits[..., 0], sampling, u)
            if shown is not None:
                bits = shown.fix(level, latent, bits)
            latent = latent + codec.up(codec.code(bits), level)
            all_bits.append(bits)
            all_logits.append(logits)
        return Window(codec.decode(latent), torch.cat(all_bits, dim=1), torch.cat(all_logits, dim=1), latent)

    @torch.inference_mode()
    def generate_batch(
        self,
        self_audio: Tensor,
        other_audio: Tensor,
        sampling: Sampling,
        seeds: Sequence[int],
        style: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Free-running generation of many clips at once, window by window.

        Args:
            self_audio, other_audio: (B, samples) in [-1, 1] at 16 kHz; the last window is continued by zeros.
            seeds: one for each clip.
            style: motion (F, D), or (B, F, D) for one each, in the rig's units; None is no style.

        Returns:
            motion (B, T, D) with T the samples over 640, rounded up; bits (B, windows, N, d) bool; logits (B, windows,
            N, d, 2).
        """
        if self_audio.shape != other_audio.shape or len(seeds) != len(self_audio):
            raise ValueError(
                f"both tracks and the seeds must be of one shape, not {tuple(self_audio.shape)}, "
                f"{tuple(other_audio.shape)} and {len(seeds)} seeds"
            )
        samples, size, batch = self_audio.shape[1], self.window_samples, len(seeds)
        if samples == 0:
            raise ValueError("there is no audio")
        windows = -(-samples // size)
        tracks = [functional.pad(track, (0, windows * size - samples)) for track in (self_audio, other_audio)]
        latent = self.style_latent(style).expand(batch, -1, -1)
        keys = np.asarray(seeds, dtype=np.uint64)
        previous, made = None, []
        for chunk in range(windows):
            features = self.hear(*(track[:, chunk * size : (chunk + 1) * size] for track in tracks))
            window = self.generate_window(features, latent, previous, sampling, keys, chunk)
            previous = self.codec.quantise(self.codec.encode(window.motion))[1]
            made.append(window)
        return {
            "motion": torch.cat([window.motion for window in made], dim=1)[:, : -(-samples // HOP_SAMPLES)],
            "bits": torch.stack([window.bits for window in made], dim=1),
            "logits": torch.stack([window.logits for window in made], dim=1),
        }

    def style_latent(self, style: Tensor | None) -> Tensor:
        """Motion of exactly one window, (F, D) or (B, F, D) -> quantised latent (1 or B, F, d); None is no style."""
        if style is None:
            return self.rest_latent()
        style = style if style.dim() == 3 else style[None]
        expected = (self.config.window_frames, len(self.channels))
        if tuple(style.shape[1:]) != expected:
            raise ValueError(
                f"style must be {expected[0]} frames of {expected[1]} channels, not {tuple(style.shape[1:])}"
            )
        return self.codec.quantise(self.codec.encode(style.float()))[1]

    def generate(
        self,
        self_audio: npt.ArrayLike,
        other_audio: npt.ArrayLike,
        sampling: Sampling | None = None,
        seed: int = 0,
        style: npt.ArrayLike | None = None,
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Generates the face of `self` for one conversation.

        Args:
            self_audio, other_audio: (samples,) in [-1, 1] at 16 kHz; the shorter one is continued by silence.
            sampling: the released settings when None.
            style: motion of one window, (F, D).

        Returns:
            What `generate_batch` does, without its batch axis.
        """
        audio = [torch.as_tensor(np.asarray(track, dtype=np.float32)) for track in (self_audio, other_audio)]
        samples = max(len(track) for track in audio)
        own, other = (functional.pad(track, (0, samples - len(track)))[None] for track in audio)
        clip = None if style is None else torch.as_tensor(np.asarray(style, dtype=np.float32))
        out = self.generate_batch(own, other, sampling or Sampling(), [seed], clip)
        return {name: value[0].numpy() for name, value in out.items()}
