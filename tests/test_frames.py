"""Frames, and the files they are read from and written to."""

from __future__ import annotations

import csv
import os
import resource
import stat
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import av
import numpy as np
import pytest

import unils_sdk as unils
from conversation import RATES, assert_same_frames, frames_of, voice, voices
from unils_sdk import io, rigs


@pytest.fixture(scope="module")
def batch(tiny: unils.Model) -> unils.FrameBatch:
    return frames_of(tiny, voices(2.4))


class TestFrameBatch:
    def test_fields(self, batch: unils.FrameBatch) -> None:
        assert batch.values.shape == (60, 55)
        assert (batch.values.dtype, batch.index.dtype, batch.pts_seconds.dtype) == (np.float32, np.int64, np.float64)
        assert batch.channels == rigs.ARKIT_CHANNELS
        np.testing.assert_array_equal(batch.arkit, batch.values[:, :52])
        np.testing.assert_array_equal(batch.head_pose, batch.values[:, 52:])
        assert np.shares_memory(batch.arkit, batch.values)
        assert repr(batch) == "FrameBatch(60 frames 0..59, rig='arkit', generation=0)"
        for name in ("expression", "global_pose", "jaw_pose", "eye_pose"):
            with pytest.raises(ValueError, match="arkit"):
                getattr(batch, name)

    def test_frames_are_rows(self, batch: unils.FrameBatch) -> None:
        assert len(list(batch)) == len(batch) == 60
        for i, frame in enumerate(batch):
            assert (frame.index, frame.pts_seconds, frame.generation) == (i, i / 25, 0)
            np.testing.assert_array_equal(frame.values, batch.values[i])
            assert (frame.arkit.shape, frame.head_pose.shape) == ((52,), (3,))
            assert frame.channels == batch.channels
        assert batch[-1].index == 59
        with pytest.raises(IndexError):
            batch[60]

    def test_slices_are_views(self, batch: unils.FrameBatch) -> None:
        part = batch[10:50:2]
        np.testing.assert_array_equal(part.index, np.arange(10, 50, 2))
        assert np.shares_memory(part.values, batch.values)
        assert len(batch[60:]) == 0
        assert repr(batch[60:]) == "FrameBatch(0 frames, rig='arkit', generation=0)"

    def test_concatenate(self, batch: unils.FrameBatch, flame: unils.Model) -> None:
        assert_same_frames(unils.FrameBatch.concatenate([batch[:0], batch[:7], batch[7:]]), batch)
        with pytest.raises(ValueError, match="no batch"):
            unils.FrameBatch.concatenate([])
        with pytest.raises(ValueError, match="channels"):
            unils.FrameBatch.concatenate([batch, frames_of(flame, voices(0.1))])

    def test_frames_cannot_be_reassigned(self, batch: unils.FrameBatch) -> None:
        with pytest.raises(AttributeError):
            batch.values = batch.values  # type: ignore[misc]

    def test_reorder_by_name(self, batch: unils.FrameBatch) -> None:
        unity = rigs.reorder(batch.values, batch.channels, rigs.ARKIT_ALPHABETICAL)
        assert rigs.ARKIT_ALPHABETICAL[0] == "browDownLeft"
        np.testing.assert_array_equal(unity[:, 0], batch.values[:, rigs.ARKIT_CHANNELS.index("browDownLeft")])
        assert unity.shape == (60, 52)
        with pytest.raises(ValueError, match="'smile'"):
            rigs.reorder(batch.values, batch.channels, ["smile"])

    def test_the_rig_has_52_names_in_live_link_order(self) -> None:
        assert len(set(rigs.ARKIT_BLENDSHAPES)) == 52
        assert rigs.ARKIT_BLENDSHAPES[0] == "eyeBlinkLeft"
        assert rigs.ARKIT_BLENDSHAPES[17] == "jawOpen"
        assert rigs.ARKIT_BLENDSHAPES[51] == "tongueOut"
        assert rigs.ARKIT_CHANNELS[52:] == ("headYaw", "headPitch", "headRoll")


