"""What the folders of an ablation hold: figures by variant, learning curves, sizes, and the time it took."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unils_training.ablation.figures import FIGURES, Spread, spread
from unils_training.ablation.plan import FULL, StageRun, VariantRun
from unils_training.ablation.run import finished, read_record
from unils_training.stages.trainer import LAST, load_result, read_checkpoint

CURVES = ("loss", "jaw_correlation")
JUDGED_LOOK_AHEAD = 1


@dataclasses.dataclass(frozen=True)
class Arm:
    """One variant of one family over its seeds. `results` and `evaluations` are in the order of `seeds`."""

    run: VariantRun
    seeds: tuple[int, ...]
    evaluations: tuple[dict[str, Any], ...]
    curves: dict[str, list[list[tuple[int, float]]]]
    """By figure, for each seed the (step, value) of the dialogue stage's validations."""

    def results(self, look_ahead: int | None = None) -> list[dict[str, Any]]:
        """The results at the judged look-ahead or at another; of a model without look-ahead the only ones."""
        wanted = JUDGED_LOOK_AHEAD if look_ahead is None else look_ahead
        streams = self.run.config.family == "stream"
        return [
            result
            for evaluation in self.evaluations
            for result in evaluation["results"]
            if not streams or result["look_ahead_self"] == wanted
        ]

    def spreads(self, look_ahead: int | None = None) -> dict[str, Spread]:
        """Every figure over seeds."""
        results = self.results(look_ahead)
        return {figure.name: spread(figure, results) for figure in FIGURES}

    @property
    def look_aheads(self) -> list[int]:
        return sorted({result["look_ahead_self"] for result in self.evaluations[0]["results"]})


@dataclasses.dataclass(frozen=True)
class Family:
    """The arms of a family, the full model first."""

    name: str
    arms: dict[str, Arm]
    parameters: dict[str, int]
    stages: tuple[dict[str, Any], ...]
    """For each stage that was trained: stage, run, seed, steps, frames, wall and core seconds."""

    @property
    def full(self) -> Arm:
        return self.arms[FULL.name]


def collect(runs: Sequence[VariantRun]) -> list[Family]:
    """Everything that is finished; families without an evaluated full model are left out."""
    families = []
    for name in dict.fromkeys(run.config.family for run in runs):
        mine = [run for run in runs if run.config.family == name and (run.evaluation / "eval.json").exists()]
        arms = {}
        for variant in dict.fromkeys(run.variant for run in mine):
            of_seed = [run for run in mine if run.variant == variant]
            arms[variant.name] = Arm(
                of_seed[0],
                tuple(run.config.seed for run in of_seed),
                tuple(json.loads((run.evaluation / "eval.json").read_text(encoding="utf-8")) for run in of_seed),
                {figure: [_curve(run.stages[-1].folder, figure) for run in of_seed] for figure in CURVES},
            )
        if FULL.name in arms:
            stages = {stage.folder: stage for run in mine for stage in run.stages if finished(stage)}
            families.append(
                Family(name, arms, _parameters(arms[FULL.name].run), tuple(map(_stage_facts, stages.values())))
            )
    return families


def _curve(folder: Path, figure: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "logs"), size_guidance={"scalars": 0})
    events.Reload()
    tag = f"validation/{figure}"
    if tag not in events.Tags()["scalars"]:
        return []
    # A run that was killed and went on has logged some steps twice, to the same values.
    return sorted({int(event.step): float(event.value) for event in events.Scalars(tag)}.items())


def _parameters(run: VariantRun) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, value in load_result(run.checkpoint)["result"].items():
        part = name.split(".")[0]
        counts[part] = counts.get(part, 0) + value.numel()
    return counts


def _stage_facts(stage: StageRun) -> dict[str, Any]:
    record = read_record(stage.folder) or {}
    progress = read_checkpoint(stage.folder / LAST)["progress"]
    training = getattr(stage.config, stage.stage).training
    return {
        "stage": stage.stage,
        "run": Path(stage.config.run).name,
        "seed": stage.config.seed,
        "steps": progress["step"],
        "frames": progress["step"] * training.batch_clips * training.clip_frames,
        "wall_seconds": progress["seconds"],
        "core_seconds": record.get("core_seconds"),
    }
