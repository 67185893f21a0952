"""Training in several processes: `torchrun` over this file runs `unils-train` commands one after another.

python -m torch.distributed.run --standalone --nproc-per-node 2 processes.py '[["codec", "--config", "tiny"]]'
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor


def train(processes: int, commands: list[list[str]]) -> None:
    """Runs `unils-train` commands in `processes` gloo processes on the CPU; fails with what they printed."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launch, json.dumps(commands)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def largest_difference(checkpoint: Path, other: Path) -> float:
    """The largest difference of trained and averaged weights between two `last.pt`."""
    a, b = (torch.load(path, weights_only=True) for path in (checkpoint, other))
    assert a["progress"]["step"] == b["progress"]["step"]
    assert set(a["module"]) == set(b["module"])
    pairs: list[tuple[Tensor, Tensor]] = [(value, b["module"][name]) for name, value in a["module"].items()]
    pairs += list(zip(a["average"], b["average"], strict=True))
    return max(float((x - y).abs().max()) for x, y in pairs)


if __name__ == "__main__":
    from unils_training.cli import main

    for arguments in json.loads(sys.argv[1]):
        if status := main(arguments):
            sys.exit(status)
