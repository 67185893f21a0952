"""The motion codec: transformers around residual binary spherical quantisation (BSQ) over several time scales.

Shapes: B clips, F frames of a window, D channels, d bits a token, N tokens of all scales together, n those of one.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from unils_training.config import PublishedCodecConfig
from unils_training.models.published.attention import SelfAttention, rope_table

NORM_EPS = 1e-5
SLOPE = 0.2
NORM_FLOOR = 1e-12


def _transformer(config: PublishedCodecConfig) -> nn.ModuleList:
    hidden = config.width * 3 // 2
    layers: list[nn.Module] = []
    for _ in range(config.depth):
        feed_forward = nn.Sequential(
            nn.Linear(config.width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, config.width)
        )
        layers += [SelfAttention(config.width, config.heads, NORM_EPS), feed_forward]
    return nn.ModuleList(layers)


def _run(layers: nn.ModuleList, x: Tensor, table: Tensor) -> Tensor:
    for layer in layers:
        x = x + (layer(x, table) if isinstance(layer, SelfAttention) else layer(x))
    return x


class Encoder(nn.Module):
    """Normalised motion (B, F, D) -> z (B, F, d)."""

    table: Tensor

    def __init__(self, channels: int, frames: int, config: PublishedCodecConfig) -> None:
        super().__init__()
        self.inp_mapping = nn.Sequential(nn.Linear(channels, config.width), nn.LeakyReLU(SLOPE))
        self.encoder_transformer = _transformer(config)
        self.code_mapping = nn.Linear(config.width, config.bits)
        table = rope_table(torch.arange(frames), config.width // config.heads)
        self.register_buffer("table", table, persistent=False)

    def forward(self, motion: Tensor) -> Tensor:
        return self.code_mapping(_run(self.encoder_transformer, self.inp_mapping(motion), self.table))


class Decoder(nn.Module):
    """Latent (B, F, d) -> normalised motion (B, F, D)."""

    table: Tensor

    def __init__(self, channels: int, frames: int, config: PublishedCodecConfig) -> None:
        super().__init__()
        self.inp_mapping = nn.Sequential(nn.Linear(config.bits, config.width), nn.LeakyReLU(SLOPE))
        self.decoder_transformer = _transformer(config)
        self.out_mapping = nn.Linear(config.width, channels)
        table = rope_table(torch.arange(frames), config.width // config.heads)
        self.register_buffer("table", table, persistent=False)

    def forward(self, latent: Tensor) -> Tensor:
        return self.out_mapping(_run(self.decoder_transformer, self.inp_mapping(latent), self.table))


class Codec(nn.Module):
    """Motion <-> bits. Motion is (B, F, D) in the rig's units; bits are booleans (B, N, d), coarse scales first."""

    motion_mean: Tensor
    motion_std: Tensor

    def __init__(self, channels: int, frames: int, config: PublishedCodecConfig) -> None:
        super().__init__()
        self.config, self.frames = config, frames
        self.scales, self.tokens = config.scales, sum(config.scales)
        ends = [sum(config.scales[: level + 1]) for level in range(len(config.scales))]
        self.spans = [slice(begin, end) for begin, end in pairwise([0, *ends])]
        self.register_buffer("motion_mean", torch.zeros(channels))
        self.register_buffer("motion_std", torch.ones(channels))
        self.encoder = Encoder(channels, frames, config)
        self.decoder = Decoder(channels, frames, config)
        for level, tokens in enumerate(config.scales):
            self.register_buffer(f"down_{level}", _area_matrix(frames, tokens), persistent=False)
            self.register_buffer(f"up_{level}", _linear_matrix(tokens, frames), persistent=False)

    def down(self, x: Tensor, level: int) -> Tensor:
        """Averages frames (B, F, d) over the spans of a level's tokens, (B, n, d)."""
        return x if self.scales[level] == x.shape[1] else self.get_buffer(f"down_{level}") @ x

    def up(self, x: Tensor, level: int) -> Tensor:
        """Interpolates a level's tokens (B, n, d) linearly between their centres to frames, (B, F, d)."""
        return x if level == len(self.scales) - 1 else self.get_buffer(f"up_{level}") @ x

    def normalise(self, motion: Tensor) -> Tensor:
        return (motion - self.motion_mean) / self.motion_std

    def encode(self, motion: Tensor) -> Tensor:
        """(B, F, D) -> z (B, F, d)."""
        return self.encoder(self.normalise(motion))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, F, d) -> (B, F, D)."""
        return self.decoder(latent) * self.motion_std + self.motion_mean

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, F, d) -> bits (B, N, d) bool and the latent that they stand for, (B, F, d)."""
        bits, _, latents = self.quantise_with_flips(z, None)
        return bits, latents[-1]

    def quantise_with_flips(self, z: Tensor, flips: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Quantises while some bits are flipped, so that finer scales answer for the flips of coarser ones.

        Args:
            z: (B, F, d).
            flips: (B, N, d) bool, where a bit is to be wrong; None for nowhere.

        Returns:
            The flipped bits and, for every scale, the right bits given the scales before it, (B, N, d) bool each; the
            latent accumulated after each scale, (B, F, d) each.
        """
        residual, latent = z, torch.zeros_like(z)
        bits, targets, latents = [], [], []
        for level, span in enumerate(self.spans):
            targets.append(self.unit(residual, level) > 0)
            bits.append(targets[-1] if flips is None else targets[-1] ^ flips[:, span])
            step = self.up(self.code(bits[-1], z.dtype), level)
            residual, latent = residual - step, latent + step
            latents.append(latent)
        return torch.cat(bits, dim=1), torch.cat(targets, dim=1), latents

    def unit(self, residual: Tensor, level: int) -> Tensor:
        """The points of the unit sphere whose signs are a level's bits: (B, F, d) -> (B, n, d)."""
        return functional.normalize(self.down(residual, level), dim=-1, eps=NORM_FLOOR)

    def code(self, bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """bits (..., d) bool -> the corner of the cube inside the unit sphere, (..., d)."""
        return (bits.to(dtype) * 2.0 - 1.0) * self.config.bits**-0.5

    def latents(self, bits: Tensor) -> list[Tensor]:
        """bits (B, N, d) -> the latent accumulated after each scale, (B, F, d) each; the last one is decoded."""
        steps = [self.up(self.code(bits[:, span]), level) for level, span in enumerate(self.spans)]
        latents = [steps[0]]
        for step in steps[1:]:
            latents.append(latents[-1] + step)
        return latents


def _area_matrix(frames: int, tokens: int) -> Tensor:
    """(tokens, frames): token j is the mean of frames [floor(j F / n), ceil((j + 1) F / n))."""
    matrix = torch.zeros(tokens, frames)
    for j in range(tokens):
        begin, end = j * frames // tokens, -((-(j + 1) * frames) // tokens)
        matrix[j, begin:end] = 1.0 / (end - begin)
    return matrix


def _linear_matrix(tokens: int, frames: int) -> Tensor:
    """(frames, tokens): linear interpolation with half-pixel centres, the outer halves held."""
    centre = ((torch.arange(frames, dtype=torch.float64) + 0.5) * tokens / frames - 0.5).clamp_min(0.0)
    lower = centre.floor().long().clamp_max(tokens - 1)
    upper = (lower + 1).clamp_max(tokens - 1)
    share = (centre - lower)[:, None]
    rows = functional.one_hot(lower, tokens) * (1.0 - share) + functional.one_hot(upper, tokens) * share
    return rows.float()
