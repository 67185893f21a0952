"""The `stream` model: audio encoder, motion codec and generator; docs/stream-model.md is its contract.

Shapes: B clips, T frames, D channels, L levels, d bits a level.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from unils_training.config import ModelConfig
from unils_training.models.philox import uniforms
from unils_training.models.sampling import sample_bits
from unils_training.models.stream.audio_encoder import AudioEncoder
from unils_training.models.stream.codec import Codec
from unils_training.models.stream.generator import Generator, GeneratorState
from unils_training.models.stream.log_mel import HOP_SAMPLES, log_mel_rows

TRACKS = ("self", "other")
STYLE_MIN_FRAMES, STYLE_MAX_FRAMES = 25, 500


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How bits are drawn and how far ahead each track is heard; temperature 0 is greedy, cfg_scale 1 no guidance."""

    look_ahead_self: int = 1
    look_ahead_other: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    cfg_scale: float = 1.0

    @property
    def look_ahead(self) -> dict[str, int]:
        return {"self": self.look_ahead_self, "other": self.look_ahead_other}


@dataclasses.dataclass
class StreamState:
    """Everything that a stream of B clips remembers; allocated once, changed in place."""

    generator: GeneratorState
    encoder_histories: dict[str, Tensor]
    decoder_history: Tensor

    def snapshot(self) -> StreamState:
        """An independent copy, to go back to with `StreamModel.restore`."""
        return copy.deepcopy(self)


@dataclasses.dataclass(frozen=True)
class Step:
    """One frame: motion (B, D), bits (B, L, d) bool, logits (B, L, d) after guidance, latent (B, d)."""

    motion: Tensor
    bits: Tensor
    logits: Tensor
    latent: Tensor


