"""What bundles of every family share."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from unils_training.config import Config, to_dict, without_places

FORMAT, FORMAT_VERSION = "unils-bundle", 1


class BundleError(ValueError):
    """A folder that is not a bundle of this family; the message says why."""


def file_entry(path: Path) -> dict[str, str]:
    """How `model.json` names a file of its folder: `file` and `sha256`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return {"file": path.name, "sha256": digest.hexdigest()}


def provenance_of(config: Config, **facts: Any) -> dict[str, Any]:
    """What a bundle remembers of its making: seed, resolved configuration and the facts given."""
    from unils_training import __version__

    return {
        "seed": config.seed,
        "unils_training": __version__,
        "torch": torch.__version__,
        "configuration": to_dict(without_places(config)),
        **facts,
    }
