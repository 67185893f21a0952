"""`unils doctor`: what is installed here and what works."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

from unils_sdk import _core
from unils_sdk.bench import machine
from unils_sdk.errors import BackendError, UnilsError
from unils_sdk.graph_runner import OnnxRunner, available_devices
from unils_sdk.model import BUNDLED_MODEL, Model
from unils_sdk.session import Session
from unils_sdk.tensorrt import libraries

_WITHOUT_ONNX = "not installed (runs bundles that hold graphs): pip install 'unils-sdk[onnx]'"
_REQUIRED = ("numpy", "av", "pillow", "tqdm")
_DRIVER = "/proc/driver/nvidia/version"
_TRAINING = ("torch", "peft", "safetensors", "scipy", "soundfile", "tensorboard", "matplotlib")


@dataclass(frozen=True)
class Finding:
    """One line of the report. `ok` is None where a thing is merely absent and nothing needs it."""

    subject: str
    ok: bool | None
    detail: str


def examine(model_path: str | None = None) -> list[Finding]:
    """Look at versions, backends, the model and the optional parts; it never raises for what it finds."""
    here = machine()
    return [
        Finding("unils-sdk", True, f"{_core.version()}, C interface {_core.abi_version()}, {_package_folder()}"),
        Finding("python", True, f"{here['python']}, {sys.executable}"),
        Finding("machine", True, f"{here['cpu']}, {here['cores']} cores, {here['system']}"),
        *(_backend(*backend) for backend in _core.backends()),
        _nvidia_driver(),
        _nvcc(),
        _model(model_path),
        *(_package(name, required=True) for name in _REQUIRED),
        _training(),
        _program("espeak-ng", "speaks the training corpus; needed by unils-train synth only"),
    ]


def _backend(name: str, score: int, detail: str, plugin: str | None = None) -> Finding:
    # Some the native library does not hold itself: the host runs graphs for it.
    if name == OnnxRunner.name:
        return Finding(f"backend {name}", *_onnxruntime())
    if name == "tensorrt":
        return Finding(f"backend {name}", None, _tensorrt())
    return Finding(f"backend {name}", score > 0 or None, f"{detail}; plug-in {plugin}" if plugin else detail)


def _tensorrt() -> str:
    try:
        found = libraries.find()
        state = f"{found.version} for {found.gpu.name}, runs bundles that hold graphs"
    except BackendError as error:
        state = str(error)
    return f"{state}; this project has never run it"


def _nvidia_driver() -> Finding:
    """What the kernel module says of itself; backends cuda and tensorrt need one."""
    try:
        with open(_DRIVER, encoding="utf-8", errors="replace") as lines:
            return Finding("NVIDIA driver", True, " ".join(lines.readline().split()))
    except OSError:
        return Finding("NVIDIA driver", None, "none (backends cuda and tensorrt need a GPU and its driver)")


def _nvcc() -> Finding:
    path = shutil.which("nvcc")
    if path is None:
        purpose = "builds the plug-in of backend cuda with the package: pip install . where CUDA's nvcc is on PATH"
        return Finding("nvcc", None, f"not installed ({purpose})")
    try:
        said = subprocess.run([path, "--version"], check=False, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("nvcc", False, f"{path} does not run: {error}")
    release = re.search(r"release (\S+),", said)
    return Finding("nvcc", True, f"CUDA {release[1]}, {path}" if release else path)


def _onnxruntime() -> tuple[bool | None, str]:
    if _version(OnnxRunner.name) is None and _version("onnxruntime-gpu") is None:
        return None, _WITHOUT_ONNX
    try:
        version, devices = available_devices()
    except ImportError as error:
        return False, f"cannot be imported: {error}"
    names = [OnnxRunner.name if device == "cpu" else f"{OnnxRunner.name}:{device}" for device in devices]
    # Said here because a user will ask for what is listed.
    untried = "; cuda and tensorrt have never been tried by this project" if len(devices) > 1 else ""
    return True, f"{version}, runs bundles that hold graphs: {', '.join(names)}{untried}"


def _package_folder() -> str:
    return os.path.dirname(os.path.abspath(_core.__file__))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str, *, required: bool) -> Finding:
    version = _version(name)
    return Finding(name, True if version else (False if required else None), version or "not installed")


def _model(path: str | None) -> Finding:
    subject = "model" if path else "bundled model"
    try:
        model = Model.load(path)
        session = Session(model)
        while not session.frames_ready:
            for track in ("self", "other"):
                session.push_audio(bytes(2 * model.info.hop_samples), track, model.info.sample_rate)
        session.pull_frames()
    except UnilsError as error:
        return Finding(subject, False, str(error))
    info = model.info
    detail = f"{info.parameters / 1e6:.2f} M parameters, {info.rig}, backend {info.backend}"
    isa = f" ({info.backend_detail})" if info.backend_detail else ""
    return Finding(subject, True, f"{detail}{isa}, makes frames, {path or BUNDLED_MODEL}")


def _training() -> Finding:
    versions = {name: _version(name) for name in _TRAINING}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return Finding("training", None, f"not installed ({', '.join(missing)}): pip install 'unils-sdk[training]'")
    return Finding("training", True, ", ".join(f"{name} {version}" for name, version in versions.items()))


def _program(name: str, purpose: str) -> Finding:
    path = shutil.which(name)
    return Finding(name, True if path else None, path or f"not installed ({purpose})")
