"""Random bundles, written with NumPy alone: real models of any size whose motion means nothing but moves."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from unils_sdk.rigs import ARKIT_CHANNELS, FLAME_CHANNELS

Tensors = dict[str, np.ndarray]

TINY: dict[str, Any] = {
    "audio_encoder": {"width": 16, "depth": 2, "kernel": 3, "expansion": 2},
    "codec": {"width": 24, "depth": 2, "kernel": 3, "expansion": 2, "bits": 8, "levels": 2, "gains": [1.0, 0.5]},
    "generator": {
        "width": 32,
        "depth": 2,
        "heads": 2,
        "feed_forward": 48,
        "window_frames": 128,
        "audio_window_frames": 64,
        "style_tokens": 4,
        "head_width": 24,
    },
}
"""Odd enough to find a kernel that counts in eights, small enough for thousands of frames in a test."""


def bundle_config(sizes: dict[str, Any] = TINY, rig: str = "arkit") -> dict[str, Any]:
    """A `model.json`, all but its weights."""
    channels = list(ARKIT_CHANNELS) if rig == "arkit" else [f"flame{i:03d}" for i in range(FLAME_CHANNELS)]
    return {
        "format": "unils-bundle",
        "format_version": 1,
        "family": "stream",
        "rig": rig,
        "channels": channels,
        "sample_rate": 16000,
        "hop_samples": 640,
        "frame_rate": 25,
        "look_ahead": {"self": [0, 8], "other": [0, 8]},
        "features": {
            "mels": 64,
            "window_samples": 400,
            "step_samples": 160,
            "fft_size": 512,
            "low_hz": 60.0,
            "high_hz": 7600.0,
            "floor": 1e-5,
        },
        **sizes,
        "defaults": {"temperature": 1.0, "top_p": 0.97, "cfg_scale": 1.5, "look_ahead": {"self": 1, "other": 0}},
        "provenance": {"made_by": "tests"},
        "licence": "Apache-2.0",
    }


def random_tensors(config: dict[str, Any], seed: int = 0) -> Tensors:
    """Every tensor of docs/stream-model.md, so scaled that bits differ from frame to frame and follow the audio."""
    random = np.random.default_rng(seed)
    tensors: Tensors = {}

    def put(name: str, *shape: int, scale: float = 1.0, mean: float = 0.0) -> None:
        tensors[name] = (mean + scale * random.standard_normal(shape)).astype(np.float32)

    def linear(name: str, out: int, into: int, *, bias: bool = True, gain: float = 1.0) -> None:
        put(f"{name}.weight", out, into, scale=gain / math.sqrt(into))
        if bias:
            put(f"{name}.bias", out, scale=0.1)

    def norm(name: str, width: int) -> None:
        put(f"{name}.weight", width, scale=0.1, mean=1.0)
        put(f"{name}.bias", width, scale=0.1)

    def causal_block(name: str, width: int, kernel: int, expansion: int) -> None:
        put(f"{name}.conv.weight", width, kernel, scale=1 / math.sqrt(kernel))
        put(f"{name}.conv.bias", width, scale=0.1)
        norm(f"{name}.norm", width)
        linear(f"{name}.up", expansion * width, width)
        linear(f"{name}.down", width, expansion * width)

    def causal_stack(name: str, sizes: dict[str, Any]) -> None:
        for i in range(sizes["depth"]):
            causal_block(f"{name}.blocks.{i}", sizes["width"], sizes["kernel"], sizes["expansion"])
        norm(f"{name}.norm", sizes["width"])

    audio, codec, generator = config["audio_encoder"], config["codec"], config["generator"]
    channels, mels = len(config["channels"]), config["features"]["mels"]
    bits, levels = codec["bits"], codec["levels"]
    width = generator["width"]

    put("audio_encoder.mel_mean", mels, scale=0.5, mean=-6.0)
    put("audio_encoder.mel_std", mels, scale=0.1, mean=3.0)
    linear("audio_encoder.input", audio["width"], 4 * mels)
    causal_stack("audio_encoder", audio)

    put("codec.motion_mean", channels, scale=0.05, mean=0.3)
    put("codec.motion_std", channels, scale=0.01, mean=0.1)
    linear("codec.encoder.input", codec["width"], channels)
    causal_stack("codec.encoder", codec)
    linear("codec.encoder.output", bits, codec["width"])
    linear("codec.decoder.input", codec["width"], bits, gain=math.sqrt(bits))
    causal_stack("codec.decoder", codec)
    linear("codec.decoder.output", channels, codec["width"])

    linear("generator.token", width, levels * bits)
    put("generator.start", width)
    for track in ("self", "other"):
        put(f"generator.look_ahead_{track}.weight", config["look_ahead"][track][1] + 1, width, scale=0.3)
    put("generator.style_null", generator["style_tokens"], width)
    linear("generator.style.up", width, bits, gain=math.sqrt(bits))
    linear("generator.style.down", width, width)
    for i in range(generator["depth"]):
        block = f"generator.blocks.{i}"
        norm(f"{block}.self_norm", width)
        linear(f"{block}.self_attention.qkv", 3 * width, width, bias=False)
        linear(f"{block}.self_attention.output", width, width)
        for track in ("self", "other"):
            norm(f"{block}.cross_{track}_norm", width)
            linear(f"{block}.cross_{track}.query", width, width)
            linear(f"{block}.cross_{track}.key", width, audio["width"])
            linear(f"{block}.cross_{track}.value", width, audio["width"])
            linear(f"{block}.cross_{track}.output", width, width, gain=2.0)
        norm(f"{block}.feed_forward_norm", width)
        linear(f"{block}.feed_forward.up", generator["feed_forward"], width)
        linear(f"{block}.feed_forward.down", width, generator["feed_forward"])
    norm("generator.norm", width)
    for level in range(levels):
        head = f"generator.head.{level}"
        linear(f"{head}.hidden", generator["head_width"], width)
        if level:
            linear(f"{head}.bits", generator["head_width"], level * bits, bias=False)
        linear(f"{head}.output", bits, generator["head_width"], gain=2.0)
    return tensors


def safetensors_bytes(tensors: Tensors) -> bytes:
    """The safetensors file format: u64 little-endian header length, JSON header, raw data."""
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensor.tobytes() for tensor in tensors.values())


def write_bundle(folder: Path, config: dict[str, Any], weights: bytes) -> Path:
    """Write both files of a bundle, with the digest that the weights really have unless the config names one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(weights)
    digest = {"file": "weights.safetensors", "sha256": hashlib.sha256(weights).hexdigest()}
    (folder / "model.json").write_text(json.dumps({"weights": digest, **config}))
    return folder


def random_bundle(folder: Path, *, seed: int = 0, sizes: dict[str, Any] = TINY, rig: str = "arkit") -> Path:
    config = bundle_config(sizes, rig)
    return write_bundle(folder, config, safetensors_bytes(random_tensors(config, seed)))
