"""unils-sdk: the two audio tracks of a conversation in, a face that speaks and listens out, 25 frames a second.

>>> import unils_sdk as unils
>>> session = unils.Session(unils.Model.load())
>>> session.push_audio(microphone, track="other", sample_rate=48000)
>>> session.push_audio(own_voice, track="self", sample_rate=24000)
>>> for frame in session.pull_frames():
...     show(frame.arkit, frame.head_pose)
"""

from __future__ import annotations

import contextlib
import importlib.util
import os

from unils_sdk import _core
from unils_sdk.errors import (
    BackendError,
    BundleError,
    BusyError,
    FileError,
    InternalError,
    InvalidArgumentError,
    InvalidTypeError,
    NotFiniteError,
    OutOfMemoryError,
    PoolFullError,
    StateError,
    UnilsError,
)
from unils_sdk.frames import DeviceFrames, Frame, FrameBatch
from unils_sdk.model import Defaults, Model, ModelInfo
from unils_sdk.offline import animate
from unils_sdk.pool import PoolFrames, PoolStats, SessionPool
from unils_sdk.session import Latency, Session, Stats

__version__ = _core.version()

__all__ = [
    "BackendError",
    "BundleError",
    "BusyError",
    "Defaults",
    "DeviceFrames",
    "FileError",
    "Frame",
    "FrameBatch",
    "InternalError",
    "InvalidArgumentError",
    "InvalidTypeError",
    "Latency",
    "Model",
    "ModelInfo",
    "NotFiniteError",
    "OutOfMemoryError",
    "PoolFrames",
    "PoolFullError",
    "PoolStats",
    "Session",
    "SessionPool",
    "StateError",
    "Stats",
    "UnilsError",
    "__version__",
    "animate",
    "cmake_dir",
]


def _name_plugin_folder() -> None:
    """Tell libunils where the add-on wheel unils-sdk-cuda13 lies, if it is installed; importing it is not needed."""
    addon = importlib.util.find_spec("unils_sdk_cuda13")
    if addon is not None and addon.origin is not None:
        with contextlib.suppress(StateError):  # a host of both C and Python asked libunils for a backend before this
            _core.plugin_folder(os.fsencode(os.path.join(os.path.dirname(addon.origin), "lib")))


_name_plugin_folder()


def cmake_dir() -> str:
    """The folder of `unilsConfig.cmake`, so that `cmake -Dunils_DIR=...` finds libunils for C and C++."""
    return os.path.join(os.path.dirname(os.path.abspath(_core.__file__)), "lib", "cmake", "unils")
