"""Every stage of the native engine against the PyTorch model, from the same log-mel rows.

The engine is run by `tests/cpp/run_engine.cpp`, built on demand.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bundles import bundle_config, random_tensors, safetensors_bytes, write_bundle

torch = pytest.importorskip("torch", reason="PyTorch is in the [training] extra")

from unils_training.models.layers import rope_table  # noqa: E402
from unils_training.models.stream.model import Sampling, StreamModel  # noqa: E402

LEVELS = ("ref", "avx2", "avx512") if platform.machine() in ("x86_64", "AMD64") else ("ref", "neon")
Array = npt.NDArray[np.float32]

SMALL: dict[str, Any] = {
    "audio_encoder": {"width": 20, "depth": 2, "kernel": 3, "expansion": 2},
    "codec": {"width": 28, "depth": 2, "kernel": 4, "expansion": 2, "bits": 10, "levels": 3, "gains": [1.0, 0.5, 0.3]},
    "generator": {
        "width": 36,
        "depth": 2,
        "heads": 3,
        "feed_forward": 50,
        "window_frames": 16,
        "audio_window_frames": 8,
        "style_tokens": 4,
        "head_width": 30,
    },
}
"""Rings of 16 positions, so that a short run wraps them often."""

DEFAULT: dict[str, Any] = {
    "audio_encoder": {"width": 160, "depth": 3, "kernel": 5, "expansion": 2},
    "codec": {
        "width": 128,
        "depth": 3,
        "kernel": 5,
        "expansion": 2,
        "bits": 24,
        "levels": 4,
        "gains": [1.0, 0.5, 0.25, 0.125],
    },
    "generator": {
        "width": 160,
        "depth": 3,
        "heads": 5,
        "feed_forward": 640,
        "window_frames": 128,
        "audio_window_frames": 64,
        "style_tokens": 16,
        "head_width": 256,
    },
}
"""The example of docs/stream-model.md."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One free run from made-up audio rows and, where style_frames is not 0, a made-up style clip."""

    bundle: Path
    frames: int
    sampling: Sampling
    style_frames: int = 0
    seed: int = 2**63 + 11

    def rows(self) -> dict[str, Array]:
        """Log-mel rows (frames + look-ahead, 256) by track."""
        random = np.random.default_rng(7)
        counts = {track: self.frames + ahead for track, ahead in self.sampling.look_ahead.items()}
        return {track: random.normal(-6.0, 3.0, (count, 256)).astype(np.float32) for track, count in counts.items()}

    def style(self, channels: int) -> Array:
        """Motion (style_frames, D)."""
        steps = np.random.default_rng(9).normal(0.0, 0.05, (self.style_frames, channels)).astype(np.float32)
        return 0.3 + np.cumsum(steps, axis=0, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Made:
    """Motion (T, D), logits and bits (T, L*d), and by track keys and values of its rows (rows, depth, 2, W)."""

    motion: Array
    logits: Array
    bits: npt.NDArray[np.bool_]
    heard: dict[str, Array]


@pytest.fixture(scope="session")
def run_engine(native_target: Callable[[str], Path]) -> Path:
    """The test program, built."""
    return native_target("run_engine")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = bundle_config(SMALL)
    return write_bundle(tmp_path_factory.mktemp("parity"), config, safetensors_bytes(random_tensors(config, seed=2)))


@pytest.fixture(scope="session")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = bundle_config(DEFAULT)
    return write_bundle(tmp_path_factory.mktemp("parity"), config, safetensors_bytes(random_tensors(config, seed=3)))


def made_natively(program: Path, case: Case, level: str, tmp: Path) -> Made:
    model, sampling, rows = StreamModel.from_bundle(case.bundle), case.sampling, case.rows()
    channels = len(model.channels)
    (tmp / "input").write_bytes(b"".join(part.tobytes() for part in (*rows.values(), case.style(channels))))
    numbers = [case.frames, sampling.look_ahead_self, sampling.look_ahead_other, sampling.temperature, sampling.top_p]
    numbers += [sampling.cfg_scale, case.seed, case.style_frames]
    command = [str(program), str(case.bundle), str(tmp / "input"), str(tmp / "output"), *map(str, numbers)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "UNILS_CPU": level})
    if "cannot run it" in done.stderr:
        pytest.skip(f"this processor has no {level}")
    assert done.returncode == 0, done.stderr
    made = np.fromfile(tmp / "output", np.float32)
    codec, generator = model.config.codec, model.config.generator
    bits = codec.levels * codec.bits
    shapes = [(case.frames, channels), (case.frames, bits), (case.frames, bits)]
    shapes += [(len(each), generator.depth, 2, generator.width) for each in rows.values()]
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    assert ends[-1] == len(made)
    motion, logits, signs, *heard = (
        part.reshape(shape) for part, shape in zip(np.split(made, ends[:-1]), shapes, strict=True)
    )
    return Made(motion, logits, signs > 0, dict(zip(rows, heard, strict=True)))


