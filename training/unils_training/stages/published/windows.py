"""What the prior and the dialogue stage share: windows of motion as tokens, with what the generator reads besides.

Shapes: B clips, F frames of a window, D channels, d bits a token, N tokens of all scales, n_0 those of the first.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unils_training.config import Config, ConfigError, HistoryConfig, SamplingConfig, TrainingConfig
from unils_training.data.clips import ClipSampler
from unils_training.data.features import MotionCache
from unils_training.models.published.audio_encoder import AudioEncoder
from unils_training.models.published.model import PublishedModel
from unils_training.rigs import RIGS
from unils_training.stages.trainer import BEST, Draw, load_result, source_folder

Begins = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Teacher forcing: what `Generator.forward` reads, and the bits that it should say, (B, N, d) bool."""

    style: Tensor
    previous: Tensor
    inputs: Tensor
    targets: Tensor


class Windows:
    """Windows of one split as the frozen codec sees them. The model has been moved to its device before.

    grid: windows begin at multiples of so many frames of their conversation.
    """

    def __init__(
        self, model: PublishedModel, cache: MotionCache, weights: SamplingConfig | None = None, grid: int = 1
    ) -> None:
        self.codec, self.frames, self.grid = model.codec, model.config.window_frames, grid
        self.device = model.codec.motion_mean.device
        self.cache = cache
        self.sampler = ClipSampler(cache, self.frames, 0, weights or SamplingConfig())
        with torch.no_grad():
            self.rest = model.rest_latent()

    def draw(self, rng: np.random.Generator, clips: int) -> tuple[Begins, Begins]:
        """Conversations and first frames of windows, (clips,) each."""
        chosen, begins = self.sampler.draw(rng, clips)
        offsets = self.cache.offsets[chosen]
        return chosen, offsets + (begins - offsets) // self.grid * self.grid

    def motion(self, begins: Begins, frames: int | None = None) -> Tensor:
        """(B, F, D) in the rig's units."""
        return self.sampler.gather(self.cache.motion, begins, frames or self.frames).to(self.device)

    def teacher(
        self,
        rng: np.random.Generator,
        chosen: Begins,
        begins: Begins,
        history: HistoryConfig | None = None,
        draw: Draw | None = None,
    ) -> Teacher:
        """Tokens of the windows; with a history, some bits are flipped and style and previous windows dropped.

        A window that no whole one precedes in its conversation has none before it, as in generation.

        Args:
            chosen, begins: of `draw`, of the whole batch; of what is drawn for it, `draw` takes its part.
        """
        clips = len(begins)
        styles = self.sampler.draw_style(rng, chosen, begins, self.frames)
        has_style = np.ones(clips, np.bool_)
        has_previous = begins - self.frames >= self.cache.offsets[chosen]
        if history is not None:
            has_style = rng.random(clips) >= history.style_drop
            has_previous &= rng.random(clips) >= history.previous_drop
        before = np.where(has_previous, begins - self.frames, begins)
        parts = [styles, before, begins, has_style, has_previous]
        if draw is not None:
            parts = [draw.mine(part) for part in parts]
        styles, before, begins, has_style, has_previous = parts
        # Bits must be those that generation would see: float32, whatever the training's precision.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            z = self.codec.encode(self.motion(np.concatenate((styles, before, begins))))
            context, current = z[: 2 * len(begins)], z[2 * len(begins) :]
            kept = torch.from_numpy(np.concatenate((has_style, has_previous))).to(self.device)
            context = torch.where(kept[:, None, None], self.codec.quantise(context)[1], self.rest)
            flips = None if history is None or draw is None else self._flips(history, draw)
            _, targets, latents = self.codec.quantise_with_flips(current, flips)
            levels = range(1, len(self.codec.scales))
            inputs = torch.cat([self.codec.down(latents[level - 1], level) for level in levels], dim=1)
        style, previous = context.chunk(2)
        return Teacher(style, previous, inputs, targets)

    def _flips(self, history: HistoryConfig, draw: Draw) -> Tensor:
        rates = draw.rand(draw.clips, 1, 1) * history.max_flip_rate
        rates = rates * (draw.rand(draw.clips, 1, 1) >= history.clean_clips)
        return draw.rand(draw.clips, self.codec.tokens, self.codec.config.bits) < rates


def check_clip_frames(config: Config, name: str, training: TrainingConfig) -> None:
    """Clips of this family are windows, whose length is the model's."""
    frames = config.published.window_frames
    if training.clip_frames != frames:
        raise ConfigError(
            f"{name}.training.clip_frames must be published.window_frames, {frames}, not {training.clip_frames}"
        )


def check_rig(config: Config, channels: tuple[str, ...]) -> None:
    """The corpus must be of the rig that the model is made for."""
    if channels != RIGS.get(config.published.rig):
        raise ConfigError(
            f"published.rig is {config.published.rig!r}, but the channels of {config.corpus.path} are not: "
            f"{len(channels)}, beginning with {channels[0]}"
        )


def model_with_codec(config: Config) -> tuple[PublishedModel, dict[str, object]]:
    """A fresh model, seeded, with the trained codec frozen inside; and the facts of that codec."""
    stored = load_result(source_folder(config, "codec") / BEST)
    torch.manual_seed(config.seed)
    encoder = AudioEncoder.from_config(config.published.audio_encoder)
    torch.manual_seed(config.seed)
    model = PublishedModel(config.published, stored["facts"]["channels"], encoder)
    try:
        model.codec.load_state_dict(stored["result"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"the codec does not fit published.codec: {reason}") from error
    model.codec.requires_grad_(False)
    facts = {"codec": {name: stored[name] for name in ("step", "seconds", "figures")}, **stored["facts"]}
    return model, facts


def hears(name: str) -> bool:
    """Whether a parameter of the generator of that name takes part in hearing; the prior has none of them."""
    return "audio_attn" in name or name.endswith((".self_pos", ".other_pos"))
