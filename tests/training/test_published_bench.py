"""The benchmarks of family `published`: that they time the same work, and that their figures add up."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from unils_training.config import DefaultsConfig, PublishedAudioEncoderConfig, PublishedCodecConfig, PublishedConfig
from unils_training.export.published import write_bundle
from unils_training.models.published.model import Sampling

pytest.importorskip("onnxruntime")

SIZES = PublishedConfig(
    rig="flame",
    width=64,
    heads=2,
    depth=2,
    codec=PublishedCodecConfig(width=24, heads=2, depth=1, bits=8, scales=(1, 25, 100)),
    audio_encoder=PublishedAudioEncoderConfig(
        width=64, depth=1, heads=2, feed_forward=64, conv_width=8, position_kernel=8, position_groups=2
    ),
)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/published_bench.py with one tiny size."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    for name in ("published_bench", "published_precision"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("published_bench")
    monkeypatch.setattr(module, "SIZES", {"tiny": SIZES})
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    return module


def test_the_straightforward_loop_makes_the_motion_of_the_model(bench: ModuleType) -> None:
    model = bench.make_model("tiny")
    own, other = bench.speech_like(200)
    loop = bench.StraightforwardLoop(model)
    made = [loop.window(own[begin : begin + 64000], other[begin : begin + 64000]) for begin in (0, 64000)]
    wanted = model.generate(own, other, Sampling(0.0, 1.0, 1.5))["motion"]
    np.testing.assert_allclose(np.concatenate(made), wanted, rtol=0, atol=1e-5)


def test_every_variant_is_measured_and_compared_with_the_loop(bench: ModuleType, tmp_path: Path) -> None:
    threads = torch.get_num_threads()  # of the whole process, which the benchmark sets
    table = bench.compare(tmp_path, "tiny", rounds=2, threads=threads)
    modes = ("windowed", "windowed, two faces", "rolling, hop 1", "rolling, hop 5", "rolling, hop 25")
    assert list(table) == [
        "PyTorch loop",
        *(f"{precision}, {mode}" for precision in ("fp32", "int8") for mode in modes),
    ]
    assert table["PyTorch loop"]["to_loop"] == 1
    for name, row in table.items():
        hop = int(name.split()[-1]) if "hop" in name else 100
        assert row["real_time"] == pytest.approx(1e3 * hop / row["step_ms"] / 25)
        assert row["frames_per_second"] == pytest.approx(row["real_time"] * 25 * (2 if "two" in name else 1))
        assert len(row["step_ms_all"]) == 2
    graphs = table["int8, windowed"]["graphs_ms"]
    assert {f"step of {n} tokens" for n in (1, 25, 100)} < set(graphs)
    assert min(graphs.values()) > 0


def test_what_8_bits_change_is_counted_graph_by_graph(bench: ModuleType, tmp_path: Path) -> None:
    model = bench.make_model("tiny")
    for precision in ("fp32", "int8"):
        write_bundle(tmp_path / precision, model, DefaultsConfig(), {}, "", precision)
    precision = importlib.import_module("published_precision")
    own, other = bench.speech_like(200)
    other[:] = 0.0  # whose features no graph makes
    found = precision.compare(tmp_path / "fp32", tmp_path / "int8", own, other)
    assert list(found) == ["audio_encoder", "face"]
    assert 0 < found["audio_encoder"]["features, relative"] < 0.1
    assert 0 < found["audio_encoder"]["logits, relative"] < 0.1
    assert found["audio_encoder"]["logits, largest change"] > 0
    # The chain beside the engine's own is the engine's where nothing is replaced.
    same = precision.compare(tmp_path / "fp32", tmp_path / "fp32", own, other)
    assert not any(value for name, value in same[""].items())
    assert same["face"]["mean change over a channel's deviation"] == 0
