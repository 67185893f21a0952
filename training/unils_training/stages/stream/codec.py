"""Stage 0: the motion codec, trained to give back motion through a few levels of bits a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unils_training import losses
from unils_training.config import Config
from unils_training.data.clips import ClipSampler
from unils_training.data.features import load_features, load_motion
from unils_training.flame import vertex_errors
from unils_training.models.stream.codec import Codec
from unils_training.rigs import group_channels
from unils_training.stages import distributed
from unils_training.stages.plots import traces
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
        training = config.codec.training
        device = distributed.device(config.device)
        with distributed.main_first():
            place = (config.corpus.path, config.corpus.train_split, config.corpus.cache)
            train = load_motion(*place, motion_only=config.corpus.motion_only, **config.corpus.loading)
            place = (config.corpus.path, config.corpus.val_split, config.corpus.cache)
            val = load_features(*place, **config.corpus.loading)
        self.fingerprint, self.channels = train.fingerprint, train.channels
        self.sampler = ClipSampler(train, training.clip_frames)
        torch.manual_seed(config.seed)
        self.module = Codec(len(self.channels), config.model.codec)
        self.module.motion_mean.copy_(torch.from_numpy(train.motion.mean(axis=0, dtype=np.float64)))
        std = torch.from_numpy(train.motion.std(axis=0, dtype=np.float64))
        self.module.motion_std.copy_(std.clamp_min(self.config.std_floor))
        self.module.to(device)
        self.flame = load_flame_model(config, self.channels, device)
        self.compilable = (self.module.encoder, self.module.decoder)
        self.weights = losses.channel_weights(self.channels, self.config.channel_weights).to(device)
        val_sampler = ClipSampler(val, training.clip_frames)
        _, begins = val_sampler.draw(np.random.default_rng(config.seed), training.validation_clips)
        self.val_motion = val_sampler.gather(val.motion, begins, training.clip_frames).to(device)

    def loss(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        codec, frames = self.module, self.config.training.clip_frames
        _, begins = self.sampler.draw(draw.rng, draw.clips)
        motion = self.sampler.gather(self.sampler.cache.motion, draw.mine(begins), frames).to(draw.device)
        target = (motion - codec.motion_mean) / codec.motion_std
        z = codec.encoder(target).float()
        # Levels below the first are flipped now and then: a decoder that has to live with it smooths over the fine
        # bits, which the generator can only draw at random.
        flips = draw.rand(draw.clips, frames, codec.config.levels, codec.config.bits) < self.config.bit_noise
        flips[..., 0, :] = False
        with torch.no_grad():
            noisy, _ = codec.quantise_with_flips(z, flips)
            clean = codec.latent(codec.quantise(z))
            noise = codec.latent(noisy) - z
        prediction = codec.decoder(z + noise).float()
        parts = {
            "l1": self.config.l1 * losses.weighted_l1(prediction, target, self.weights),
            "velocity": self.config.velocity * losses.velocity_error(prediction, target, self.weights),
            "entropy": self.config.entropy * losses.bsq_entropy(z, codec.config.gains[0]),
            "commitment": self.config.commitment * (z - clean).square().sum(dim=-1).mean(),
            "smoothness": self.config.smoothness * z.diff(dim=1).abs().sum(dim=-1).mean(),
        }
        if self.flame is not None:
            vertices, lips = vertex_errors(self.flame, prediction * codec.motion_std + codec.motion_mean, motion)
            parts |= {"vertices": self.config.vertices * vertices, "lips": self.config.lips * lips}
        return torch.stack(list(parts.values())).sum(), parts

    def validate(self) -> dict[str, float]:
        codec, motion = self.module, self.val_motion
        bits = codec.quantise(codec.encode(motion))
        decoded = codec.decode(codec.latent(bits))
        error = (decoded - motion) / codec.motion_std
        figures = {"loss": float((error.abs() * self.weights).mean())}
        for group, indices in group_channels(self.channels).items():
            figures[f"mae_{group}"] = float((decoded - motion)[..., indices].abs().mean())
        residual = (decoded - motion).square().sum(dim=(0, 1))
        total = (motion - motion.mean(dim=(0, 1))).square().sum(dim=(0, 1))
        for name in ("jawOpen", "mouthClose", "mouthPucker", "eyeBlinkLeft", "headPitch"):
            if name in self.channels:
                i = self.channels.index(name)
                figures[f"r2_{name}"] = float(1.0 - residual[i] / total[i].clamp_min(1e-9))
        if self.flame is not None:
            vertices, lips = vertex_errors(self.flame, decoded, motion)
            figures |= {"vertices_mm": 10.0 * float(vertices), "lips_mm": 10.0 * float(lips)}
        figures["bit_changes"] = float((bits[:, 1:] ^ bits[:, :-1]).float().mean())
        figures["bit_changes_level_0"] = float((bits[:, 1:, 0] ^ bits[:, :-1, 0]).float().mean())
        return figures

    def figures(self) -> dict[str, Figure]:
        codec, motion = self.module, self.val_motion[:1]
        decoded = codec.decode(codec.latent(codec.quantise(codec.encode(motion))))
        return {"decoded": traces(self.channels, motion[0], decoded[0])}

    def result(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.module.state_dict().items()}


def train(config: Config, resume: bool | str = False) -> None:
    """Trains the codec and leaves it in the run's folder."""
    stage = CodecStage(config)
    facts = {"corpus": stage.fingerprint, "channels": list(stage.channels)}
    train_stage(stage, config, config.codec.training, resume, facts)
