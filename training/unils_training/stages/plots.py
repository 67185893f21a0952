"""Motion plots of the stages, for TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from unils_training.models.stream.log_mel import FRAME_RATE
from unils_training.rigs import group_channels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLD_BY = ("jawOpen", "mouthClose", "eyeBlinkLeft", "browInnerUp", "headPitch", "headYaw")
"""Channels of rig `arkit` that show at a glance whether lips, eyes and head live."""


def traces(channels: tuple[str, ...], truth: Tensor, made: Tensor) -> Figure:
    """Truth against what the model made of one clip, (T, D) each in the rig's units, for the channels that tell most.

    Of a rig without the usual names, the first channel of each group.
    """
    from matplotlib.figure import Figure

    shown = [channels.index(name) for name in TOLD_BY if name in channels]
    shown = shown or [indices[0] for indices in group_channels(channels).values()] or list(range(min(6, len(channels))))
    figure = Figure(figsize=(9.0, 1.3 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    seconds = [frame / FRAME_RATE for frame in range(len(truth))]
    for axis, channel in zip(axes, shown, strict=True):
        axis.plot(seconds, truth[:, channel].float().cpu().numpy(), color="0.6", label="truth")
        axis.plot(seconds, made[:, channel].float().cpu().numpy(), color="tab:blue", linewidth=1.0, label="model")
        axis.set_ylabel(channels[channel], fontsize="small")
    axes[0].legend(loc="upper right", fontsize="small")
    axes[-1].set_xlabel("seconds")
    return figure
