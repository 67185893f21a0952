"""Bundles of family `published`: ONNX graphs and what native code needs beside them (docs/published.md).

The graphs themselves are `export.graphs`. Shapes: those of docs/published-model.md; T tracks, B faces, R rows of a
batch (the conditional and unconditional one of each face), m cached tokens, n tokens of a scale. Caches are
token-major, (m, K, 2, R, h, e), so that the keys and values of a scale are written right behind those of the scales
before, in one buffer of the engine's.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unils_training.config import Config, DefaultsConfig
from unils_training.export.bundle import FORMAT, FORMAT_VERSION, BundleError, file_entry, provenance_of
from unils_training.export.graphs import (
    AudioGraph,
    DecodeGraph,
    EncodeGraph,
    PrefillGraph,
    StepGraph,
    generator_blocks,
)
from unils_training.export.precision import PRECISIONS, Precision, to_int8
from unils_training.models.published.audio_encoder import AudioEncoder
from unils_training.models.published.checkpoint import FRAME_RATE, SAMPLE_RATE
from unils_training.models.published.generator import current_positions
from unils_training.models.published.model import HOP_SAMPLES, PublishedModel
from unils_training.models.published.smoothing import ORDER, WINDOW_FRAMES
from unils_training.rigs import RIGS

FAMILY = "published"
WEIGHTS_FILE = "weights.safetensors"
OPSET = 17
EXTERNAL_BYTES = 1 << 30
"""Weights of a graph larger than this lie in a file of their own: a protocol buffer ends at 2 GB."""

RELEASED_LICENCE = "CC-BY-NC-4.0 (weights of UniLS as released)"
RELEASED_DEFAULTS = DefaultsConfig(temperature=1.0, top_p=0.97, cfg_scale=1.5)

Shape = tuple[int | str, ...]

PIECES = {"audio": 3}
"""Tensors that a graph takes and gives in pieces, by their leading axes: nothing is copied to part or to join them."""


@dataclasses.dataclass(frozen=True)
class Graph:
    """One graph of a bundle; a dimension is a number, or the name of one that a call fixes."""

    module: nn.Module
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    in_float: str = ""
    """Nodes whose names begin so are float32 in every precision; "" is all of them. What 8 bits cost and bring, graph
    by graph, is in docs/published.md: they pay in the audio encoder alone, behind its front end."""


def random_model(config: Config) -> tuple[PublishedModel, dict[str, Any]]:
    """A model of `config`'s sizes with random weights, for testing engines, and its provenance."""
    torch.manual_seed(config.seed)
    encoder = AudioEncoder.from_config(config.published.audio_encoder)
    model = PublishedModel(config.published, RIGS[config.published.rig], encoder)
    return model, provenance_of(config, weights="random, never trained")


def trained_model(config: Config, checkpoint: str | Path | None) -> tuple[PublishedModel, dict[str, Any]]:
    """The dialogue stage's best model, or that of a checkpoint, and its provenance."""
    from unils_training.stages.published import dialogue

    model, facts = dialogue.load_for_export(config, checkpoint)
    # The sizes it was made with, and of an encoder's folder no more than its name.
    encoder = model.config.audio_encoder
    if Path(encoder.source).is_absolute() or Path(encoder.source).is_dir():
        encoder = dataclasses.replace(encoder, source=Path(encoder.source).name)
    sizes = dataclasses.replace(model.config, audio_encoder=encoder)
    return model, provenance_of(dataclasses.replace(config, published=sizes), stages=facts)


def import_checkpoint(
    checkpoint: str | Path,
    audio_encoder: str | Path,
    output: str | Path,
    licence: str = RELEASED_LICENCE,
    precision: Precision = "fp32",
) -> int:
    """Makes a bundle of a checkpoint in the released format; returns its size in bytes.

    Args:
        checkpoint: the file, `{"model": ..., "meta_cfg": ...}`.
        audio_encoder: folder of a wav2vec2 encoder in the Hugging Face layout, or a hub id.
        output: folder of the bundle.
        licence: of the weights, for `model.json`.
        precision: of the graphs, as `write_bundle` has it.

    Raises:
        ValueError: no such checkpoint (the first key or shape that does not fit is named), or no such encoder; nothing
            is written.
        FileNotFoundError: a file that is not there.
    """
    model = PublishedModel.from_checkpoint(checkpoint, audio_encoder)
    encoder = Path(audio_encoder)
    provenance = {
        "made_by": "unils import",
        "checkpoint": file_entry(Path(checkpoint)),
        "audio_encoder": [file_entry(path) for path in sorted(encoder.iterdir()) if path.is_file()]
        if encoder.is_dir()
        else str(audio_encoder),
        "torch": torch.__version__,
    }
    return write_bundle(output, model, RELEASED_DEFAULTS, provenance, licence, precision)


