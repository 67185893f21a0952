"""`unils-train data index`: a table of contents for a folder of clips that has none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from unils_training.data.folder import FORMAT, FORMAT_VERSION, partner_id
from unils_training.data.records import CorpusError, read_npz, read_text
from unils_training.rigs import RIGS


def write_index(path: Path, val_share: float = 0.05, test_share: float = 0.05) -> dict[str, list[str]]:
    """Writes `corpus.json` for the folders in `path` that hold a `motion.npz` and returns the ids of its splits.

    Persons are kept apart: clips that share a person, or are the two sides of a conversation, go to one split, which a
    digest of their names picks, so that clips added later leave the others where they were as long as they share no
    person with them. Folders without wavs become the motion-only part of training.

    Raises:
        CorpusError: there is a corpus.json, there are no clips, or they are not of one known rig.
    """
    if (path / "corpus.json").exists():
        raise CorpusError(f"{path / 'corpus.json'} is there already: change it by hand, or remove it first")
    names = sorted(file.parent.name for file in path.glob("*/motion.npz") if not file.parent.name.startswith("."))
    if not names:
        raise CorpusError(f"{path} holds no folders with a motion.npz")
    channels, groups = set(), {name: name for name in names}

    def root(name: str) -> str:
        while groups[name] != name:
            name = groups[name]
        return name

    first_of: dict[str, str] = {}
    for name in names:
        file = path / name / "motion.npz"
        arrays = read_npz(file, str(file), ("channels", "person"))
        if "channels" not in arrays:
            raise CorpusError(f"{file} does not name its channels")
        channels.add(tuple(str(channel) for channel in arrays["channels"].reshape(-1)))
        person = read_text(arrays, "person")
        if person:
            groups[root(name)] = root(first_of.setdefault(person, name))
        if partner_id(name) in groups:
            groups[root(name)] = root(partner_id(name))
    rigs = [rig for rig, known in RIGS.items() if channels == {known}]
    if not rigs:
        raise CorpusError(f"{path}: its clips must all have the channels of one rig: {' or '.join(RIGS)}")
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    motion_only: list[str] = []
    for name in names:
        if not (path / name / "self.wav").exists() and not (path / name / "other.wav").exists():
            motion_only.append(name)
            continue
        digest = hashlib.sha256(root(name).encode()).digest()
        at = int.from_bytes(digest[:8], "big") / 2.0**64
        splits["test" if at < test_share else "val" if at < test_share + val_share else "train"].append(name)
    document: dict[str, object] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "rig": rigs[0],
        "channels": list(RIGS[rigs[0]]),
        "splits": splits,
    }
    if motion_only:
        document["motion_only"] = {"train": motion_only}
    (path / "corpus.json").write_text(json.dumps(document, indent=1) + "\n")
    return splits
