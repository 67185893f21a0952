"""wav2vec2 features of a window of one track. The released checkpoint holds no encoder: it comes from a folder.

Shapes: B clips, S samples of a window (64000), J rows (199 for 64000), A width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from unils_training.config import PublishedAudioEncoderConfig

STD_FLOOR = 1e-6
SILENCE = 10 ** (-50 / 20)
"""RMS below which a stretch of audio is silence: -50 dBFS. A window of nothing louder is heard as zeros."""
STRETCH_SAMPLES = 320
"""20 ms."""
NO_NOISE: dict[str, Any] = {
    "apply_spec_augment": False,
    "layerdrop": 0.0,
    **dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout"), 0.0),
}
"""Its own dropouts would draw other masks in each of several processes, and a frozen encoder needs none."""


def normalise_waveform(samples: Tensor) -> Tensor:
    """Each window of (B, S) minus its mean, over its (unbiased) standard deviation; a silent one becomes zeros."""
    centred = samples - samples.mean(dim=-1, keepdim=True)
    stretches = centred.unfold(-1, STRETCH_SAMPLES, STRETCH_SAMPLES)
    loud = stretches.square().mean(dim=-1).amax(dim=-1, keepdim=True) >= SILENCE**2
    normalised = centred / (samples.std(dim=-1, keepdim=True).clamp_min(SILENCE) + STD_FLOOR)
    return torch.where(loud, normalised, 0.0)


class AudioEncoder(nn.Module):
    """Normalises a window of waveform and encodes it; the same weights for both tracks."""

    def __init__(self, wav2vec: Wav2Vec2Model) -> None:
        super().__init__()
        self.wav2vec = wav2vec

    @classmethod
    def from_config(cls, config: PublishedAudioEncoderConfig) -> AudioEncoder:
        """The encoder of `config.source`, or a random one of its sizes with XLS-R's choices of norms.

        Raises:
            FileNotFoundError: `source` is neither a folder nor found on the hub.
        """
        return cls.from_pretrained(config.source) if config.source else cls(Wav2Vec2Model(_small(config)))

    @classmethod
    def from_pretrained(cls, source: str | Path) -> AudioEncoder:
        """From a local folder in the Hugging Face layout, or a hub id such as facebook/wav2vec2-xls-r-300m."""
        try:
            # Pre-training heads in the file are of no use here and are left out without complaint.
            wav2vec = Wav2Vec2Model.from_pretrained(str(source), attn_implementation="sdpa", **NO_NOISE)
        except OSError as error:
            raise FileNotFoundError(f"there is no wav2vec2 encoder at {source}: {error}") from error
        return cls(wav2vec)

    @property
    def width(self) -> int:
        return int(self.wav2vec.config.hidden_size)

    def rows(self, samples: int) -> int:
        """J for a window of so many samples."""
        return int(self.wav2vec._get_feat_extract_output_lengths(samples))

    def forward(self, samples: Tensor) -> Tensor:
        """Waveforms (B, S) in [-1, 1] at 16 kHz -> (B, J, A)."""
        features: Tensor = self.wav2vec(normalise_waveform(samples)).last_hidden_state
        return features


def _small(config: PublishedAudioEncoderConfig) -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.feed_forward,
        conv_dim=[config.conv_width] * len(config.conv_kernels),
        conv_kernel=list(config.conv_kernels),
        conv_stride=list(config.conv_strides),
        conv_bias=True,
        num_conv_pos_embeddings=config.position_kernel,
        num_conv_pos_embedding_groups=config.position_groups,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        **NO_NOISE,
        attn_implementation="sdpa",
    )