class TestAnimate:
    def test_paths_and_arrays_give_the_frames_of_a_session(self, tiny: unils.Model, tmp_path: Path) -> None:
        tracks = {track: (samples * 32767).astype(np.int16) for track, samples in voices(1.3, 24000).items()}
        for track, samples in tracks.items():
            write_audio(tmp_path / f"{track}.wav", samples[None], 24000)
        expected = frames_of(tiny, tracks, 24000, seed=4)
        from_files = unils.animate(tmp_path / "self.wav", str(tmp_path / "other.wav"), model=tiny, seed=4)
        assert_same_frames(from_files, expected)
        from_arrays = unils.animate(tracks["self"], tracks["other"], model=tiny, seed=4, sample_rate=24000)
        assert_same_frames(from_arrays, expected)

    def test_one_track_alone(self, tiny: unils.Model) -> None:
        own = voice(1.0)
        assert_same_frames(unils.animate(own, model=tiny), frames_of(tiny, {"self": own}, clock="self"))
        assert_same_frames(unils.animate(None, own, model=tiny), frames_of(tiny, {"other": own}, clock="other"))
        with pytest.raises(ValueError, match="no audio"):
            unils.animate(None, model=tiny)

    @pytest.mark.parametrize("clock", ["both", "other"])
    def test_tracks_of_different_length_end_together(self, tiny: unils.Model, clock: str) -> None:
        for own_seconds, other_seconds in ((25.0, 1.0), (1.0, 25.0), (0.0, 12.0)):
            frames = unils.animate(voice(own_seconds), voice(other_seconds), model=tiny, clock=clock)
            assert len(frames) == 25 * max(own_seconds, other_seconds)

    def test_progress_counts_to_the_end(self, tiny: unils.Model) -> None:
        seen: list[tuple[int, int]] = []
        unils.animate(voice(3.01), model=tiny, progress=lambda done, total: seen.append((done, total)))
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert seen[-1] == (76, 76)
        assert {total for _, total in seen} == {76}

    def test_no_samples_make_no_frames(self, tiny: unils.Model) -> None:
        assert len(unils.animate(np.empty(0, np.float32), model=tiny)) == 0

    def test_the_bundled_model_is_the_default(self, bundled: unils.Model) -> None:
        own = voice(0.5)
        assert_same_frames(unils.animate(own), unils.animate(own, model=bundled))


