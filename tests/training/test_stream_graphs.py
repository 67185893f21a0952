"""The `stream` model as ONNX graphs: against PyTorch as a host of their own runs them, and against the native engine as
backend `onnxruntime` does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

import unils_sdk as unils
from bundles import bundle_config, random_bundle, random_tensors, safetensors_bytes, write_bundle
from conversation import assert_same_frames, voices
from fake_tensorrt import pretend
from test_native_parity import SMALL
from unils_sdk.cli import main
from unils_training.export.stream_graphs import GRAPHS, export_onnx
from unils_training.models.stream.model import Sampling, StreamModel

pytest.importorskip("onnxruntime")

from stream_graph_host import Host

Floats = npt.NDArray[np.float32]

ODD: dict[str, Any] = {
    "audio_encoder": {"width": 20, "depth": 1, "kernel": 1, "expansion": 2},
    "codec": {"width": 28, "depth": 2, "kernel": 4, "expansion": 2, "bits": 10, "levels": 1, "gains": [1.0]},
    "generator": {
        "width": 36,
        "depth": 1,
        "heads": 3,
        "feed_forward": 50,
        "window_frames": 1,
        "audio_window_frames": 5,
        "style_tokens": 17,
        "head_width": 30,
    },
}
"""One of what there are usually several of, and heads of no multiple of anything."""


def exported(folder: Path, sizes: dict[str, Any], seed: int) -> Path:
    config = bundle_config(sizes)
    export_onnx(
        write_bundle(folder / "plain", config, safetensors_bytes(random_tensors(config, seed))), folder / "onnx"
    )
    return folder / "onnx"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads would only wait for each other over products this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("small"), SMALL, seed=2)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("odd"), ODD, seed=4)


@pytest.fixture(scope="module")
def bundled_with_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundled") / "onnx"
    assert main(["export-onnx", "-o", str(folder)]) == 0
    return folder


# --- the graphs themselves


def made_up_rows(batch: int, frames: int, sampling: Sampling) -> dict[str, Floats]:
    random = np.random.default_rng(7)
    counts = {track: frames + ahead for track, ahead in sampling.look_ahead.items()}
    return {track: random.normal(-6.0, 3.0, (batch, count, 256)).astype(np.float32) for track, count in counts.items()}


def made_up_style(frames: int, seed: int = 9) -> Floats:
    steps = np.random.default_rng(seed).normal(0.0, 0.05, (frames, 55)).astype(np.float32)
    return 0.3 + np.cumsum(steps, axis=0, dtype=np.float32)


def check_against_pytorch(bundle: Path, frames: int, sampling: Sampling, style_frames: int = 0) -> None:
    seeds = [2**63 + 11, 5]
    rows = made_up_rows(len(seeds), frames, sampling)
    style = made_up_style(style_frames) if style_frames else None
    made = Host(bundle, seeds, [style] * len(seeds)).generate(rows, sampling)
    with torch.inference_mode():
        expected = StreamModel.from_bundle(bundle).generate_batch(
            torch.from_numpy(rows["self"]),
            torch.from_numpy(rows["other"]),
            sampling,
            seeds,
            None if style is None else torch.from_numpy(style),
        )
    wrong = np.argwhere((made["bits"] > 0) != expected["bits"].flatten(2).numpy())
    assert not len(wrong), f"first of {len(wrong)} bits: {wrong[0]}, {made['logits'][tuple(wrong[0])]}"
    assert 0.1 < (made["bits"] > 0).mean() < 0.9
    np.testing.assert_allclose(made["logits"], expected["logits"].flatten(2).numpy(), atol=1e-4, rtol=0)
    np.testing.assert_allclose(made["motion"], expected["motion"].numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("ahead", [(0, 0), (1, 0), (8, 8)])
@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_graphs_make_what_pytorch_makes(
    small: Path, temperature: float, cfg_scale: float, ahead: tuple[int, int]
) -> None:
    check_against_pytorch(small, 50, Sampling(*ahead, temperature, 0.97, cfg_scale))


def test_a_style_clip_is_heard(small: Path) -> None:
    check_against_pytorch(small, 30, Sampling(1, 0, 0.0, 1.0, 1.5), style_frames=40)


def test_one_of_everything_agrees_too(odd: Path) -> None:
    check_against_pytorch(odd, 30, Sampling(1, 0, 1.0, 0.97, 1.5))


def test_sessions_of_a_batch_do_not_hear_each_other(small: Path) -> None:
    sampling, seeds = Sampling(1, 0, 1.0, 0.97, 1.5), [3, 1, 4, 1, 5]
    rows = made_up_rows(5, 40, sampling)
    styles = [None, made_up_style(30), None, made_up_style(60, seed=2), None]
    together = Host(small, seeds, styles).generate(rows, sampling)
    assert not np.array_equal(together["bits"][1], together["bits"][3])
    for i, (seed, style) in enumerate(zip(seeds, styles, strict=True)):
        alone = Host(small, [seed], [style]).generate({name: row[i : i + 1] for name, row in rows.items()}, sampling)
        np.testing.assert_array_equal(alone["bits"][0], together["bits"][i])
        for name in ("motion", "logits"):
            np.testing.assert_allclose(alone[name][0], together[name][i], atol=1e-5, rtol=0)


def test_files_are_what_model_json_says_and_what_the_checker_accepts(small: Path) -> None:
    info = json.loads((small / "model.json").read_text())
    plain = json.loads((small.parent / "plain" / "model.json").read_text())
    assert list(info["graphs"]) == list(GRAPHS)
    assert {name: value for name, value in info.items() if name != "graphs"} == plain
    assert sorted(file.name for file in small.iterdir()) == [
        "decode.onnx",
        "encode.onnx",
        "model.json",
        "step.onnx",
        "weights.safetensors",
    ]
    for name, entry in info["graphs"].items():
        path = small / entry["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        assert entry["batch"] == {"B": {"fewest": 1, "typical": 16, "most": 256}}
        onnx.checker.check_model(str(path), full_check=True)
        graph = onnx.load(str(path)).graph
        for ports, described in ((graph.input, entry["inputs"]), (graph.output, entry["outputs"])):
            found = {port.name: [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim] for port in ports}
            assert found == described, name


def test_the_graphs_need_no_operators_but_onnx_own(small: Path) -> None:
    for name in GRAPHS:
        model = onnx.load(str(small / f"{name}.onnx"))
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
        assert {node.domain for node in model.graph.node} == {""}


# --- backend onnxruntime


def both(folder: Path) -> tuple[unils.Model, unils.Model]:
    return unils.Model.load(folder, "cpu"), unils.Model.load(folder, "onnxruntime")


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0, "cfg_scale": 1.0, "look_ahead": {"self": 0, "other": 0}},
        {"seed": 3, "look_ahead": {"self": 8, "other": 8}},
        {"seed": 2**64 - 1, "temperature": 0.7, "top_p": 0.6, "style": made_up_style(50)},
    ],
    ids=["greedy", "greedy, no guidance", "look-ahead", "style"],
)
def test_a_conversation_moves_as_on_the_cpu(small: Path, options: dict[str, Any]) -> None:
    own, other = voices(8).values()
    native, graphs = (unils.animate(own, other, model=model, **options).values for model in both(small))
    assert len(native) == 200
    assert np.ptp(native, axis=0).max() > 0.1
    np.testing.assert_allclose(graphs, native, atol=1e-4, rtol=0)


def test_the_bundled_model_moves_as_on_the_cpu(bundled_with_graphs: Path) -> None:
    """Over the rings of 128 frames and 72 rows more than once, as it comes: drawn, and with guidance."""
    own, other = voices(10).values()
    native, graphs = (unils.animate(own, other, model=model, seed=1).values for model in both(bundled_with_graphs))
    assert len(native) == 250
    np.testing.assert_allclose(graphs, native, atol=1e-4, rtol=0)


def pulled(session: unils.Session, own: Floats, other: Floats, seed: int) -> unils.FrameBatch:
    """All frames of a conversation that comes in pieces of any size."""
    random, parts = np.random.default_rng(seed), []
    at = {"self": 0, "other": 0}
    tracks = {"self": own, "other": other}
    while any(at[track] < len(tracks[track]) for track in at):
        track = random.choice(["self", "other"])
        piece = tracks[track][at[track] : at[track] + int(random.integers(1, 5000))]
        at[track] += session.push_audio(piece, track=track)
        parts.append(session.pull_frames())
    session.finish()
    parts.append(session.pull_frames())
    return unils.FrameBatch.concatenate(parts)


def test_frames_do_not_depend_on_how_audio_was_cut(small: Path) -> None:
    own, other = voices(6).values()
    model = unils.Model.load(small, "onnxruntime")
    assert_same_frames(
        pulled(unils.Session(model, seed=4), own, other, 1), unils.animate(own, other, model=model, seed=4)
    )


def test_a_session_goes_on_from_a_snapshot_on_the_other_backend(small: Path) -> None:
    own, other = voices(6).values()
    cut = 3 * 16000 + 123
    expected = unils.animate(own, other, model=unils.Model.load(small, "cpu"), seed=6).values
    for first, second in (both(small), both(small)[::-1]):
        before = unils.Session(first, seed=6)
        before.push_audio(own[:cut], track="self"), before.push_audio(other[:cut], track="other")
        made = [before.pull_frames().values]
        after = unils.Session(second, seed=6)
        after.restore(before.snapshot())
        after.push_audio(own[cut:], track="self"), after.push_audio(other[cut:], track="other")
        after.finish()
        made.append(after.pull_frames().values)
        np.testing.assert_allclose(np.concatenate(made), expected, atol=1e-4, rtol=0)


def test_sessions_of_a_pool_are_made_one_by_one(small: Path) -> None:
    own, other = voices(3).values()
    native, graphs = both(small)
    pool = unils.SessionPool(graphs, max_sessions=3)
    sessions = [pool.session(seed=seed) for seed in range(3)]
    for session in sessions:
        session.push_audio(own, track="self"), session.push_audio(other, track="other")
        session.finish()
    made = pool.pull()
    for seed, session in enumerate(sessions):
        expected = unils.animate(own, other, model=native, seed=seed).values
        np.testing.assert_allclose(made[session].values, expected, atol=1e-4, rtol=0)


def test_a_bundle_without_graphs_says_how_to_get_them(tmp_path: Path) -> None:
    plain = random_bundle(tmp_path / "plain")
    with pytest.raises(unils.BackendError, match="this bundle holds no graphs; make them with unils export-onnx"):
        unils.Model.load(plain, "onnxruntime")


def test_auto_never_runs_the_graphs(small: Path) -> None:
    model = unils.Model.load(small)
    assert model.info.backend == "cpu"
    named = unils.Model.load(small, "onnxruntime")
    assert named.info.backend == "onnxruntime"
    assert named.info.backend_detail.endswith(" CPUExecutionProvider")


def test_a_graph_of_another_model_is_refused_before_it_runs(small: Path, odd: Path, tmp_path: Path) -> None:
    """Its file is the one that model.json names, but not what the engine binds."""
    mixed = tmp_path / "mixed"
    export_onnx(small.parent / "plain", mixed)
    info = json.loads((mixed / "model.json").read_text())
    (mixed / "step.onnx").write_bytes((odd / "step.onnx").read_bytes())
    info["graphs"]["step"] = json.loads((odd / "model.json").read_text())["graphs"]["step"]
    (mixed / "model.json").write_text(json.dumps(info))
    with pytest.raises(unils.BackendError, match="graph step failed"):
        unils.animate(*voices(1).values(), model=unils.Model.load(mixed, "onnxruntime"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_runs_them_the_same_way(
    small: Path, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a stand-in for TensorRT, whose engines are the graphs as they were compiled."""
    card = pretend(monkeypatch, tmp_path / "cache")
    assert main(["compile", str(small), "--backend", "tensorrt", "--precision", precision, "--quiet"]) == 0
    (step,) = next(plan["profiles"] for plan in card.built if "thresholds" in plan["profiles"][0])
    assert step["past_rings"] == [[1, 2, 2 * 3 * 16 * (12 + 16)]] * 3
    model = unils.Model.load(small, "tensorrt", precision=precision)
    assert model.info.backend == "tensorrt"
    own, other = voices(4).values()
    made, expected = (
        unils.animate(own, other, model=each, temperature=0).values for each in (model, unils.Model.load(small))
    )
    assert card.cuda.launches > 0
    if precision == "fp32":
        np.testing.assert_allclose(made, expected, atol=1e-4, rtol=0)
    else:  # a bit that falls otherwise changes all frames behind it
        np.testing.assert_allclose(made[:1], expected[:1], atol=0.05, rtol=0)
        assert not np.array_equal(made, expected)


