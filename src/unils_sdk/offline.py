"""`animate`: whole recordings through the same streaming engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from unils_sdk.errors import InvalidArgumentError
from unils_sdk.frames import FrameBatch
from unils_sdk.model import Model
from unils_sdk.session import Mono, Samples, Session, check_sample_rate, to_mono

if TYPE_CHECKING:
    from unils_sdk.io import Audio

Source: TypeAlias = "str | os.PathLike[str] | Samples | Audio"

_CHUNK_SECONDS = 1
# With clock `other`, own audio must be there when its turn comes; well below the 10 s that a ring holds.
_OWN_LEAD_CHUNKS = 2


@dataclass
class _Track:
    name: str
    samples: Mono
    sample_rate: int
    position: int = 0

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate

    @property
    def exhausted(self) -> bool:
        return self.position >= len(self.samples)

    def pad_to(self, seconds: float) -> None:
        missing = int(seconds * self.sample_rate) - len(self.samples)
        if missing > 0:
            silence: Mono = np.zeros(missing, self.samples.dtype)
            self.samples = np.concatenate([self.samples, silence])

    def push_until(self, session: Session, seconds: int) -> None:
        end = min(seconds * self.sample_rate, len(self.samples))
        self.position += session.push_audio(self.samples[self.position : end], self.name, self.sample_rate)


def animate(
    self: Source | None,
    other: Source | None = None,
    *,
    model: Model | None = None,
    sample_rate: int = 16000,
    clock: str | None = None,
    look_ahead: Mapping[str, int] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    cfg_scale: float | None = None,
    seed: int = 0,
    style: npt.ArrayLike | FrameBatch | None = None,
    smoothing: bool = False,
    mode: str = "windowed",
    hop_frames: int | None = None,
    faces: int = 1,
    style_other: npt.ArrayLike | FrameBatch | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FrameBatch:
    """The face of `self` over a whole recording: the same frames as a `Session` makes while it is being spoken.

    self, other: a file of any audio format (more channels are mixed into one), an `io.Audio`, or samples as
        `Session.push_audio` takes them, at `sample_rate`. The shorter track ends in silence. One of them may be None: a
        face that only speaks, or only listens.
    clock: as for `Session`; by default `both`, or the track that is given.
    progress: called with (frames made, frames in all) as it goes.

    The other arguments are those of `Session`; `model` is the bundled one by default.
    """
    given = {"self": self, "other": other}
    tracks = [_open(name, source, sample_rate) for name, source in given.items() if source is not None]
    if not tracks:
        raise InvalidArgumentError("there is no audio: give the own track, the other's, or both")
    session = Session(
        model if model is not None else Model.load(),
        clock=clock or ("both" if len(tracks) == 2 else tracks[0].name),
        look_ahead=look_ahead,
        temperature=temperature,
        top_p=top_p,
        cfg_scale=cfg_scale,
        seed=seed,
        style=style,
        smoothing=smoothing,
        mode=mode,
        hop_frames=hop_frames,
        faces=faces,
        style_other=style_other,
    )
    seconds = max(track.seconds for track in tracks)
    info = session.model.info
    total = int(np.ceil(seconds * info.frame_rate))
    batches = []
    made = 0
    for track in tracks:
        track.pad_to(seconds)
    chunk = 0
    while not all(track.exhausted for track in tracks):
        chunk += 1
        for track in tracks:
            lead = _OWN_LEAD_CHUNKS if track.name == "self" else 0
            track.push_until(session, (chunk + lead) * _CHUNK_SECONDS)
        batches.append(session.pull_frames())
        made += len(batches[-1])
        if progress is not None:
            progress(made, total)
    session.finish()
    while not batches or len(batches[-1]) or session.frames_ready:
        batches.append(session.pull_frames())
        made += len(batches[-1])
        if progress is not None:
            progress(made, total)
    return FrameBatch.concatenate(batches)


def _open(name: str, source: Source, sample_rate: int) -> _Track:
    from unils_sdk.io import Audio, read_audio  # late: it loads pathlib, which `import unils_sdk` does not need

    if isinstance(source, (str, os.PathLike)):
        source = read_audio(source)
    if isinstance(source, Audio):
        return _Track(name, source.samples, source.sample_rate)
    return _Track(name, to_mono(source), check_sample_rate(sample_rate))
