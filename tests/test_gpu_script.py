"""benchmarks/gpu.sh, with stand-ins for the card and for what it builds: what it runs, leaves out and reports."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu.sh"


class Machine:
    """A folder of programs, and one of builds."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.work, self.out = folder / "programs", folder / "work", folder / "out"
        self.programs.mkdir()
        for name in ("bash", "cat", "date", "dirname", "grep", "mkdir", "nproc", "sed", "tail", "tee", "timeout", "tr"):
            found = shutil.which(name)
            assert found, name
            (self.programs / name).symlink_to(found)

    def program(self, path: Path, script: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def card(self) -> None:
        script = 'case "$1" in *compute_cap*) echo 9.0;; *) echo "NVIDIA H200";; esac'
        self.program(self.programs / "nvidia-smi", script)

    def tests(self, name: str, script: str) -> None:
        self.program(self.work / "native" / "tests" / "cpp" / f"test_cuda_{name}", script)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.programs), "UNILS_GPU_WORK": str(self.work)}
        command = ["bash", str(SCRIPT), "--out", str(self.out), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)

    def summary(self) -> list[str]:
        return (self.out / "summary.txt").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_card_it_says_so(machine: Machine) -> None:
    done = machine.run()
    assert done.returncode == 1
    assert "there is no NVIDIA GPU here" in done.stderr


def test_a_part_whose_tool_or_build_is_missing_is_left_out_with_a_sentence(machine: Machine) -> None:
    machine.card()
    machine.tests("kernels_on_gpu", "echo checked")
    machine.tests("backend_on_gpu", "echo checked")
    machine.tests("sessions", "[[ $1 == */libunils_cuda.so ]] && echo checked")
    done = machine.run("--parts", "tests sanitizers pytest bench")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(",")[0] for line in machine.summary()] == [
        "tests: ok",
        "sanitizers: left out: compute-sanitizer is not installed; it comes with the CUDA toolkit",
        "pytest: left out: a build is missing: --parts build",
        "bench: left out: a build is missing: --parts build",
    ]
    assert (machine.out / "tests.log").read_text().count("checked") == 3


def test_a_failure_anywhere_is_an_exit_code_and_the_rest_goes_on(machine: Machine) -> None:
    machine.card()
    machine.tests("kernels_on_gpu", '[[ ! $SANITIZED == racecheck ]] || exit 86; echo "small: $UNILS_TEST_SMALL"')
    machine.tests("backend_on_gpu", "true")
    machine.tests("sessions", "true")
    machine.program(machine.programs / "compute-sanitizer", 'export SANITIZED=$2; shift 4; exec "$@"')
    done = machine.run("--parts", "tests sanitizers")
    assert done.returncode == 1
    assert [line.split(",")[0] for line in machine.summary()] == [
        "tests: ok",
        "memcheck: ok",
        "racecheck: FAILED with 1",
        "initcheck: ok",
        "synccheck: ok",
    ]
    assert "small: 1" in (machine.out / "memcheck.log").read_text()
    assert "small: \n" in (machine.out / "tests.log").read_text()


def test_a_test_that_found_no_gpu_has_failed(machine: Machine) -> None:
    machine.card()
    machine.tests("kernels_on_gpu", "echo 'skipped: no NVIDIA GPU can be used'")
    machine.tests("backend_on_gpu", "true")
    machine.tests("sessions", "true")
    assert machine.run("--parts", "tests").returncode == 1
    assert machine.summary()[0].startswith("tests: FAILED")


def test_no_part_runs_beyond_the_budget(machine: Machine) -> None:
    machine.card()
    machine.tests("kernels_on_gpu", "sleep 60")
    machine.tests("backend_on_gpu", "true")
    machine.tests("sessions", "true")
    machine.program(machine.programs / "sleep", "exec /bin/sleep 60")
    machine.program(machine.programs / "compute-sanitizer", "exit 1")
    done = machine.run("--parts", "tests sanitizers", "--budget", "7")
    assert done.returncode == 1
    first, *rest = machine.summary()
    assert first.startswith("tests: FAILED with 124")
    assert rest == [
        f"{tool}: left out: no time left of 7 s" for tool in ("memcheck", "racecheck", "initcheck", "synccheck")
    ]


def test_a_word_that_it_does_not_know_shows_how_it_is_used(machine: Machine) -> None:
    done = machine.run("--everything")
    assert done.returncode == 2
    assert "--budget" in done.stdout
