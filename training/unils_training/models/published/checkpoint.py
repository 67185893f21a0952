"""The released checkpoint: `torch.save({"model": state_dict, "meta_cfg": {...}})`, read and written.

The generator's names are the file's; the codec's stand behind `base_codec.`; the audio encoder is not in the file.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unils_training.config import ConfigError, PublishedAudioEncoderConfig, PublishedCodecConfig, PublishedConfig
from unils_training.models.published.audio_encoder import AudioEncoder
from unils_training.models.published.codec import Codec
from unils_training.models.published.generator import Generator
from unils_training.models.published.model import PublishedModel
from unils_training.rigs import FLAME_CHANNELS

CODEC_PREFIX = "base_codec."
WRAPPERS = ("module.", "_orig_mod.", "model.", "ema_model.", "_forward_module.")
_ANCHOR = "sos_embed"
FRAME_RATE, SAMPLE_RATE = 25, 16000


class CheckpointError(ValueError):
    """A file that is no released checkpoint; the message names the first key or shape that does not fit."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A file's tensors without wrappers' prefixes, its `meta_cfg` as it stands, and the sizes that this tells."""

    weights: dict[str, Tensor]
    meta: dict[str, Any]
    config: PublishedConfig

    @property
    def channels(self) -> int:
        return len(self.weights[f"{CODEC_PREFIX}motion_mean"])

    @property
    def audio_width(self) -> int:
        """Width of the audio encoder that the weights were trained with."""
        return self.weights["attn_blocks.self_pos"].shape[-1]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads and checks a file, of which nothing is executed.

    Raises:
        CheckpointError: no such format, or a key or shape that does not fit.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a PyTorch checkpoint: {reason}") from error
    for key in ("model", "meta_cfg"):
        if not isinstance(stored, Mapping) or not isinstance(stored.get(key), Mapping):
            raise CheckpointError(f"{path} is no UniLS checkpoint: it has no table {key!r}")
    weights = _unwrap(stored["model"], path)
    meta = dict(stored["meta_cfg"])
    config = _config_of(meta, path)
    _check(weights, config, path)
    return Checkpoint(weights, meta, config)


def load_model(path: str | Path, audio_encoder: str | Path) -> PublishedModel:
    """See `PublishedModel.from_checkpoint`."""
    checkpoint = read_checkpoint(path)
    encoder = AudioEncoder.from_pretrained(audio_encoder)
    if encoder.width != checkpoint.audio_width:
        raise CheckpointError(
            f"the audio encoder {audio_encoder} is {encoder.width} wide, but attn_blocks.self_pos of {path} is for one "
            f"of {checkpoint.audio_width}"
        )
    config = dataclasses.replace(checkpoint.config, audio_encoder=PublishedAudioEncoderConfig(str(audio_encoder)))
    channels = FLAME_CHANNELS if checkpoint.channels == len(FLAME_CHANNELS) else _numbered(checkpoint.channels)
    model = PublishedModel(config, channels, encoder)
    codec, generator = split_weights(checkpoint.weights)
    model.codec.load_state_dict(codec)
    model.generator.load_state_dict(generator)
    return model.eval()


