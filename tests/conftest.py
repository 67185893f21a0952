"""What the tests of the Python package share: models, sounds and ways to feed a session."""

from __future__ import annotations

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
