"""`Model`: weights on a backend, immutable and shared by any number of sessions and threads."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unils_sdk import _core
from unils_sdk.errors import BackendError, FileError, InvalidArgumentError, InvalidTypeError
from unils_sdk.graph_runner import OnnxRunner

BUNDLED_MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models", "default")
"""The bundle that comes with the package."""
PRECISIONS = ("fp32", "fp16", "bf16")  # unils_precision
TENSORRT = "tensorrt"
"""The backend whose graphs are not run by ONNX Runtime."""
_MOST_JSON_BYTES = 1 << 20


@dataclass(frozen=True)
class Defaults:
    """What a session does when it is not told."""

    look_ahead: Mapping[str, int]
    temperature: float
    top_p: float
    cfg_scale: float


@dataclass(frozen=True)
class ModelInfo:
    """What a model is and what it can do."""

    family: str
    """`stream`, or `published`: UniLS as released."""
    rig: str
    """`arkit` or `flame`"""
    channels: tuple[str, ...]
    """Names of the D numbers of a frame."""
    sample_rate: int
    """Hz, inside the engine; sessions accept 8000 to 96000."""
    hop_samples: int
    """Samples of a frame at `sample_rate`."""
    frame_rate: int
    """Frames per second."""
    look_ahead: Mapping[str, tuple[int, int]]
    """Fewest and most frames of future a session may ask for, per track."""
    defaults: Defaults
    backend: str
    """The backend that runs it, `cpu` say."""
    backend_detail: str
    """What the backend picked, `avx512` say, or why `auto` fell back."""
    parameters: int
    weight_bytes: int
    """Bytes that one step reads; family `published`: the size of its graphs."""
    window_frames: int
    """Of the model's own windows, which are made at a time unless a session is rolling: 1 or 100."""
    licence: str
    provenance: Mapping[str, Any]
    """Where the weights come from, as the bundle tells it."""
    path: str
    """The bundle's folder."""


class Model:
    """A loaded bundle. Make one with `Model.load`; it never changes and may be shared by threads."""

    __slots__ = ("_core", "_options", "info")

    info: ModelInfo

    def __init__(self, core: _core.Model, path: str, note: str = "", threads: int = 1, precision: str = "fp32") -> None:
        self._core = core
        self._options = threads, precision
        self.info = _read_info(core, path, note)

    def on(self, backend: str) -> Model:
        """The same bundle on `backend`, with the same threads and precision: this model, when it is on it already."""
        if backend in ("auto", self.info.backend):
            return self
        return Model.load(self.info.path, backend, *self._options)

    @staticmethod
    def load(
        path: str | os.PathLike[str] | None = None,
        backend: str = "auto",
        threads: int = 1,
        precision: str = "fp32",
    ) -> Model:
        """Load a bundle: a folder with `model.json`, `weights.safetensors` and, always in family `published`, graphs.

        path: the folder; the model that comes with the package when None.
        backend: `auto`, or a name such as `cpu`; a name fails loudly, only `auto` falls back. Family `published` runs
            on `onnxruntime` (`pip install 'unils-sdk[onnx]'`), which is the CPU; `onnxruntime:cuda` and
            `onnxruntime:tensorrt` need onnxruntime-gpu. `tensorrt` runs engines that `unils compile` made
            (`pip install 'unils-sdk[tensorrt]'`); `auto` takes those where there are any.
            Family `stream` runs on them too where `unils export-onnx` has added graphs.
        threads: how many threads one call may use: the steps of a pool's sessions are shared among them.
        precision: of matrix products, `fp32`, `fp16` or `bf16`; sums are float32. The CPU knows fp32 only, engines of
            `tensorrt` are compiled in one each, and graphs have the precision they were made with.

        Raises `FileError` when it is not there, `BundleError` when it is broken, `BackendError` when the backend is.
        """
        if path is None:
            path = BUNDLED_MODEL
            if not os.path.isdir(path):
                raise FileError("this installation came without the bundled model; pass the path of a bundle")
        try:
            folder = os.fsdecode(path)
            threads = operator.index(threads)
        except TypeError:
            raise InvalidTypeError(
                f"path must be a str or a path and threads an int, not {type(path).__name__} and "
                f"{type(threads).__name__}"
            ) from None
        if not isinstance(backend, str):
            raise InvalidTypeError(f"backend must be the name of one, not {type(backend).__name__}")
        if "\0" in folder:
            raise InvalidArgumentError("the path of a bundle cannot hold a null character")
        if not 1 <= threads <= 1024:
            raise InvalidArgumentError(f"threads must be 1 to 1024, not {threads}")
        if precision not in PRECISIONS:
            raise InvalidArgumentError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        if backend == TENSORRT:
            return _load_engines(folder, threads, precision)
        if backend == "auto" and _is_published(folder):
            return _load_published(folder, threads, precision)
        name, runner = OnnxRunner.named(backend)
        core = _core.Model(os.fsencode(folder), name, threads, runner, PRECISIONS.index(precision))
        return Model(core, folder, "", threads, precision)

    def __repr__(self) -> str:
        info = self.info
        return f"Model({info.path!r}, family={info.family!r}, rig={info.rig!r}, backend={info.backend!r})"


