"""Bundles: what is written reads back, and what is not a bundle is refused by a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unils_training import export
from unils_training.cli import main
from unils_training.config import load_config
from unils_training.export import BundleError, read_bundle, write_bundle
from unils_training.models.stream.model import StreamModel
from unils_training.rigs import ARKIT_CHANNELS


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    assert main(["export", "--random-init", "--config", "tiny", "-o", str(tmp_path / "bundle")]) == 0
    return tmp_path / "bundle"


def test_a_bundle_reads_back_as_what_was_written(bundle: Path, tmp_path: Path) -> None:
    model = read_bundle(bundle)
    write_bundle(tmp_path / "again", model, load_config("tiny").defaults, {})
    again = read_bundle(tmp_path / "again")
    assert again.config == model.config
    assert again.channels == ARKIT_CHANNELS
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_model_that_mixes_tracks_is_refused_by_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "--random-init", "--config", "tiny", "-o", str(tmp_path / "bundle")]
    assert main([*arguments, "--set", "model.generator.cross_attention=mixed"]) == 2
    assert "the engine runs one for each track" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_the_tensors_have_the_names_and_shapes_of_the_contract(bundle: Path) -> None:
    tensors = load_file(bundle / "weights.safetensors")
    expected = {
        "audio_encoder.mel_mean": (64,),
        "audio_encoder.input.weight": (32, 256),
        "audio_encoder.blocks.1.conv.weight": (32, 3),
        "audio_encoder.blocks.1.up.weight": (64, 32),
        "audio_encoder.norm.bias": (32,),
        "codec.motion_std": (55,),
        "codec.encoder.output.weight": (8, 32),
        "codec.decoder.blocks.0.down.bias": (32,),
        "generator.token.weight": (64, 16),
        "generator.start": (64,),
        "generator.style_null": (4, 64),
        "generator.style.up.weight": (64, 8),
        "generator.look_ahead_self.weight": (5, 64),
        "generator.blocks.0.self_attention.qkv.weight": (192, 64),
        "generator.blocks.1.cross_other.key.weight": (64, 32),
        "generator.blocks.1.cross_self_norm.weight": (64,),
        "generator.blocks.1.feed_forward.up.bias": (128,),
        "generator.head.1.bits.weight": (48, 8),
        "generator.head.0.output.weight": (8, 48),
        "generator.norm.weight": (64,),
    }
    assert {name: tuple(tensors[name].shape) for name in expected} == expected
    assert all(value.dtype == torch.float32 for value in tensors.values())
    assert "generator.head.0.bits.weight" not in tensors
    assert "generator.blocks.0.self_attention.qkv.bias" not in tensors


def test_the_description_says_what_it_was_made_of(bundle: Path) -> None:
    info = json.loads((bundle / "model.json").read_text())
    assert info["family"] == "stream"
    assert info["look_ahead"] == {"self": [0, 4], "other": [0, 4]}
    assert info["defaults"]["look_ahead"] == {"self": 1, "other": 0}
    assert info["provenance"]["seed"] == 0
    assert info["provenance"]["configuration"]["model"]["generator"]["width"] == 64


def test_the_bundled_sizes_fit_in_twelve_megabytes(tmp_path: Path) -> None:
    config = load_config("bundled")
    size = write_bundle(tmp_path, StreamModel(config.model, ARKIT_CHANNELS), config.defaults, {})
    assert size <= export.MAX_BUNDLE_BYTES


def test_weights_too_large_for_a_bundle_are_refused(tmp_path: Path) -> None:
    config = load_config("bundled", ["model.generator.depth=8"])
    with pytest.raises(BundleError, match="at most"):
        write_bundle(tmp_path, StreamModel(config.model, ARKIT_CHANNELS), config.defaults, {})


def test_changed_weights_are_refused(bundle: Path) -> None:
    weights = bundle / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BundleError, match="sha256"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("key", "value"),
    [("family", "published"), ("format_version", 2), ("generator", {"width": 32}), ("codec", 3), ("channels", ["a"])],
)
def test_a_description_that_does_not_fit_is_refused(bundle: Path, key: str, value: object) -> None:
    path = bundle / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(BundleError):
        read_bundle(bundle)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a readable bundle"):
        read_bundle(tmp_path)


def test_a_random_bundle_has_no_trivial_tensor(bundle: Path) -> None:
    for name, value in load_file(bundle / "weights.safetensors").items():
        assert float(value.std()) > 0.01, name
