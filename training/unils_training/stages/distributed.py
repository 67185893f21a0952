"""The processes of one training run: who this process is, and how figures come together.

A run is one process, or as many as `torchrun` or `accelerate launch` started. N processes at the same global batch give
the result of one: every process draws the random numbers of the whole batch and takes its own part of them, losses are
means over clips, and a statistic of the batch that is not goes through `mean`.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import torch
import torch.distributed
from accelerate import PartialState
from torch import Tensor

from unils_training.config import ConfigError

T = TypeVar("T")

TIMEOUT = datetime.timedelta(hours=6)
"""How long processes wait for the one that builds a cache."""

_part: contextvars.ContextVar[tuple[int, int]] = contextvars.ContextVar("part", default=(0, 1))


def device(choice: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """This process's device; joins the other processes on the first call.

    Raises:
        ConfigError: `cuda` was asked for and PyTorch finds none.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise ConfigError('device is "cuda", but PyTorch finds no CUDA device here: use device=auto or device=cpu')
    on_cpu = choice == "cpu" or not torch.cuda.is_available()
    found: torch.device = PartialState(cpu=on_cpu, timeout=TIMEOUT).device
    return torch.device("cpu") if on_cpu else found


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """0 in the main process, which alone writes checkpoints and logs."""
    return torch.distributed.get_rank() if _joined() else 0


def world_size() -> int:
    return torch.distributed.get_world_size() if _joined() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    """Waits until every process is here."""
    if _joined():
        PartialState().wait_for_everyone()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block first, then the first of every other machine, then all others.

    For caches: the first one through builds what the others find on a shared disk or on their machine's.
    """
    turn = 0 if is_main() else 1 if not _joined() or PartialState().is_local_main_process else 2
    for _ in range(turn):
        barrier()
    try:
        yield
    finally:
        for _ in range(2 - turn):
            barrier()


def from_main(value: T) -> T:
    """The main process's `value` (anything picklable) in every process."""
    if not _joined():
        return value
    box: list[Any] = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=PartialState().device)
    result: T = box[0]
    return result


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone()
        torch.distributed.all_reduce(total)
        return total / world_size()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total / world_size()


def mean(x: Tensor) -> Tensor:
    """The mean of x over all processes, elementwise, for statistics of the batch; gradients flow back to all of them.

    With `gradient_accumulation` it is the mean over one pass, not over the passes of a step.
    """
    if world_size() == 1:
        return x
    result: Tensor = _Mean.apply(x)
    return result


@contextlib.contextmanager
def taking_part(index: int, count: int) -> Iterator[None]:
    """Inside, the batch at hand is part `index` of `count` equal parts of the step's whole batch."""
    token = _part.set((index, count))
    try:
        yield
    finally:
        _part.reset(token)


def part() -> tuple[int, int]:
    """Which part of the step's batch is at hand, and of how many: (0, 1) outside of training."""
    return _part.get()
