"""What 8 bits change: the graphs of an `int8` bundle beside those of the `fp32` bundle of the same model.

    python benchmarks/published_precision.py FP32 INT8 [--audio OWN.wav OTHER.wav] [--windows 4] [--json FILE]

The fp32 bundle makes frames greedily. Beside it every window goes through the graphs in question with the same style,
the same frames before and, in each scale, the bits that fp32 drew for the scales before. So a changed bit is one that
these graphs would draw otherwise, and not what follows from another. `face` is what the int8 bundle makes by itself.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from published_bench import GREEDY, HOP_SAMPLES, speech_like

import unils_sdk as unils
from unils_sdk import _core, io
from unils_sdk.graph_runner import LoadedGraphs, OnnxRunner
from unils_sdk.graph_runner import Tensor as TensorView

Array = npt.NDArray[Any]
CHAIN = ("audio_encoder", "prefill", "step")
"""From audio to logits."""


class Beside:
    """Runs the fp32 graphs for the engine, and beside them a second chain in which `replaced` graphs are int8."""

    name = OnnxRunner.name
    detail = ""

    def __init__(self, int8: Path, replaced: Sequence[str]) -> None:
        self.int8, self.replaced = int8, replaced
        self.logits: list[tuple[Array, Array]] = []
        self.features: list[tuple[Array, Array]] = []
        self._graphs: dict[str, LoadedGraphs] = {}
        self._kept: dict[str, Array] = {}

    def load(self, paths: Mapping[str, str], threads: int) -> Beside:
        exact = OnnxRunner().load(paths, threads)
        self._graphs = dict.fromkeys(paths, exact)
        changed = OnnxRunner().load({name: str(self.int8 / f"{name}.onnx") for name in self.replaced}, threads)
        self._exact = exact
        self._graphs.update(dict.fromkeys(self.replaced, changed))
        return self

    def run(self, graph: str, inputs: Sequence[TensorView], outputs: Sequence[TensorView]) -> None:
        self._exact.run(graph, inputs, outputs)
        if graph not in CHAIN:
            return
        fed = {tensor[0]: _array(tensor) for tensor in inputs}
        made = {tensor[0]: np.empty(tensor[2], np.float32) for tensor in outputs}
        if graph == "prefill":
            for name in ("self_features", "other_features"):
                fed[name] = np.stack([self._heard(row) for row in fed[name]])
        if graph == "step":
            fed |= {name: self._kept[name] for name in ("cache", "audio")}
        self._graphs[graph].run(graph, _views(fed), _views(made))
        if graph == "audio_encoder":
            self.features += zip(_array(outputs[0]).copy(), made["features"], strict=True)
        elif graph == "prefill":
            self._kept = made
        else:
            self._kept["cache"] = np.concatenate((fed["cache"], made["added"]))
            self.logits.append((_guided(_array(outputs[0])), _guided(made["logits"])))

    def _heard(self, row: Array) -> Array:
        """The second chain's features in the place of the first one's; silence and zeros are the same in both."""
        return next((changed for exact, changed in self.features[::-1] if np.array_equal(exact, row)), row)


def _array(tensor: TensorView) -> Array:
    _, dtype, shape, address = tensor
    kind = np.dtype(dtype)
    memory = (ctypes.c_char * (math.prod(shape) * kind.itemsize)).from_address(address)
    return np.frombuffer(memory, kind).reshape(shape)


def _views(arrays: dict[str, Array]) -> list[TensorView]:
    for name, value in arrays.items():
        arrays[name] = np.ascontiguousarray(value)
    return [(name, value.dtype.name, value.shape, value.ctypes.data) for name, value in arrays.items()]


def _guided(logits: Array) -> Array:
    """(2, n, d, 2) -> the log-odds of each bit (n, d)."""
    scale = GREEDY["cfg_scale"]
    both = scale * logits[0] + (1.0 - scale) * logits[1]
    return both[..., 1] - both[..., 0]


def _relative(pairs: Sequence[tuple[Array, Array]]) -> float:
    exact, changed = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in range(2))
    return float(np.linalg.norm(changed - exact) / np.linalg.norm(exact))


def compare(fp32: Path, int8: Path, own: Array, other: Array) -> dict[str, Any]:
    """Changes from fp32 to int8 over both tracks (samples,)."""
    found: dict[str, Any] = {}
    graphs = [json.loads((bundle / "model.json").read_text())["graphs"] for bundle in (fp32, int8)]
    others = [name for name in CHAIN if graphs[0][name]["sha256"] != graphs[1][name]["sha256"]]
    for replaced in ([[name] for name in others] if len(others) > 1 else []) + [others]:
        runner = Beside(int8, replaced)
        model = unils.Model(_core.Model(os.fsencode(fp32), "auto", 1, runner), str(fp32))
        face = unils.animate(own, other, model=model, **GREEDY).values
        exact, changed = (np.concatenate([pair[i].ravel() for pair in runner.logits]) for i in range(2))
        found[" ".join(replaced)] = {
            "features, relative": _relative(runner.features),
            "logits, relative": _relative(runner.logits),
            "logits, largest change": float(np.abs(changed - exact).max()),
            "bits changed, %": 100 * float(np.mean((changed > 0) != (exact > 0))),
        }
    changed_face = unils.animate(own, other, model=unils.Model.load(int8), **GREEDY).values
    spread = face.std(axis=0)
    moving = spread > 1e-6
    found["face"] = {
        "mean change over a channel's deviation": float(
            np.mean(np.abs(changed_face - face)[:, moving] / spread[moving])
        ),
        "deviation of int8 over that of fp32": float(np.mean(changed_face.std(axis=0)[moving] / spread[moving])),
    }
    return found


def main() -> None:
    """Compares, prints, and writes where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("fp32", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("--audio", type=Path, nargs=2, metavar=("OWN", "OTHER"), help="else noise in syllables")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    frames = options.windows * 100
    tracks: Any = speech_like(frames)
    if options.audio is not None:
        recordings = [io.read_audio(path) for path in options.audio]
        if any(recording.sample_rate != 16000 for recording in recordings):
            parser.error("--audio must be at 16 kHz")
        tracks = [recording.samples for recording in recordings]
    own, other = (track[: frames * HOP_SAMPLES] for track in tracks)
    found = compare(options.fp32, options.int8, own, other)
    for way, row in found.items():
        print(way)
        for name, value in row.items():
            print(f"  {name:40} {value:.4g}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
