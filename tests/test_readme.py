"""The README's snippets run as they stand, and its two commands are those that CI runs."""

from __future__ import annotations

import os
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
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def surroundings(tmp_path: Path, bundled: unils.Model, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader would be: two recordings and a bundle in the working folder."""
    for track, samples in voices(2.0, 16000).items():
        write_audio(tmp_path / f"{track}.wav", (samples * 32767).astype(np.int16)[None], 16000)
    (tmp_path / "bundle").symlink_to(bundled.info.path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_snippets_run_one_after_the_other(surroundings: Path) -> None:
    assert blocks("python"), f"no Python to run in {surroundings}"
    audio = {name: (samples * 32767).astype(np.int16) for name, samples in voices(1.0, 48000).items()}
    names: dict[str, object] = {"mic": audio["other"], "tts": audio["self"][::2], "show": print, "play": print}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)


def test_c_snippets_compile_and_run(surroundings: Path) -> None:
    """A snippet without main() is the inside of one that finds a second of silence in `int16_t mic[48000]`."""
    assert blocks("c")
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler
    package = Path(unils.cmake_dir()).parents[2]
    for number, block in enumerate(blocks("c")):
        code = block
        if "main(" not in block:
            includes = "".join(re.findall(r"^#include.*\n", block, re.MULTILINE))
            inside = re.sub(r"^#include.*\n", "", block, flags=re.MULTILINE)
            code = (
                f"#include <stdint.h>\n#include <stdio.h>\n{includes}"
                f"int main(void) {{\nstatic int16_t mic[48000];\n(void)mic;\n{inside}\nreturn 0;\n}}\n"
            )
        source, program = surroundings / f"snippet{number}.c", surroundings / f"snippet{number}"
        source.write_text(code)
        libraries = [f"-I{package / 'include'}", f"-L{package / 'lib'}", "-lunils"]
        subprocess.run([compiler, "-std=c11", source, "-o", program, *libraries], check=True)
        environment = {**os.environ, "LD_LIBRARY_PATH": str(package / "lib")}
        subprocess.run([program], check=True, env=environment, timeout=60)


def test_the_two_commands_are_those_of_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = re.findall(r"^(pip install .*)$", README, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        install = command.split("&&")[0].strip()
        assert install in script, f"CI does not run: {install}"
