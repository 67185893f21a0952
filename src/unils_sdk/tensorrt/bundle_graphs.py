"""What a bundle says of its graphs, and the shapes that engines are built for."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unils_sdk.errors import BundleError, FileError

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]
"""Least, usual and greatest shape of an input."""
Profile = dict[str, Range]
"""Of each input; TensorRT picks its kernels for the usual shapes."""

_Named = tuple[int | str, ...]
_Size = tuple[int, int, int]

# Tracks, faces and rows of a batch; usual is one face that is guided (docs/published.md).
_PUBLISHED_SIZES: dict[str, _Size] = {"T": (1, 2, 2), "B": (1, 1, 2), "R": (1, 2, 4)}
# The engine runs sessions of family stream one at a time, whatever ranges a bundle gives for batches of them.
_STREAM_SIZES: dict[str, _Size] = {"B": (1, 1, 1)}


@dataclass(frozen=True)
class BundleGraph:
    """One graph of a bundle."""

    name: str
    path: Path
    sha256: str
    """Of the file and, where its weights lie beside it, of theirs."""
    files: tuple[tuple[Path, str], ...]
    """Each file, with the SHA-256 that `model.json` gives."""
    inputs: Mapping[str, _Named]
    """Shapes; a dimension is a number, or the name of one that a call fixes."""
    profiles: tuple[Mapping[str, _Size], ...]
    """Least, usual and greatest of each named dimension; a graph has a profile for each set."""

    def input_profiles(self, inputs: Sequence[str]) -> list[Profile]:
        """Profiles for the inputs as the file names them, where `audio.3.0.1` is a piece of `audio`."""
        return [{name: self._range(name, sizes) for name in inputs} for sizes in self.profiles]

    @property
    def profiles_sha256(self) -> str:
        """Of everything that `input_profiles` is made from."""
        text = json.dumps([{name: list(shape) for name, shape in self.inputs.items()}, list(map(dict, self.profiles))])
        return hashlib.sha256(text.encode()).hexdigest()

    def _range(self, name: str, sizes: Mapping[str, _Size]) -> Range:
        whole, *piece = name.split(".")
        shape = self.inputs.get(whole, ())[len(piece) :]
        if not shape:
            raise BundleError(
                f"{self.path} has an input {name} that model.json does not describe; make the bundle again"
            )

        def at(which: int) -> Shape:
            return tuple(sizes[axis][which] if isinstance(axis, str) else axis for axis in shape)

        return at(0), at(1), at(2)


@dataclass(frozen=True)
class BundleGraphs:
    """The graphs of a bundle, in the order of `model.json`."""

    folder: Path
    family: str
    precision: str
    """Of the graphs as they are: `fp32`, or `int8`, which TensorRT does not take."""
    graphs: tuple[BundleGraph, ...]

    @property
    def sha256(self) -> str:
        """Over those of the graphs: what "the same model" means to the cache."""
        return hashlib.sha256("".join(graph.sha256 for graph in self.graphs).encode()).hexdigest()

    @staticmethod
    def read(folder: str | os.PathLike[str]) -> BundleGraphs:
        """Reads `model.json`. A stream bundle that was not exported has no graphs, which is no error here.

        Raises `FileError` when it is not there, `BundleError` when it does not describe its graphs.
        """
        path = Path(folder) / "model.json"
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise FileError(f"cannot read {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise BundleError(f"{path} is not JSON ({error}); copy the bundle again") from error
        try:
            return BundleGraphs(
                Path(folder),
                str(description["family"]),
                str(description.get("precision", "fp32")),
                tuple(_graphs(Path(folder), description)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"{path} does not describe its graphs ({error!r}); make the bundle again") from error

    def verify(self) -> None:
        """Every file is the one that `model.json` describes, or a `BundleError`."""
        for path, expected in itertools.chain.from_iterable(graph.files for graph in self.graphs):
            found = _file_sha256(path)
            if found != expected:
                raise BundleError(
                    f"{path} is not the file that model.json describes (its SHA-256 differs); copy the bundle again"
                )


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def _graphs(folder: Path, description: Mapping[str, Any]) -> Iterator[BundleGraph]:
    for name, entry in description.get("graphs", {}).items():
        files = tuple(
            (folder / part["file"], str(part["sha256"])) for part in (entry, entry.get("data")) if part is not None
        )
        if any(path.parent != folder for path, _ in files):
            raise ValueError(f"graph {name} lies outside of the bundle")
        yield BundleGraph(
            name=name,
            path=files[0][0],
            sha256=hashlib.sha256("".join(digest for _, digest in files).encode()).hexdigest(),
            files=files,
            inputs={port: _named(shape) for port, shape in entry["inputs"].items()},
            profiles=tuple(_profiles(description, name, entry)),
        )


def _named(shape: Sequence[Any]) -> _Named:
    for axis in shape:
        if not isinstance(axis, str) and not (isinstance(axis, int) and axis > 0):
            raise ValueError(f"a dimension is {axis!r}")
    return tuple(shape)


def _profiles(description: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> Iterator[dict[str, _Size]]:
    names = sorted({axis for shape in entry["inputs"].values() for axis in shape if isinstance(axis, str)})
    if description["family"] != "published" or name != "step":
        known = _PUBLISHED_SIZES if description["family"] == "published" else _STREAM_SIZES
        yield {axis: known[axis] for axis in names}
        return
    # A scale's tokens, and those before it, are always as many: kernels are picked for each scale by itself.
    cached = 2 * int(description["window_frames"])
    for tokens in description["codec"]["scales"]:
        yield {"R": _PUBLISHED_SIZES["R"], "n": (tokens,) * 3, "m": (cached,) * 3}
        cached += tokens


def fits(shape: Shape, bounds: Range) -> bool:
    """Whether a profile is for a shape."""
    least, _, greatest = bounds
    return len(shape) == len(least) and all(
        low <= size <= high for low, size, high in zip(least, shape, greatest, strict=True)
    )


def distance(shape: Shape, usual: Shape) -> float:
    """How far a shape is from the one that a profile's kernels were picked for; 0 is that one."""
    return sum(abs(math.log(size / best)) for size, best in zip(shape, usual, strict=True))