class StreamModel(nn.Module):
    """`generate` is the reference that the native engine is compared with."""

    def __init__(self, config: ModelConfig, channels: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.channels = tuple(channels)
        self.audio_encoder = AudioEncoder(config.audio_encoder)
        self.codec = Codec(len(self.channels), config.codec)
        self.generator = Generator(config.generator, config.codec, config.audio_encoder, config.look_ahead_max)

    @classmethod
    def from_bundle(cls, folder: str | Path) -> StreamModel:
        """Loads a bundle, ready to generate; raises `unils_training.export.BundleError` when it is not one."""
        from unils_training.export import read_bundle

        return read_bundle(folder)

    @torch.no_grad()
    def init_state(self, batch: int = 1, style: Tensor | None = None) -> StreamState:
        """A fresh stream. style: motion (n, D), or (B, n, D) for one each, in the rig's units; None is no style."""
        tokens = self.generator.null_style(batch) if style is None else self.encode_style(style).expand(batch, -1, -1)
        return StreamState(
            generator=self.generator.init_state(tokens),
            encoder_histories={track: self.audio_encoder.history(batch) for track in TRACKS},
            decoder_history=self.codec.decoder.history(batch),
        )

    @staticmethod
    def restore(state: StreamState, snapshot: StreamState) -> None:
        """Puts `state` back to what it was when `snapshot` was taken, in place."""
        for name in ("style", "self_ring", "signs"):
            getattr(state.generator, name).copy_(getattr(snapshot.generator, name))
        for track in TRACKS:
            state.generator.audio_rings[track].copy_(snapshot.generator.audio_rings[track])
            state.encoder_histories[track].copy_(snapshot.encoder_histories[track])
        state.generator.rows = dict(snapshot.generator.rows)
        state.generator.frame = snapshot.generator.frame
        state.decoder_history.copy_(snapshot.decoder_history)

    def encode_style(self, style: Tensor) -> Tensor:
        """Motion of a few seconds, (n, D) or (B, n, D) -> style tokens (1 or B, S, W)."""
        style = style if style.dim() == 3 else style[None]
        if style.shape[-1] != len(self.channels) or not STYLE_MIN_FRAMES <= style.shape[1] <= STYLE_MAX_FRAMES:
            raise ValueError(
                f"style must be {STYLE_MIN_FRAMES}..{STYLE_MAX_FRAMES} frames of {len(self.channels)} channels, "
                f"not {tuple(style.shape[1:])}"
            )
        z = self.codec.encode(style.to(self.codec.motion_mean))
        return self.generator.style_tokens(self.codec.latent(self.codec.quantise(z)))

    @torch.no_grad()
    def push_row(self, state: StreamState, track: str, row: Tensor) -> Tensor:
        """Appends one log-mel row (B, 256) of a track and returns its features (B, A)."""
        features = self.audio_encoder.step(row, state.encoder_histories[track])
        self.generator.push_row(state.generator, track, features)
        return features

    @torch.no_grad()
    def step(self, state: StreamState, sampling: Sampling, seeds: npt.NDArray[np.uint64]) -> Step:
        """Makes the next frame of B clips; seeds (B,) uint64. Rows pushed must be exactly frame + 1 + look-ahead."""
        generator, d = self.generator, self.config.codec.bits
        batch = state.generator.signs.shape[0]
        guided = sampling.cfg_scale != 1.0
        h = generator.step(state.generator, sampling.look_ahead, guided)
        signs = h.new_zeros(batch, 0)
        all_logits, all_bits = [], []
        for level, head in enumerate(generator.head):
            logits = head(h, signs.repeat(2, 1) if guided else signs)
            if guided:
                logits = sampling.cfg_scale * logits[:batch] + (1.0 - sampling.cfg_scale) * logits[batch:]
            bits = sample_bits(logits, sampling, uniforms(seeds, state.generator.frame, level, d))
            signs = torch.cat((signs, bits.to(h.dtype) * 2.0 - 1.0), dim=-1)
            all_logits.append(logits)
            all_bits.append(bits)
        generator.finish_step(state.generator, signs)
        bits = torch.stack(all_bits, dim=-2)
        latent = self.codec.latent(bits)
        motion = self.codec.decode_step(latent, state.decoder_history)
        return Step(motion, bits, torch.stack(all_logits, dim=-2), latent)

    @torch.inference_mode()
    def generate_batch(
        self,
        self_rows: Tensor,
        other_rows: Tensor,
        sampling: Sampling,
        seeds: Sequence[int],
        style: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Free-running generation of many clips at once.

        Args:
            self_rows: (B, T + look_ahead_self, 256) log-mel rows; other_rows alike with its own look-ahead.
            seeds: one for each clip.
            style: as in `init_state`.

        Returns:
            motion (B, T, D), bits (B, T, L, d) bool, logits (B, T, L, d), latent (B, T, d), self_features and
            other_features (B, rows, A).
        """
        rows = {"self": self_rows, "other": other_rows}
        ahead = sampling.look_ahead
        frames = {track: rows[track].shape[1] - ahead[track] for track in TRACKS}
        if frames["self"] != frames["other"] or len(seeds) != self_rows.shape[0] != other_rows.shape[0]:
            raise ValueError(f"clips differ in frames ({frames}) or in number")
        for track in TRACKS:
            if not 0 <= ahead[track] <= getattr(self.config.look_ahead_max, track):
                raise ValueError(f"look-ahead {ahead[track]} on {track} is not trained for")
        state = self.init_state(len(seeds), style)
        keys = np.asarray(seeds, dtype=np.uint64)
        features: dict[str, list[Tensor]] = {"self": [], "other": []}
        steps: list[Step] = []
        for frame in range(frames["self"]):
            for track in TRACKS:
                while len(features[track]) < frame + 1 + ahead[track]:
                    features[track].append(self.push_row(state, track, rows[track][:, len(features[track])]))
            steps.append(self.step(state, sampling, keys))
        out = {
            name: torch.stack([getattr(step, name) for step in steps], dim=1)
            for name in ("motion", "bits", "logits", "latent")
        }
        return out | {f"{track}_features": torch.stack(features[track], dim=1) for track in TRACKS}

    @torch.inference_mode()
    def generate(
        self,
        self_audio: npt.ArrayLike,
        other_audio: npt.ArrayLike,
        look_ahead_self: int = 1,
        look_ahead_other: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        cfg_scale: float = 1.0,
        seed: int = 0,
        style: npt.ArrayLike | None = None,
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Generates the face of `self` for one conversation.

        Args:
            self_audio, other_audio: (samples,) in [-1, 1] at 16 kHz. The shorter one is continued by silence, as is
                what look-ahead asks for beyond the end; samples beyond the last whole frame are ignored.
            style: motion (n, D), 25 to 500 frames.

        Returns:
            What `generate_batch` does without its batch axis, and self_rows and other_rows (rows, 256).
        """
        audio = [torch.as_tensor(np.asarray(track, dtype=np.float32)) for track in (self_audio, other_audio)]
        frames = max(len(track) for track in audio) // HOP_SAMPLES
        if frames == 0:
            raise ValueError(f"there is not one whole frame ({HOP_SAMPLES} samples) of audio")
        sampling = Sampling(look_ahead_self, look_ahead_other, temperature, top_p, cfg_scale)
        rows = [
            log_mel_rows(fit_samples(track, (frames + ahead) * HOP_SAMPLES, frames * HOP_SAMPLES))
            for track, ahead in zip(audio, (look_ahead_self, look_ahead_other), strict=True)
        ]
        clip = None if style is None else torch.as_tensor(np.asarray(style, dtype=np.float32))
        device = self.codec.motion_mean.device
        own, other = (track[None].to(device) for track in rows)
        out = self.generate_batch(own, other, sampling, [seed], clip)
        result = {name: value[0].cpu().numpy() for name, value in out.items()}
        return result | {"self_rows": rows[0].numpy(), "other_rows": rows[1].numpy()}


def fit_samples(audio: Tensor, length: int, keep: int) -> Tensor:
    """The first `keep` samples of audio (n,), continued by silence to `length`."""
    kept = audio[:keep]
    return torch.nn.functional.pad(kept, (0, length - kept.shape[0]))
