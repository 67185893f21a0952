"""What the tests of the Python package share: models, sounds and ways to feed a session."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import unils_sdk as unils
from bundles import random_bundle


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random bundle of rig arkit."""
    return random_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> unils.Model:
    return unils.Model.load(tiny_path)


@pytest.fixture(scope="session")
def flame(tmp_path_factory: pytest.TempPathFactory) -> unils.Model:
    """A small random model of rig flame."""
    return unils.Model.load(random_bundle(tmp_path_factory.mktemp("bundles") / "flame", rig="flame", seed=1))


@pytest.fixture(scope="session")
def bundled() -> unils.Model:
    """The model that comes with the package."""
    return unils.Model.load()


@pytest.fixture(scope="session")
def native_target(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds a target of the C++ tests and returns its file; all of a run share one build. `UNILS_CPP_BUILD` names a
    configured build folder to use instead of a fresh one."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    root = Path(__file__).resolve().parent.parent
    build = Path(os.environ.get("UNILS_CPP_BUILD") or tmp_path_factory.mktemp("build"))

    def run(*command: str) -> None:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    def built(target: str) -> Path:
        if not (build / "CMakeCache.txt").exists():
            run("cmake", "-S", str(root), "-B", str(build), "-DUNILS_BUILD_TESTS=ON", "-DUNILS_CUDA=OFF")
        run("cmake", "--build", str(build), "--target", target, "--parallel", "2")
        names = (target, f"lib{target}.so")
        return next(path for name in names for path in build.rglob(name) if path.is_file())

    return built
