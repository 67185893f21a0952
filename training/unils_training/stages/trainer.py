"""The training loop of every stage: schedule, precision, EMA, checkpoints, exact resume, logs.

Every random number of step n is drawn from (seed, n), so that a checkpoint needs no generator state and a run that was
killed and resumed gives the weights of one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from unils_training.config import Config, TrainingConfig, to_dict

LAST, BEST = "last.pt", "best.pt"


class Stage(Protocol):
    """What the loop needs of a stage."""

    name: str
    """Folder of the stage inside the run's folder."""

    @property
    def module(self) -> nn.Module:
        """Holds the parameters; those that require a gradient are trained."""

    def loss(self, rng: np.random.Generator, step: int, progress: float, /) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one step and figures to log."""

    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights; "loss" decides which checkpoint is the best."""

    def result(self) -> dict[str, Tensor]:
        """What the next stage, or a bundle, takes over."""


@dataclasses.dataclass
class _Progress:
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf

    def share(self, training: TrainingConfig) -> float:
        """How much of the steps or of the time is over, 0..1."""
        by_steps = self.step / training.steps if training.steps else 0.0
        by_time = self.seconds / (60.0 * training.minutes) if training.minutes else 0.0
        return min(1.0, max(by_steps, by_time))


def stage_folder(config: Config, name: str) -> Path:
    return Path(config.run) / name


def load_result(path: str | Path) -> dict[str, Any]:
    """A stage's best checkpoint: `result`, `step`, `seconds`, `figures`, `config`, `facts`.

    Raises:
        FileNotFoundError: with the command that makes it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `unils-train {path.parent.name.split('_')[0]}` first")
    stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return stored


def learning_rate(training: TrainingConfig, step: int, share: float) -> float:
    """Linear warm-up over `warmup_steps`, then a cosine from 1 to `final_rate` of the rate over the whole run."""
    cosine = training.final_rate + (1.0 - training.final_rate) * 0.5 * (1.0 + math.cos(math.pi * share))
    return training.learning_rate * min(1.0, (step + 1) / max(1, training.warmup_steps)) * cosine


def train_stage(stage: Stage, config: Config, training: TrainingConfig, resume: bool, facts: dict[str, Any]) -> None:
    """Trains until the steps or minutes are over; leaves `last.pt`, `best.pt` and TensorBoard logs in its folder.

    facts: what provenance should remember, JSON-able.
    """
    torch.set_num_threads(training.threads)
    folder = stage_folder(config, stage.name)
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in stage.module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters,
        lr=training.learning_rate,
        betas=(0.9, training.beta2),
        weight_decay=training.weight_decay,
        fused=True,
    )
    average = [p.detach().clone() for p in parameters]
    progress = _Progress()
    if resume:
        progress = _restore(load_result(folder / LAST), stage, optimiser, average)
    header = {"config": to_dict(config), "facts": facts}

    def save_last() -> None:
        state = {"module": stage.module.state_dict(), "optimiser": optimiser.state_dict(), "average": average}
        _save(folder / LAST, header | state | {"progress": dataclasses.asdict(progress)})

    def validate(writer: SummaryWriter) -> None:
        with _averaged(parameters, average):
            stage.module.eval()
            with torch.no_grad():
                figures = stage.validate()
            for name, value in figures.items():
                writer.add_scalar(f"validation/{name}", value, progress.step)
            listed = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            tqdm.write(f"{stage.name} step {progress.step} ({progress.seconds / 60:.1f} min): {listed}")
            if figures["loss"] < progress.best:
                progress.best = figures["loss"]
                facts_now = {"step": progress.step, "seconds": progress.seconds, "figures": figures}
                _save(folder / BEST, header | facts_now | {"result": stage.result()})
        stage.module.train()

    stage.module.train()
    with (
        SummaryWriter(str(folder / "logs")) as writer,
        tqdm(total=training.steps or None, initial=progress.step, desc=stage.name, mininterval=2.0) as bar,
    ):
        clock = time.perf_counter()
        while progress.share(training) < 1.0:
            started = time.perf_counter()
            rate = learning_rate(training, progress.step, progress.share(training))
            for group in optimiser.param_groups:
                group["lr"] = rate
            torch.manual_seed(config.seed * 1_000_003 + progress.step)
            rng = np.random.default_rng([config.seed, progress.step])
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.precision == "bfloat16"):
                loss, figures = stage.loss(rng, progress.step, progress.share(training))
            optimiser.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, training.clip_norm)
            if not bool(torch.isfinite(norm)):
                raise FloatingPointError(f"{stage.name}: the gradient is not finite at step {progress.step}")
            optimiser.step()
            decay = min(training.ema_decay, (1.0 + progress.step) / (10.0 + progress.step))
            with torch.no_grad():
                torch._foreach_lerp_(average, [p.detach() for p in parameters], 1.0 - decay)
            progress.step += 1
            bar.update()
            if progress.step % training.log_steps == 0:
                speed = training.batch_clips * training.clip_frames / (time.perf_counter() - started)
                values = {name: float(value.detach()) for name, value in figures.items()}
                values |= {
                    "loss": float(loss.detach()),
                    "gradient_norm": float(norm),
                    "rate": rate,
                    "frames_per_second": speed,
                }
                for name, value in values.items():
                    writer.add_scalar(f"training/{name}", value, progress.step)
                bar.set_postfix(loss=f"{values['loss']:.4f}", fps=f"{speed:.0f}", refresh=False)
            now = time.perf_counter()
            progress.seconds, clock = progress.seconds + now - clock, now
            finished = progress.share(training) >= 1.0
            if finished or progress.step % training.validation_steps == 0:
                validate(writer)
            if finished or progress.step % training.checkpoint_steps == 0:
                save_last()


def _restore(
    stored: dict[str, Any], stage: Stage, optimiser: torch.optim.Optimizer, average: list[Tensor]
) -> _Progress:
    stage.module.load_state_dict(stored["module"])
    optimiser.load_state_dict(stored["optimiser"])
    for tensor, value in zip(average, stored["average"], strict=True):
        tensor.copy_(value)
    return _Progress(**stored["progress"])


def _save(path: Path, values: dict[str, Any]) -> None:
    """A kill in the midst of writing must leave the file of before."""
    temporary = path.with_name(path.name + ".part")
    torch.save(values, temporary)
    temporary.replace(path)


@contextmanager
def _averaged(parameters: list[nn.Parameter], average: list[Tensor]) -> Iterator[None]:
    """Puts the averaged weights in place of the trained ones for a while."""
    trained = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter, value in zip(parameters, average, strict=True):
            parameter.copy_(value)
        try:
            yield
        finally:
            for parameter, value in zip(parameters, trained, strict=True):
                parameter.copy_(value)
