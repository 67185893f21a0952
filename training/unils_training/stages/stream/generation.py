"""What the prior and the dialogue stage share: latents, histories with wrong bits, styles.

Shapes: B clips, T frames, L levels, d bits a level, S style tokens, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unils_training.config import Config, HistoryConfig, TrainingConfig
from unils_training.data.clips import ClipSampler
from unils_training.data.features import FeatureCache, load_features
from unils_training.models.stream.model import StreamModel
from unils_training.stages.trainer import load_result, stage_folder


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Teacher forcing: the bits that the model reads, (B, T, L*d) of +-1, and those it should say, (B, T, L, d)."""

    signs: Tensor
    targets: Tensor


class LatentClips:
    """Clips of one split with the frozen codec's latents."""

    def __init__(self, config: Config, model: StreamModel, split: str, clip_frames: int) -> None:
        self.codec = model.codec
        self.cache: FeatureCache = load_features(config.corpus.path, split, config.corpus.cache)
        most = max(config.model.look_ahead_max.self, config.model.look_ahead_max.other)
        self.sampler = ClipSampler(self.cache, clip_frames, most)
        digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in self.codec.encoder.parameters()))
        self.latents = self.cache.latents(digest.hexdigest(), self.codec.encode)

    def tokens(self, begins: npt.NDArray[np.int64], history: HistoryConfig | None) -> Tokens:
        """The clips' bits, some flipped at a rate drawn for each clip unless `history` is None."""
        z = self.sampler.gather(self.latents, begins, self.sampler.clip_frames)
        shape = (*z.shape[:2], self.codec.config.levels, self.codec.config.bits)
        if history is None:
            flips = torch.zeros(shape, dtype=torch.bool)
        else:
            rates = torch.rand(len(z), 1, 1, 1) * history.max_flip_rate
            rates = rates * (torch.rand(len(z), 1, 1, 1) >= history.clean_clips)
            flips = torch.rand(shape) < rates
        bits, targets = self.codec.quantise_with_flips(z, flips)
        return Tokens(signs_of(bits), targets)

    def style_latents(self, begins: npt.NDArray[np.int64], frames: int) -> Tensor:
        """Quantised latents of style clips, (B, frames, d).

        They were encoded within their conversation, where a style clip given to a session starts from nothing; the
        codec's encoder looks back so little that pooling hides the difference.
        """
        return self.codec.latent(self.codec.quantise(self.sampler.gather(self.latents, begins, frames)))

    def draw_style(
        self,
        rng: np.random.Generator,
        chosen: npt.NDArray[np.int64],
        begins: npt.NDArray[np.int64],
        history: HistoryConfig,
    ) -> tuple[Tensor, Tensor]:
        """Style latents (B, n, d) and which clips keep them, (B,) bool."""
        shortest = int(np.diff(self.cache.offsets).min())
        most = min(history.style_max_frames, shortest)
        frames = int(rng.integers(min(history.style_min_frames, most), most + 1))
        kept = torch.from_numpy(rng.random(len(chosen)) >= history.style_drop)
        return self.style_latents(self.sampler.draw_style(rng, chosen, begins, frames), frames), kept


def style_tokens(model: StreamModel, latents: Tensor, kept: Tensor) -> Tensor:
    """Style tokens (B, S, W): those of the latents where kept, otherwise "no style"."""
    null = model.generator.null_style(len(kept))
    return torch.where(kept[:, None, None], model.generator.style_tokens(latents).to(null.dtype), null)


def signs_of(bits: Tensor) -> Tensor:
    """bits (…, L, d) bool -> (…, L*d) of +-1."""
    return bits.flatten(-2).float() * 2.0 - 1.0


def model_with_codec(config: Config) -> tuple[StreamModel, dict[str, object]]:
    """A fresh model, seeded, with the run's trained codec frozen inside; and the facts of that codec."""
    stored = load_result(stage_folder(config, "codec") / "best.pt")
    torch.manual_seed(config.seed)
    model = StreamModel(config.model, stored["facts"]["channels"])
    model.codec.load_state_dict(stored["result"])
    model.codec.requires_grad_(False)
    facts = {"codec": {name: stored[name] for name in ("step", "seconds", "figures")}, **stored["facts"]}
    return model, facts


def validation_begins(
    clips: LatentClips, training: TrainingConfig, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The fixed clips that a stage is validated on."""
    return clips.sampler.draw(np.random.default_rng(seed), training.validation_clips)
