"""The quality that the bundled model is held to: every line with its target, its figure, and whether it was met."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Line:
    """One line of the table. `met` is None where the figure was not measured."""

    group: str
    what: str
    target: str
    figure: str
    met: bool | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def _line(group: str, what: str, value: float, low: float | None, high: float | None, unit: str = "") -> Line:
    bounds = (low, high)
    if low is not None and high is not None:
        target = f"{low:g} to {high:g}{unit}"
    else:
        target = f">= {low:g}{unit}" if high is None else f"<= {high:g}{unit}"
    if math.isnan(value):
        return Line(group, what, target, "not measured", None)
    met = (bounds[0] is None or value >= bounds[0]) and (bounds[1] is None or value <= bounds[1])
    return Line(group, what, target, f"{value:.3g}{unit}", met)


WITHOUT_RULER: dict[str, dict[str, str]] = {
    "arkit": {},
    "flame": {
        "lip closures": "lip closures",
        "mean jawOpen": "`jawOpen` at rest",
        "std of brows": "brows",
        "blinks": "blinks",
    },
}
"""By rig: how the lines that it has no ruler for begin, and what they would have said."""


def without_ruler(rig: str) -> str:
    """A sentence that says which lines `quality_lines` leaves out for a rig; empty where it leaves out none."""
    missing = list(WITHOUT_RULER[rig].values())
    return f"Not measured on rig {rig}: {', '.join(missing)}." if missing else ""


def quality_lines(result: Mapping[str, Any], contingency: Mapping[str, float] | None) -> list[Line]:
    """The lines for one `Metrics.result()` and, where a shuffled partner was run, its `contingency()`.

    Those that the rig has no ruler for are left out (`without_ruler`).
    """
    absent = tuple(WITHOUT_RULER[result["rig"]])
    return [line for line in _lines(result, contingency) if not line.what.startswith(absent)]


def _lines(result: Mapping[str, Any], contingency: Mapping[str, float] | None) -> list[Line]:
    lips, alive = result["lips"], result["alive"]
    lines = [
        _line("lips", "jaw correlation while speaking", lips["jaw_correlation"], 0.88, None),
        _line("lips", "lip closures: recall", lips["closures"]["recall"], 0.85, None),
        _line("lips", "lip closures: precision", lips["closures"]["precision"], 0.70, None),
        _line("lips", "lip closures: median timing error", lips["closure_timing_median_frames"], None, 1.0, " frames"),
        _line("lips", "mean jawOpen, own track silent", lips["rest_jaw"], None, 0.06),
        _line("lips", "mean jawOpen, other talks loudly", lips["rest_jaw_other_loud"], None, 0.06),
    ]
    for state in ("speaking", "listening"):
        ratios = alive[state].get("std_ratio", {})
        for group in ("head", "brows", "gaze"):
            value = ratios.get(group, float("nan"))
            lines.append(_line("alive", f"std of {group} / truth, {state}", value, 0.8, 1.25))
    lines.append(_line("alive", "blinks a minute", alive["blinks_per_minute"]["all"], 12.0, 35.0))
    stuck = alive["stuck_channels"]
    lines.append(Line("alive", "channels stuck", "none", ", ".join(stuck) if stuck else "none", not stuck))
    lines.append(_line("alive", "acceleration / truth", alive["jitter"]["total"], None, 1.3))
    ratio = contingency["ratio"] if contingency else float("nan")
    reaction = _line("listening", "reaction F1 / with a shuffled partner", ratio, 2.0, None, " times")
    if contingency and reaction.met is not None:
        interval = f" ({contingency['ratio_low']:.2g} to {contingency['ratio_high']:.2g})"
        reaction = replace(reaction, figure=reaction.figure + interval)
    lines.append(reaction)
    return lines


def markdown_table(lines: list[Line]) -> str:
    """The lines as a Markdown table."""
    verdict = {True: "met", False: "**missed**", None: "not measured"}
    rows = [f"| {line.what} | {line.target} | {line.figure} | {verdict[line.met]} |" for line in lines]
    return "\n".join(["| quality | target | figure | |", "|---|---|---|---|", *rows])
