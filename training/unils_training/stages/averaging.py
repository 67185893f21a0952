"""`unils-train average`: one checkpoint from several of the same run, their weights averaged (Izmailov et al., 2018).

Early weights of a run wander less when they run free, late ones hear better; between them lies a straight road.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unils_training.stages.trainer import load_result


def average(paths: Sequence[str | Path], shares: Sequence[float], output: str | Path) -> None:
    """Writes a checkpoint whose `result` is the mean of those of `paths`, by `shares`; the rest is the last one's.

    Its facts name the steps and shares, and so does the provenance of a bundle made of it.

    Raises:
        FileNotFoundError, CheckpointError: a file is missing, or none that a stage left as its best.
        ValueError: shares do not fit the files, or the files are of models of other names or shapes.
    """
    if len(shares) != len(paths) or len(paths) < 2 or min(shares) <= 0.0:
        raise ValueError(f"averaging needs two checkpoints or more and a positive share for each, not {list(shares)}")
    stored = [load_result(path) for path in paths]
    for path, checkpoint in zip(paths, stored, strict=True):
        shapes = {name: value.shape for name, value in checkpoint["result"].items()}
        if shapes != {name: value.shape for name, value in stored[-1]["result"].items()}:
            raise ValueError(f"{path} and {paths[-1]} are of models of different sizes")
    total = float(sum(shares))
    result: dict[str, Tensor] = {}
    for name, last in stored[-1]["result"].items():
        parts = [
            checkpoint["result"][name].double() * (s / total) for checkpoint, s in zip(stored, shares, strict=True)
        ]
        result[name] = torch.stack(parts).sum(dim=0).to(last.dtype) if last.is_floating_point() else last
    steps = [{"step": c["step"], "share": s / total} for c, s in zip(stored, shares, strict=True)]
    facts: dict[str, Any] = {**stored[-1]["facts"], "averaged": steps}
    torch.save({**stored[-1], "facts": facts, "result": result}, output)
