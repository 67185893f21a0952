"""Graphs of family `published` in 8 bits, and the audio encoder's front end as products of matrices."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

import unils_sdk as unils
from unils_training.cli import main as train_main
from unils_training.config import DefaultsConfig, PublishedConfig, load_config
from unils_training.export.bundle import BundleError
from unils_training.export.graphs import AudioGraph
from unils_training.export.precision import LARGEST_WEIGHT, to_int8
from unils_training.export.published import random_model, write_bundle
from unils_training.models.published.audio_encoder import AudioEncoder

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
Floats = npt.NDArray[np.float32]


def product(weights: dict[str, Floats]) -> Any:
    """A model that multiplies x (rows, k) by each of `weights` (k, n), by nodes and into outputs of those names."""
    helper = onnx.helper
    nodes = [helper.make_node("MatMul", ["x", f"{name}.weight"], [name], name=name) for name in weights]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, None]) for name in ("x", *weights)]
    constants = [onnx.numpy_helper.from_array(value, f"{name}.weight") for name, value in weights.items()]
    graph = helper.make_graph(nodes, "products", ports[:1], ports[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(proto: Any, x: Floats) -> dict[str, Floats]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, {"x": x}), strict=True))


def relative(value: Floats, wanted: Floats) -> float:
    return float(np.linalg.norm(value - wanted) / np.linalg.norm(wanted))


def test_products_in_8_bits_are_near_and_those_that_stay_are_the_same() -> None:
    rng = np.random.default_rng(0)
    columns = np.geomspace(1e-3, 10, 96)  # a scale each, or the small ones would drown
    weights = {name: (rng.standard_normal((128, 96)) * columns).astype(np.float32) for name in ("a", "b", "/c/d")}
    weights["short"] = rng.standard_normal((128, 96)).astype(np.float32)[:, :40]
    weights["zero"] = np.zeros((128, 8), np.float32)
    x = rng.standard_normal((7, 128)).astype(np.float32)
    proto = product(weights)
    assert to_int8(proto, in_float="/c") == 4
    onnx.checker.check_model(proto)
    # The activations that several products share are quantised once.
    assert [node.op_type for node in proto.graph.node].count("DynamicQuantizeLinear") == 1
    made = run(proto, x)
    for name in ("a", "b", "short"):
        error = np.linalg.norm(made[name] - x @ weights[name], axis=0) / np.linalg.norm(x @ weights[name], axis=0)
        assert 1e-4 < error.max() < 0.1
        assert relative(made[name], x @ weights[name]) < 0.03
    np.testing.assert_allclose(made["/c/d"], x @ weights["/c/d"], rtol=1e-4, atol=1e-4)
    assert not made["zero"].any()


def test_products_over_few_terms_stay() -> None:
    proto = product({"short": np.ones((10, 64), np.float32)})
    assert to_int8(proto, in_float="/none") == 0
    assert [item.name for item in proto.graph.initializer] == ["short.weight"]


def test_the_largest_activations_and_weights_do_not_overflow() -> None:
    """A CPU without VNNI adds pairs of products in 16 bits."""
    x = np.ones((3, 256), np.float32)
    x[0, 0] = 0.0
    proto = product({"y": np.full((256, 64), 0.5, np.float32)})
    assert to_int8(proto, in_float="/none") == 1
    assert onnx.numpy_helper.to_array(proto.graph.initializer[0]).max() == LARGEST_WEIGHT
    np.testing.assert_allclose(run(proto, x)["y"], x @ np.full((256, 64), 0.5), rtol=1e-6)


def wav2vec2(norm: str, **sizes: Any) -> AudioEncoder:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer",
        **{"conv_dim": [6] * 7, "conv_bias": True, **sizes},
    )  # fmt: skip
    return AudioEncoder(Wav2Vec2Model(config)).eval()


@pytest.mark.parametrize(
    ("norm", "sizes"),
    [
        ("layer", {}),
        ("layer", {"conv_bias": False}),
        ("layer", {"conv_kernel": [5, 2, 3], "conv_stride": [7, 2, 1], "conv_dim": [5, 3, 4]}),
        ("group", {}),
    ],
)
@pytest.mark.parametrize("samples", [6400, 6397])
def test_the_front_end_is_wav2vec2s_own(norm: str, sizes: dict[str, Any], samples: int) -> None:
    encoder = wav2vec2(norm, **sizes)
    waveform = torch.randn(2, samples)
    with torch.inference_mode():
        wanted = encoder.wav2vec(waveform).last_hidden_state
        torch.testing.assert_close(AudioGraph(encoder)(waveform), wanted, rtol=1e-4, atol=1e-5)


def sizes_for_int8() -> PublishedConfig:
    """Wide enough that its products are worth 8 bits."""
    config = load_config("published_tiny").published
    encoder = dataclasses.replace(config.audio_encoder, width=64, feed_forward=128)
    return dataclasses.replace(config, width=64, audio_encoder=encoder)


def test_a_bundle_in_8_bits_runs_and_its_face_is_near(tmp_path: Path) -> None:
    model, provenance = random_model(dataclasses.replace(load_config("published_tiny"), published=sizes_for_int8()))
    faces, features, bytes_of = {}, {}, {}
    rng = np.random.default_rng(1)
    own, other = (rng.standard_normal((2, 48000)) * 0.2).clip(-1, 1).astype(np.float32)
    for precision in ("fp32", "int8"):
        folder = tmp_path / precision
        write_bundle(folder, model, DefaultsConfig(), provenance, "", precision)  # type: ignore[arg-type]
        description = json.loads((folder / "model.json").read_text())
        assert description["precision"] == precision
        bytes_of[precision] = {path.name: path.stat().st_size for path in folder.glob("*.onnx")}
        kinds = {node.op_type for node in onnx.load(str(folder / "audio_encoder.onnx")).graph.node}
        assert ("MatMulInteger" in kinds) == (precision == "int8")
        session = onnxruntime.InferenceSession(folder / "audio_encoder.onnx", providers=["CPUExecutionProvider"])
        features[precision] = session.run(None, {"waveform": own[None, :15360] / own[:15360].std()})[0]
        faces[precision] = unils.animate(own, other, model=unils.Model.load(folder), temperature=0).values
    assert np.isfinite(faces["int8"]).all()
    assert relative(faces["int8"], faces["fp32"]) < 0.3
    assert 0 < relative(features["int8"], features["fp32"]) < 0.05
    smaller = [name for name in bytes_of["fp32"] if bytes_of["int8"][name] < 0.9 * bytes_of["fp32"][name]]
    assert smaller == ["audio_encoder.onnx"]
    assert sum(bytes_of["int8"][name] == bytes_of["fp32"][name] for name in bytes_of["fp32"]) == 4


def test_precisions_that_there_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, provenance = random_model(load_config("published_tiny"))
    with pytest.raises(BundleError, match="precision is one of fp32, int8, not fp16"):
        write_bundle(tmp_path / "bundle", model, DefaultsConfig(), provenance, "", "fp16")  # type: ignore[arg-type]
    arguments = ["export", "--config", "tiny", "--random-init", "--precision", "int8", "-o", str(tmp_path / "bundle")]
    assert train_main(arguments) == 2
    assert "--precision int8 is for family published" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
