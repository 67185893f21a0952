"""The training loop of every stage: devices, processes, schedule, precision, EMA, checkpoints, exact resume, logs.

Every random number of step n is drawn from (seed, n), so that a checkpoint needs no generator state and a run that was
killed and resumed gives the weights of one that was not. How a batch is divided among processes, see `distributed`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, set_seed
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from unils_training.config import Config, ConfigError, TrainingConfig, differences, to_dict
from unils_training.stages import distributed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAST, BEST = "last.pt", "best.pt"

Batch = TypeVar("Batch", Tensor, npt.NDArray[Any])


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and says what to do."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """What is random in one step, the same in every process, and which part of it is this process's.

    `clips` is the batch of the step over all processes. Draw for all of it, then take `mine`.
    """

    step: int
    progress: float
    """How much of the run is over, 0..1."""
    rng: np.random.Generator
    clips: int
    device: torch.device
    generator: torch.Generator
    index: int = 0
    count: int = 1

    def mine(self, x: Batch) -> Batch:
        """This process's clips of an array or tensor (clips, ...) of the whole batch; its device stays."""
        if len(x) != self.clips:
            raise ValueError(f"the first axis must be the {self.clips} clips of the whole batch, not {len(x)}")
        size = self.clips // self.count
        return x[self.index * size : (self.index + 1) * size]

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) for the whole batch, (clips, ...): this process's part, on its device."""
        return self._part(torch.rand(*shape, generator=self.generator))

    def randn(self, *shape: int) -> Tensor:
        """Normal numbers, otherwise like `rand`."""
        return self._part(torch.randn(*shape, generator=self.generator))

    def _part(self, x: Tensor) -> Tensor:
        return self.mine(x).to(self.device, non_blocking=True)


