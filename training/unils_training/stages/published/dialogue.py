"""Stage 2: the prior, frozen, learns to be moved by both tracks' audio.

LoRA on the prior; cross-attention trained in full; the audio encoder stays as it is, unless it has no pretrained
weights or is asked to be trained. For comparison, with `dialogue.stage_1 = false` the whole generator is trained from
nothing instead, and with `dialogue.other_track = false` it never hears the other person.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unils_training.config import Config, ConfigError, from_dict
from unils_training.data.clips import ClipSampler
from unils_training.data.features import FeatureCache, load_features
from unils_training.models.published.audio_encoder import AudioEncoder
from unils_training.models.published.model import PublishedModel, Sampling
from unils_training.rigs import group_channels
from unils_training.stages import distributed
from unils_training.stages.lora import PUBLISHED_TARGETS, add_lora, merged
from unils_training.stages.plots import traces
from unils_training.stages.published import prior
from unils_training.stages.published.features import GridFeatures, gather_audio
from unils_training.stages.published.losses import token_losses
from unils_training.stages.published.windows import (
    Begins,
    Windows,
    check_clip_frames,
    check_rig,
    hears,
    model_with_codec,
)
from unils_training.stages.stage_1 import load_prior
from unils_training.stages.trainer import BEST, Draw, load_result, source_folder, stage_folder, train_stage
from unils_training.stages.validation import free_running_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "dialogue"
FREE_CLIPS = 16
FREE_WINDOWS = 2


class LipProbe(nn.Module):
    """Linear read-out of lip motion from three neighbouring frames' features; shapes an encoder, never exported."""

    def __init__(self, audio_width: int, lips: list[int]) -> None:
        super().__init__()
        self.lips = lips
        self.read = nn.Linear(3 * audio_width, len(lips))

    def forward(self, features: Tensor, motion: Tensor) -> Tensor:
        """Mean absolute error; features (B, J, A) of the own track, motion (B, F, D) normalised."""
        rows = functional.interpolate(features.float().transpose(1, 2), motion.shape[1], mode="linear")
        rows = functional.pad(rows, (1, 1)).transpose(1, 2)
        neighbours = torch.cat((rows[:, :-2], rows[:, 1:-1], rows[:, 2:]), dim=-1)
        return (self.read(neighbours).float() - motion[..., self.lips]).abs().mean()


