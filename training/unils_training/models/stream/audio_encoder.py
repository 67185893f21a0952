"""The audio encoder: log-mel rows in, one feature row per frame out; the same weights for both tracks."""

from __future__ import annotations

import torch
from torch import Tensor

from unils_training.config import AudioEncoderConfig
from unils_training.models.layers import CausalStack
from unils_training.models.stream.log_mel import MELS, ROW_VALUES, STEPS_PER_FRAME


class AudioEncoder(CausalStack):
    """Causal; normalised by fixed statistics, never by the signal's own."""

    mel_mean: Tensor
    mel_std: Tensor

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__(ROW_VALUES, config.width, config.depth, config.kernel, config.expansion)
        self.register_buffer("mel_mean", torch.zeros(MELS))
        self.register_buffer("mel_std", torch.ones(MELS))

    def _normalise(self, rows: Tensor) -> Tensor:
        return (rows - self.mel_mean.repeat(STEPS_PER_FRAME)) / self.mel_std.repeat(STEPS_PER_FRAME)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, T, 256) natural-log mel energies -> (B, T, A)."""
        return self.trunk(self._normalise(rows))

    def step(self, row: Tensor, history: Tensor) -> Tensor:
        """One row (B, 256) -> (B, A); `history` from `CausalStack.history`, changed in place."""
        return self.trunk_step(self._normalise(row), history)
