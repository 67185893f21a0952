"""`run_demo`: the bundled conversation, and what playing it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest

import unils_sdk as unils
from unils_sdk import demo, io

KEYS = {
    *("frames", "seconds", "channels", "step_us", "first_frame_ms"),
    *("real_time_factor", "latency_ms", "backend"),
}


def short_conversation(folder: Path, seconds: float) -> Path:
    """The beginning of the bundled conversation, as WAV under the names that the demo reads."""
    for name in "ab":
        samples = io.read_audio(demo.CONVERSATION / f"{name}.flac").samples[: int(16000 * seconds)]
        with wave.open(str(folder / f"{name}.flac"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes((samples * 32767).astype("<i2").tobytes())
    return folder


def test_the_conversation_is_two_tracks_of_the_same_length() -> None:
    a, b = (io.read_audio(demo.CONVERSATION / f"{name}.flac") for name in "ab")
    assert (a.sample_rate, a.source_channels) == (b.sample_rate, b.source_channels) == (16000, 1)
    assert len(a.samples) == len(b.samples)
    assert len(a.samples) % 640 == 0
    assert 20 <= len(a.samples) / 16000 <= 30
    for voice in (a, b):
        assert 0.3 < np.abs(voice.samples).max() < 1
    speaking = [np.abs(voice.samples).reshape(-1, 640).max(axis=1) > 0.02 for voice in (a, b)]
    assert 0.25 < speaking[0].mean() < 0.7
    assert 0.25 < speaking[1].mean() < 0.7
    assert (speaking[0] & speaking[1]).sum() > 10  # they talk at the same time now and then


def test_the_words_are_where_the_sound_is() -> None:
    about = json.loads((demo.CONVERSATION / "conversation.json").read_text())
    for line in about["lines"]:
        track = "ab"[about["names"].index(line["speaker"])]
        samples = io.read_audio(demo.CONVERSATION / f"{track}.flac").samples
        spoken = samples[int(16000 * line["start"]) : int(16000 * line["end"])]
        assert np.sqrt(np.mean(spoken**2)) > 0.01, line["text"]


def test_the_demo_writes_a_film_frames_and_figures(
    tiny: unils.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 1.2
    (tmp_path / "voices").mkdir()
    monkeypatch.setattr(demo, "CONVERSATION", short_conversation(tmp_path / "voices", seconds))
    out = tmp_path / "new" / "folder"
    figures = demo.run_demo(out, seed=3, progress=False, model=tiny)

    assert sorted(path.name for path in out.iterdir()) == ["demo.json", "demo.mp4", "demo.npz"]
    assert json.loads((out / "demo.json").read_text()) == figures
    assert figures.keys() >= KEYS
    assert figures["frames"] == round(seconds * 25)
    assert figures["seconds"] == pytest.approx(seconds)
    assert figures["channels"] == list(tiny.info.channels)
    assert 0 < figures["step_us"]["p50"] <= figures["step_us"]["p95"] <= figures["step_us"]["p99"]
    assert figures["first_frame_ms"] > 0
    assert figures["real_time_factor"] > 0
    assert figures["latency_ms"] == unils.Session(tiny).latency.total_ms
    assert figures["backend"] == tiny.info.backend

    with np.load(out / "demo.npz") as frames:
        assert {"values_a", "values_b", "channels", "index", "pts_seconds"} <= set(frames.files)
        assert frames["values_a"].shape == frames["values_b"].shape == (figures["frames"], len(figures["channels"]))
        assert frames["pts_seconds"].tolist() == (np.arange(figures["frames"]) / 25).tolist()
        # The faces are the engine's own, from audio alone: the same as of the whole recordings at once.
        for seed, (face, own, other) in enumerate((("values_a", "a", "b"), ("values_b", "b", "a")), start=6):
            tracks = [io.read_audio(demo.CONVERSATION / f"{name}.flac") for name in (own, other)]
            assert np.array_equal(frames[face], unils.animate(*tracks, model=tiny, seed=seed).values)

    with av.open(str(out / "demo.mp4")) as film:
        video, audio = film.streams.video[0], film.streams.audio[0]
        assert video.average_rate == 25
        assert abs(float(audio.duration * audio.time_base) - seconds) <= 0.04
        assert len(list(film.decode(video=0))) == figures["frames"]


def test_a_folder_that_cannot_be_made_is_named(tiny: unils.Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(unils.FileError, match="cannot make the folder"):
        demo.run_demo(tmp_path / "file" / "demo", progress=False, model=tiny)


def test_the_conversation_can_be_made_again(tmp_path: Path) -> None:
    espeak = pytest.importorskip("unils_training.data.synth.espeak")
    if espeak.library_path() is None:
        pytest.skip("espeak-ng is not installed")
    from unils_training.data.synth.demo_conversation import espeak_version

    about = json.loads((demo.CONVERSATION / "conversation.json").read_text())
    if espeak_version() != about["espeak_ng"]:
        pytest.skip(f"the conversation was made with espeak-ng {about['espeak_ng']}, here is {espeak_version()}")
    # In a process of its own: espeak-ng's noise runs on from call to call.
    command = [sys.executable, "-m", "unils_training.data.synth.demo_conversation", "--out", str(tmp_path)]
    subprocess.run(command, check=True, timeout=120)
    assert json.loads((tmp_path / "conversation.json").read_text()) == about
    for name in ("a.flac", "b.flac"):
        made, kept = (io.read_audio(folder / name).samples for folder in (tmp_path, demo.CONVERSATION))
        assert np.array_equal(made, kept)
