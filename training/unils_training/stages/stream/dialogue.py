"""Stage 2: the prior, frozen, learns to be moved by both tracks' audio.

LoRA on the prior; audio encoder, cross-attention and look-ahead tables trained in full. For comparison, with
`dialogue.stage_1 = false` the whole generator is trained from nothing instead, and with `dialogue.other_track = false`
it never hears the other person. With `dialogue.from_bundle` all goes on from a finished model.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from unils_training.config import Config, ConfigError, from_dict
from unils_training.data.features import load_features
from unils_training.export import provenance_of, read_bundle
from unils_training.losses import bit_loss
from unils_training.models.stream.generator import AudioContext
from unils_training.models.stream.log_mel import MELS
from unils_training.models.stream.model import TRACKS, Sampling, StreamModel
from unils_training.rigs import group_channels
from unils_training.stages import distributed
from unils_training.stages.lora import add_lora, merged
from unils_training.stages.plots import traces
from unils_training.stages.stage_1 import load_prior
from unils_training.stages.stream import prior
from unils_training.stages.stream.generation import (
    LatentClips,
    hears,
    model_with_codec,
    style_tokens,
    validation_begins,
)
from unils_training.stages.trainer import BEST, Draw, load_result, source_folder, stage_folder, train_stage
from unils_training.stages.validation import free_running_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "dialogue"
MEL_STATISTICS_FRAMES = 50_000
MEL_STD_FLOOR = 0.5


class LipProbe(nn.Module):
    """Linear read-out of lip motion from three neighbouring audio rows; shapes the encoder early, never exported."""

    ROWS = 3

    def __init__(self, audio_width: int, lips: list[int]) -> None:
        super().__init__()
        self.lips = lips
        self.read = nn.Linear(self.ROWS * audio_width, len(lips))

    def forward(self, features: Tensor, motion: Tensor) -> Tensor:
        """Mean absolute error; features (B, T + 2 or more, A) of the own track, motion (B, T, D) normalised."""
        frames = motion.shape[1]
        rows = torch.cat([features[:, i : i + frames] for i in range(self.ROWS)], dim=-1)
        return (self.read(rows).float() - motion[..., self.lips]).abs().mean()


class DialogueStage:
    """See `trainer.Stage`."""

    name = NAME
    unused_parameters = True  # before `probe_steps`, the generator

    def __init__(self, config: Config, model: StreamModel) -> None:
        self.config, self.seed = config.dialogue, config.seed
        self.model = model.to(distributed.device(config.device))
        training = config.dialogue.training
        split, sampling = config.corpus.train_split, config.corpus.sampling
        self.clips = LatentClips(config, model, split, training.clip_frames, sampling=sampling)
        self.val = LatentClips(config, model, config.corpus.val_split, training.clip_frames)
        self.val_chosen, self.val_begins = validation_begins(self.val, training, config.seed)
        if not config.dialogue.from_bundle:
            self._set_mel_statistics()
        if config.dialogue.stage_1:
            add_lora(model.generator, config.dialogue.lora)
        for name, parameter in model.generator.named_parameters():
            if hears(name):
                parameter.requires_grad_(True)
        if not config.dialogue.other_track:
            _never_hear_other(model)
        lips = group_channels(model.channels).get("lips", list(range(len(model.channels))))
        # An encoder that hears already must not be shaped anew.
        self.probe = None if config.dialogue.from_bundle else LipProbe(config.model.audio_encoder.width, lips)
        weights = torch.tensor(config.dialogue.level_weights or (1.0,) * config.model.codec.levels)
        if len(weights) != config.model.codec.levels:
            raise ConfigError(
                f"dialogue.level_weights has {len(weights)} values for {config.model.codec.levels} levels"
            )
        self.level_weights = (weights / weights.mean()).to(distributed.device(config.device))
        self.compilable = (model.generator, model.audio_encoder)
        self.module = nn.ModuleDict({"model": model} if self.probe is None else {"model": model, "probe": self.probe})
        self.most = (config.model.look_ahead_max.self, config.model.look_ahead_max.other)
        if min(self.most[0], self.most[1]) + 1 < LipProbe.ROWS:
            raise ConfigError("model.look_ahead_max must be at least 2 for the lip probe to see its rows")

    def _set_mel_statistics(self) -> None:
        cache, encoder = self.clips.cache, self.model.audio_encoder
        every = max(1, cache.frames // MEL_STATISTICS_FRAMES)
        mels = np.concatenate([array[::every].astype(np.float32) for array in (cache.self_mel, cache.other_mel)])
        mels = mels.reshape(-1, MELS)
        encoder.mel_mean.copy_(torch.from_numpy(mels.mean(axis=0, dtype=np.float64)))
        encoder.mel_std.copy_(torch.from_numpy(mels.std(axis=0, dtype=np.float64)).clamp_min(MEL_STD_FLOOR))

    def _features(self, clips: LatentClips, begins: np.ndarray) -> Tensor:
        """Encoded rows of both tracks, own track first: (2 B, T + most look-ahead, A)."""
        frames = clips.sampler.clip_frames + max(self.most)
        cache = clips.cache
        rows = [clips.gather(array, begins, frames) for array in (cache.self_mel, cache.other_mel)]
        encoded: Tensor = self.model.audio_encoder(torch.cat(rows))
        return encoded

    def _contexts(self, features: Tensor, look_ahead: tuple[Tensor, Tensor]) -> dict[str, AudioContext]:
        """look_ahead: (B,) frames for each track, on the CPU, where asking for the largest waits for nothing."""
        frames = self.clips.sampler.clip_frames
        halves = features.chunk(2)
        return {
            track: AudioContext(half[:, : frames + int(ahead.max())], ahead.to(half.device))
            for track, half, ahead in zip(TRACKS, halves, look_ahead, strict=True)
        }

    def _draw_look_ahead(self, draw: Draw) -> tuple[Tensor, Tensor]:
        rng, clips = draw.rng, draw.clips
        own = rng.integers(0, self.most[0] + 1, clips)
        own[rng.random(clips) < self.config.look_ahead_self_one] = min(1, self.most[0])
        other = rng.integers(min(1, self.most[1]), self.most[1] + 1, clips)
        other[rng.random(clips) < self.config.look_ahead_other_zero] = 0
        return torch.from_numpy(draw.mine(own)), torch.from_numpy(draw.mine(other))

    def loss(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        config, model = self.config, self.model
        chosen, begins = self.clips.sampler.draw(draw.rng, draw.clips)
        mine = draw.mine(begins)
        features = self._features(self.clips, mine)
        probe = None if self.probe is None else self._probe_loss(self.probe, features[: len(mine)], mine)
        if probe is not None and draw.step < config.probe_steps:
            return config.probe * probe, {"probe": probe.detach()}
        look_ahead = self._draw_look_ahead(draw)
        tokens = self.clips.tokens(mine, config.history, draw)
        latents, kept = self.clips.draw_style(draw.rng, chosen, begins, config.history, draw)
        conditional = torch.from_numpy(draw.mine(draw.rng.random(draw.clips) >= config.audio_drop)).to(draw.device)
        h = model.generator(
            tokens.signs, style_tokens(model, latents, kept), self._contexts(features, look_ahead), conditional
        )
        levels = bit_loss(model.generator.logits(h, tokens.signs), tokens.targets)
        figures = {f"level_{i}": value.detach() for i, value in enumerate(levels)}
        loss = (levels * self.level_weights).mean()
        if probe is None:
            return loss, figures
        weight = config.probe + (config.probe_final - config.probe) * draw.progress
        return loss + weight * probe, figures | {"probe": probe.detach()}

    def _probe_loss(self, probe: LipProbe, features: Tensor, begins: np.ndarray) -> Tensor:
        codec = self.model.codec
        motion = self.clips.gather(self.clips.cache.motion, begins, self.config.training.clip_frames)
        error: Tensor = probe(features, (motion - codec.motion_mean) / codec.motion_std)
        return error

    def validate(self) -> dict[str, float]:
        """Teacher-forced bits at the default look-ahead, and how jaw and liveliness come out of free running."""
        model, clips = self.model, len(self.val_begins)
        features = self._features(self.val, self.val_begins)
        ahead = (min(1, self.most[0]), 0)
        look_ahead = (torch.full((clips,), ahead[0]), torch.full((clips,), ahead[1]))
        tokens = self.val.tokens(self.val_begins, None)
        latents, kept = self.val.draw_style(
            np.random.default_rng(self.seed), self.val_chosen, self.val_begins, self.config.history
        )
        style = style_tokens(model, latents, torch.ones_like(kept))
        h = model.generator(tokens.signs, style, self._contexts(features, look_ahead))
        levels = bit_loss(model.generator.logits(h, tokens.signs), tokens.targets)
        figures = {"loss": float(levels.mean())} | {f"level_{i}": float(value) for i, value in enumerate(levels)}
        return figures | self._free_running(ahead)

    def _free_running(self, ahead: tuple[int, int], clips: int = 16) -> dict[str, float]:
        sampler, cache, begins = self.val.sampler, self.val.cache, self.val_begins[:clips]
        frames = sampler.clip_frames
        truth = self.val.gather(cache.motion, begins, frames)
        speaking = self.val.gather(cache.speech_mask, begins, frames) > 0
        rows = [
            self.val.gather(array, begins, frames + extra)
            for array, extra in zip((cache.self_mel, cache.other_mel), ahead, strict=True)
        ]
        sampling = Sampling(*ahead)
        made = self.model.generate_batch(rows[0], rows[1], sampling, list(range(len(begins))))["motion"]
        self.shown = truth[0], made[0]
        return free_running_figures(made, truth, speaking, self.model.channels)

    def figures(self) -> dict[str, Figure]:
        truth, made = self.shown
        return {"free_running": traces(self.model.channels, truth, made)}

    def result(self) -> dict[str, Tensor]:
        """The whole model, adapters merged, under the names of the bundle."""
        return {name: value.clone() for name, value in merged(self.model).state_dict().items()}


def _never_hear_other(model: StreamModel) -> None:
    """Holds what the other track adds at zero, so that an exported model is deaf to it too."""
    generator = model.generator
    with torch.no_grad():
        generator.look_ahead_other.weight.zero_()
        for block in generator.blocks:
            block.cross_other.output.weight.zero_()
            block.cross_other.output.bias.zero_()
    for name, parameter in generator.named_parameters():
        if "cross_other" in name or "look_ahead_other" in name:
            parameter.requires_grad_(False)


def train(config: Config, resume: bool | str = False) -> None:
    """Trains the dialogue stage on a codec and a prior and leaves the whole model in the run's folder.

    With `dialogue.from_bundle`, the bundle's sizes take the place of `config.model`.
    """
    if config.dialogue.from_bundle:
        model, facts = model_of_bundle(config)
        config = dataclasses.replace(config, model=model.config)
    else:
        model, facts = model_with_codec(config)
    if config.dialogue.stage_1 and not config.dialogue.from_bundle:
        stored = load_result(source_folder(config, prior.NAME) / BEST)
        # Checkpoints of before this was recorded are taken on trust.
        known = stored["facts"].get("codec", {}).get("sha256", facts["codec"]["sha256"])
        if known != facts["codec"]["sha256"]:
            raise ConfigError(
                f"the prior of {source_folder(config, prior.NAME)} was trained on another codec than that of "
                f"{source_folder(config, 'codec')}: set codec_from to the run that it was trained on"
            )
        load_prior(model.generator, stored["result"], hears, "model.generator")
        facts["prior"] = {name: stored[name] for name in ("step", "seconds", "figures")}
    train_stage(DialogueStage(config, model), config, config.dialogue.training, resume, facts)


def model_of_bundle(config: Config) -> tuple[StreamModel, dict[str, Any]]:
    """The model to go on from, its codec and generator frozen; and the facts of what it is.

    Raises:
        BundleError: there is no such bundle, or not of this family.
        ConfigError: its channels are not those of the corpus.
    """
    folder = Path(config.dialogue.from_bundle)
    model = read_bundle(folder)
    info = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    with distributed.main_first():
        place = (config.corpus.path, config.corpus.train_split, config.corpus.cache)
        corpus = load_features(*place, **config.corpus.loading)
    if corpus.channels != model.channels:
        raise ConfigError(
            f"dialogue.from_bundle: {folder} moves {len(model.channels)} channels of rig {model.config.rig}, and the "
            f"motion of {config.corpus.path} has {len(corpus.channels)}, which are not the same"
        )
    # Adapters start from random numbers.
    torch.manual_seed(config.seed)
    model.codec.requires_grad_(False)
    origin = {"sha256": info["weights"]["sha256"], "provenance": info["provenance"]}
    return model, {"from_bundle": origin, "corpus": corpus.fingerprint, "channels": list(model.channels)}


def load_for_export(config: Config, checkpoint: str | Path | None) -> tuple[StreamModel, dict[str, Any]]:
    """The best model of the run, or that of a checkpoint, and its provenance."""
    stored = load_result(checkpoint or stage_folder(config, NAME) / BEST)
    taken: Config = dataclasses.replace(from_dict(Config, stored["config"]), licence=config.licence)
    model = StreamModel(taken.model, stored["facts"]["channels"])
    model.load_state_dict(stored["result"])
    facts = {name: value for name, value in stored["facts"].items() if name != "channels"}
    facts["dialogue"] = {name: stored[name] for name in ("step", "seconds", "figures")}
    # A stage ends by steps or by minutes, and each was a run of its own: what counts is how many steps it took.
    for name in facts.keys() & {"codec", "prior", NAME}:
        stage = getattr(taken, name)
        training = dataclasses.replace(stage.training, steps=facts[name]["step"], minutes=0.0)
        taken = dataclasses.replace(taken, **{name: dataclasses.replace(stage, training=training)})
    return model.eval(), provenance_of(taken, stages=facts)
