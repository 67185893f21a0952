"""Films faces: one or two portraits with their voices, as an MP4."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unils_sdk.errors import FileError, InvalidArgumentError
from unils_sdk.frames import FrameBatch
from unils_sdk.io import Audio, atomic_path
from unils_sdk.render.characters import Character, find_character
from unils_sdk.render.portrait import check_size, render_frame
from unils_sdk.render.vector import WHITE, Colour, Painter, Points, blend

FRAME_RATE = 25
AUDIO_RATE = 48000
_AUDIO_BLOCK = AUDIO_RATE // FRAME_RATE
_WALL: Colour = (30, 33, 43)
_BARS = 30
# How far a voice of two is from the middle: left and right gains.
_PAN = {1: ((0.9, 0.9),), 2: ((0.85, 0.55), (0.55, 0.85))}


def render_video(
    path: str | os.PathLike[str],
    batches: Sequence[FrameBatch],
    voices: Sequence[Audio | None] = (),
    *,
    names: Sequence[str] | None = None,
    characters: Sequence[str | Character] = ("ada", "ben"),
    size: int = 600,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Film one face, or two side by side, into an MP4: H.264 at 25 frames a second and AAC in stereo.

    batches: the frames of each face, rig `arkit`; the film is as long as the longer one, the shorter stays as it ends.
    voices: at most two. Voice i is that of face i and moves the sound meter below it; with one face the second voice
        is somebody out of sight. None is silence. They begin with frame 0 and are cut or padded to the film.
    names: what is written below the faces; by default the names of the characters.
    size: pixels of a portrait; the picture is a little larger.
    progress: called with (frames done, frames in all).

    Frames are encoded one by one, and the file appears when it is complete. Raises `InvalidArgumentError` for what
    cannot be filmed and `FileError` where the file cannot be written.
    """
    import av

    people = _cast(batches, characters, names)
    if len(voices) > 2:
        raise InvalidArgumentError(f"a film has at most two voices, not {len(voices)}")
    check_size(size)
    total = max(len(batch) for batch in batches)
    stage = _Stage(people, _even(size))
    tracks = [_Voice(voice) for voice in voices]
    try:
        with atomic_path(path) as temporary, ThreadPoolExecutor(len(batches)) as pool:
            pictures = _pictures(stage, batches, tracks, total, pool)
            _encode(temporary, stage, zip(pictures, _sound(tracks, total), strict=True), total, progress)
    except av.FFmpegError as error:
        raise FileError(f"cannot write the film {path}: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Person:
    character: Character
    name: str


def _cast(
    batches: Sequence[FrameBatch], characters: Sequence[str | Character], names: Sequence[str] | None
) -> list[_Person]:
    if not 1 <= len(batches) <= 2:
        raise InvalidArgumentError(f"a film shows one or two faces, not {len(batches)}")
    if any(batch.rig != "arkit" for batch in batches):
        raise InvalidArgumentError("only frames of rig 'arkit' can be drawn; export frames of other rigs as .npz")
    if not all(len(batch) for batch in batches):
        raise InvalidArgumentError("there are no frames to film: every batch needs at least one")
    if len(characters) < len(batches) or (names is not None and len(names) < len(batches)):
        raise InvalidArgumentError("give a character, and a name if any, for every face")
    people = []
    for index in range(len(batches)):
        character = find_character(characters[index])
        people.append(_Person(character, names[index] if names is not None else character.name))
    return people


@dataclass
class _Voice:
    """One voice, read a film frame at a time: its level, and its sound at the film's rate."""

    audio: Audio | None
    position: int = 0
    fifo: Any = None
    resampler: Any = None
    level: float = 0.0
    history: list[float] = field(default_factory=lambda: [0.0] * _BARS)

    def listen(self, frame: int) -> None:
        """Follow the loudness of film frame `frame`: up at once, down slowly."""
        loudness = 0.0
        if self.audio is not None:
            rate = self.audio.sample_rate
            samples = self.audio.samples[frame * rate // FRAME_RATE : (frame + 1) * rate // FRAME_RATE]
            if len(samples):
                decibels = 10 * np.log10(float(np.mean(np.square(samples, dtype=np.float64))) + 1e-10)
                loudness = float(np.clip((decibels + 52) / 38, 0.0, 1.0))
        self.level = max(loudness, 0.80 * self.level)
        self.history = [*self.history[1:], loudness]

    def take(self) -> NDArray[np.float32]:
        """The next film frame of sound (_AUDIO_BLOCK,)."""
        import av

        block = np.zeros(_AUDIO_BLOCK, np.float32)
        if self.audio is None:
            return block
        if self.fifo is None:
            self.fifo = av.AudioFifo()
            self.resampler = av.AudioResampler(format="fltp", layout="mono", rate=AUDIO_RATE)
        samples = self.audio.samples
        while self.fifo.samples < _AUDIO_BLOCK and self.position <= len(samples):
            part = samples[self.position : self.position + 4096]
            source = None  # the end: what the resampler still holds comes out
            if len(part):
                source = av.AudioFrame.from_ndarray(np.ascontiguousarray(part)[None, :], format="fltp", layout="mono")
                source.sample_rate = self.audio.sample_rate
            self.position += max(len(part), 1)
            for resampled in self.resampler.resample(source):
                resampled.pts = None
                self.fifo.write(resampled)
        ready = self.fifo.read(min(_AUDIO_BLOCK, self.fifo.samples)) if self.fifo.samples else None
        if ready is not None:
            block[: ready.samples] = ready.to_ndarray()[0]
        return block


def _sound(voices: Sequence[_Voice], total: int) -> Iterator[NDArray[np.float32]]:
    """The mix, (2, _AUDIO_BLOCK) a film frame."""
    gains = np.array(_PAN.get(len(voices), ()), np.float32).reshape(-1, 2)
    for _ in range(total):
        mix = np.zeros((2, _AUDIO_BLOCK), np.float32)
        for voice, gain in zip(voices, gains, strict=True):
            mix += gain[:, None] * voice.take()
        yield np.clip(mix, -1.0, 1.0)


def _pictures(
    stage: _Stage, batches: Sequence[FrameBatch], voices: Sequence[_Voice], total: int, pool: ThreadPoolExecutor
) -> Iterator[Image.Image]:
    for index in range(total):
        for voice in voices:
            voice.listen(index)
        frames = [batch[min(index, len(batch) - 1)] for batch in batches]
        faces = pool.map(
            lambda frame, person: render_frame(frame.values, frame.channels, person.character, size=stage.size),
            frames,
            stage.people,
        )
        yield stage.compose(list(faces), voices)


class _Stage:
    """The picture around the portraits: a wall, rounded frames, names and sound meters."""

    def __init__(self, people: Sequence[_Person], size: int) -> None:
        self.people, self.size = people, size
        self.margin = size // 25
        self.footer = size * 3 // 20
        self.width = _even(len(people) * size + (len(people) + 1) * self.margin)
        self.height = _even(size + self.margin + self.footer)
        self.mask = _rounded(size, size // 18)
        self.wall = self._paint_wall()

    def _left(self, index: int) -> int:
        return self.margin + index * (self.size + self.margin)

    def _paint_wall(self) -> Image.Image:
        wall = Image.new("RGB", (self.width, self.height), _WALL)
        draw = ImageDraw.Draw(wall)
        font = ImageFont.load_default(self.size / 20)
        for index, person in enumerate(self.people):
            middle = self.margin + self.size + self.footer // 2
            at = (self._left(index) + self.size // 40, middle)
            draw.text(at, person.name, font=font, fill=(236, 238, 244), anchor="lm")
        return wall

    def compose(self, faces: Sequence[Image.Image], voices: Sequence[_Voice]) -> Image.Image:
        picture = self.wall.copy()
        painter = Painter(picture)
        for index, (face, person) in enumerate(zip(faces, self.people, strict=True)):
            left, accent = self._left(index), person.character.accent
            if index < len(voices):
                voice = voices[index]
                border = max(2, self.size // 110)
                glow = blend(_WALL, accent, voice.level)
                frame = _rounded(self.size + 2 * border, self.size // 18 + border)
                picture.paste(glow, (left - border, self.margin - border), frame)
                self._paint_meter(painter, left, accent, voice)
            picture.paste(face, (left, self.margin), self.mask)
        return picture

    def _paint_meter(self, painter: Painter, left: int, accent: Colour, voice: _Voice) -> None:
        """Bars of the last second's loudness, the newest on the right."""
        pitch = self.size / 62
        right = left + self.size - self.size / 40
        middle = self.margin + self.size + self.footer / 2
        bars: list[Points] = []
        for age, level in enumerate(reversed(voice.history)):
            x, half = right - age * pitch, max(0.27 * self.footer * level**1.5, self.size / 300)
            corners = [[-0.5 * pitch, -half], [0, -half], [0, half], [-0.5 * pitch, half]]
            bars.append(np.array(corners) + np.array([x, middle]))
        painter.fill(bars, blend(accent, WHITE, 0.25), supersample=2)


def _even(length: int) -> int:
    return length + length % 2


@lru_cache(maxsize=8)
def _rounded(size: int, radius: int) -> Image.Image:
    large = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * size - 1, 4 * size - 1), 4 * radius, fill=255)
    return large.reduce(4)


def _encode(
    path: os.PathLike[str],
    stage: _Stage,
    frames: Iterable[tuple[Image.Image, NDArray[np.float32]]],
    total: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    import av

    with av.open(os.fspath(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        video = _video_stream(container, stage.width, stage.height)
        audio = container.add_stream("aac", rate=AUDIO_RATE, layout="stereo")
        audio.bit_rate = 160_000
        for index, (picture, block) in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
            sound = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            sound.sample_rate, sound.pts = AUDIO_RATE, index * _AUDIO_BLOCK
            container.mux(audio.encode(sound))
            if progress is not None:
                progress(index + 1, total)
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def _video_stream(container: Any, width: int, height: int) -> Any:
    """H.264, or MPEG-4 where this build of FFmpeg has no libx264."""
    import av

    if "libx264" in av.codecs_available:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"crf": "20", "preset": "veryfast"})
    else:
        stream = container.add_stream("mpeg4", rate=FRAME_RATE)
        stream.bit_rate = 4_000_000
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    return stream
