"""One view of a dataset in either form on disk: folders (`folder`) or UniLS-Talk as published (`unils_talk`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from unils_training.data.folder import open_corpus
from unils_training.data.records import Clip, CorpusError, MotionClip
from unils_training.data.unils_talk import find_databases, open_unils_talk


class Dataset(Protocol):
    """Clips by split. `splits` are faces with both tracks, `motion_only` faces without sound; both map split to ids.

    Reading is safe in worker processes, and an instance can be sent to them. Every method that takes an id raises
    CorpusError where the clip is missing or not as docs/corpus.md says.
    """

    @property
    def path(self) -> Path: ...
    @property
    def rig(self) -> str: ...
    @property
    def channels(self) -> tuple[str, ...]: ...
    @property
    def splits(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def motion_only(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def fingerprint(self) -> str:
        """Changes when the dataset does, as far as its tables of contents tell."""

    def frames(self, name: str) -> int:
        """Frames of a clip of `splits`, without reading its arrays."""

    def motion_frames(self, name: str) -> int:
        """Frames of a clip's motion, of either part."""

    def partner(self, name: str) -> str | None:
        """The id of the other side of the conversation, None where the dataset has it not."""

    def read(self, name: str) -> Clip:
        """A clip of `splits`."""

    def read_motion(self, name: str) -> MotionClip:
        """The motion of a clip of either part."""


def open_dataset(path: str | Path) -> Dataset:
    """Opens the dataset in the folder `path`, in whichever form it is.

    Raises:
        CorpusError: there is no such folder, or it is neither form.
    """
    path = Path(path)
    if not path.is_dir():
        raise CorpusError(f"there is no folder {path}")
    if not (path / "corpus.json").exists() and find_databases(path):
        return open_unils_talk(path)
    return open_corpus(path)
