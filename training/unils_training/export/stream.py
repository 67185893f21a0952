"""Bundles of family `stream` (docs/stream-model.md, "Bundle")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from unils_training.config import Config, ConfigError, DefaultsConfig, ModelConfig, from_dict, to_dict
from unils_training.export.bundle import FORMAT, FORMAT_VERSION, BundleError, file_entry, provenance_of
from unils_training.models.stream import log_mel as features
from unils_training.models.stream.model import StreamModel
from unils_training.rigs import ARKIT_CHANNELS

FAMILY = "stream"
WEIGHTS_FILE = "weights.safetensors"
MAX_BUNDLE_BYTES = 12_000_000


def random_model(config: Config) -> tuple[StreamModel, dict[str, Any]]:
    """A model of `config`'s sizes with random weights, for testing engines, and its provenance."""
    model = StreamModel(config.model, ARKIT_CHANNELS)
    randomise(model, config.seed)
    return model, provenance_of(config, weights="random, never trained")


def trained_model(config: Config, checkpoint: str | Path | None) -> tuple[StreamModel, dict[str, Any]]:
    """The dialogue stage's best model, or that of a checkpoint, and its provenance."""
    from unils_training.stages.stream import dialogue

    return dialogue.load_for_export(config, checkpoint)


def describe(
    model: StreamModel, defaults: DefaultsConfig, provenance: Mapping[str, Any], licence: str
) -> dict[str, Any]:
    """`model.json` without its `weights` entry."""
    config = model.config
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "family": FAMILY,
        "rig": config.rig,
        "channels": list(model.channels),
        "sample_rate": features.SAMPLE_RATE,
        "hop_samples": features.HOP_SAMPLES,
        "frame_rate": features.FRAME_RATE,
        "look_ahead": {"self": [0, config.look_ahead_max.self], "other": [0, config.look_ahead_max.other]},
        "features": {
            "mels": features.MELS,
            "window_samples": features.WINDOW_SAMPLES,
            "step_samples": features.STEP_SAMPLES,
            "fft_size": features.FFT_SIZE,
            "low_hz": features.LOW_HZ,
            "high_hz": features.HIGH_HZ,
            "floor": features.FLOOR,
        },
        "audio_encoder": to_dict(config.audio_encoder),
        "codec": to_dict(config.codec),
        "generator": {name: value for name, value in to_dict(config.generator).items() if name != "cross_attention"},
        "defaults": to_dict(defaults),
        "provenance": dict(provenance),
        "licence": licence,
    }


def write_bundle(
    folder: str | Path,
    model: StreamModel,
    defaults: DefaultsConfig,
    provenance: Mapping[str, Any],
    licence: str = "Apache-2.0",
) -> int:
    """Writes `model.json` and `weights.safetensors` (float32) and returns their size in bytes.

    Raises:
        BundleError: the bundle would be larger than MAX_BUNDLE_BYTES, or the model hears both tracks mixed.
    """
    folder = Path(folder)
    if model.config.generator.cross_attention != "separate":
        raise BundleError(
            "a model with one mixed cross-attention cannot become a bundle: the engine runs one for each track. "
            "Evaluate its checkpoint instead: unils-train eval RUN/dialogue/best.pt CORPUS"
        )
    tensors = {name: value.detach().float().contiguous() for name, value in model.state_dict().items()}
    weight_bytes = sum(value.numel() * value.element_size() for value in tensors.values())
    if weight_bytes > MAX_BUNDLE_BYTES:
        raise BundleError(f"the weights take {weight_bytes} bytes; a bundle has at most {MAX_BUNDLE_BYTES}")
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS_FILE
    save_file(tensors, weights)
    weights.chmod(0o644)  # safetensors makes files that only their owner can read
    description = describe(model, defaults, provenance, licence) | {"weights": file_entry(weights)}
    text = json.dumps(description, indent=1) + "\n"
    (folder / "model.json").write_text(text, encoding="utf-8")
    return weights.stat().st_size + len(text)


def read_bundle(folder: str | Path) -> StreamModel:
    """Loads a bundle into a `StreamModel` in evaluation mode.

    Raises:
        BundleError: files are missing, changed, of another family, or tensors do not fit the sizes.
    """
    folder = Path(folder)
    try:
        info = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        weights = folder / str(info["weights"]["file"])
        digest = file_entry(weights)["sha256"]
        if (info["format"], info["format_version"], info["family"]) != (FORMAT, FORMAT_VERSION, FAMILY):
            raise BundleError(f"{folder} is not a {FORMAT} {FORMAT_VERSION} of family {FAMILY}")
        if digest != info["weights"]["sha256"]:
            raise BundleError(f"{weights} is not what model.json was written for: its sha256 differs")
        sections = {name: info[name] for name in ("rig", "audio_encoder", "codec", "generator")}
        most = {track: info["look_ahead"][track][1] for track in ("self", "other")}
        config: ModelConfig = from_dict(ModelConfig, {**sections, "look_ahead_max": most})
        model = StreamModel(config, info["channels"])
        model.load_state_dict(load_file(weights))
    except OSError as error:
        raise BundleError(f"{folder} is not a readable bundle: {error}") from error
    except (KeyError, TypeError, json.JSONDecodeError, ConfigError, RuntimeError) as error:
        raise BundleError(f"{folder} is not a valid bundle: {error!r}") from error
    return model.eval()


def randomise(model: StreamModel, seed: int) -> None:
    """Fills every tensor with values that are not trivial, so that an engine that ignores one is found out."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, mean: float, std: float) -> None:
        tensor.copy_(mean + std * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            if name.endswith(("norm.weight",)):
                normal(tensor, 1.0, 0.1)
            elif name.endswith("bias"):
                normal(tensor, 0.0, 0.1)
            elif tensor.dim() == 2 and "look_ahead" not in name and "style_null" not in name:
                normal(tensor, 0.0, tensor.shape[1] ** -0.5)
            else:
                normal(tensor, 0.0, 0.5)
        normal(model.audio_encoder.mel_mean, -6.0, 0.5)
        model.audio_encoder.mel_std.copy_(
            3.0 + 0.3 * torch.rand(model.audio_encoder.mel_std.shape, generator=generator)
        )
        normal(model.codec.motion_mean, 0.1, 0.05)
        model.codec.motion_std.copy_(0.05 + 0.1 * torch.rand(model.codec.motion_std.shape, generator=generator))