def split_weights(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A checkpoint's weights as those of the codec and those of the generator."""
    codec = {k.removeprefix(CODEC_PREFIX): v for k, v in weights.items() if k.startswith(CODEC_PREFIX)}
    return codec, {k: v for k, v in weights.items() if not k.startswith(CODEC_PREFIX)}


def write_checkpoint(path: str | Path, model: PublishedModel, meta: Mapping[str, Any] | None = None) -> None:
    """Writes a model in the released format; `meta` keeps what a file it was read from said besides sizes."""
    codec = {f"{CODEC_PREFIX}{name}": value for name, value in model.codec.state_dict().items()}
    stored = {
        "model": {name: value.cpu() for name, value in (codec | model.generator.state_dict()).items()},
        "meta_cfg": _merge(dict(meta or {}), meta_of(model.config, len(model.channels))),
    }
    torch.save(stored, path)


def meta_of(config: PublishedConfig, channels: int) -> dict[str, Any]:
    """The sizes of a model as the released `meta_cfg` names them."""
    codec = config.codec
    return {
        "MODEL": {
            "NAME": "UniLSLoRAGen",
            "AUDIO_ENCODER": "wav2vec",
            "T_DEPTH": config.depth,
            "T_NUM_HEAD": config.heads,
            "T_EMBED_DIM": config.width,
            "VAE_CONFIG": {
                "MOTION_DIM": channels,
                "V_CODE_DIM": codec.bits,
                "V_PATCH_NUMS": list(codec.scales),
                "T_DEPTH": codec.depth,
                "T_NUM_HEADS": codec.heads,
                "T_HIDDEN_DIM": codec.width,
            },
        },
        "DATASET": {
            "MOTION_FPS": FRAME_RATE,
            "AUDIO_SAMPLE_RATE": SAMPLE_RATE,
            "CLIP_LENGTH": config.window_frames,
            "PREV_LENGTH": config.window_frames,
            "STYLE_LENGTH": config.window_frames,
        },
    }


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        known = base.get(key)
        if isinstance(value, Mapping):
            base[key] = _merge(dict(known) if isinstance(known, Mapping) else {}, value)
        elif key not in ("NAME", "AUDIO_ENCODER") or known is None:
            base[key] = value
    return base


def _numbered(channels: int) -> tuple[str, ...]:
    return tuple(f"channel{i}" for i in range(channels))


def _unwrap(model: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Takes what wrappers (data parallel, compile, EMA) put in front of every name away."""
    for name, value in model.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: model[{name!r}] is not a tensor under a name")
    anchors = [name for name in model if name == _ANCHOR or name.endswith(f".{_ANCHOR}")]
    if not anchors:
        first = next(iter(model), "nothing")
        raise CheckpointError(f"{path}: {_ANCHOR} is missing, so this is no UniLS generator; it begins with {first}")
    prefix = min(anchors, key=len).removesuffix(_ANCHOR)
    rest = prefix
    while rest:
        wrapper = next((name for name in WRAPPERS if rest.startswith(name)), None)
        if wrapper is None:
            raise CheckpointError(f"{path}: {anchors[0]} stands behind {prefix!r}, which is no wrapper known here")
        rest = rest.removeprefix(wrapper)
    # Encoders that were saved along are taken from their own folder, as with files that do not hold one.
    inside = {name.removeprefix(prefix): value for name, value in model.items() if name.startswith(prefix)}
    return {name: value for name, value in inside.items() if not name.startswith("audio_encoder.")}


def _config_of(meta: Mapping[str, Any], path: Path) -> PublishedConfig:
    def size(*keys: str, most: int = 1 << 14) -> int:
        value: Any = meta
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise CheckpointError(f"{path}: meta_cfg.{'.'.join(keys)} must be an integer in 1..{most}, not {value!r}")
        return value

    codec = ("MODEL", "VAE_CONFIG")
    frames = size("DATASET", "CLIP_LENGTH", most=1000)
    for key in ("PREV_LENGTH", "STYLE_LENGTH"):
        if size("DATASET", key) != frames:
            raise CheckpointError(
                f"{path}: meta_cfg.DATASET.{key} is {size('DATASET', key)}, but CLIP_LENGTH is {frames}"
            )
    for key, expected in (("MOTION_FPS", FRAME_RATE), ("AUDIO_SAMPLE_RATE", SAMPLE_RATE)):
        if size("DATASET", key) != expected:
            raise CheckpointError(f"{path}: meta_cfg.DATASET.{key} is {size('DATASET', key)}, not {expected}")
    scales = (meta["MODEL"].get("VAE_CONFIG") or {}).get("V_PATCH_NUMS") if "MODEL" in meta else None
    if not isinstance(scales, (list, tuple)) or not all(type(n) is int and 0 < n <= frames for n in scales):
        raise CheckpointError(
            f"{path}: meta_cfg.MODEL.VAE_CONFIG.V_PATCH_NUMS must be a list of integers up to {frames}"
        )
    try:
        return PublishedConfig(
            rig="flame",
            window_frames=frames,
            width=size("MODEL", "T_EMBED_DIM"),
            heads=size("MODEL", "T_NUM_HEAD"),
            depth=size("MODEL", "T_DEPTH", most=128),
            codec=PublishedCodecConfig(
                width=size(*codec, "T_HIDDEN_DIM"),
                heads=size(*codec, "T_NUM_HEADS"),
                depth=size(*codec, "T_DEPTH", most=128),
                bits=size(*codec, "V_CODE_DIM"),
                scales=tuple(scales),
            ),
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: meta_cfg does not fit together: {error}") from error


def _check(weights: Mapping[str, Tensor], config: PublishedConfig, path: Path) -> None:
    """Compares names and shapes with those of a model of the file's sizes, before any of it is made."""
    audio_width = weights["attn_blocks.self_pos"].shape[-1] if "attn_blocks.self_pos" in weights else config.width
    mean = weights.get(f"{CODEC_PREFIX}motion_mean")
    channels = len(mean) if mean is not None and mean.dim() == 1 else len(FLAME_CHANNELS)
    with torch.device("meta"):
        codec = Codec(channels, config.window_frames, config.codec).state_dict()
        generator = Generator(config, audio_width).state_dict()
    expected = generator | {f"{CODEC_PREFIX}{name}": value for name, value in codec.items()}
    for name, value in expected.items():
        if name not in weights:
            raise CheckpointError(f"{path}: {name} is missing")
        if weights[name].shape != value.shape:
            raise CheckpointError(
                f"{path}: {name} has the shape {tuple(weights[name].shape)}, but meta_cfg asks for {tuple(value.shape)}"
            )
        if not weights[name].is_floating_point():
            raise CheckpointError(f"{path}: {name} is {weights[name].dtype}, not floating point")
        if not bool(torch.isfinite(weights[name]).all()):
            raise CheckpointError(f"{path}: {name} holds a value that is not finite")
    unknown = sorted(set(weights) - set(expected))
    if unknown:
        raise CheckpointError(f"{path}: {unknown[0]} has no place in a model of these sizes")
