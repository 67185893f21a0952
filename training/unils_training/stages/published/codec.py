"""Stage 0: the codec of windows, trained to give back motion through bits on several time scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unils_training.config import Config
from unils_training.data.clips import ClipSampler
from unils_training.data.features import load_motion
from unils_training.flame import vertex_errors
from unils_training.models.published.codec import Codec
from unils_training.rigs import group_channels
from unils_training.stages import distributed
from unils_training.stages.plots import traces
from unils_training.stages.published.losses import bsq_losses, derivative_error
from unils_training.stages.published.windows import check_clip_frames, check_rig
from unils_training.stages.trainer import Draw, train_stage
from unils_training.stages.vertices import load_flame_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "codec"


class CodecStage:
    """See `trainer.Stage`."""

    name = NAME

    def __init__(self, config: Config) -> None:
        self.config = config.codec
        training, self.frames = config.codec.training, config.published.window_frames
        check_clip_frames(config, NAME, training)
        device = distributed.device(config.device)
        corpus = config.corpus
        with distributed.main_first():
            place = (corpus.path, corpus.train_split, corpus.cache)
            train = load_motion(*place, motion_only=corpus.motion_only, **corpus.loading)
            place = (corpus.path, corpus.val_split, corpus.cache)
            val = load_motion(*place, motion_only=False, **corpus.loading)
        check_rig(config, train.channels)
        self.fingerprint, self.channels = train.fingerprint, train.channels
        self.sampler = ClipSampler(train, self.frames)
        torch.manual_seed(config.seed)
        self.module = Codec(len(self.channels), self.frames, config.published.codec)
        self.module.motion_mean.copy_(torch.from_numpy(train.motion.mean(axis=0, dtype=np.float64)))
        std = torch.from_numpy(train.motion.std(axis=0, dtype=np.float64))
        self.module.motion_std.copy_(std.clamp_min(self.config.std_floor))
        self.module.to(device)
        self.compilable = (self.module.encoder, self.module.decoder)
        self.pose = [i for i, name in enumerate(self.channels) if name.startswith(self.config.pose_channels)]
        self.flame = load_flame_model(config, self.channels, device)
        val_sampler = ClipSampler(val, self.frames)
        _, begins = val_sampler.draw(np.random.default_rng(config.seed), training.validation_clips)
        self.val_motion = val_sampler.gather(val.motion, begins, self.frames).to(device)

    def loss(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        codec, weights = self.module, self.config
        _, begins = self.sampler.draw(draw.rng, draw.clips)
        motion = self.sampler.gather(self.sampler.cache.motion, draw.mine(begins), self.frames).to(draw.device)
        target = codec.normalise(motion)
        z = codec.encoder(target).float()
        with torch.autocast(draw.device.type, enabled=False):
            latent, units = self._quantise(z)
            entropy, commitment = bsq_losses(units)
        prediction = codec.decoder(latent).float()
        error = prediction - target
        parts = {
            "l1": weights.l1 * error.abs().mean(),
            "velocity": weights.velocity * derivative_error(prediction, target, 1).square().mean(),
            "jerk": weights.jerk * derivative_error(prediction, target, 3).abs().mean(),
            "entropy": weights.entropy * entropy,
            "commitment": weights.commitment * commitment,
        }
        if self.pose:
            parts["pose"] = weights.pose * error[..., self.pose].abs().mean()
        if self.flame is not None:
            vertices, lips = vertex_errors(self.flame, prediction * codec.motion_std + codec.motion_mean, motion)
            parts |= {"vertices": weights.vertices * vertices, "lips": weights.lips * lips}
        return torch.stack(list(parts.values())).sum(), parts

    def _quantise(self, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The latent, and the points of the sphere that were rounded, (B, n, d) for each scale.

        The latent's gradient goes straight through the rounding of every scale, to the point that was rounded. Past the
        sphere, straight to z, it would let z grow without an end: nothing that is decoded tells how long z is.
        """
        codec, residual, latent, units = self.module, z, torch.zeros_like(z), []
        for level in range(len(codec.scales)):
            unit = codec.unit(residual, level)
            code = codec.code(unit.detach() > 0)
            residual = residual - codec.up(code, level)
            latent = latent + codec.up(unit + (code - unit).detach(), level)
            units.append(unit)
        return latent, units

    def validate(self) -> dict[str, float]:
        codec, motion = self.module, self.val_motion
        bits, latent = codec.quantise(codec.encode(motion))
        decoded = codec.decode(latent)
        error = (decoded - motion) / codec.motion_std
        figures = {"loss": float(error.abs().mean())}
        if self.pose:
            figures["loss"] += self.config.pose * float(error[..., self.pose].abs().mean())
        for group, indices in group_channels(self.channels).items():
            figures[f"mae_{group}"] = float((decoded - motion)[..., indices].abs().mean())
            residual = (decoded - motion)[..., indices].square().sum(dim=(0, 1))
            total = (motion - motion.mean(dim=(0, 1)))[..., indices].square().sum(dim=(0, 1))
            figures[f"r2_{group}"] = float((1.0 - residual / total.clamp_min(1e-9)).clamp_min(-1.0).mean())
        if self.flame is not None:
            vertices, lips = vertex_errors(self.flame, decoded, motion)
            figures |= {"vertices_mm": 10.0 * float(vertices), "lips_mm": 10.0 * float(lips)}
        for level, span in enumerate(codec.spans):
            rate = bits[:, span].float().mean(dim=(0, 1))
            figures[f"used_bits_{level}"] = float(((rate > 0.02) & (rate < 0.98)).float().mean())
        return figures

    def figures(self) -> dict[str, Figure]:
        codec, motion = self.module, self.val_motion[:1]
        decoded = codec.decode(codec.quantise(codec.encode(motion))[1])
        return {"decoded": traces(self.channels, motion[0], decoded[0])}

    def result(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.module.state_dict().items()}


def train(config: Config, resume: bool | str = False) -> None:
    """Trains the codec and leaves it in the run's folder."""
    stage = CodecStage(config)
    facts = {"corpus": stage.fingerprint, "channels": list(stage.channels)}
    train_stage(stage, config, config.codec.training, resume, facts)
