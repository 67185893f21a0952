"""The command `unils`, as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

import unils_sdk as unils
from conversation import assert_same_frames, voices
from test_frames import write_audio
from unils_sdk import cli, io


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """self.wav (mono, 24 kHz) and other.wav (stereo, 44.1 kHz), 2 s."""
    folder = tmp_path_factory.mktemp("recordings")
    own, other = voices(2.0, 24000)["self"], voices(2.0, 44100)["other"]
    write_audio(folder / "self.wav", (own * 32767).astype(np.int16)[None], 24000)
    write_audio(folder / "other.wav", np.stack([(other * 32767).astype(np.int16)] * 2), 44100)
    return folder


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_animate_writes_every_format_that_is_asked_for(
    recordings: Path, tiny_path: Path, tiny: unils.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [tmp_path / f"out.{suffix}" for suffix in ("npz", "csv", "mp4")]
    flags = [flag for output in outputs for flag in ("-o", output)]
    sources = (recordings / "self.wav", recordings / "other.wav")
    assert run("animate", *sources, *flags, "--model", tiny_path, "--seed", 3, "--look-ahead-self", 2) == 0
    expected = unils.animate(*sources, model=tiny, seed=3, look_ahead={"self": 2})
    assert_same_frames(io.read_npz(outputs[0]), expected)
    assert len(outputs[1].read_text().splitlines()) == 51
    with av.open(str(outputs[2])) as container:
        assert container.streams.video[0].average_rate == 25
        assert sum(1 for _ in container.decode(video=0)) == 50
    with av.open(str(outputs[2])) as container:
        audio = [frame.samples / frame.sample_rate for frame in container.decode(audio=0)]
    assert sum(audio) == pytest.approx(2.0, abs=0.1)
    assert "other.wav: 2 channels mixed into one" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == sorted(outputs)


def test_animate_takes_every_option(recordings: Path, tiny_path: Path, tiny: unils.Model, tmp_path: Path) -> None:
    style = tmp_path / "style.npz"
    assert run("animate", recordings / "self.wav", "-o", style, "--model", tiny_path, "--quiet") == 0
    options = ("--temperature", 0.5, "--top-p", 0.9, "--cfg-scale", 2, "--clock", "other", "--style", style)
    out = tmp_path / "out.npz"
    sources = (recordings / "self.wav", recordings / "other.wav")
    assert run("animate", *sources, "-o", out, "--model", tiny_path, "--quiet", "--look-ahead-other", 1, *options) == 0
    expected = unils.animate(
        *sources,
        model=tiny,
        temperature=0.5,
        top_p=0.9,
        cfg_scale=2,
        clock="other",
        style=io.read_npz(style),
        look_ahead={"other": 1},
    )
    assert_same_frames(io.read_npz(out), expected)


def test_animate_with_one_voice(recordings: Path, tiny_path: Path, tiny: unils.Model, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    assert run("animate", "-", recordings / "self.wav", "-o", out, "--model", tiny_path) == 0
    assert_same_frames(io.read_npz(out), unils.animate(None, recordings / "self.wav", model=tiny))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["animate", "{missing}", "-o", "{out}.npz"], "missing.wav"),
        (["animate", "{text}", "-o", "{out}.npz"], "cannot read audio"),
        (["animate", "{voice}", "-o", "{out}/no/folder.npz"], "cannot write"),
        (["animate", "-", "-o", "{out}.npz"], "no audio"),
        (["animate", "{voice}", "-o", "{out}.npz", "--look-ahead-self", "99"], "0 to 8"),
        (["animate", "{voice}", "-o", "{out}.npz", "--backend", "no-such"], "no-such"),
        (["animate", "{voice}", "-o", "{out}.npz", "--style", "{voice}"], "cannot read frames"),
        (["animate", "{voice}", "-o", "{out}.npz", "--model", "{out}"], "model.json"),
        (["bench", "--seconds", "0"], "at least 1"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_1(
    recordings: Path,
    tiny_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    (tmp_path / "text.wav").write_text("hello")
    places = {
        "missing": tmp_path / "missing.wav",
        "text": tmp_path / "text.wav",
        "voice": recordings / "self.wav",
        "out": tmp_path / "out",
    }
    filled = [argument.format(**places) for argument in arguments]
    if "--model" not in filled:
        filled += ["--model", str(tiny_path)]
    assert run(*filled) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("unils: error: ")
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["text.wav"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["animate"], ["animate", "a.wav"], ["animate", "a.wav", "-o", "a.gif"], ["bench", "--seconds", "x"]],
)
def test_misuse_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: unils" in capsys.readouterr().err


def test_bench_measures_and_writes_json(tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    assert run("bench", "--model", tiny_path, "--seconds", 4, "--sessions", 2, "--json", out) == 0
    figures = json.loads(out.read_text())
    assert figures["frames"] == 99
    assert figures["machine"]["cores"] >= 1
    for name in ("step_us", "frame_ready_us"):
        assert 0 < figures[name]["p50"] <= figures[name]["p95"] <= figures[name]["p99"]
    for name in ("import_ms", "load_ms", "load_to_first_frame_ms", "weight_read_us", "sessions_per_core"):
        assert figures[name] > 0
    assert figures["pool"]["sessions"] == 2
    assert figures["pool"]["sessions_per_core"] > 0
    assert figures["session_bytes"] == unils.Session(unils.Model.load(tiny_path)).stats.session_bytes
    table = capsys.readouterr().out
    for name in ("machine", "step", "frame ready", "sessions per core", "in a pool", "memory per session", "import"):
        assert any(line.startswith(name) for line in table.splitlines())


def test_doctor_tells_what_works(bundled: unils.Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    report = capsys.readouterr().out
    assert f"ok bundled model {bundled.info.parameters / 1e6:.2f} M parameters" in " ".join(report.split())
    for subject in ("unils-sdk", "python", "machine", "backend cpu", "numpy", "av", "training", "espeak-ng"):
        assert subject in report


def test_doctor_fails_when_something_needed_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--model", tmp_path) == 1
    captured = capsys.readouterr()
    assert "FAIL model" in captured.out
    assert captured.err == "unils: error: not in order: model\n"


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("unils")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"unils {unils.__version__}\n"
