"""Plots of an evaluation, truth beside prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unils_training.data.records import FRAME_RATE

TRACED = {
    "arkit": ("jawOpen", "mouthSmileLeft", "eyeBlinkLeft", "browInnerUp", "headPitch", "headYaw"),
    "flame": ("jaw", "expression0", "expression1", "leftEyeYaw", "headX", "headY"),
}
LINES = (("truth", "k-"), ("prediction", "C1-"))


def plot_spectra(spectrum: dict[str, Any], path: Path) -> None:
    """Power of the listening face over frequency."""
    from matplotlib.figure import Figure

    channels = list(spectrum["truth"])
    figure = Figure(figsize=(3.2 * len(channels), 3.2), layout="constrained")
    for axis, channel in zip(figure.subplots(1, len(channels), squeeze=False)[0], channels, strict=True):
        for name, style in LINES:
            axis.semilogy(spectrum["hz"][1:], np.maximum(spectrum[name][channel][1:], 1e-9), style, label=name)
        axis.set_title(channel)
        axis.set_xlabel("Hz")
    figure.axes[0].set_ylabel("power density while listening")
    figure.axes[0].legend()
    figure.savefig(path, dpi=100)


def plot_distributions(distributions: dict[str, Any], path: Path) -> None:
    """Histogram of the values of every group of channels, speaking above listening."""
    from matplotlib.figure import Figure

    edges = distributions["edges"]
    states = [state for state in distributions if state != "edges"]
    figure = Figure(figsize=(2.6 * len(edges), 2.6 * len(states)), layout="constrained")
    axes = figure.subplots(len(states), len(edges), squeeze=False)
    for row, state in zip(axes, states, strict=True):
        for axis, (group, bounds) in zip(row, edges.items(), strict=True):
            for name, style in LINES:
                axis.stairs(distributions[state][group][name], bounds, color=style[:-1], label=name)
            axis.set_yscale("log")
            axis.set_title(f"{group}, {state}", fontsize=9)
    axes[0, 0].set_ylabel("share of values")
    axes[0, 0].legend()
    figure.savefig(path, dpi=100)


def plot_trace(motion: Path, path: Path, seconds: float = 40.0) -> None:
    """The first `seconds` of a kept clip, with who speaks when."""
    from matplotlib.figure import Figure

    with np.load(motion) as clip:
        names = clip["channels"].tolist()
        channels = TRACED["arkit" if "jawOpen" in names else "flame"]
        count = min(len(clip["truth"]), int(seconds * FRAME_RATE))
        t = np.arange(count) / FRAME_RATE
        figure = Figure(figsize=(16, 2.0 * len(channels)), layout="constrained")
        for axis, channel in zip(figure.subplots(len(channels), 1, sharex=True), channels, strict=True):
            for name, style in LINES:
                axis.plot(t, clip[name][:count, names.index(channel)], style, linewidth=1.0, label=name)
            low, high = axis.get_ylim()
            axis.fill_between(t, low, high, where=clip["speaking"][:count], color="C0", alpha=0.12, label="speaks")
            axis.fill_between(t, low, high, where=clip["other_speaking"][:count], color="C2", alpha=0.12, label="other")
            axis.set_ylim(low, high)
            axis.set_ylabel(channel)
        figure.axes[0].legend(ncols=4, loc="upper right")
        figure.axes[-1].set_xlabel("seconds")
        figure.savefig(path, dpi=80)