class Stage(Protocol):
    """What the loop needs of a stage.

    Optional members: `figures() -> dict[str, matplotlib Figure]`, motion plots for TensorBoard, called after `validate`
    in the main process; `compilable: Sequence[nn.Module]`, whose `forward` `training.compile` compiles (default: the
    module); `unused_parameters: bool`, whether some steps leave some trained parameters out of the loss (default: no).
    """

    name: str
    """Folder of the stage inside the run's folder."""

    @property
    def module(self) -> nn.Module:
        """Holds the parameters; those that require a gradient are trained. The loop moves it to the device."""

    def loss(self, draw: Draw, /) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one step, a mean over this process's clips, and figures to log."""

    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights; "loss" decides which checkpoint is the best. Runs in every process."""

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

    def seconds_left(self, training: TrainingConfig, steps_per_second: float) -> float:
        by_steps = (training.steps - self.step) / steps_per_second if training.steps else math.inf
        by_time = 60.0 * training.minutes - self.seconds if training.minutes else math.inf
        return max(0.0, min(by_steps, by_time))


class _Loss(nn.Module):
    """The forward pass that DistributedDataParallel wraps: parameters in `module`, the loss from the stage."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.module = stage.module
        self._stage = stage

    def forward(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        return self._stage.loss(draw)


def stage_folder(config: Config, name: str) -> Path:
    """Where stage `name` of this run writes."""
    return Path(config.run) / name


def source_folder(config: Config, name: str) -> Path:
    """Where a later stage reads what `codec` or `prior` left: in this run, or in `codec_from` or `prior_from`."""
    run = {"codec": config.codec_from, "prior": config.prior_from}.get(name, "")
    return Path(run or config.run) / name


def load_result(path: str | Path) -> dict[str, Any]:
    """A stage's best checkpoint: `result`, `step`, `seconds`, `figures`, `config`, `facts`; tensors on the CPU.

    Raises:
        FileNotFoundError: with the command that makes it.
        CheckpointError: it is damaged, or a checkpoint to resume from.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `unils-train {path.parent.name}` first")
    stored = read_checkpoint(path)
    if "result" not in stored:
        raise CheckpointError(f"{path} is for resuming and holds no result: give the {BEST} beside it")
    return stored


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises CheckpointError when the file is cut short, altered or no checkpoint at all."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load would take altered weights as they are
        if damaged is None:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(stored, dict):
                return stored
        reason = f"{damaged} in it is altered" if damaged else "it holds no dictionary"
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
    except Exception as error:  # unpickling reports whatever the bytes make it stumble over
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    kept = ", ".join(str(other) for other in sorted(path.parent.glob("step_*.pt")) if other != path)
    others = f"resume from an earlier checkpoint with --resume FILE ({kept})" if kept else "delete it"
    raise CheckpointError(f"{path} is damaged ({reason}): {others}, or train the stage again without --resume")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names and values, whatever device they are on."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def learning_rate(training: TrainingConfig, step: int, share: float) -> float:
    """Linear warm-up from `warmup_rate`, and a fall to `final_rate` over the whole run, both shares of the rate."""
    warmed = min(1.0, (step + 1) / max(1, training.warmup_steps))
    warmup = training.warmup_rate + (1.0 - training.warmup_rate) * warmed
    left = {"cosine": 0.5 * (1.0 + math.cos(math.pi * share)), "linear": 1.0 - share, "constant": 1.0}
    fallen = training.final_rate + (1.0 - training.final_rate) * left[training.schedule]
    return training.learning_rate * warmup * fallen


def train_stage(
    stage: Stage, config: Config, training: TrainingConfig, resume: bool | str | Path, facts: dict[str, Any]
) -> None:
    """Trains until the steps or minutes are over; leaves `last.pt`, `best.pt` and TensorBoard logs in its folder.

    Args:
        resume: go on from `last.pt`, or from the checkpoint named.
        facts: what provenance should remember, JSON-able.

    Raises:
        ConfigError, FileNotFoundError, CheckpointError: before anything is written.
        FloatingPointError: a gradient is not finite.
    """
    _Loop(stage, config, training, facts).run(resume)


class _Loop:
    def __init__(self, stage: Stage, config: Config, training: TrainingConfig, facts: dict[str, Any]) -> None:
        self.stage, self.config, self.training = stage, config, training
        self.device = distributed.device(config.device)
        torch.set_num_threads(training.threads)
        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu",
            mixed_precision="no",  # `training.precision` decides, not the machine's Accelerate settings
            kwargs_handlers=[
                DistributedDataParallelKwargs(
                    find_unused_parameters=getattr(stage, "unused_parameters", False), broadcast_buffers=False
                )
            ],
        )
        supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if self.accelerator.distributed_type not in supported:
            raise ConfigError(
                f"this machine's Accelerate settings ask for {self.accelerator.distributed_type.value}; "
                "training runs on CPUs or GPUs by data parallelism: start it with torchrun, or change the settings"
            )
        self.passes = training.gradient_accumulation
        parts = self.passes * distributed.world_size()
        if training.batch_clips % parts:
            raise ConfigError(
                f"{stage.name}.training.batch_clips must be a multiple of {distributed.world_size()} processes times "
                f"{self.passes} passes of gradient_accumulation, not {training.batch_clips}"
            )
        self.folder = stage_folder(config, stage.name)
        self.header = {"config": to_dict(config), "facts": facts}
        self.progress = _Progress()
        stage.module.to(self.device)
        self.parameters = [p for p in stage.module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            lr=training.learning_rate,
            betas=(0.9, training.beta2),
            weight_decay=training.weight_decay,
            fused=True,
        )
        self.average = [p.detach().clone() for p in self.parameters]

    def run(self, resume: bool | str | Path) -> None:
        if resume:
            self._restore(self.folder / LAST if resume is True else Path(resume))
        elif distributed.is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
        distributed.barrier()
        self.stage.module.train()
        with contextlib.ExitStack() as stack:
            if self.training.compile:
                for module in getattr(self.stage, "compilable", (self.stage.module,)):
                    module.compile()
            if self.training.deterministic and self.device.type == "cuda":
                stack.enter_context(_deterministic())
            self.model = self.accelerator.prepare(_Loss(self.stage))
            self.log = stack.enter_context(_Log(self.stage.name, self.folder, self.config, self.progress.step))
            self._steps(stack)

    def _steps(self, stack: contextlib.ExitStack) -> None:
        training, progress = self.training, self.progress
        bar = stack.enter_context(
            tqdm(
                total=training.steps or None,
                initial=progress.step,
                desc=self.stage.name,
                mininterval=2.0,
                disable=not distributed.is_main(),
            )
        )
        clock = logged = time.perf_counter()
        logged_step = progress.step
        while progress.share(training) < 1.0:
            rate = learning_rate(training, progress.step, progress.share(training))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            loss, figures = self._gradients()
            norm = nn.utils.clip_grad_norm_(self.parameters, training.clip_norm)
            if not bool(torch.isfinite(norm)):
                raise FloatingPointError(f"{self.stage.name}: the gradient is not finite at step {progress.step}")
            self.optimiser.step()
            decay = min(training.ema_decay, (1.0 + progress.step) / (10.0 + progress.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1.0 - decay)
            progress.step += 1
            bar.update()
            if progress.step % training.log_steps == 0:
                values = {name: float(value.detach()) for name, value in figures.items()}
                values |= {"loss": float(loss.detach()), "gradient_norm": float(norm), "rate": rate}
                now = time.perf_counter()
                steps_per_second = (progress.step - logged_step) / (now - logged)
                logged, logged_step = now, progress.step
                values["frames_per_second"] = steps_per_second * training.batch_clips * training.clip_frames
                self.log.scalars({f"training/{name}": value for name, value in values.items()}, progress.step)
                left = tqdm.format_interval(progress.seconds_left(training, steps_per_second))
                speed = f"{values['frames_per_second']:.0f}"
                bar.set_postfix(loss=f"{values['loss']:.4f}", frames_per_s=speed, left=left, refresh=False)
            now = time.perf_counter()
            progress.seconds, clock = progress.seconds + now - clock, now
            if training.minutes:
                progress.seconds = distributed.from_main(progress.seconds)
            finished = progress.share(training) >= 1.0
            if finished or progress.step % training.validation_steps == 0:
                self._validate()
            if finished or progress.step % training.checkpoint_steps == 0:
                self._save_last()

    def _gradients(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Leaves the gradients of one step's whole batch; returns this process's loss and figures."""
        training, step, seed = self.training, self.progress.step, self.config.seed
        count = self.passes * distributed.world_size()
        autocast = torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=training.precision == "bfloat16", cache_enabled=True
        )
        self.optimiser.zero_grad()
        total, totals = torch.zeros((), device=self.device), dict[str, Tensor]()
        for number in range(self.passes):
            index = distributed.rank() * self.passes + number
            # Every pass draws the whole batch anew and takes another part of it.
            words = np.random.SeedSequence([seed, step]).generate_state(2)
            set_seed(int(words[0]))
            draw = Draw(
                step=step,
                progress=self.progress.share(training),
                rng=np.random.default_rng([seed, step]),
                clips=training.batch_clips,
                device=self.device,
                generator=torch.Generator().manual_seed(int(words[1])),
                index=index,
                count=count,
            )
            last = number + 1 == self.passes
            with (
                contextlib.nullcontext() if last else self.accelerator.no_sync(self.model),
                distributed.taking_part(index, count),
            ):
                with autocast:
                    loss, figures = self.model(draw)
                self.accelerator.backward(loss / self.passes)
            total += loss.detach() / self.passes
            for name, value in figures.items():
                totals[name] = totals.get(name, 0.0) + value.detach() / self.passes
        return total, totals

    def _validate(self) -> None:
        stage, progress = self.stage, self.progress
        with _averaged(self.parameters, self.average):
            stage.module.eval()
            with torch.no_grad():
                figures = distributed.from_main(stage.validate())
                plots = stage.figures() if distributed.is_main() and hasattr(stage, "figures") else {}
            self.log.scalars({f"validation/{name}": value for name, value in figures.items()}, progress.step)
            self.log.figures({f"validation/{name}": plot for name, plot in plots.items()}, progress.step)
            listed = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            self.log.say(f"{stage.name} step {progress.step} ({progress.seconds / 60:.1f} min): {listed}")
            if figures["loss"] < progress.best:
                progress.best = figures["loss"]
                if distributed.is_main():
                    facts = {"step": progress.step, "seconds": progress.seconds, "figures": figures}
                    _save(self.folder / BEST, self.header | facts | {"result": _on_cpu(stage.result())})
        stage.module.train()

    def _save_last(self) -> None:
        if distributed.is_main():
            state = {
                "module": self.stage.module.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "average": self.average,
                "progress": dataclasses.asdict(self.progress),
            }
            _save(self.folder / LAST, self.header | state)
            step, every = self.progress.step, self.training.keep_steps
            if every and step % every == 0:
                part = self.folder / "step.part"
                shutil.copyfile(self.folder / LAST, part)
                part.replace(self.folder / f"step_{step}.pt")

    def _restore(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing, so there is nothing to resume: start without --resume")
        stored = read_checkpoint(path)
        try:
            changed = differences(stored["config"], self.header["config"])
            try:
                self.stage.module.load_state_dict(stored["module"])
                self.optimiser.load_state_dict(stored["optimiser"])
                for tensor, value in zip(self.average, stored["average"], strict=True):
                    tensor.copy_(value)
            except (RuntimeError, ValueError) as error:
                sizes = {key: values for key, values in changed.items() if not key.startswith(("run", "corpus"))}
                listed = "; ".join(f"{key} was {a}, is {b}" for key, (a, b) in sizes.items())
                raise CheckpointError(
                    f"{path} does not fit this configuration ({listed or str(error).splitlines()[0]}): "
                    "resume with the configuration it was made with"
                ) from error
            self.progress = _Progress(**stored["progress"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a checkpoint to resume from: it lacks {error}") from error
        if changed and distributed.is_main():
            listed = "; ".join(f"{key} was {a}, is {b}" for key, (a, b) in changed.items())
            tqdm.write(f"{self.stage.name}: resumed at step {self.progress.step} with other settings: {listed}")


class _Log:
    """TensorBoard and, where asked for, Weights & Biases; silent in all but the main process."""

    def __init__(self, stage: str, folder: Path, config: Config, step: int) -> None:
        self.stage, self.folder, self.config, self.step = stage, folder, config, step
        self.writer: SummaryWriter | None = None
        self.wandb: Any = None

    def __enter__(self) -> _Log:
        if distributed.is_main():
            wandb = _import_wandb() if self.config.wandb else None
            # Steps after the checkpoint that is resumed are gone through, and logged, again.
            self.writer = SummaryWriter(str(self.folder / "logs"), purge_step=self.step + 1 if self.step else None)
            if wandb is not None:
                self.wandb = wandb.init(
                    project=self.config.wandb,
                    name=f"{Path(self.config.run).name}/{self.stage}",
                    dir=str(self.folder),
                    config=to_dict(self.config),
                )
        return self

    def __exit__(self, *_error: object) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.wandb is not None:
            self.wandb.finish()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(dict(values), step=step)

    def figures(self, plots: Mapping[str, Figure], step: int) -> None:
        if self.wandb is not None and plots:
            wandb = _import_wandb()
            self.wandb.log({name: wandb.Image(plot) for name, plot in plots.items()}, step=step)
        if self.writer is not None:
            for name, plot in plots.items():
                self.writer.add_figure(name, plot, step)

    def say(self, text: str) -> None:
        if self.writer is not None:
            tqdm.write(text)


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            'wandb names a project, but Weights & Biases is missing: pip install wandb, or wandb=""'
        ) from error
    return wandb


def _save(path: Path, values: dict[str, Any]) -> None:
    """A kill in the midst of writing must leave the file of before."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        torch.save(values, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in tensors.items()}


@contextmanager
def _deterministic() -> Iterator[None]:
    """Sums in the same order every time, where CUDA has such a kernel; without, PyTorch warns and goes on."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def _averaged(parameters: Sequence[nn.Parameter], average: Sequence[Tensor]) -> Iterator[None]:
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