def write_audio(path: Path, channels: np.ndarray, rate: int, codec: str | None = None) -> None:
    """channels: (channels, n) int16."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(channels)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec or "pcm_s16le", rate=rate)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels.T).reshape(1, -1), "s16", layout)
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


class TestReadAudio:
    @pytest.mark.parametrize("rate", [*RATES, 96000])
    def test_wav_is_read_exactly_at_its_own_rate(self, tmp_path: Path, rate: int) -> None:
        samples = (voice(0.5, rate) * 32767).astype(np.int16)
        write_audio(tmp_path / "a.wav", samples[None], rate)
        audio = io.read_audio(tmp_path / "a.wav")
        assert (audio.sample_rate, audio.source_channels) == (rate, 1)
        np.testing.assert_array_equal(audio.samples, samples / np.float32(32768))

    @pytest.mark.parametrize(("suffix", "codec"), [("flac", "flac"), ("mp3", None), ("ogg", None), ("m4a", "aac")])
    def test_other_formats_are_read(self, tmp_path: Path, suffix: str, codec: str | None) -> None:
        tone = (8000 * np.sin(np.arange(48000) * 2 * np.pi * 440 / 48000)).astype(np.int16)
        encode = {"mp3": "libmp3lame", "ogg": "libopus"}.get(suffix, codec)
        with av.open(str(tmp_path / f"a.{suffix}"), "w") as container:
            stream = container.add_stream(encode, rate=48000)
            stream.layout = "mono"
            resampler = av.AudioResampler(stream.format, "mono", 48000, frame_size=stream.frame_size or 1024)
            frame = av.AudioFrame.from_ndarray(tone[None], "s16", "mono")
            frame.sample_rate = 48000
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                part.pts = None
                for packet in stream.encode(part):
                    container.mux(packet)
            for packet in stream.encode(None):
                container.mux(packet)
        audio = io.read_audio(tmp_path / f"a.{suffix}")
        assert audio.sample_rate == 48000
        assert audio.samples.dtype == np.float32
        assert abs(len(audio.samples) - 48000) < 5000
        assert audio.samples[10000:40000].std() == pytest.approx(8000 / 32768 / np.sqrt(2), rel=0.05)

    def test_channels_are_mixed_with_equal_weights(self, tmp_path: Path) -> None:
        left, right = (np.full(4000, value, np.int16) for value in (8192, -16384))
        write_audio(tmp_path / "a.wav", np.stack([left, right]), 16000)
        audio = io.read_audio(tmp_path / "a.wav")
        assert audio.source_channels == 2
        np.testing.assert_array_equal(audio.samples, np.full(4000, -0.125, np.float32))

    @pytest.mark.parametrize(("rate", "read_at"), [(192000, 96000), (4000, 8000)])
    def test_rates_beyond_the_sessions_are_brought_into_it(self, tmp_path: Path, rate: int, read_at: int) -> None:
        write_audio(tmp_path / "a.wav", np.zeros((1, rate), np.int16), rate)
        audio = io.read_audio(tmp_path / "a.wav")
        assert audio.sample_rate == read_at
        assert abs(len(audio.samples) - read_at) < 100

    def test_what_is_no_audio_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text.wav").write_text("hello")
        (tmp_path / "empty.wav").write_bytes(b"")
        with wave.open(str(tmp_path / "none.wav"), "wb") as none:
            none.setparams((1, 2, 16000, 0, "NONE", ""))
        for path in ("missing.wav", "text.wav", "empty.wav", "none.wav", ""):
            with pytest.raises(unils.FileError, match=path or "read"):
                io.read_audio(tmp_path / path)


class TestWrite:
    def test_npz_comes_back_as_it_was(self, batch: unils.FrameBatch, tmp_path: Path) -> None:
        io.write_npz(tmp_path / "a.npz", batch[5:])
        again = io.read_npz(tmp_path / "a.npz")
        assert_same_frames(again, batch[5:])
        assert (again.channels, again.generation, again.rig) == (batch.channels, 0, "arkit")
        io.write_npz(tmp_path / "b.npz", batch[5:])
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()

    def test_npz_of_a_corpus_is_read_as_frames(self, batch: unils.FrameBatch, tmp_path: Path) -> None:
        np.savez(tmp_path / "motion.npz", motion=batch.values, channels=np.array(batch.channels), frame_rate=25)
        assert_same_frames(io.read_npz(tmp_path / "motion.npz"), batch)

    def test_npz_that_holds_no_frames_is_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "other.npz", a=np.zeros(3))
        np.savez(tmp_path / "object.npz", values=np.array([{}], dtype=object), channels=np.array(["a"]))
        np.savez(tmp_path / "shape.npz", values=np.zeros((3, 4)), channels=np.array(["a"]))
        (tmp_path / "text.npz").write_text("hello")
        (tmp_path / "empty.npz").write_bytes(b"")
        np.save(tmp_path / "array.npz", np.zeros(3))
        os.rename(tmp_path / "array.npz.npy", tmp_path / "array.npz")
        for path in ("missing.npz", "other.npz", "object.npz", "shape.npz", "text.npz", "empty.npz", "array.npz"):
            with pytest.raises(unils.FileError, match=path):
                io.read_npz(tmp_path / path)

    def test_live_link_csv_goes_by_name(self, batch: unils.FrameBatch, tmp_path: Path) -> None:
        io.write_live_link_csv(tmp_path / "a.csv", batch)
        with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert header[:3] == ["Timecode", "BlendShapeCount", "EyeBlinkLeft"]
        assert len(header) == 63
        assert header.index("JawRight") < header.index("JawLeft")
        assert header.index("MouthRight") < header.index("MouthLeft")
        assert header[-9:] == [
            *("HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll"),
            *("RightEyeYaw", "RightEyePitch", "RightEyeRoll"),
        ]
        assert [row[0] for row in rows][:27:13] == ["00:00:00:00.000", "00:00:00:13.000", "00:00:01:01.000"]
        assert {row[1] for row in rows} == {"61"}
        table = np.array([row[2:] for row in rows], dtype=np.float64)
        columns = dict(zip(header[2:], table.T, strict=True))
        for channel, values in zip(batch.channels, batch.values.T, strict=True):
            np.testing.assert_allclose(columns[channel[0].upper() + channel[1:]], values, rtol=0, atol=1e-8)
        # Both eyes turned to the face's own left: the left one outwards, the right one inwards.
        to_left = columns["EyeLookOutLeft"] - columns["EyeLookInLeft"]
        np.testing.assert_allclose(columns["LeftEyeYaw"], to_left * io.EYE_FULL_LOOK_RADIANS, rtol=0, atol=1e-7)
        to_left = columns["EyeLookInRight"] - columns["EyeLookOutRight"]
        np.testing.assert_allclose(columns["RightEyeYaw"], to_left * io.EYE_FULL_LOOK_RADIANS, rtol=0, atol=1e-7)

    def test_live_link_csv_of_no_frames_is_its_header(self, batch: unils.FrameBatch, tmp_path: Path) -> None:
        io.write_live_link_csv(tmp_path / "a.csv", batch[:0])
        assert (tmp_path / "a.csv").read_text().count("\n") == 1

    def test_time_codes_reach_beyond_an_hour(self, batch: unils.FrameBatch, tmp_path: Path) -> None:
        late = unils.FrameBatch(
            batch.values[:1], batch.channels, np.array([25 * 3723 + 7]), np.array([3723.28]), 0, "arkit"
        )
        io.write_live_link_csv(tmp_path / "a.csv", late)
        assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith("01:02:03:07.000,61,")

    def test_only_arkit_frames_have_a_live_link_csv(self, flame: unils.Model, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="flame"):
            io.write_live_link_csv(tmp_path / "a.csv", frames_of(flame, voices(0.1)))
        assert not list(tmp_path.iterdir())

    def test_files_are_replaced_whole_with_usual_permissions(self, batch: unils.FrameBatch, tmp_path: Path) -> None:
        target = tmp_path / "a.npz"
        target.write_text("old")
        (tmp_path / "link.npz").symlink_to(target)
        io.write_npz(tmp_path / "link.npz", batch)
        assert (tmp_path / "link.npz").is_symlink()
        assert_same_frames(io.read_npz(target), batch)
        umask = os.umask(0)
        os.umask(umask)
        assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "link.npz"]

    @pytest.mark.parametrize("target", ["no/such/folder/a.npz", "folder.npz", "pipe.npz"])
    def test_targets_that_cannot_be_written(self, batch: unils.FrameBatch, tmp_path: Path, target: str) -> None:
        (tmp_path / "folder.npz").mkdir()
        os.mkfifo(tmp_path / "pipe.npz")
        with pytest.raises(unils.FileError, match="cannot write"):
            io.write_npz(tmp_path / target, batch)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.npz", "pipe.npz"]

    def test_a_folder_without_write_permission(self) -> None:
        script = """