def graphs(model: PublishedModel) -> dict[str, Graph]:
    """The five graphs, by name."""
    config = model.config
    F, D, d, K = config.window_frames, len(model.channels), config.codec.bits, config.depth
    h, e = config.heads, config.width // config.heads
    S, A = model.window_samples, model.audio_encoder.width
    J = model.audio_encoder.rows(S)
    C, rows = (1, 2 * J) if config.cross_attention == "mixed" else (2, J)
    heard = ("R", J, A)
    blocks = generator_blocks(model.generator)
    audio = (K, C, 2, "R", h, rows, e)
    return {
        "audio_encoder": Graph(
            AudioGraph(model.audio_encoder), {"waveform": ("T", S)}, {"features": ("T", J, A)}, in_float="/front"
        ),
        "prefill": Graph(
            PrefillGraph(model.generator, blocks, J),
            {"style": ("R", F, d), "previous": ("R", F, d), "self_features": heard, "other_features": heard},
            {"cache": (2 * F, K, 2, "R", h, e), "audio": audio},
        ),
        "step": Graph(
            StepGraph(model.generator, blocks),
            {
                "latents": ("R", "n", d),
                "level": (1,),
                "rope": (2, "n", e // 2),
                "cache": ("m", K, 2, "R", h, e),
                "audio": audio,
            },
            {"logits": ("R", "n", d, 2), "added": ("n", K, 2, "R", h, e)},
        ),
        "codec_encode": Graph(EncodeGraph(model.codec), {"motion": ("B", F, D)}, {"z": ("B", F, d)}),
        "codec_decode": Graph(DecodeGraph(model.codec), {"latent": ("B", F, d)}, {"motion": ("B", F, D)}),
    }


def describe(
    model: PublishedModel, defaults: DefaultsConfig, provenance: Mapping[str, Any], licence: str
) -> dict[str, Any]:
    """`model.json` without its files."""
    config, codec = model.config, model.config.codec
    encoder = model.audio_encoder
    wav2vec = encoder.wav2vec.config
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "family": FAMILY,
        "rig": config.rig,
        "channels": list(model.channels),
        "sample_rate": SAMPLE_RATE,
        "hop_samples": HOP_SAMPLES,
        "frame_rate": FRAME_RATE,
        "window_frames": config.window_frames,
        "audio_encoder": {
            "kind": "wav2vec2",
            "rows": encoder.rows(model.window_samples),
            "width": encoder.width,
            "depth": wav2vec.num_hidden_layers,
            "heads": wav2vec.num_attention_heads,
        },
        "codec": {
            "width": codec.width,
            "heads": codec.heads,
            "depth": codec.depth,
            "bits": codec.bits,
            "scales": list(codec.scales),
        },
        "generator": {
            "width": config.width,
            "heads": config.heads,
            "depth": config.depth,
            "cross_attention": config.cross_attention,
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "defaults": {
            "temperature": defaults.temperature,
            "top_p": defaults.top_p,
            "cfg_scale": defaults.cfg_scale,
        },
        "smoothing": {"kind": "savitzky-golay", "window_frames": WINDOW_FRAMES, "order": ORDER, "default": False},
        "provenance": dict(provenance),
        "licence": licence,
    }


def write_bundle(
    folder: str | Path,
    model: PublishedModel,
    defaults: DefaultsConfig,
    provenance: Mapping[str, Any],
    licence: str,
    precision: Precision = "fp32",
) -> int:
    """Writes `model.json`, `weights.safetensors` and the graphs, and returns their size in bytes.

    The folder appears, or changes, only when everything has been written.

    Args:
        precision: `int8` makes most products of matrices of the audio encoder 8 bits wide (docs/published.md, "Speed",
            says what that changes).

    Raises:
        BundleError: the model cannot be a bundle, or the folder cannot be written.
    """
    if precision not in PRECISIONS:
        raise BundleError(f"precision is one of {', '.join(PRECISIONS)}, not {precision}")
    folder = Path(folder)
    model = copy.deepcopy(model).cpu().float().eval()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            written = Path(temporary)
            description = describe(model, defaults, provenance, licence) | {"precision": precision}
            description["graphs"] = {
                name: _write_graph(written, name, graph, precision) for name, graph in graphs(model).items()
            }
            save_file(_weights(model), written / WEIGHTS_FILE)
            description["weights"] = file_entry(written / WEIGHTS_FILE)
            (written / "model.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
            folder.mkdir(exist_ok=True)
            for file in written.iterdir():
                file.chmod(0o644)  # safetensors makes files that only their owner can read
                shutil.move(file, folder / file.name)
    except OSError as error:
        raise BundleError(f"{folder} cannot be written: {error}") from error
    return sum(file.stat().st_size for file in folder.iterdir())


def _weights(model: PublishedModel) -> dict[str, Tensor]:
    with torch.no_grad():
        rest = model.rest_latent()[0]
        silence = model.audio_encoder(model.codec.motion_mean.new_zeros(1, model.window_samples))[0]
    tensors = {
        "audio.silence": silence,
        "codec.motion_mean": model.codec.motion_mean,
        "codec.motion_std": model.codec.motion_std,
        "codec.rest_latent": rest,
        "generator.positions": current_positions(model.config.codec.scales, model.config.window_frames),
    }
    return {name: value.detach().cpu().float().contiguous() for name, value in tensors.items()}


def _write_graph(folder: Path, name: str, graph: Graph, precision: Precision) -> dict[str, Any]:
    """Traces one graph and checks that it is whole; returns its entry of `model.json`."""
    import onnx

    path = folder / f"{name}.onnx"
    sizes = {"T": 2, "B": 2, "R": 2, "n": 3, "m": 5}
    inputs, outputs = _in_pieces(graph.inputs), _in_pieces(graph.outputs)
    examples = tuple(_example(item, shape, sizes) for item, shape in inputs.items())
    ports = {**inputs, **outputs}
    axes = {item: {i: axis for i, axis in enumerate(shape) if isinstance(axis, str)} for item, shape in ports.items()}
    with warnings.catch_warnings(), torch.no_grad():
        # The tracing exporter names and folds what it is given and needs no further package; its warnings are about
        # branches on shapes, which are constants of these graphs.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module.eval(),
            examples,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={item: named for item, named in axes.items() if named},
            opset_version=OPSET,
            dynamo=False,
        )
    proto = onnx.load(str(path))
    if precision == "int8":
        to_int8(proto, graph.in_float)
    entry: dict[str, Any] = {}
    path.unlink()
    if proto.ByteSize() > EXTERNAL_BYTES:
        data = f"{name}.onnx.data"
        onnx.save(proto, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=data)
        entry["data"] = file_entry(folder / data)
    else:
        onnx.save(proto, str(path))
    onnx.checker.check_model(str(path))
    found = [item.name for item in (*proto.graph.input, *proto.graph.output)]
    if found != list(ports):
        raise BundleError(f"graph {name} reads and writes {found}, not {list(ports)}")
    return {
        **file_entry(path),
        **entry,
        "inputs": {item: list(shape) for item, shape in graph.inputs.items()},
        "outputs": {item: list(shape) for item, shape in graph.outputs.items()},
    }


def _in_pieces(tensors: Mapping[str, Shape]) -> dict[str, Shape]:
    """As the file has them: `audio[3, 0, 1]` is named `audio.3.0.1`."""
    whole = {name: (shape[: PIECES.get(name, 0)], shape[PIECES.get(name, 0) :]) for name, shape in tensors.items()}
    return {
        ".".join((name, *map(str, index))): piece
        for name, (cut, piece) in whole.items()
        for index in np.ndindex(*cut)  # type: ignore[arg-type]
    }


def _example(name: str, shape: Shape, sizes: Mapping[str, int]) -> Tensor:
    numbers = [sizes[axis] if isinstance(axis, str) else axis for axis in shape]
    if name == "level":
        return torch.ones(numbers, dtype=torch.int64)
    random = np.random.default_rng(0)
    return torch.from_numpy(random.standard_normal(numbers).astype(np.float32))
