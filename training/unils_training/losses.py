"""Losses of the three stages. Shapes: B clips, T frames, D channels, L levels, d bits a level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from unils_training.stages import distributed

ENTROPY_SHARPNESS = 8.0


def channel_weights(channels: Sequence[str], prefixes: Sequence[tuple[str, float]]) -> Tensor:
    """(D,) the weight of the longest prefix that fits each channel, otherwise 1."""
    weights = torch.ones(len(channels))
    for i, name in enumerate(channels):
        fitting = [(len(prefix), weight) for prefix, weight in prefixes if name.startswith(prefix)]
        if fitting:
            weights[i] = max(fitting)[1]
    return weights


def weighted_l1(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute error, channels weighted by (D,)."""
    return ((prediction - target).abs() * weights).mean()


def velocity_error(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error of frame-to-frame differences, channels weighted by (D,)."""
    return ((prediction.diff(dim=1) - target.diff(dim=1)).square() * weights).mean()


def bsq_entropy(residual: Tensor, gain: float) -> Tensor:
    """Entropy of each bit (small: none near its threshold) minus that of its mean (large: every bit used).

    After Zhao et al., "Image and video tokenization with binary spherical quantization", 2024. residual (…, d). The
    mean of a bit is taken over the clips of all processes.
    """
    p = torch.sigmoid(ENTROPY_SHARPNESS * residual.shape[-1] ** 0.5 / gain * residual)
    used = distributed.mean(p.flatten(0, -2).mean(dim=0))
    return _binary_entropy(p).mean() - _binary_entropy(used).mean()


def _binary_entropy(p: Tensor) -> Tensor:
    p = p.clamp(1e-6, 1.0 - 1e-6)
    return -(p * p.log() + (1.0 - p) * (1.0 - p).log())


def bit_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy by level, (L,) nats a bit; logits and bool targets (B, T, L, d)."""
    loss = functional.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return loss.mean(dim=(0, 1, 3))
