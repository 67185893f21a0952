"""The installed library serves CMake and C with no Python in the process."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import unils_sdk as unils
from conversation import voices
from test_frames import write_audio

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/c, built against the installed package by find_package(unils)."""
    build = tmp_path_factory.mktemp("example")
    cmake = shutil.which("cmake")
    assert cmake, "CMake comes with the extra `test`"
    for arguments in (
        ["-S", ROOT / "examples" / "c", "-B", build, f"-Dunils_DIR={unils.cmake_dir()}"],
        ["--build", build],
    ):
        done = subprocess.run([cmake, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "wav_to_frames"


@pytest.mark.parametrize("tracks", [["self"], ["self", "other"]])
def test_the_c_example_makes_the_frames_of_python(
    example: Path, tiny_path: Path, tiny: unils.Model, tmp_path: Path, tracks: list[str]
) -> None:
    wavs = []
    for track, rate in zip(tracks, (24000, 44100), strict=False):
        wavs.append(tmp_path / f"{track}.wav")
        write_audio(wavs[-1], (voices(2.0, rate)[track] * 32767).astype(np.int16)[None], rate)
    done = subprocess.run([example, tiny_path, *wavs], capture_output=True, text=True, check=True, env={})
    header, *rows = done.stdout.splitlines()
    assert header == ",".join(["frame", "seconds", *tiny.info.channels])
    expected = unils.animate(*wavs, model=tiny)
    assert [row.split(",")[0] for row in rows] == [str(i) for i in range(50)]
    printed = np.array([row.split(",")[2:] for row in rows], dtype=np.float64)
    np.testing.assert_allclose(printed, expected.values, rtol=0, atol=5.1e-6)


def test_the_c_example_says_what_is_wrong(example: Path, tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("hello")
    done = subprocess.run([example, tiny_path, tmp_path / "a.wav"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not a WAV file" in done.stderr


def test_the_library_needs_nothing_but_the_c_and_cpp_runtimes(example: Path) -> None:
    needed = subprocess.run(["ldd", example], capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"(\S+?)\.so", needed.replace("\t", " ")))
    allowed = {"linux-vdso", "libunils", "libc", "libm", "libstdc++", "libgcc_s", "libpthread", "libdl", "librt"}
    assert {Path(name).name for name in names} - allowed <= {"ld-linux-x86-64", "ld-linux-aarch64"}


def test_the_header_and_the_type_marker_come_with_the_package() -> None:
    package = Path(unils.cmake_dir()).parents[2]
    assert (package / "include" / "unils" / "unils.h").read_text() == (
        ROOT / "csrc" / "include" / "unils" / "unils.h"
    ).read_text()
    assert (Path(unils.__file__).parent / "py.typed").exists()
