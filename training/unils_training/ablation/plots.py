"""Plots of the ablation: a mark for each seed, a bar or a line for their mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unils_training.ablation.collect import Family
from unils_training.ablation.figures import BETTER, BY_NAME

LIPS = ("lve", "jaw", "closures")
LISTENING = ("std", "speed", "fdd", "reactions")


def draw(families: Sequence[Family], folder: Path) -> dict[str, Path]:
    """Writes every plot into `folder` and returns their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for family in families:
        figures = {
            "lips": _bars(family, LIPS),
            "listening": _bars(family, LISTENING),
            "curves": _curves(family),
            "spectra": _spectra(family),
        }
        if len(family.full.look_aheads) > 1:
            figures["look_ahead"] = _look_ahead(family, families)
        for name, figure in figures.items():
            path = folder / f"{family.name}_{name}.png"
            figure.savefig(path, dpi=80)
            drawn[f"{family.name}_{name}"] = path
    return drawn


def _figure(columns: int, width: float = 4.0, height: float = 3.4) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _bars(family: Family, names: Sequence[str]) -> Any:
    figure, axes = _figure(len(names))
    for axis, name in zip(axes, names, strict=True):
        for i, arm in enumerate(family.arms.values()):
            values = arm.spreads()[name]
            axis.barh(i, values.mean, color=f"C{i}", alpha=0.6)
            axis.plot(values.values, [i] * len(values.values), "k.", markersize=5)
        axis.set_yticks(range(len(family.arms)), [arm.run.variant.title for arm in family.arms.values()])
        axis.invert_yaxis()
        axis.set_title(f"{BY_NAME[name].title} ({BETTER[BY_NAME[name].better]})", fontsize=9)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    return figure


def _curves(family: Family) -> Any:
    titles = {"loss": "validation loss (bits of the dialogue stage)", "jaw_correlation": "jaw correlation, validation"}
    figure, axes = _figure(len(titles), 5.0)
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for i, arm in enumerate(family.arms.values()):
            for j, curve in enumerate(arm.curves[name]):
                label = arm.run.variant.title if j == 0 else None
                axis.plot(*zip(*curve, strict=True) if curve else ([], []), f"C{i}.-", label=label, linewidth=1)
        axis.set_xlabel("steps")
        axis.set_title(title, fontsize=9)
    axes[0].legend(fontsize=8)
    return figure


def _spectra(family: Family) -> Any:
    """Power of the listening face, truth and every variant, mean over seeds."""
    first = family.full.results()[0]["listening_spectrum"]
    channels = list(first["truth"])
    figure, axes = _figure(len(channels), 3.2, 3.2)
    for axis, channel in zip(axes, channels, strict=True):
        hz = first["hz"][1:]
        axis.semilogy(hz, np.maximum(first["truth"][channel][1:], 1e-9), "k-", linewidth=2, label="truth")
        for i, arm in enumerate(family.arms.values()):
            power = np.mean([r["listening_spectrum"]["prediction"][channel] for r in arm.results()], axis=0)
            axis.semilogy(hz, np.maximum(power[1:], 1e-9), f"C{i}-", linewidth=1, label=arm.run.variant.title)
        axis.set_title(channel, fontsize=9)
        axis.set_xlabel("Hz")
    axes[0].set_ylabel("power density while listening")
    axes[-1].legend(fontsize=7)
    return figure


def _look_ahead(family: Family, families: Sequence[Family]) -> Any:
    """Lips over look-ahead; families that hear whole windows as a line across."""
    figure, axes = _figure(len(LIPS))
    aheads = family.full.look_aheads
    for axis, name in zip(axes, LIPS, strict=True):
        spreads = [family.full.spreads(ahead)[name] for ahead in aheads]
        axis.plot(aheads, [s.mean for s in spreads], "C0.-", label=family.name)
        for ahead, values in zip(aheads, spreads, strict=True):
            axis.plot([ahead] * len(values.values), values.values, "k.", markersize=4)
        for other in families:
            if len(other.full.look_aheads) == 1:
                axis.axhline(other.full.spreads()[name].mean, color="C1", linestyle="--", label=other.name)
        axis.set_title(BY_NAME[name].title, fontsize=9)
        axis.set_xlabel("look-ahead on the own track, frames of 40 ms")
    axes[0].legend(fontsize=8)
    return figure