def _is_published(folder: str) -> bool:
    """What cannot be read, the native library says better; like it, this waits for no pipe."""
    import json
    import stat

    path = os.path.join(folder, "model.json")
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_JSON_BYTES:
            return False
        with open(path, "rb") as file:
            return bool(json.load(file)["family"] == "published")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _load_engines(folder: str, threads: int, precision: str) -> Model:
    from unils_sdk.tensorrt.runner import TensorRtRunner

    # Engines have their precision inside; to the library they are graphs that somebody runs.
    core = _core.Model(os.fsencode(folder), TENSORRT, threads, TensorRtRunner(precision), 0)
    return Model(core, folder, "", threads, precision)


def _load_published(folder: str, threads: int, precision: str) -> Model:
    """`auto`: TensorRT where somebody installed it and it can run this bundle; else ONNX Runtime, and why."""
    from importlib.util import find_spec

    note = ""
    if find_spec(TENSORRT) is not None:
        from unils_sdk.tensorrt.runner import why_not

        reason = why_not(folder, precision)
        if reason is None:
            try:
                return _load_engines(folder, threads, precision)
            except BackendError as error:
                reason = str(error)
        note = f"; not tensorrt: {reason}"
    core = _core.Model(os.fsencode(folder), "auto", threads, OnnxRunner(), PRECISIONS.index(precision))
    return Model(core, folder, note, threads, precision)


def _read_info(core: _core.Model, path: str, note: str) -> ModelInfo:
    import json

    native: dict[str, Any] = core.info()
    bundle = json.loads(native["json"])
    provenance = bundle.get("provenance", {})
    return ModelInfo(
        family=native["family"],
        rig=native["rig"],
        channels=tuple(native["channels"]),
        sample_rate=native["sample_rate"],
        hop_samples=native["hop_samples"],
        frame_rate=native["frame_rate"],
        look_ahead={"self": (0, native["look_ahead_self_max"]), "other": (0, native["look_ahead_other_max"])},
        defaults=Defaults(
            look_ahead={"self": native["default_look_ahead_self"], "other": native["default_look_ahead_other"]},
            temperature=native["default_temperature"],
            top_p=native["default_top_p"],
            cfg_scale=native["default_cfg_scale"],
        ),
        backend=native["backend"],
        backend_detail=(native["backend_detail"] or "") + note,
        parameters=native["parameters"],
        weight_bytes=native["weight_bytes"],
        window_frames=native["window_frames"],
        licence=str(bundle.get("licence", "")),
        provenance=provenance if isinstance(provenance, dict) else {},
        path=path,
    )
