"""An evaluation as Markdown and as JSON that every reader takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from unils_training.metrics import paper_table, without_ruler
from unils_training.metrics.seams import ORDERS

REASONS = 5
"""Clips left out whose reason a report gives."""


def plain(value: Any) -> Any:
    """The value with NaN and infinity as None."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def row_name(evaluation: dict[str, Any], result: dict[str, Any]) -> str:
    """What a result is called in tables."""
    if evaluation["family"] == "stream":
        return f"stream, look-ahead {result['look_ahead_self']}"
    if not result["hop_frames"]:
        return "published"
    ahead = f", look-ahead {result['look_ahead_self']}" if result["look_ahead_self"] else ""
    return f"published, hop {result['hop_frames']}{ahead}"


def seam_table(rows: dict[str, dict[str, Any]]) -> str:
    """How seams show, by name of the row; `rows` are the `seams` of results (docs/metrics.md)."""
    groups = list(next(iter(rows.values()))["velocity"])
    head = [f"{group}, {order}" for order in ORDERS for group in groups]
    lines = [f"|  | {' | '.join(head)} |", "|---|" + "---|" * len(head)]
    for name, seams in rows.items():
        values = [seams[order][group]["to_inside"] for order in ORDERS for group in groups]
        lines.append(f"| {name} | {' | '.join(_number(value) or '-' for value in values)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _left_out(skipped: dict[str, str]) -> str:
    """How many clips could not be read, and why the first few."""
    reasons = list(skipped.values())
    more = f"\n- and {len(reasons) - REASONS} more" if len(reasons) > REASONS else ""
    named = "\n".join(f"- {reason}" for reason in reasons[:REASONS])
    return f"Clips left out because they cannot be read: {len(reasons)}.\n\n{named}{more}"


def _vertices(paper: dict[str, Any]) -> str:
    """What stands in for vertices, or that nothing does."""
    if paper["rig"] == "arkit":
        return "Blendshapes stand in for vertices: comparable among models of this rig only."
    if not paper["unit"]:
        return "LVE, MHD and FDD are of vertices: not measured without a FLAME model file (`--flame`)."
    if paper["regions"] == "geometry":
        return "Lips and upper face were cut out by geometry: not comparable with published figures (`--flame-masks`)."
    return ""


def report(evaluation: dict[str, Any]) -> str:
    """The paper's table for every look-ahead, then every quality line, then what it was measured on."""
    options = evaluation["options"]
    look_ahead = f", look-ahead {options['look_ahead_other']} on the other track"
    parts = [
        f"# Evaluation of `{Path(evaluation['bundle']['path']).name}`\n",
        f"{evaluation['minutes']:.1f} minutes, {len(evaluation['ids'])} sides of split `{evaluation['split']}`, "
        f"{evaluation['backend']} engine, temperature {options['temperature']:g}"
        f"{look_ahead if evaluation['family'] == 'stream' else ''}.\n",
        *([_left_out(evaluation["skipped"]) + "\n"] if evaluation["skipped"] else []),
        "## The paper's table\n",
        paper_table({row_name(evaluation, result): result["paper"] for result in evaluation["results"]}) + "\n",
        *([note + "\n"] if (note := _vertices(evaluation["results"][0]["paper"])) else []),
    ]
    if evaluation["family"] != "stream":
        parts += ["## Seams\n", "Mean at the seams between blocks of frames over the mean between them.\n"]
        parts.append(seam_table({row_name(evaluation, result): result["seams"] for result in evaluation["results"]}))
        parts[-1] += "\n"
    for result in evaluation["results"]:
        title = "Quality"
        if evaluation["family"] == "stream":
            title = f"Look-ahead {result['look_ahead_self']} on the own track"
        elif result["hop_frames"]:
            title = row_name(evaluation, result).removeprefix("published, ").capitalize()
        parts += [f"## {title}\n", result["table"] + "\n"]
        parts += [note + "\n"] if (note := without_ruler(result["rig"])) else []
    if evaluation["long_run"]:
        parts.append("## One session going on\n")
        keys = list(evaluation["long_run"][0])
        parts.append("| " + " | ".join(key.replace("_", " ") for key in keys) + " |\n|" + "---|" * len(keys))
        parts += ["| " + " | ".join(_number(block[key]) for key in keys) + " |" for block in evaluation["long_run"]]
    return "\n".join(parts).rstrip() + "\n"
