"""The published family against what the released code computes (a tiny model's numbers, handed to us as data)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from unils_training.models.published.model import PublishedModel, Sampling
from unils_training.models.published.smoothing import smooth

SHARED = Path(os.environ.get("UNILS_SHARED", Path(__file__).parents[2] / ".." / "shared"))
FIXTURE = SHARED / "fixtures" / "published_unils_tiny"
pytestmark = pytest.mark.skipif(not FIXTURE.exists(), reason=f"the fixture {FIXTURE} is not here")
CASES = [("nostyle_cfg1.5", False, 1.5), ("style_cfg1.5", True, 1.5), ("style_cfg1.0", True, 1.0)]


@pytest.fixture(scope="module")
def model() -> PublishedModel:
    return PublishedModel.from_checkpoint(FIXTURE / "iter_1.pt", FIXTURE / "wav2vec2")


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(FIXTURE / "expected.safetensors")


def test_audio_features_are_those_of_the_released_code(model: PublishedModel, expected: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        features, _ = model.hear(*expected["audio"][:, :, : model.window_samples].unbind(1))
    torch.testing.assert_close(features[0], expected["audio_feat_self_chunk0"], atol=1e-4, rtol=0.0)


def test_the_codec_is_that_of_the_released_code(model: PublishedModel, expected: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        bits, latent = model.codec.quantise(model.codec.encode(expected["style_motion"][:, 0]))
        decoded = model.codec.decode(latent)
    assert torch.equal(bits[0], expected["codec_bits_of_style"] > 0)
    torch.testing.assert_close(decoded[0], expected["codec_roundtrip_of_style"], atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(("case", "styled", "cfg_scale"), CASES)
def test_generation_is_that_of_the_released_code(
    model: PublishedModel, expected: dict[str, Tensor], case: str, styled: bool, cfg_scale: float
) -> None:
    style = expected["style_motion"][:, 0] if styled else None
    sampling = Sampling(temperature=0.0, cfg_scale=cfg_scale)
    made = model.generate_batch(expected["audio"][:, 0], expected["audio"][:, 1], sampling, [0], style)
    torch.testing.assert_close(made["logits"][0], expected[f"{case}.logits"], atol=1e-3, rtol=0.0)
    assert torch.equal(made["bits"][0], expected[f"{case}.bits"] > 0)
    assert made["motion"][0].shape == expected[f"{case}.motion"].shape
    torch.testing.assert_close(made["motion"][0], expected[f"{case}.motion"], atol=1e-4, rtol=0.0)


def test_smoothing_is_that_of_the_released_code(expected: dict[str, Tensor]) -> None:
    smoothed = torch.from_numpy(smooth(expected["style_cfg1.5.motion"].numpy()))
    torch.testing.assert_close(smoothed, expected["style_cfg1.5.motion_savgol"], atol=1e-5, rtol=0.0)
