"""The motion codec: causal encoder and decoder around residual binary spherical quantisation (BSQ).

Shapes: B clips, T frames, D channels, H width, d bits a level, L levels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unils_training.config import CodecConfig
from unils_training.models.layers import CausalStack

NORM_FLOOR = 1e-6


class Encoder(CausalStack):
    """Normalised motion -> points of the unit sphere."""

    def __init__(self, channels: int, config: CodecConfig) -> None:
        super().__init__(channels, config.width, config.depth, config.kernel, config.expansion)
        self.output = nn.Linear(config.width, config.bits)

    def forward(self, motion: Tensor) -> Tensor:
        """(B, T, D) -> z (B, T, d)."""
        return _on_sphere(self.output(self.trunk(motion)))

    def step(self, motion: Tensor, history: Tensor) -> Tensor:
        """(B, D) -> z (B, d)."""
        return _on_sphere(self.output(self.trunk_step(motion, history)))


class Decoder(CausalStack):
    """Quantised latents -> normalised motion."""

    def __init__(self, channels: int, config: CodecConfig) -> None:
        super().__init__(config.bits, config.width, config.depth, config.kernel, config.expansion)
        self.output = nn.Linear(config.width, channels)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, D)."""
        return self.output(self.trunk(latent))

    def step(self, latent: Tensor, history: Tensor) -> Tensor:
        """(B, d) -> (B, D)."""
        return self.output(self.trunk_step(latent, history))


class Codec(nn.Module):
    """Motion <-> bits. Motion is (…, D) in the rig's units; bits are booleans (…, L, d)."""

    motion_mean: Tensor
    motion_std: Tensor

    def __init__(self, channels: int, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("motion_mean", torch.zeros(channels))
        self.register_buffer("motion_std", torch.ones(channels))
        self.encoder = Encoder(channels, config)
        self.decoder = Decoder(channels, config)

    def encode(self, motion: Tensor) -> Tensor:
        """(B, T, D) -> z (B, T, d), of unit length."""
        return self.encoder((motion - self.motion_mean) / self.motion_std)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, D)."""
        return self.decoder(latent) * self.motion_std + self.motion_mean

    def decode_step(self, latent: Tensor, history: Tensor) -> Tensor:
        """One frame: (B, d) -> (B, D)."""
        return self.decoder.step(latent, history) * self.motion_std + self.motion_mean

    def quantise(self, z: Tensor) -> Tensor:
        """z (…, d) -> bits (…, L, d)."""
        residual, bits = z, []
        for gain in self.config.gains:
            bits.append(residual > 0)
            residual = residual - self._code(bits[-1], gain)
        return torch.stack(bits, dim=-2)

    def quantise_with_flips(self, z: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
        """Quantises while some bits are flipped, so that later levels answer for the flips of earlier ones.

        Args:
            z: (…, d).
            flips: (…, L, d) bool, where a bit is to be wrong.

        Returns:
            The flipped bits and, for every level, the right bits given the levels before it; (…, L, d) bool each.
        """
        residual, bits, targets = z, [], []
        for level, gain in enumerate(self.config.gains):
            targets.append(residual > 0)
            bits.append(targets[-1] ^ flips[..., level, :])
            residual = residual - self._code(bits[-1], gain)
        return torch.stack(bits, dim=-2), torch.stack(targets, dim=-2)

    def latent(self, bits: Tensor) -> Tensor:
        """bits (…, L, d) -> q (…, d), summed in level order."""
        codes = [self._code(bits[..., level, :], gain) for level, gain in enumerate(self.config.gains)]
        total = codes[0]
        for code in codes[1:]:
            total = total + code
        return total

    def _code(self, bits: Tensor, gain: float) -> Tensor:
        return (bits.to(torch.float32) * 2.0 - 1.0) * (gain * self.config.bits**-0.5)


def _on_sphere(z: Tensor) -> Tensor:
    return z / z.norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)
