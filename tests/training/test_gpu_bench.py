"""The benchmarks of a card, on the processor: their PyTorch model is ours, their formulas count what a model holds."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import unils_sdk as unils
from bundles import TINY, bundle_config, random_bundle, random_tensors
from unils_training.models.stream.model import TRACKS, Sampling, StreamModel

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The benchmarks set PyTorch's threads, of the whole process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("gpu_bench", monkeypatch)


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
def test_the_step_for_graphs_makes_the_motion_of_the_model_over_whole_rings(
    tmp_path: Path, cfg_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_step = imported("gpu_torch_step", monkeypatch)
    model = StreamModel.from_bundle(random_bundle(tmp_path / "bundle"))
    look_ahead, batch, frames = {"self": 2, "other": 0}, 3, 150  # the rings hold 128 and 72
    rows = torch.randn(2, batch, frames + 2, 256, generator=torch.Generator().manual_seed(0)) * 2.0 - 6.0
    made = model.generate_batch(
        rows[0], rows[1, :, :frames], Sampling(2, 0, temperature=0.0, cfg_scale=cfg_scale), [0] * batch
    )["motion"]
    with torch.inference_mode():
        step = torch_step.TorchStep(model, batch, cfg_scale, look_ahead)
        for again in range(2):  # the second time after a reset
            step.reset()
            for track, name in enumerate(TRACKS):
                step.prime(rows[track], name)
            for frame in range(frames if again else 10):
                heard = torch.stack([rows[track, :, frame + look_ahead[name]] for track, name in enumerate(TRACKS)])
                torch.testing.assert_close(step(heard), made[:, frame], rtol=0, atol=1e-4)


def test_the_step_for_graphs_is_one_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_step = imported("gpu_torch_step", monkeypatch)
    model = StreamModel.from_bundle(random_bundle(tmp_path / "bundle"))
    rows = torch.randn(2, 1, 256)
    with torch.no_grad():
        plain = torch_step.TorchStep(model, 1, 1.5, {"self": 0, "other": 0})
        step = torch_step.TorchStep(model, 1, 1.5, {"self": 0, "other": 0})
        fast = torch_step.compiled(step, rows, backend="eager")  # fullgraph: a break would be an error
        for _ in range(3):
            torch.testing.assert_close(fast(rows), plain(rows))


def test_bytes_and_operations_are_those_of_the_tensors_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_cost = imported("gpu_cost", monkeypatch)
    config = bundle_config(TINY)
    cost = gpu_cost.cost_of(config)
    matrices = others = 0
    for name, tensor in random_tensors(config).items():
        if name.startswith(("codec.encoder.", "generator.style")):
            continue  # read when a style is set
        if "look_ahead" in name:
            others += tensor.shape[1]  # one row of it
        elif tensor.ndim == 2 and ".conv." not in name:
            matrices += tensor.size
        else:
            others += tensor.size
    assert (cost.matrix_weights, cost.other_weights) == (matrices, others)

    # Of one layer that is easy by hand: what one more of it adds.
    deeper = json.loads(json.dumps(config))
    deeper["generator"]["depth"] += 1
    more, width, keys = gpu_cost.cost_of(deeper), 32, 128
    both_rows = 3 * width * width + width * width + 2 * 48 * width
    each_track = 2 * width * width + 2 * width * 16
    attended = 2 * (4 + keys) + 2 * 64
    assert more.operations - cost.operations == 2 * 2 * both_rows + 2 * 2 * each_track + 4 * width * attended
    assert more.state_bytes_read - cost.state_bytes_read == 4 * 2 * width * (4 + 2 * keys + 2 * 64)
    assert more.state_bytes_written - cost.state_bytes_written == 4 * (2 * 2 * width + 2 * 2 * width)


def test_the_floor_is_the_slower_of_memory_and_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_cost = imported("gpu_cost", monkeypatch)
    cost = gpu_cost.Cost(1000, 10, 90, 10, 500)
    assert cost.bytes(0) == 4040
    assert cost.bytes(2, element=2) == 2040 + 200
    assert cost.floor_seconds(2, bytes_s=1000.0, operations_s=1e9, element=2) == pytest.approx(2.24)
    assert cost.floor_seconds(2, bytes_s=1e9, operations_s=100.0) == pytest.approx(10.0)
    sizes = gpu_cost.cost_of(gpu_cost.random_config())
    assert 50e6 < sizes.matrix_weights < 70e6  # 49 M of generator, 15 M of decoder, 2 M of audio encoder


def test_the_page_shows_the_costs_that_the_formulas_give(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_cost = imported("gpu_cost", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["gpu_cost.py", "--sessions", "1", "1024", "3000", "10240"])
    gpu_cost.main()
    assert capsys.readouterr().out in (BENCHMARKS.parent / "docs" / "gpu.md").read_text()


def test_everything_is_measured_here_and_what_cannot_be_is_said(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "MOST_ROUNDS", 12)
    monkeypatch.setattr(bench, "COMPILED_SESSIONS", ())
    arguments = ["--out", tmp_path / "out", "--backend", "cpu", "--models", "tiny", "--sessions", "1", "3", "--seconds"]
    arguments += ["0.01", "--compiled-sessions", "--precisions", "fp32", "bf16"]
    assert bench.main([str(each) for each in arguments]) == 0
    figures = json.loads((tmp_path / "out" / "gpu_bench.json").read_text())
    tiny = figures["tiny"]
    assert list(tiny["sweep"]) == ["fp32"]
    assert [list(lines) for lines in (tiny["sweep"]["fp32"], tiny["pytorch"]["eager"])] == [["1", "3"]] * 2
    assert tiny["pytorch"]["eager"]["1"]["equal_frames"] == bench.COMPARED_FRAMES
    line = tiny["sweep"]["fp32"]["3"]
    assert line["times_the_floor"] == pytest.approx(line["p50_ms"] / line["floor_ms"])
    assert line["frames_per_second"] == pytest.approx(3 / line["p50_ms"] * 1e3)
    assert 0 < line["p50_ms"] <= line["p99_ms"] <= line["max_ms"]
    assert [item["what"] for item in figures["left_out"]] == ["tiny, bf16"]
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "gpu_bench.md").read_text() in printed
    assert "left out: tiny, bf16: " in printed
    assert "| 3 | PyTorch, eager |" in printed


def test_without_a_card_there_is_a_sentence_and_an_exit_code(bench: ModuleType, tmp_path: Path) -> None:
    if any(name == "cuda" and score > 0 for name, score, *_ in unils._core.backends()):
        pytest.skip("there is a GPU")
    assert bench.main(["--out", str(tmp_path), "--models", "tiny", "--sessions", "1", "--parts", "lone", "sweep"]) == 1
    left_out = json.loads((tmp_path / "gpu_bench.json").read_text())["left_out"]
    assert "backend cuda cannot run here" in left_out[0]["why"]


def test_frames_that_differ_are_counted_up_to_the_first(bench: ModuleType, tmp_path: Path) -> None:
    engine = bench.Engine(unils.Model.load(random_bundle(tmp_path / "bundle"), "cpu"), 2)
    other = bench.Engine(unils.Model.load(random_bundle(tmp_path / "bundle"), "cpu"), 2)

    def broken(number: int) -> np.ndarray:
        return other.round(number) + (0.5 if number == 7 else 0.0)

    assert bench.equal_frames(engine, broken) == 7
    engine.close()
    other.close()
