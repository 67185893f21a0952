"""Runs the ablation: every stage once, what is finished is kept, and what was killed goes on where it was."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

from unils_training import evaluate as evaluation
from unils_training.ablation.plan import FULL, StageRun, VariantRun
from unils_training.config import Config, ConfigError, differences, from_dict, to_dict
from unils_training.stages.trainer import BEST, LAST

WHERE = ("run", "codec_from", "prior_from", "device", "wandb", "corpus.path", "corpus.cache", "corpus.workers")
"""Settings that say where, not what: a run that goes on may differ in them."""

LOOK_AHEADS = (1, 0, 2, 4, 8)
"""Frames on the own track: the one that variants are judged at, then the rest of the curve."""

RECORD = "run.json"
"""Beside the checkpoints of a stage: its configuration, whether it is finished, and the core time that it took."""


def train(run: VariantRun) -> None:
    """Trains what is not finished of the stages of a variant.

    Raises:
        ConfigError: a folder holds a run of another configuration.
    """
    for stage in run.stages:
        train_stage(stage)


def finished(run: StageRun) -> bool:
    """Whether a stage is trained. Raises ConfigError where its folder holds a run of another configuration."""
    record = read_record(run.folder)
    if record is None:
        return False
    # By way of `from_dict`, so that settings which did not exist then count as their defaults.
    then = to_dict(from_dict(Config, record["config"]))
    changed = [key for key in differences(then, to_dict(run.config)) if key not in WHERE]
    if changed:
        raise ConfigError(
            f"{run.folder} holds a run with another {changed[0]}: choose another --out, or delete that folder"
        )
    return bool(record["finished"])


def train_stage(run: StageRun) -> None:
    """Trains one stage unless it is finished; goes on from its last checkpoint where it has one."""
    if finished(run):
        return
    record: dict[str, Any] = {"config": to_dict(run.config), "finished": False}
    write_record(run.folder, record)
    module = importlib.import_module(f"unils_training.stages.{run.config.family}.{run.stage}")
    resume = (run.folder / LAST).exists()
    core = time.process_time()
    module.train(run.config, resume=resume)
    if not (run.folder / BEST).exists():
        raise RuntimeError(f"{run.folder} has no {BEST} although its training is over")
    # Of a run that was killed, only the last process knows how long it computed.
    record["core_seconds"] = None if resume else time.process_time() - core
    record["finished"] = True
    write_record(run.folder, record)


def evaluate(run: VariantRun, dataset: Path, split: str, max_minutes: float | None, jobs: int = 1) -> dict[str, Any]:
    """Evaluates the checkpoint of a variant unless that was done; the full model at every look-ahead of the curve."""
    done = run.evaluation / "eval.json"
    if done.exists():
        stored: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return stored
    curve = tuple(ahead for ahead in LOOK_AHEADS if ahead <= run.config.model.look_ahead_max.self)
    if run.config.family != "stream":
        curve = (0,)  # a window has its look-ahead inside
    return evaluation.evaluate(
        evaluation.Job(
            model=run.checkpoint,
            dataset=dataset,
            out=run.evaluation,
            split=split,
            max_minutes=max_minutes,
            look_ahead=curve if run.variant == FULL else curve[:1],
            shuffle_partner=curve[:1],
            keep=1,
            jobs=jobs,
        )
    )


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
