"""Runs the ablation: every stage once, what is finished is kept, and what was killed goes on where it was."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

from unils_training.ablation.plan import StageRun, VariantRun
from unils_training.config import ConfigError, differences, to_dict
from unils_training.stages.trainer import BEST, LAST

WHERE = ("run", "codec_from", "prior_from", "device", "wandb", "corpus.path", "corpus.cache", "corpus.workers")
"""Settings that say where, not what: a run that goes on may differ in them."""

RECORD = "run.json"
"""Beside the checkpoints of a stage: its configuration, whether it is finished, and the time that it took."""


def train(run: VariantRun) -> None:
    """Trains what is not finished of the stages of a variant.

    Raises:
        ConfigError: a folder holds a run of another configuration.
    """
    for stage in run.stages:
        train_stage(stage)


def train_stage(run: StageRun) -> None:
    """Trains one stage unless it is finished; goes on from its last checkpoint where it has one."""
    record = read_record(run.folder)
    wanted = to_dict(run.config)
    if record is not None:
        changed = [key for key in differences(record["config"], wanted) if key not in WHERE]
        if changed:
            raise ConfigError(
                f"{run.folder} holds a run with another {changed[0]}: choose another --out, or delete that folder"
            )
        if record["finished"]:
            return
    record = record or {"config": wanted, "finished": False, "wall_seconds": 0.0, "core_seconds": 0.0}
    write_record(run.folder, record)
    module = importlib.import_module(f"unils_training.stages.{run.config.family}.{run.stage}")
    wall, core = time.perf_counter(), time.process_time()
    module.train(run.config, resume=(run.folder / LAST).exists())
    if not (run.folder / BEST).exists():
        raise RuntimeError(f"{run.folder} has no {BEST} although its training is over")
    record["wall_seconds"] += time.perf_counter() - wall
    record["core_seconds"] += time.process_time() - core
    record["finished"] = True
    write_record(run.folder, record)


def read_record(folder: Path) -> dict[str, Any] | None:
    """What is known of a stage's run; None where it never began."""
    path = folder / RECORD
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / (RECORD + ".part")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / RECORD)
