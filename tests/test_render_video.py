"""Films: pictures and sound of the right length, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

import unils_sdk as unils
from unils_sdk.io import Audio
from unils_sdk.render import render_video
from unils_sdk.rigs import ARKIT_BLENDSHAPES, HEAD_POSE

CHANNELS = (*ARKIT_BLENDSHAPES, *HEAD_POSE)
SIZE = 96


def frames(count: int, rig: str = "arkit") -> unils.FrameBatch:
    values = np.zeros((count, len(CHANNELS)), np.float32)
    values[:, CHANNELS.index("jawOpen")] = np.linspace(0, 0.6, count)
    index = np.arange(count, dtype=np.int64)
    return unils.FrameBatch(values, CHANNELS, index, index / 25, 0, rig)


def tone(seconds: float, rate: int, hertz: float) -> Audio:
    time = np.arange(int(seconds * rate)) / rate
    return Audio((0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32), rate, 1)


def decode(path: Path) -> tuple[list[av.VideoFrame], np.ndarray, av.container.InputContainer]:
    """All pictures, and the sound (2, n)."""
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    return pictures, sound, container


@pytest.mark.parametrize(("faces", "voices"), [(1, 0), (1, 1), (1, 2), (2, 2)])
def test_a_film_has_25_frames_a_second_and_sound_as_long_as_its_picture(
    tmp_path: Path, faces: int, voices: int
) -> None:
    count = 12
    sounds = [tone(2.0, 16000, 440), tone(0.2, 22050, 660)][:voices]
    render_video(tmp_path / "film.mp4", [frames(count)] * faces, sounds, size=SIZE)
    with av.open(str(tmp_path / "film.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.average_rate, video.codec_context.pix_fmt) == (25, "yuv420p")
        assert video.width % 2 == video.height % 2 == 0
        assert abs(float(video.duration * video.time_base) - count / 25) < 1e-3
        assert abs(float(audio.duration * audio.time_base) - count / 25) <= 0.04
        assert audio.codec_context.layout.name == "stereo"
    pictures, sound, _ = decode(tmp_path / "film.mp4")
    assert len(pictures) == count
    assert abs(sound.shape[1] / 48000 - count / 25) <= 0.04 + 1024 / 48000
    assert (np.abs(sound).max() > 0.2) == (voices > 0)


def test_two_voices_come_from_two_sides(tmp_path: Path) -> None:
    render_video(tmp_path / "film.mp4", [frames(25)] * 2, [tone(1, 16000, 440), tone(1, 16000, 1000)], size=SIZE)
    _, sound, _ = decode(tmp_path / "film.mp4")
    spectrum = np.abs(np.fft.rfft(sound[:, 4096:36864] * np.hanning(32768), axis=1))
    low, high = (spectrum[:, round(hertz * 32768 / 48000)] for hertz in (440, 1000))
    assert low[0] > 1.3 * low[1]
    assert high[1] > 1.3 * high[0]


def test_the_shorter_face_stays_as_it_ends(tmp_path: Path) -> None:
    render_video(tmp_path / "film.mp4", [frames(8), frames(3)], size=SIZE)
    assert len(decode(tmp_path / "film.mp4")[0]) == 8


def test_the_picture_follows_the_frames(tmp_path: Path) -> None:
    render_video(tmp_path / "film.mp4", [frames(10)], size=SIZE)
    pictures = [picture.to_ndarray(format="rgb24").astype(int) for picture in decode(tmp_path / "film.mp4")[0]]
    assert np.abs(pictures[0] - pictures[-1]).max() > 60


def test_progress_is_told_frame_by_frame(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    render_video(tmp_path / "f.mp4", [frames(4)], size=SIZE, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_without_libx264_the_film_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4", "aac"})
    render_video(tmp_path / "film.mp4", [frames(5)], size=SIZE)
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert len(decode(tmp_path / "film.mp4")[0]) == 5


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "one or two faces"),
        ([frames(2)] * 3, {}, "one or two faces"),
        ([frames(0)], {}, "no frames"),
        ([frames(2, "flame")], {}, "arkit"),
        ([frames(2)], {"voices": [None] * 3}, "two voices"),
        ([frames(2)], {"characters": ["zoe"]}, "no character"),
        ([frames(2)] * 2, {"names": ["Ada"]}, "for every face"),
        ([frames(2)], {"size": 10}, "64 to 2048"),
    ],
)
def test_what_cannot_be_filmed_is_refused(
    tmp_path: Path, batches: list[unils.FrameBatch], options: dict[str, object], message: str
) -> None:
    with pytest.raises(unils.InvalidArgumentError, match=message):
        render_video(tmp_path / "film.mp4", batches, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_film_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(unils.FileError, match="film.mp4"):
        render_video(tmp_path / "missing" / "film.mp4", [frames(2)], size=SIZE)
    (tmp_path / "taken.mp4").mkdir()
    with pytest.raises(unils.FileError, match="not a regular file"):
        render_video(tmp_path / "taken.mp4", [frames(2)], size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.mp4"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "film.mp4"
    target.write_bytes(b"old")
    program = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_render_video import frames, SIZE
from unils_sdk import FileError
from unils_sdk.render import render_video
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    render_video({str(target)!r}, [frames(30)], size=SIZE)
except FileError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("refused: cannot write"), done.stderr
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
