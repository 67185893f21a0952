"""What can be evaluated: bundles in the native engine, and bundles or dialogue checkpoints in PyTorch.

PyTorch generates many clips at once, which makes the evaluation of a split a matter of seconds; the native engine runs
each clip as it ships. Shapes: T frames, D channels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unils_training.config import Config, ConfigError, DefaultsConfig, from_dict
from unils_training.data.records import HOP_SAMPLES
from unils_training.metrics.side import GROUPS

if TYPE_CHECKING:
    from unils_training.models.published.model import PublishedModel
    from unils_training.models.stream.model import StreamModel

CHUNK_SAMPLES = 320  # 20 ms, as a microphone delivers
BATCH_FRAMES = 100_000  # generated at once by PyTorch, padding included: some 300 MB


@dataclasses.dataclass(frozen=True)
class Run:
    """How motion is generated: the same for every clip but for its seed.

    `model` is a bundle's folder or a dialogue checkpoint. A `published` one makes `hop_frames` at a time (rolling,
    where look-ahead counts), or a window at a time where that is 0.
    """

    model: Path
    backend: str  # native or torch
    look_ahead_self: int
    look_ahead_other: int = 0
    temperature: float = 1.0
    top_p: float | None = None
    cfg_scale: float | None = None
    seed: int = 0
    hop_frames: int = 0

    def clip_seed(self, name: str) -> int:
        """A seed of its own for every clip, so that no two clips share their random numbers."""
        return (self.seed << 32) | zlib.crc32(name.encode())


@dataclasses.dataclass(frozen=True)
class Heard:
    """What one clip hears: both tracks (640 T,) int16 at 16 kHz, and its seed."""

    self_audio: NDArray[np.int16]
    other_audio: NDArray[np.int16]
    seed: int

    @property
    def frames(self) -> int:
        return len(self.self_audio) // HOP_SAMPLES


@dataclasses.dataclass(frozen=True)
class Description:
    """What is known of a model without running it."""

    family: str
    rig: str
    channels: tuple[str, ...]
    sha256: str
    defaults: dict[str, Any]
    provenance: dict[str, Any]
    window_frames: int = 1
    """Frames made at a time unless told otherwise."""


def describe(model: Path) -> Description:
    """Reads what a bundle or a checkpoint says of itself.

    Raises:
        FileNotFoundError, ValueError: it is neither.
    """
    if model.is_dir():
        try:
            info = json.loads((model / "model.json").read_text(encoding="utf-8"))
            weights = info["weights"]
            sha256 = weights["sha256"] if "sha256" in weights else _digest(model / "model.json")
            return Description(
                *(info["family"], info["rig"], tuple(info["channels"]), sha256),
                *(info["defaults"], info.get("provenance", {}), info.get("window_frames", 1)),
            )
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{model} is no bundle: its model.json cannot be used ({error!r})") from error
    stored, config = _read_checkpoint(model)
    rig = config.model.rig if config.family == "stream" else config.published.rig
    facts = {name: stored[name] for name in ("step", "seconds", "figures")}
    provenance = {"seed": config.seed, "configuration": stored["config"], "stages": {"dialogue": facts}}
    channels = tuple(stored["facts"]["channels"])
    defaults = dataclasses.asdict(config.defaults)
    window_frames = 1 if config.family == "stream" else config.published.window_frames
    return Description(config.family, rig, channels, _digest(model), defaults, provenance, window_frames)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=1)
def _read_checkpoint(path: Path) -> tuple[dict[str, Any], Config]:
    from unils_training.stages.trainer import load_result

    stored = load_result(path)
    try:
        config: Config = from_dict(Config, stored["config"])
        stored["facts"]["channels"], stored["result"]
    except (KeyError, TypeError, ConfigError) as error:
        raise ValueError(f"{path} is no checkpoint of a dialogue stage: it lacks or mistakes {error}") from error
    return stored, config


class TorchModel(Protocol):
    """A model in PyTorch that generates clips of about equal length at once."""

    def generate(self, clips: Sequence[Heard], run: Run) -> list[NDArray[np.float32]]:
        """Motion (T, D) of each clip."""


class StreamInTorch:
    """See `TorchModel`."""

    def __init__(self, model: StreamModel, defaults: DefaultsConfig) -> None:
        self.model, self.defaults = model.eval(), defaults

    def generate(self, clips: Sequence[Heard], run: Run) -> list[NDArray[np.float32]]:
        import torch

        from unils_training.models.stream.log_mel import log_mel_rows
        from unils_training.models.stream.model import Sampling

        top_p, cfg_scale = _sampling(run, self.defaults)
        sampling = Sampling(run.look_ahead_self, run.look_ahead_other, run.temperature, top_p, cfg_scale)
        frames = max(clip.frames for clip in clips)
        rows = []
        for track, ahead in sampling.look_ahead.items():
            padded = [_padded(getattr(clip, f"{track}_audio"), frames + ahead) for clip in clips]
            rows.append(torch.stack([log_mel_rows(torch.from_numpy(audio)) for audio in padded]))
        motion = self.model.generate_batch(*rows, sampling, [clip.seed for clip in clips])["motion"].numpy()
        return [made[: clip.frames] for made, clip in zip(motion, clips, strict=True)]


class PublishedInTorch:
    """See `TorchModel`."""

    def __init__(self, model: PublishedModel, defaults: DefaultsConfig) -> None:
        self.model, self.defaults = model.eval(), defaults

    def generate(self, clips: Sequence[Heard], run: Run) -> list[NDArray[np.float32]]:
        import torch

        from unils_training.models.published.model import Sampling
        from unils_training.models.published.rolling import Rolling, roll_batch

        top_p, cfg_scale = _sampling(run, self.defaults)
        frames = max(clip.frames for clip in clips)
        tracks = [
            torch.from_numpy(np.stack([_padded(getattr(clip, f"{track}_audio"), frames) for clip in clips]))
            for track in ("self", "other")
        ]
        sampling = Sampling(run.temperature, top_p, cfg_scale)
        seeds = [clip.seed for clip in clips]
        if run.hop_frames:
            rolling = Rolling(run.hop_frames, (run.look_ahead_self, run.look_ahead_other))
            motion = roll_batch(self.model, *tracks, sampling, seeds, rolling).numpy()
        else:
            motion = self.model.generate_batch(*tracks, sampling, seeds)["motion"].numpy()
        return [made[: clip.frames] for made, clip in zip(motion, clips, strict=True)]


def _sampling(run: Run, defaults: DefaultsConfig) -> tuple[float, float]:
    top_p = defaults.top_p if run.top_p is None else run.top_p
    return top_p, defaults.cfg_scale if run.cfg_scale is None else run.cfg_scale


def _padded(audio: NDArray[np.int16], frames: int) -> NDArray[np.float32]:
    """Audio in [-1, 1], continued by silence."""
    out = np.zeros(frames * HOP_SAMPLES, np.float32)
    out[: len(audio)] = audio / np.float32(32768.0)
    return out


@lru_cache(maxsize=1)
def torch_model(path: Path) -> TorchModel:
    """Loads a checkpoint of either family, or a bundle of the stream family.

    Raises:
        ValueError: a bundle of the published family, whose graphs PyTorch does not run.
    """
    from unils_training.models.stream.model import StreamModel

    if path.is_dir():
        described = describe(path)
        if described.family != "stream":
            raise ValueError(f"{path} is a bundle of family {described.family}: only the native backend runs it")
        return StreamInTorch(StreamModel.from_bundle(path), from_dict(DefaultsConfig, described.defaults))
    stored, config = _read_checkpoint(path)
    if config.family == "published":
        from unils_training.stages.published.dialogue import load_for_export

        return PublishedInTorch(load_for_export(config, path)[0], config.defaults)
    model = StreamModel(config.model, stored["facts"]["channels"])
    model.load_state_dict(stored["result"])
    return StreamInTorch(model, config.defaults)


@lru_cache(maxsize=1)
def _native_model(bundle: Path) -> Any:
    import unils_sdk

    return unils_sdk.Model.load(bundle)


def block_frames(run: Run) -> int:
    """Frames that are made at a time; 0 where each is made by itself, so that there are no seams."""
    frames = run.hop_frames or describe(run.model).window_frames
    return 0 if frames == 1 and not run.hop_frames else frames


def generate(run: Run, clips: Sequence[Heard]) -> list[NDArray[np.float32]]:
    """Motion (T, D) of every clip, within the ranges of its rig."""
    if run.backend == "native":
        return [_generate_natively(run, clip) for clip in clips]
    rig = describe(run.model).rig
    return [in_range(motion, rig) for motion in torch_model(run.model).generate(clips, run)]


def _generate_natively(run: Run, clip: Heard) -> NDArray[np.float32]:
    import unils_sdk

    rolling = {"mode": "rolling", "hop_frames": run.hop_frames} if run.hop_frames else {}
    session = unils_sdk.Session(
        _native_model(run.model),
        clock="both",
        look_ahead={"self": run.look_ahead_self, "other": run.look_ahead_other},
        temperature=run.temperature,
        top_p=run.top_p,
        cfg_scale=run.cfg_scale,
        seed=clip.seed,
        **rolling,
    )
    batches = []
    for start in range(0, len(clip.self_audio), CHUNK_SAMPLES):
        for track, samples in (("self", clip.self_audio), ("other", clip.other_audio)):
            session.push_audio(samples[start : start + CHUNK_SAMPLES], track, 16000)
        batches.append(session.pull_frames().values)
    session.finish()
    batches.append(session.pull_frames().values)
    return np.concatenate(batches)


def in_range(motion: NDArray[np.float32], rig: str = "arkit") -> NDArray[np.float32]:
    """Motion (T, D) as the engine lets it out: blendshapes in 0..1, angles of the head in a quarter turn."""
    if rig != "arkit":
        return motion
    from unils_training.rigs import ARKIT_CHANNELS

    angles = [ARKIT_CHANNELS.index(name) for name in GROUPS["head"]]
    low, high = np.zeros(len(ARKIT_CHANNELS), np.float32), np.ones(len(ARKIT_CHANNELS), np.float32)
    low[angles], high[angles] = -np.pi / 2, np.pi / 2
    return np.clip(motion, low, high)