@functools.cache
def made_by_pytorch(case: Case) -> Made:
    model = StreamModel.from_bundle(case.bundle)
    rows = {track: torch.from_numpy(each)[None] for track, each in case.rows().items()}
    style = torch.from_numpy(case.style(len(model.channels))) if case.style_frames else None
    made = model.generate_batch(rows["self"], rows["other"], case.sampling, [case.seed], style)
    heard = {track: keys_and_values(model, track, made[f"{track}_features"][0]) for track in rows}
    return Made(
        made["motion"][0].numpy(), made["logits"][0].flatten(1).numpy(), made["bits"][0].flatten(1).numpy(), heard
    )


def keys_and_values(model: StreamModel, track: str, features: torch.Tensor) -> Array:
    """Features (rows, A) -> (rows, depth, 2, W)."""
    heads = model.config.generator.heads
    table = rope_table(torch.arange(len(features)), model.config.generator.width // heads)
    layers = []
    with torch.inference_mode():
        for block in model.generator.blocks:
            cross = getattr(block, f"cross_{track}")
            keys = torch.view_as_complex(cross.key(features).unflatten(-1, (heads, -1, 2)).contiguous())
            turned = torch.view_as_real(keys * table[:, None]).flatten(1)
            layers.append(torch.stack((turned, cross.value(features)), dim=1))
    return torch.stack(layers, dim=1).numpy()


def check_that_all_agree(program: Path, case: Case, level: str, tmp: Path) -> None:
    native, expected = made_natively(program, case, level, tmp), made_by_pytorch(case)
    for track in ("self", "other"):
        np.testing.assert_allclose(native.heard[track], expected.heard[track], atol=1e-4, rtol=0)
    # One bit that differs makes all later frames differ, so the first one is what to look at.
    wrong = np.argwhere(native.bits != expected.bits)
    assert not len(wrong), (
        f"bit {wrong[0]}: logits {native.logits[tuple(wrong[0])]}, {expected.logits[tuple(wrong[0])]}"
    )
    assert 0.1 < native.bits.mean() < 0.9
    np.testing.assert_allclose(native.logits, expected.logits, atol=1e-4, rtol=0)
    np.testing.assert_allclose(native.motion, expected.motion, atol=1e-4, rtol=0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("style_frames", [0, 25, 101])
@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_engine_makes_the_frames_that_pytorch_makes(
    run_engine: Path, small: Path, temperature: float, cfg_scale: float, style_frames: int, level: str, tmp_path: Path
) -> None:
    case = Case(small, 70, Sampling(1, 0, temperature, 0.97, cfg_scale), style_frames)
    check_that_all_agree(run_engine, case, level, tmp_path)


@pytest.mark.parametrize("ahead", [(k, 0) for k in range(9)] + [(0, k) for k in range(1, 9)] + [(3, 5), (8, 8)])
def test_every_look_ahead_agrees(run_engine: Path, small: Path, ahead: tuple[int, int], tmp_path: Path) -> None:
    case = Case(small, 24, Sampling(*ahead, temperature=1.0, top_p=0.97, cfg_scale=1.5))
    check_that_all_agree(run_engine, case, LEVELS[0], tmp_path)


@pytest.mark.parametrize("level", LEVELS)
def test_a_model_of_full_size_agrees_over_three_wraps(
    run_engine: Path, default: Path, level: str, tmp_path: Path
) -> None:
    case = Case(default, 3 * 128 + 20, Sampling(1, 0, 1.0, 0.97, 1.5), style_frames=60)
    check_that_all_agree(run_engine, case, level, tmp_path)
