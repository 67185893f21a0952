"""The user's FLAME file as a stage of either family needs it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unils_training.config import Config, ConfigError
from unils_training.flame import FlameModel
from unils_training.rigs import FLAME_CHANNELS


def load_flame_model(config: Config, channels: Sequence[str], device: torch.device) -> FlameModel | None:
    """The model that `flame.model` names, on `device`; None where it names none.

    Raises:
        ConfigError: the channels are not those of rig `flame`.
        FlameFileError: the file is no FLAME model.
    """
    if not config.flame.model:
        return None
    if tuple(channels) != FLAME_CHANNELS:
        raise ConfigError("flame.model gives vertices to rig flame, but the corpus is of another rig")
    return FlameModel.load(config.flame.model, config.flame.masks).to(device)
