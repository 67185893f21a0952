"""How bits are drawn from their log-odds; the same rule in every engine."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class BitSampling(Protocol):
    """Temperature 0 is greedy; top_p 1 keeps both choices."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...


def sample_bits(logits: Tensor, sampling: BitSampling, u: npt.NDArray[np.float32]) -> Tensor:
    """Draws bits (...) bool from log-odds (...) and uniform numbers (...)."""
    if sampling.temperature == 0.0:
        return logits > 0
    p = 1.0 / (1.0 + torch.exp(-logits / sampling.temperature))
    bits = torch.from_numpy(u).to(p.device) < p
    return (p >= sampling.top_p) | (bits & ((1.0 - p) < sampling.top_p))
