"""Stage 1: the prior. Next-frame prediction of motion bits without audio: how faces move by themselves."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unils_training.config import Config
from unils_training.losses import bit_loss
from unils_training.models.stream.model import StreamModel
from unils_training.stages import distributed
from unils_training.stages.stream.generation import (
    LatentClips,
    hears,
    model_with_codec,
    style_tokens,
    validation_begins,
)
from unils_training.stages.trainer import Draw, train_stage

NAME = "prior"


class PriorStage:
    """See `trainer.Stage`."""

    name = NAME

    def __init__(self, config: Config, model: StreamModel) -> None:
        self.config = config.prior
        training = config.prior.training
        self.model, self.module = model.to(distributed.device(config.device)), model.generator
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(not hears(name))
        # Faces without sound teach it too; what it is validated on is what the dialogue stage is.
        self.clips = LatentClips(config, model, config.corpus.train_split, training.clip_frames, audio=False)
        self.val = LatentClips(config, model, config.corpus.val_split, training.clip_frames)
        self.val_chosen, self.val_begins = validation_begins(self.val, training, config.seed)
        self.seed = config.seed

    def loss(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, begins = self.clips.sampler.draw(draw.rng, draw.clips)
        tokens = self.clips.tokens(draw.mine(begins), self.config.history, draw)
        latents, kept = self.clips.draw_style(draw.rng, chosen, begins, self.config.history, draw)
        h = self.module(tokens.signs, style_tokens(self.model, latents, kept))
        levels = bit_loss(self.module.logits(h, tokens.signs), tokens.targets)
        return levels.mean(), {f"level_{i}": value.detach() for i, value in enumerate(levels)}

    def validate(self) -> dict[str, float]:
        tokens = self.val.tokens(self.val_begins, None)
        history = self.config.history
        latents, kept = self.val.draw_style(np.random.default_rng(self.seed), self.val_chosen, self.val_begins, history)
        h = self.module(tokens.signs, style_tokens(self.model, latents, torch.ones_like(kept)))
        levels = bit_loss(self.module.logits(h, tokens.signs), tokens.targets)
        return {"loss": float(levels.mean())} | {f"level_{i}": float(value) for i, value in enumerate(levels)}

    def result(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.module.state_dict().items()}


def train(config: Config, resume: bool | str = False) -> None:
    """Trains the prior on the run's codec and leaves it in the run's folder."""
    model, facts = model_with_codec(config)
    train_stage(PriorStage(config, model), config, config.prior.training, resume, facts)
