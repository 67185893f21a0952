"""A bundle of family `stream` with its model as three ONNX graphs beside the weights (docs/onnx.md is their contract).

The graphs hold no state: what a session remembers stays where the native engine keeps it (csrc/engine/state_layout.h).
Rings come in whole, as they lie in a state block, and what is new comes out, to be written into them.

Shapes: B sessions, or rows of their tracks; D channels, L levels, d bits a level, A width of the audio encoder, H of
the codec, W of the generator, h heads of e numbers, K taps of a convolution, N slots of a ring, S style tokens.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unils_training.config import ModelConfig
from unils_training.export.bundle import BundleError, file_entry
from unils_training.export.graph_builder import Array, GraphBuilder
from unils_training.export.stream import FAMILY, WEIGHTS_FILE, read_bundle
from unils_training.models.stream.log_mel import ROW_VALUES, STEPS_PER_FRAME
from unils_training.models.stream.model import TRACKS

BATCH_PROFILE = (1, 16, 256)
"""Fewest, typical and most sessions of a call, for engines that are built for a range."""

SLOT_BLOCK = 16
"""Rings of keys and values have whole blocks of slots, and rows of values are padded to as many (kv_ring.h)."""
REWIND_ROWS = 16
"""Audio rows that can be taken back (state_layout.h)."""


class RingShape(NamedTuple):
    """A ring of keys and values as it lies: by layer and head, keys (e, slots), then values (slots, stride)."""

    layers: int
    heads: int
    head_width: int
    slots: int

    @classmethod
    def of(cls, config: ModelConfig, positions: int) -> RingShape:
        g = config.generator
        return cls(g.depth, g.heads, g.width // g.heads, -(-positions // SLOT_BLOCK) * SLOT_BLOCK)

    @property
    def stride(self) -> int:
        return -(-self.head_width // SLOT_BLOCK) * SLOT_BLOCK

    @property
    def key_floats(self) -> int:
        """Of one head."""
        return self.head_width * self.slots

    @property
    def head_floats(self) -> int:
        return self.key_floats + self.slots * self.stride

    @property
    def floats(self) -> int:
        return self.layers * self.heads * self.head_floats


class Rings(NamedTuple):
    """The rings of a session: style prefix, past frames (one each with and without audio), and audio by track."""

    style: RingShape
    past: RingShape
    audio: dict[str, RingShape]


def rings(config: ModelConfig) -> Rings:
    g, most = config.generator, config.look_ahead_max
    return Rings(
        style=RingShape.of(config, g.style_tokens),
        past=RingShape.of(config, g.window_frames),
        audio={track: RingShape.of(config, g.audio_window_frames + getattr(most, track)) for track in TRACKS},
    )


def encode_graph(config: ModelConfig, weights: Mapping[str, Array]) -> GraphBuilder:
    """One log-mel row of a track -> what its convolutions keep, and its keys and values in each layer."""
    g, encoder = GraphBuilder("encode", weights), config.audio_encoder
    generator = config.generator
    depth, width = generator.depth, generator.width
    log_mel = g.input("log_mel", ("B", ROW_VALUES))
    history = _History.read(g, encoder.depth, encoder.kernel + REWIND_ROWS, encoder.kernel, encoder.width)
    track = g.input("track", ("B",), np.int64)
    turn = _Turn(g, width // generator.heads)

    mean, std = (np.tile(g.array(f"audio_encoder.mel_{name}"), STEPS_PER_FRAME) for name in ("mean", "std"))
    normal = g.op("Div", g.op("Sub", log_mel, g.constant(mean, "mel_mean")), g.constant(std, "mel_std"))
    row, kept = _causal_stack(g, normal, "audio_encoder", history)
    # Both tracks' keys and values in one product: to read the weights of the other one costs less than a branch.
    names = [
        f"generator.blocks.{layer}.cross_{of}.{part}"
        for of in TRACKS
        for part in ("key", "value")
        for layer in range(depth)
    ]
    both = g.reshape(g.linear(row, *names), -1, len(TRACKS), 2 * depth, width)
    own, other = g.split(both, 1, 1, 1)
    is_own = g.reshape(g.op("Equal", track, g.integers(TRACKS.index("self"))), -1, 1, 1, 1)
    keys, values = g.split(g.op("Where", is_own, own, other), 2, depth, depth)
    heads = g.reshape(keys, -1, 1, depth * generator.heads, 1, width // generator.heads)
    g.output("rows", kept, ("B", encoder.depth, encoder.width))
    g.output("keys", g.reshape(turn(heads), -1, depth, width), ("B", depth, width))
    g.output("values", g.reshape(values, -1, depth, width), ("B", depth, width))
    return g


def step_graph(config: ModelConfig, weights: Mapping[str, Array]) -> GraphBuilder:
    """The bits of one frame -> those of the next, and its keys and values in each layer, with and without audio."""
    g, generator = GraphBuilder("step", weights), config.generator
    width, heads, depth = generator.width, generator.heads, generator.depth
    e, bits, levels = width // heads, config.codec.bits, config.codec.levels
    scale = e**-0.5
    shapes = rings(config)
    last = g.input("bits", ("B", levels * bits))
    first = g.input("first", ("B",), np.int64)
    look_ahead = {track: g.input(f"look_ahead_{track}", ("B",), np.int64) for track in TRACKS}
    turn = _Turn(g, e)
    style = _Ring(g, g.input("style_ring", ("B", shapes.style.floats)), shapes.style, rows=1)
    past = _Ring(g, g.input("past_rings", ("B", 2, shapes.past.floats)), shapes.past, rows=2)
    audio = {
        track: _Ring(g, g.input(f"audio_{track}_ring", ("B", shape.floats)), shape, rows=1)
        for track, shape in shapes.audio.items()
    }
    masks = {
        name: g.reshape(g.input(f"{name}_mask", ("B", shape.slots)), -1, 1, 1, 1, shape.slots)
        for name, shape in {"past": shapes.past, **{f"audio_{track}": shapes.audio[track] for track in TRACKS}}.items()
    }
    cfg_scale = g.reshape(g.input("cfg_scale", ("B",)), -1, 1)
    thresholds = g.split(g.input("thresholds", ("B", levels * bits)), 1, *[bits] * levels)

    # Each session has two rows, the one that hears and the one that does not: x is (2 B, W).
    is_first = g.reshape(g.op("Greater", first, g.integers(0)), -1, 1)
    deaf = g.op("Where", is_first, g.weight("generator.start"), g.linear(last, "generator.token"))
    hears = deaf
    for track in TRACKS:
        table = g.weight(f"generator.look_ahead_{track}.weight")
        hears = g.op("Add", hears, g.op("Gather", table, look_ahead[track], axis=0))
    x = g.reshape(g.op("Concat", hears, deaf, axis=1), -1, width)

    new_keys, new_values = [], []
    for layer in range(depth):
        block = f"generator.blocks.{layer}"
        # Past frames, behind the style prefix, in which nothing is turned.
        name = f"{block}.self_attention.qkv"
        matrix = g.array(f"{name}.weight").copy()
        matrix[:width] *= np.float32(scale)
        qkv = g.gemm(g.norm(x, f"{block}.self_norm"), g.constant(matrix, f"{name}.scaled"))
        qkv = g.reshape(qkv, -1, 2, 3 * heads, 1, e)
        plain, _, value = g.split(qkv, 2, heads, heads, heads)
        query, key, _ = g.split(turn(qkv), 2, heads, heads, heads)
        new_keys.append(key)
        new_values.append(value)
        scores = (
            g.op("MatMul", plain, style.keys(layer, generator.style_tokens)),
            g.op("Add", g.op("MatMul", query, past.keys(layer)), masks["past"]),
            g.op("MatMul", query, g.reshape(key, -1, 2, heads, e, 1)),
        )
        shares = g.op("Softmax", g.op("Concat", *scores, axis=-1), axis=-1)
        of_style, of_past, of_new = g.split(shares, -1, generator.style_tokens, shapes.past.slots, 1)
        seen = g.op("MatMul", of_style, style.values(layer, generator.style_tokens))
        seen = g.op("Add", seen, g.op("MatMul", of_past, past.values(layer)))
        seen = g.op("Add", style.unpadded(seen), g.op("Mul", of_new, value))
        x = g.op("Add", x, g.linear(g.reshape(seen, -1, width), f"{block}.self_attention.output"))
        # Both tracks, one after the other.
        hears, deaf = g.split(g.reshape(x, -1, 2 * width), 1, width, width)
        for track in TRACKS:
            cross, ring = f"{block}.cross_{track}", audio[track]
            query = g.gemm(
                g.norm(hears, f"{cross}_norm"),
                *(
                    g.constant(g.array(f"{cross}.query.{part}") * np.float32(scale), f"{cross}.query.{part}.scaled")
                    for part in ("weight", "bias")
                ),
            )
            query = turn(g.reshape(query, -1, 1, heads, 1, e))
            shares = g.op("Softmax", g.op("Add", g.op("MatMul", query, ring.keys(layer)), masks[f"audio_{track}"]))
            seen = ring.unpadded(g.op("MatMul", shares, ring.values(layer)))
            hears = g.op("Add", hears, g.linear(g.reshape(seen, -1, width), f"{cross}.output"))
        x = g.reshape(g.op("Concat", hears, deaf, axis=1), -1, width)
        h = g.linear(g.norm(x, f"{block}.feed_forward_norm"), f"{block}.feed_forward.up")
        x = g.op("Add", x, g.linear(g.gelu(h), f"{block}.feed_forward.down"))

    F = generator.head_width
    hidden = g.linear(g.norm(x, "generator.norm"), *(f"generator.head.{level}.hidden" for level in range(levels)))
    by_level = g.split(hidden, 1, *[F] * levels)
    less = g.op("Sub", g.number(1.0), cfg_scale)
    all_logits: list[str] = []
    drawn: list[str] = []
    for level in range(levels):
        u = by_level[level]
        if drawn:
            # The same bits for both rows.
            before = drawn[0] if level == 1 else g.op("Concat", *drawn, axis=1)
            term = g.reshape(g.linear(before, f"generator.head.{level}.bits"), -1, 1, F)
            u = g.reshape(g.op("Add", g.reshape(u, -1, 2, F), term), -1, F)
        both = g.linear(g.gelu(u), f"generator.head.{level}.output")
        with_audio, without = g.split(g.reshape(both, -1, 2 * bits), 1, bits, bits)
        logits = g.op("Add", g.op("Mul", cfg_scale, with_audio), g.op("Mul", less, without))
        all_logits.append(logits)
        drawn.append(g.op("Where", g.op("Greater", logits, thresholds[level]), g.number(1.0), g.number(-1.0)))
    g.output("logits", g.op("Concat", *all_logits, axis=1), ("B", levels * bits))
    g.output("next_bits", g.op("Concat", *drawn, axis=1), ("B", levels * bits))
    for name, parts in (("keys", new_keys), ("values", new_values)):
        whole = g.reshape(g.op("Concat", *parts, axis=2), -1, 2, depth, width)
        g.output(name, whole, ("B", 2, depth, width))
    return g


def decode_graph(config: ModelConfig, weights: Mapping[str, Array]) -> GraphBuilder:
    """The bits of a frame -> its motion, in the rig's units, and what the decoder's convolutions keep."""
    g, codec = GraphBuilder("decode", weights), config.codec
    bits = g.input("bits", ("B", codec.levels * codec.bits))
    history = _History.read(g, codec.depth, codec.kernel, codec.kernel, codec.width)
    # Sums over levels are their bits' product with a matrix of sizes of codes: (L * d, d).
    sizes = np.kron(np.array(codec.gains)[:, None] * codec.bits**-0.5, np.eye(codec.bits)).astype(np.float32)
    latent = g.op("MatMul", bits, g.constant(sizes, "codec.sizes"))
    row, kept = _causal_stack(g, latent, "codec.decoder", history)
    motion = g.op("Mul", g.linear(row, "codec.decoder.output"), g.weight("codec.motion_std"))
    channels = len(weights["codec.motion_mean"])
    g.output("motion", g.op("Add", motion, g.weight("codec.motion_mean")), ("B", channels))
    g.output("rows", kept, ("B", codec.depth, codec.width))
    return g


GRAPHS: dict[str, Callable[[ModelConfig, Mapping[str, Array]], GraphBuilder]] = {
    "encode": encode_graph,
    "step": step_graph,
    "decode": decode_graph,
}


def export_onnx(bundle: str | Path, output: str | Path) -> int:
    """Writes a bundle of family `stream` again, with its graphs; returns its size in bytes.

    Args:
        bundle: its folder; it is only read, unless it is the output too.
        output: folder of the bundle with graphs. It appears, or changes, only when everything has been written.

    Raises:
        BundleError: no such bundle, one of another family, or a folder that cannot be written.
    """
    bundle, output = Path(bundle), Path(output)
    try:
        info: dict[str, Any] = json.loads((bundle / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{bundle} is not a readable bundle: {error}") from error
    if isinstance(info, dict) and info.get("family") == "published":
        raise BundleError(f"{bundle} is of family published, which is graphs already; this is for family {FAMILY}")
    model = read_bundle(bundle)
    weights = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    profile = dict(zip(("fewest", "typical", "most"), BATCH_PROFILE, strict=True))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
            written = Path(temporary)
            info["graphs"] = {}
            for name, build in GRAPHS.items():
                graph, path = build(model.config, weights), written / f"{name}.onnx"
                graph.write(path)
                info["graphs"][name] = {
                    **file_entry(path),
                    "inputs": graph.inputs,
                    "outputs": graph.outputs,
                    "batch": {"B": profile},
                }
            shutil.copyfile(bundle / info["weights"]["file"], written / WEIGHTS_FILE)
            info["weights"]["file"] = WEIGHTS_FILE
            (written / "model.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
            output.mkdir(exist_ok=True)
            for item in written.iterdir():
                item.chmod(0o644)
                shutil.move(item, output / item.name)
    except OSError as error:
        raise BundleError(f"{output} cannot be written: {error}") from error
    return sum(file.stat().st_size for file in output.iterdir())


class _Turn:
    """RoPE: turns the interleaved pairs of heads (B, rows, h, 1, e) by the angles of each session's position."""

    def __init__(self, g: GraphBuilder, e: int) -> None:
        self._g = g
        pairs = g.integers(*np.repeat(np.arange(e // 2), 2).tolist())
        self._cosines, self._sines = (
            g.reshape(g.op("Gather", g.input(name, ("B", e // 2)), pairs, axis=1), -1, 1, 1, 1, e)
            for name in ("cosines", "sines")
        )
        # (a, b) -> (-b, a), as a product: one node in the place of five.
        self._quarter = g.constant(np.kron(np.eye(e // 2), [[0, 1], [-1, 0]]).astype(np.float32), "quarter_turn")

    def __call__(self, x: str) -> str:
        g = self._g
        along, across = g.op("Mul", x, self._cosines), g.op("Mul", g.op("MatMul", x, self._quarter), self._sines)
        return g.op("Add", along, across)


class _Ring:
    """A ring of each session, or `rows` of them side by side; 1 where one is read by all rows."""

    def __init__(self, g: GraphBuilder, ring: str, shape: RingShape, rows: int) -> None:
        self._g, self._shape, self._rows = g, shape, rows
        self._whole = g.reshape(ring, -1, rows, shape.layers, shape.heads, shape.head_floats)

    def _part(self, layer: int, begin: int, end: int) -> str:
        return self._g.slice(self._whole, (layer, begin), (layer + 1, end), (2, 4))

    def keys(self, layer: int, slots: int = 0) -> str:
        """(B, rows, h, e, N), or the first `slots` of them."""
        shape = self._shape
        part = self._part(layer, 0, shape.key_floats)
        keys = self._g.reshape(part, -1, self._rows, shape.heads, shape.head_width, shape.slots)
        return keys if slots in (0, shape.slots) else self._g.slice(keys, (0,), (slots,), (-1,))

    def values(self, layer: int, slots: int = 0) -> str:
        """(B, rows, h, N, stride), or the first `slots` of them."""
        shape, slots = self._shape, slots or self._shape.slots
        part = self._part(layer, shape.key_floats, shape.key_floats + slots * shape.stride)
        return self._g.reshape(part, -1, self._rows, shape.heads, slots, shape.stride)

    def unpadded(self, values: str) -> str:
        """(…, stride) -> (…, e)"""
        shape = self._shape
        if shape.stride == shape.head_width:
            return values
        return self._g.slice(values, (0,), (shape.head_width,), (-1,))


class _History(NamedTuple):
    """The last rows of each block of a causal stack, (B, depth, K, width), zero before the first; the row that comes
    is not among them, and zero too."""

    rows: str
    depth: int
    kernel: int
    width: int

    @classmethod
    def read(cls, g: GraphBuilder, depth: int, slots: int, kernel: int, width: int) -> _History:
        ring = g.reshape(g.input("history", ("B", depth * slots * width)), -1, depth, slots, width)
        places = g.reshape(g.input("slots", ("B", kernel), np.int64), -1, 1, kernel, 1)
        there = g.reshape(g.input("mask", ("B", kernel)), -1, 1, kernel, 1)
        index = g.op("Expand", places, g.integers(1, depth, kernel, width))
        rows = g.op("Mul", g.op("GatherElements", ring, index, axis=2), there)
        return cls(rows, depth, kernel, width)


def _causal_stack(g: GraphBuilder, x: str, name: str, history: _History) -> tuple[str, str]:
    """One row (B, inputs) through a causal stack -> (B, width), and the rows (B, depth, width) that its convolutions
    are to remember."""
    blocks = [f"{name}.blocks.{i}" for i in range(history.depth)]
    taps = np.stack([g.array(f"{block}.conv.weight").T for block in blocks])  # (depth, K, width)
    bias = np.stack([g.array(f"{block}.conv.bias") for block in blocks])
    # What the convolutions of all blocks make of the past, at once: it does not wait for the row.
    past = g.op("Mul", history.rows, g.constant(taps, f"{name}.taps"))
    past = g.op("ReduceSum", past, g.integers(2), keepdims=0)
    past = g.op("Add", past, g.constant(bias, f"{name}.conv_bias"))
    by_block = g.split(past, 1, *[1] * history.depth)
    kept = []
    x = g.linear(x, f"{name}.input")
    for i, block in enumerate(blocks):
        kept.append(g.reshape(x, -1, 1, history.width))
        now = g.op("Mul", x, g.constant(taps[i, -1], f"{block}.conv.last"))
        h = g.norm(g.op("Add", g.reshape(by_block[i], -1, history.width), now), f"{block}.norm")
        x = g.op("Add", x, g.linear(g.gelu(g.linear(h, f"{block}.up")), f"{block}.down"))
    return g.norm(x, f"{name}.norm"), g.op("Concat", *kept, axis=1)
