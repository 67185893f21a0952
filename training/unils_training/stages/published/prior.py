"""Stage 1: the prior. Bits of a window, coarse scales first, from style and the window before: faces without audio."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from unils_training.config import Config
from unils_training.data.features import load_motion
from unils_training.models.published.model import PublishedModel
from unils_training.stages import distributed
from unils_training.stages.published.losses import token_losses
from unils_training.stages.published.windows import Windows, check_clip_frames, check_rig, hears, model_with_codec
from unils_training.stages.trainer import Draw, train_stage

NAME = "prior"


class PriorStage:
    """See `trainer.Stage`."""

    name = NAME

    def __init__(self, config: Config, model: PublishedModel) -> None:
        self.config, corpus = config.prior, config.corpus
        check_clip_frames(config, NAME, config.prior.training)
        self.model = model.to(distributed.device(config.device))
        self.module = model.generator
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(not hears(name))
        with distributed.main_first():
            motion_only = config.prior.motion_only and corpus.motion_only
            place = (corpus.path, corpus.train_split, corpus.cache)
            train = load_motion(*place, motion_only=motion_only, **corpus.loading)
            place = (corpus.path, corpus.val_split, corpus.cache)
            val = load_motion(*place, motion_only=False, **corpus.loading)
        check_rig(config, train.channels)
        self.windows, val_windows = Windows(model, train), Windows(model, val)
        rng = np.random.default_rng(config.seed)
        self.val = val_windows.teacher(rng, *val_windows.draw(rng, config.prior.training.validation_clips))

    def loss(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, begins = self.windows.draw(draw.rng, draw.clips)
        teacher = self.windows.teacher(draw.rng, chosen, begins, self.config.history, draw)
        logits = self.module(teacher.style, teacher.previous, teacher.inputs)
        loss, levels = token_losses(logits, teacher.targets, self.model.codec.spans)
        return loss, {f"level_{i}": value.detach() for i, value in enumerate(levels)}

    def validate(self) -> dict[str, float]:
        logits = self.module(self.val.style, self.val.previous, self.val.inputs)
        loss, levels = token_losses(logits, self.val.targets, self.model.codec.spans)
        return {"loss": float(loss)} | {f"level_{i}": float(value) for i, value in enumerate(levels)}

    def result(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.module.state_dict().items()}


def train(config: Config, resume: bool | str = False) -> None:
    """Trains the prior on the run's codec and leaves it in the run's folder."""
    model, facts = model_with_codec(config)
    train_stage(PriorStage(config, model), config, config.prior.training, resume, facts)
