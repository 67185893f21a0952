"""Figures that the dialogue stages of both families report. Shapes: B clips, T frames, D channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unils_training.rigs import JAW_CHANNEL, group_channels


def free_running_figures(made: Tensor, truth: Tensor, speaking: Tensor, channels: Sequence[str]) -> dict[str, float]:
    """How the jaw follows speech, and how lively each group of channels is.

    Args:
        made, truth: motion (B, T, D).
        speaking: (B, T) bool.

    Returns:
        jaw_correlation (where speaking), jaw_silent (its mean where not), std_ratio_GROUP (made over truth).
    """
    figures = {}
    jaw = next((channels.index(name) for name in JAW_CHANNEL.values() if name in channels), None)
    if jaw is not None and int(speaking.sum()) > 1:
        pair = torch.stack((made[..., jaw][speaking], truth[..., jaw][speaking]))
        figures["jaw_correlation"] = float(torch.corrcoef(pair)[0, 1])
        if bool((~speaking).any()):
            figures["jaw_silent"] = float(made[..., jaw][~speaking].mean())
    for group, indices in group_channels(tuple(channels)).items():
        ratio = made[..., indices].std(dim=1).mean() / truth[..., indices].std(dim=1).mean().clamp_min(1e-6)
        figures[f"std_ratio_{group}"] = float(ratio)
    return figures
