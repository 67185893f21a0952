"""UNILS_CUDA, as CMake reads it: what becomes of the CUDA plug-in where nvcc is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def configured(folder: Path, value: str) -> tuple[int, str]:
    """Exit code and output, in one line, of CMake where there is no nvcc."""
    cmake = shutil.which("cmake")
    assert cmake, "CMake comes with the extra `test`"
    command = [cmake, "-S", str(ROOT), "-B", str(folder), f"-DUNILS_CUDA={value}"]
    environment = {**os.environ, "CUDACXX": "/nowhere/nvcc"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_without_nvcc_auto_builds_everything_else_and_says_so(tmp_path: Path) -> None:
    status, output = configured(tmp_path, "AUTO")
    assert status == 0, output
    assert "CUDA plug-in: not built: there is no nvcc that works here; put one on PATH" in output


def test_off_does_not_look_for_nvcc(tmp_path: Path) -> None:
    status, output = configured(tmp_path, "OFF")
    assert status == 0, output
    assert "CUDA" not in output


@pytest.mark.parametrize(("value", "sentence"), [
    ("ON", "UNILS_CUDA is ON, but there is no nvcc that works here; put one on PATH"),
    ("maybe", "UNILS_CUDA is 'maybe'; it can be AUTO, ON or OFF"),
])  # fmt: skip
def test_what_cannot_be_is_an_error_that_says_so(tmp_path: Path, value: str, sentence: str) -> None:
    status, output = configured(tmp_path, value)
    assert status != 0
    assert sentence in output