import os, sys
import numpy as np
import unils_sdk as unils
from unils_sdk import io
frames = unils.FrameBatch(np.zeros((1, 55), np.float32), ("a",) * 55, np.zeros(1, np.int64), np.zeros(1), 0, "arkit")
io.write_npz(sys.argv[1] + "/open.npz", frames)
os.chmod(sys.argv[1], 0o555)
if os.geteuid() == 0:  # whom permissions do not stop
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for name in ("new.npz", "open.npz"):
    try:
        io.write_npz(sys.argv[1] + "/" + name, frames)
    except unils.FileError as error:
        print(error)
"""
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
            assert done.stdout.splitlines() == [
                f"cannot write {folder}/{name}: Permission denied" for name in ("new.npz", "open.npz")
            ]
            assert os.listdir(folder) == ["open.npz"]

    @pytest.mark.parametrize("kind", ["npz", "csv"])
    def test_a_full_disk_is_told_and_leaves_what_was_there(
        self, batch: unils.FrameBatch, tmp_path: Path, kind: str
    ) -> None:
        target = tmp_path / f"a.{kind}"
        target.write_text("old")
        write = io.write_npz if kind == "npz" else io.write_live_link_csv
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(unils.FileError, match=rf"cannot write .*a\.{kind}: "):
                write(target, batch)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert target.read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_frames_of_a_model_on_the_host_are_on_no_device(bundled: unils.Model) -> None:
    session = unils.Session(bundled)
    for track in ("self", "other"):
        session.push_audio(np.zeros(1280, np.float32), track, 16000)
    with pytest.raises(unils.BackendError, match="computes on the host"):
        session.pull_frames(device="cuda")
    with pytest.raises(unils.InvalidArgumentError, match="None .NumPy. or 'cuda', not 'tpu'"):
        session.pull_frames(device="tpu")
    assert len(session.pull_frames()) == 1  # nothing was pulled by the calls that failed
    pool = unils.SessionPool(bundled, max_sessions=1)
    with pytest.raises(unils.BackendError, match="computes on the host"):
        pool.pull(device="cuda")
