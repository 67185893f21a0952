"""A small random bundle of family `published` whose bits follow what is heard, and voices to hear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from unils_training.config import (
    DefaultsConfig,
    PublishedAudioEncoderConfig,
    PublishedCodecConfig,
    PublishedConfig,
)
from unils_training.export.published import write_bundle
from unils_training.models.published.audio_encoder import AudioEncoder
from unils_training.models.published.model import PublishedModel
from unils_training.rigs import RIGS

WINDOW_FRAMES, SCALES = 50, (1, 5, 25, 50)
SIZES = PublishedConfig(
    rig="arkit",
    window_frames=WINDOW_FRAMES,
    width=32,
    heads=2,
    depth=2,
    codec=PublishedCodecConfig(width=24, heads=2, depth=1, bits=8, scales=SCALES),
    audio_encoder=PublishedAudioEncoderConfig(
        width=24, depth=1, heads=3, feed_forward=40, conv_width=8, position_groups=2
    ),
)


def published_bundle(folder: Path) -> Path:
    torch.manual_seed(0)
    model = PublishedModel(SIZES, RIGS[SIZES.rig], AudioEncoder.from_config(SIZES.audio_encoder)).eval()
    with torch.no_grad():
        model.codec.motion_std.uniform_(0.05, 0.2)
        for name, parameter in model.generator.named_parameters():
            if parameter.dim() == 2 and "norm" not in name:
                parameter.normal_(0.0, 1.5 * parameter.shape[1] ** -0.5)
    write_bundle(folder, model, DefaultsConfig(top_p=0.97), {"made_by": "tests"}, "Apache-2.0")
    return folder


def voices(seconds: float, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Two tracks of noise at 16 kHz."""
    rng = np.random.default_rng(seed)
    own, other = (rng.standard_normal((2, int(seconds * 16000))) * 0.1).astype(np.float32)
    return own, other
