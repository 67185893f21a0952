"""What the prior and the dialogue stage share: latents, histories with wrong bits, styles.

Shapes: B clips, T frames, L levels, d bits a level, S style tokens, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unils_training.config import Config, ConfigError, HistoryConfig, SamplingConfig, TrainingConfig
from unils_training.data.clips import ClipSampler
from unils_training.data.features import MotionCache, load_features, load_motion
from unils_training.models.stream.model import StreamModel
from unils_training.stages import distributed
from unils_training.stages.trainer import BEST, Draw, load_result, source_folder, tensors_sha256


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Teacher forcing: the bits that the model reads, (B, T, L*d) of +-1, and those it should say, (B, T, L, d)."""

    signs: Tensor
    targets: Tensor


class LatentClips:
    """Clips of one split with the frozen codec's latents. The model has been moved to its device before.

    Without audio there are also the faces that have none, unless `prior.motion_only` or `corpus.motion_only` is false.
    Clips are drawn by the weights of `sampling`, uniformly where it is None.
    """

    def __init__(
        self,
        config: Config,
        model: StreamModel,
        split: str,
        clip_frames: int,
        audio: bool = True,
        sampling: SamplingConfig | None = None,
    ) -> None:
        self.codec = model.codec
        self.device = next(model.parameters()).device
        weights = [p.detach().cpu().numpy().tobytes() for p in self.codec.encoder.parameters()]
        most = max(config.model.look_ahead_max.self, config.model.look_ahead_max.other)
        with distributed.main_first():
            place = (config.corpus.path, split, config.corpus.cache)
            self.cache: MotionCache
            if audio:
                self.cache = load_features(*place, **config.corpus.loading)
            else:
                motion_only = config.prior.motion_only and config.corpus.motion_only
                self.cache = load_motion(*place, motion_only=motion_only, **config.corpus.loading)
            self.latents = self.cache.latents(hashlib.sha256(b"".join(weights)).hexdigest(), self._encode)
        self.sampler = ClipSampler(self.cache, clip_frames, most, sampling or SamplingConfig())

    def _encode(self, motion: Tensor) -> Tensor:
        return self.codec.encode(motion.to(self.device)).cpu()

    def gather(self, array: npt.NDArray[np.generic], begins: npt.NDArray[np.int64], frames: int) -> Tensor:
        """`ClipSampler.gather` to the model's device."""
        return self.sampler.gather(array, begins, frames).to(self.device)

    def tokens(self, begins: npt.NDArray[np.int64], history: HistoryConfig | None, draw: Draw | None = None) -> Tokens:
        """The clips' bits; with a history, some are flipped at a rate that `draw` draws for each clip.

        begins: of the clips at hand, this process's alone.
        """
        z = self.gather(self.latents, begins, self.sampler.clip_frames)
        shape = (self.sampler.clip_frames, self.codec.config.levels, self.codec.config.bits)
        if history is None or draw is None:
            flips = torch.zeros(len(z), *shape, dtype=torch.bool, device=self.device)
        else:
            rates = draw.rand(draw.clips, 1, 1, 1) * history.max_flip_rate
            rates = rates * (draw.rand(draw.clips, 1, 1, 1) >= history.clean_clips)
            flips = draw.rand(draw.clips, *shape) < rates
        bits, targets = self.codec.quantise_with_flips(z, flips)
        return Tokens(signs_of(bits), targets)

    def style_latents(self, begins: npt.NDArray[np.int64], frames: int) -> Tensor:
        """Quantised latents of style clips, (B, frames, d).

        They were encoded within their conversation, where a style clip given to a session starts from nothing; the
        codec's encoder looks back so little that pooling hides the difference.
        """
        return self.codec.latent(self.codec.quantise(self.gather(self.latents, begins, frames)))

    def draw_style(
        self,
        rng: np.random.Generator,
        chosen: npt.NDArray[np.int64],
        begins: npt.NDArray[np.int64],
        history: HistoryConfig,
        draw: Draw | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Style latents (B, n, d) and which clips keep them, (B,) bool.

        chosen, begins: conversations and first frames of the whole batch; of what is drawn for it, `draw` takes its
        part.
        """
        shortest = int(np.diff(self.cache.offsets).min())
        most = min(history.style_max_frames, shortest)
        frames = int(rng.integers(min(history.style_min_frames, most), most + 1))
        kept = rng.random(len(chosen)) >= history.style_drop
        styles = self.sampler.draw_style(rng, chosen, begins, frames)
        if draw is not None:
            kept, styles = draw.mine(kept), draw.mine(styles)
        return self.style_latents(styles, frames), torch.from_numpy(kept).to(self.device)


def style_tokens(model: StreamModel, latents: Tensor, kept: Tensor) -> Tensor:
    """Style tokens (B, S, W): those of the latents where kept, otherwise "no style"."""
    null = model.generator.null_style(len(kept))
    return torch.where(kept[:, None, None], model.generator.style_tokens(latents).to(null.dtype), null)


def signs_of(bits: Tensor) -> Tensor:
    """bits (…, L, d) bool -> (…, L*d) of +-1."""
    return bits.flatten(-2).float() * 2.0 - 1.0


def model_with_codec(config: Config) -> tuple[StreamModel, dict[str, Any]]:
    """A fresh model, seeded, with the run's trained codec frozen inside; and the facts of that codec."""
    stored = load_result(source_folder(config, "codec") / BEST)
    torch.manual_seed(config.seed)
    model = StreamModel(config.model, stored["facts"]["channels"])
    try:
        model.codec.load_state_dict(stored["result"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(
            f"the codec of {source_folder(config, 'codec')} does not fit model.codec: {reason}"
        ) from error
    model.codec.requires_grad_(False)
    codec = {name: stored[name] for name in ("step", "seconds", "figures")}
    facts = {"codec": codec | {"sha256": tensors_sha256(stored["result"])}, **stored["facts"]}
    return model, facts


def hears(name: str) -> bool:
    """Whether a parameter of the generator of that name takes part in hearing; the prior has none of them."""
    return "cross_" in name or "look_ahead" in name


def validation_begins(
    clips: LatentClips, training: TrainingConfig, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The fixed clips that a stage is validated on."""
    return clips.sampler.draw(np.random.default_rng(seed), training.validation_clips)
