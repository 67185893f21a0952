"""Losses of the published family. Shapes: B clips, F frames, D channels, N tokens of all scales, d bits a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from unils_training.stages import distributed

SHARPNESS = 4.0 * 100.0
"""Times 1/sqrt(d) and the value: the log-odds of a bit in the entropy terms, as released."""
ENTROPY_SCALE = 1.0 / 100.0


def derivative_error(prediction: Tensor, target: Tensor, order: int) -> Tensor:
    """prediction - target, differentiated `order` times over frames: (B, F, D) -> (B, F - order, D)."""
    return (prediction - target).diff(n=order, dim=1)


def bsq_losses(units: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Entropy and commitment of residual BSQ, means over scales of sums over bits.

    The entropy of each bit (small: none near its threshold) minus that of its mean over the batch (large: every bit
    used), after Zhao et al., "Image and video tokenization with binary spherical quantization", 2024.

    Args:
        units: points of the unit sphere, (B, n, d) for each scale.
    """
    entropies, commitments = [], []
    for unit in units:
        bits = unit.shape[-1]
        p = torch.sigmoid(SHARPNESS * bits**-0.5 * unit)
        mean = distributed.mean(p.flatten(0, -2).mean(dim=0))
        entropies.append((_binary_entropy(p).sum(dim=-1).mean() - _binary_entropy(mean).sum()) * ENTROPY_SCALE)
        code = torch.where(unit.detach() > 0, 1.0, -1.0) * bits**-0.5
        commitments.append((unit - code).square().sum(dim=-1).mean())
    return torch.stack(entropies).mean(), torch.stack(commitments).mean()


def _binary_entropy(p: Tensor) -> Tensor:
    p = p.clamp(1e-6, 1.0 - 1e-6)
    return -(p * p.log() + (1.0 - p) * (1.0 - p).log())


def token_losses(
    logits: Tensor, targets: Tensor, spans: Sequence[slice], weights: Sequence[float] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Cross-entropy in nats a bit: the mean over all tokens, and the plain mean of each scale.

    Args:
        logits: (B, N, d, 2).
        targets: (B, N, d) bool.
        spans: the tokens of each scale.
        weights: of the tokens of each scale in the mean, of which only the ratios count; empty is all alike.
    """
    odds = logits[..., 1].float() - logits[..., 0].float()
    loss = functional.binary_cross_entropy_with_logits(odds, targets.to(odds.dtype), reduction="none").mean(dim=(0, 2))
    levels = [loss[span].mean() for span in spans]
    if not weights:
        return loss.mean(), levels
    shares = [weight * (span.stop - span.start) for weight, span in zip(weights, spans, strict=True)]
    weighted = torch.stack([share * level for share, level in zip(shares, levels, strict=True)])
    return weighted.sum() / sum(shares), levels
