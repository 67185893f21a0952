"""Where engines are kept: one file each, under what decides whether it can run here.

    <cache>/tensorrt/<model>/<TensorRT>/<card>-sm<capability>/<graph>.<precision>.engine
    <cache>/tensorrt/timing/<TensorRT>-<card>-sm<capability>.cache

A file is a header that repeats its whole key and the SHA-256 of the engine, then the engine. One that is not what it
should be is never handed to TensorRT, which would run whatever code it holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from unils_sdk.errors import FileError
from unils_sdk.io import write_bytes
from unils_sdk.tensorrt.libraries import Gpu

_MAGIC = b"unils-engine 1\n"
_MAX_HEADER_BYTES = 1 << 16


def default_root() -> Path:
    """`$UNILS_CACHE`, else `unils` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    if own := os.environ.get("UNILS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unils"


@dataclass(frozen=True)
class EngineKey:
    """What an engine depends on."""

    model: str
    """SHA-256 over those of the bundle's graphs."""
    graph: str
    """Name and SHA-256 of its own."""
    graph_sha256: str
    precision: str
    profiles: str
    """SHA-256 of the shapes it is built for."""
    tensorrt: str
    gpu: str
    capability: str


class Rejected(Exception):  # noqa: N818 (a finding, not a failure)
    """There is a file, and its engine cannot be used; the text says why."""


class EngineCache:
    """The engines of one version of TensorRT for one card."""

    def __init__(self, tensorrt: str, gpu: Gpu, root: Path | None = None) -> None:
        self._root = (root or default_root()) / "tensorrt"
        self._version = _slug(tensorrt)
        self._card = f"{_slug(gpu.name)}-sm{gpu.capability.replace('.', '')}"

    def path(self, key: EngineKey) -> Path:
        """Of an engine, whether it is there or not."""
        return self._root / key.model[:16] / self._version / self._card / f"{key.graph}.{key.precision}.engine"

    @property
    def timing_path(self) -> Path:
        """Of the timing cache: how fast each kernel was on this card, which later builds read."""
        return self._root / "timing" / f"{self._version}-{self._card}.cache"

    def read(self, key: EngineKey) -> bytes | None:
        """The engine; None where there is none, and `Rejected` where it cannot be trusted or is of something else."""
        path = self.path(key)
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_uid != os.getuid() or status.st_mode & 0o022:
                    raise Rejected("it is another user's, or others may write to it")
                content = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Rejected(f"it cannot be read ({error.strerror or error})") from error
        return _unpack(content, key)

    def write(self, key: EngineKey, engine: bytes) -> None:
        """Keep an engine; it appears whole or not at all. `FileError` when the folder cannot be written."""
        header = json.dumps({**asdict(key), "bytes": len(engine), "sha256": _sha256(engine)}).encode()
        _write(self.path(key), _MAGIC + len(header).to_bytes(4, "little") + header + engine)

    def read_timing(self) -> bytes:
        """The timing cache; empty where there is none. TensorRT checks it itself."""
        try:
            return self.timing_path.read_bytes()
        except OSError:
            return b""

    def write_timing(self, content: bytes) -> None:
        """Keep the timing cache."""
        _write(self.timing_path, content)

    @contextlib.contextmanager
    def building(self, say: Callable[[str], None]) -> Iterator[None]:
        """Only one process builds for a card at a time: a second one would time its kernels beside the first one's."""
        path = self.timing_path.with_suffix(".lock")
        _make_folder(path.parent)
        try:
            file = open(path, "ab")  # noqa: SIM115 (closed below, which unlocks)
        except OSError as error:
            raise FileError(f"cannot write {path}: {error.strerror or error}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another process is building engines for this card; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _unpack(content: bytes, key: EngineKey) -> bytes:
    start = len(_MAGIC) + 4
    if not content.startswith(_MAGIC) or len(content) < start:
        raise Rejected("it is not an engine file of this version")
    size = int.from_bytes(content[len(_MAGIC) : start], "little")
    try:
        if size > _MAX_HEADER_BYTES:
            raise ValueError
        header = json.loads(content[start : start + size])
        engine_bytes, digest = header.pop("bytes"), header.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Rejected("its header is damaged") from None
    for name, wanted in asdict(key).items():
        found = header.get(name)
        if found != wanted:
            raise Rejected(f"it was built for {name} {_short(found)}, and this is {_short(wanted)}")
    engine = content[start + size :]
    if len(engine) != engine_bytes:
        raise Rejected(f"it is cut short: {len(engine)} of {engine_bytes} bytes")
    if _sha256(engine) != digest:
        raise Rejected("its bytes have changed (their SHA-256 differs)")
    return engine


def _write(path: Path, content: bytes) -> None:
    _make_folder(path.parent)
    write_bytes(path, content)
    path.chmod(0o600)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot make the cache folder {folder}: {error.strerror or error}; UNILS_CACHE names another"
        ) from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text[:80]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-") or "unknown"