# --- unils export-onnx


def test_export_onnx_can_add_the_graphs_in_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = random_bundle(tmp_path / "bundle")
    weights = (folder / "weights.safetensors").read_bytes()
    assert main(["export-onnx", str(folder), "-o", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"{folder}: ")
    assert (folder / "weights.safetensors").read_bytes() == weights
    assert unils.Model.load(folder, "onnxruntime").info.backend == "onnxruntime"
    assert main(["export-onnx", str(folder), "-o", str(folder)]) == 0  # and again


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "model.json").unlink(), "is not a readable bundle"),
        (lambda folder: (folder / "model.json").write_text("{"), "is not a readable bundle"),
        (lambda folder: (folder / "model.json").write_text("[]"), "is not a valid bundle"),
        (lambda folder: (folder / "model.json").write_text('{"family": "published"}'), "graphs already"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"no"), "its sha256 differs"),
    ],
)
def test_export_onnx_says_what_is_wrong_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, sentence: str
) -> None:
    folder = random_bundle(tmp_path / "bundle")
    spoil(folder)
    assert main(["export-onnx", str(folder), "-o", str(tmp_path / "out")]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_export_onnx_says_where_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["export-onnx", str(random_bundle(tmp_path / "bundle")), "-o", str(tmp_path / "file" / "out")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_export_onnx_without_pytorch_says_how_to_get_it(tmp_path: Path) -> None:
    script = "import sys; sys.modules['torch'] = None; from unils_sdk.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "export-onnx", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 1
    assert "unils export-onnx needs PyTorch" in done.stderr
    assert "pip install 'unils-sdk[import]'" in done.stderr