class DialogueStage:
    """See `trainer.Stage`."""

    name = NAME
    unused_parameters = True  # before `probe_steps`, the generator; always, what wav2vec2 has for its pre-training

    def __init__(self, config: Config, model: PublishedModel) -> None:
        self.config, self.seed, corpus = config.dialogue, config.seed, config.corpus
        training, encoder = config.dialogue.training, config.published.audio_encoder
        check_clip_frames(config, NAME, training)
        self.hears_other = config.dialogue.other_track
        if not self.hears_other and config.published.cross_attention == "mixed":
            raise ConfigError("dialogue.other_track = false needs published.cross_attention = 'separate'")
        weights, scales = config.dialogue.level_weights, config.published.codec.scales
        if weights and len(weights) != len(scales):
            raise ConfigError(f"dialogue.level_weights has {len(weights)} values for {len(scales)} scales")
        self.model = model.to(distributed.device(config.device))
        self.encoder_trained = encoder.trained or not encoder.source
        grid = encoder.cache_grid_frames
        with distributed.main_first():
            wanted = {"mel": False, "audio": True, **corpus.loading}
            train = load_features(corpus.path, corpus.train_split, corpus.cache, **wanted)
            val = load_features(corpus.path, corpus.val_split, corpus.cache, **wanted)
            self.grids = {cache.split: GridFeatures(model, cache, grid) for cache in (train, val) if grid}
        check_rig(config, train.channels)
        self.clips = Windows(model, train, corpus.sampling, grid or 1)
        self.val = Windows(model, val, grid=grid or 1)
        rng = np.random.default_rng(config.seed)
        self.val_chosen, self.val_begins = self.val.draw(rng, training.validation_clips)
        self.val_teacher = self.val.teacher(rng, self.val_chosen, self.val_begins)
        if config.dialogue.stage_1:
            add_lora(model.generator, config.dialogue.lora, PUBLISHED_TARGETS)
        for name, parameter in model.generator.named_parameters():
            if hears(name):
                parameter.requires_grad_(True)
        if not self.hears_other:
            _never_hear_other(model)
        model.audio_encoder.requires_grad_(self.encoder_trained)
        # The codec, and an encoder that is not trained, are read anew when a run is resumed.
        modules: dict[str, nn.Module] = {"generator": model.generator}
        if self.encoder_trained:
            groups = group_channels(model.channels)
            lips = [*groups.get("lips", []), *groups.get("expression", [])] or list(range(len(model.channels)))
            self.probe = LipProbe(model.audio_encoder.width, lips).to(model.codec.motion_mean.device)
            modules |= {"audio_encoder": model.audio_encoder, "probe": self.probe}
        self.module = nn.ModuleDict(modules)
        self.compilable = (model.generator,)

    def _features(self, clips: Windows, begins: Begins) -> tuple[Tensor, Tensor]:
        """Features of both tracks, (B, J, A) each; zeros for a track that is never heard."""
        cache, device = clips.cache, clips.device
        assert isinstance(cache, FeatureCache)
        tracks = ("self", "other") if self.hears_other else ("self",)
        if grid := self.grids.get(cache.split):
            features = torch.cat([grid(track, begins) for track in tracks]).to(device)
        else:
            samples = torch.cat([gather_audio(cache, track, begins, clips.frames) for track in tracks])
            with torch.set_grad_enabled(self.encoder_trained and torch.is_grad_enabled()):
                features = self.model.audio_encoder(samples.to(device))
        own = features[: len(begins)]
        return own, features[len(begins) :] if self.hears_other else torch.zeros_like(own)

    def loss(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        config, model = self.config, self.model
        chosen, begins = self.clips.draw(draw.rng, draw.clips)
        own, other = self._features(self.clips, draw.mine(begins))
        loss, figures = torch.zeros((), device=draw.device), {}
        if self.encoder_trained:
            motion = model.codec.normalise(self.clips.motion(draw.mine(begins)))
            probe = self.probe(own, motion)
            weight = config.probe + (config.probe_final - config.probe) * draw.progress
            loss, figures = weight * probe, {"probe": probe.detach()}
            if draw.step < config.probe_steps:
                return config.probe * probe, figures
        teacher = self.clips.teacher(draw.rng, chosen, begins, config.history, draw)
        heard = torch.from_numpy(draw.mine(draw.rng.random(draw.clips) >= config.audio_drop)).to(draw.device)
        heard = heard[:, None, None]
        audio = model.generator.audio(own * heard, other * heard)
        logits = model.generator(teacher.style, teacher.previous, teacher.inputs, audio)
        bits, levels = token_losses(logits, teacher.targets, model.codec.spans, config.level_weights)
        return loss + bits, figures | {f"level_{i}": value.detach() for i, value in enumerate(levels)}

    def validate(self) -> dict[str, float]:
        """Teacher-forced bits, and how jaw and liveliness come out of free running."""
        model, teacher = self.model, self.val_teacher
        audio = model.generator.audio(*self._features(self.val, self.val_begins))
        logits = model.generator(teacher.style, teacher.previous, teacher.inputs, audio)
        bits, levels = token_losses(logits, teacher.targets, model.codec.spans)
        figures = {"loss": float(bits)} | {f"level_{i}": float(value) for i, value in enumerate(levels)}
        return figures | self._free_running()

    def _free_running(self) -> dict[str, float]:
        """Of clips of two windows, or of one where no conversation is so long."""
        cache, model = self.val.cache, self.model
        assert isinstance(cache, FeatureCache)
        longest = int(np.diff(cache.offsets).max())
        frames = self.val.frames * min(FREE_WINDOWS, longest // self.val.frames)
        clips = min(FREE_CLIPS, len(self.val_begins))
        _, begins = ClipSampler(cache, frames).draw(np.random.default_rng(self.seed), clips)
        tracks = [gather_audio(cache, track, begins, frames).to(self.val.device) for track in ("self", "other")]
        made = model.generate_batch(*tracks, Sampling(), list(range(clips)))["motion"]
        speaking = self.val.sampler.gather(cache.speech_mask, begins, frames) > 0
        truth, made = self.val.motion(begins, frames).cpu(), made.cpu()
        self.shown = truth[0], made[0]
        return free_running_figures(made, truth, speaking, model.channels)

    def figures(self) -> dict[str, Figure]:
        truth, made = self.shown
        return {"free_running": traces(self.model.channels, truth, made)}

    def result(self) -> dict[str, Tensor]:
        """The whole model, adapters merged, without an audio encoder that was not trained."""
        generator = merged(self.model.generator).state_dict()
        values = {f"generator.{name}": value.clone() for name, value in generator.items()}
        values |= {f"codec.{name}": value.clone() for name, value in self.model.codec.state_dict().items()}
        if self.encoder_trained:
            encoder = self.model.audio_encoder.state_dict()
            values |= {f"audio_encoder.{name}": value.clone() for name, value in encoder.items()}
        return values


def _never_hear_other(model: PublishedModel) -> None:
    """Holds what the other track adds at zero, so that an exported model is deaf to it too."""
    for name, parameter in model.generator.named_parameters():
        if "other_audio_attn" in name or name.endswith(".other_pos"):
            parameter.requires_grad_(False)
            if ".out_proj." in name:
                with torch.no_grad():
                    parameter.zero_()


def train(config: Config, resume: bool | str = False) -> None:
    """Trains the dialogue stage on a codec and a prior and leaves the whole model in the run's folder."""
    model, facts = model_with_codec(config)
    if config.dialogue.stage_1:
        stored = load_result(source_folder(config, prior.NAME) / BEST)
        load_prior(model.generator, stored["result"], hears, "published")
        facts["prior"] = {name: stored[name] for name in ("step", "seconds", "figures")}
    train_stage(DialogueStage(config, model), config, config.dialogue.training, resume, facts)


def load_for_export(config: Config, checkpoint: str | Path | None = None) -> tuple[PublishedModel, dict[str, Any]]:
    """The best model of the run, or that of a checkpoint, and the facts of its stages by name.

    Sizes, and the source of an encoder that was not trained, are those that the checkpoint was made with.
    """
    stored = load_result(checkpoint or stage_folder(config, NAME) / BEST)
    made_with: Config = from_dict(Config, stored["config"])
    encoder = made_with.published.audio_encoder
    model = PublishedModel(made_with.published, stored["facts"]["channels"], AudioEncoder.from_config(encoder))
    missing, unexpected = model.load_state_dict(stored["result"], strict=False)
    wrong = [*unexpected, *(name for name in missing if not name.startswith("audio_encoder."))]
    if wrong or (missing and (encoder.trained or not encoder.source)):
        raise ConfigError(f"the checkpoint does not fit the sizes that it names: {[*wrong, *missing][0]}")
    facts = {name: value for name, value in stored["facts"].items() if name != "channels"}
    facts[NAME] = {name: stored[name] for name in ("step", "seconds", "figures")}
    return model.eval(), facts
