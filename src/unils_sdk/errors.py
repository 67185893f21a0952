"""What can go wrong, each with a sentence that says what was wrong and what to do about it.

Everything raised on purpose is a `UnilsError`; most are also the built-in exception a Python programmer would expect.
"""

from __future__ import annotations


class UnilsError(Exception):
    """Base of all errors of this package."""

    frames: object = None
    """Frames that had been made when a later part of a pull failed; None otherwise."""
    taken: object = None
    """Of a push for many sessions: how many samples each took. None otherwise."""


class InvalidArgumentError(UnilsError, ValueError):
    """A value, shape, rate or track that cannot be used."""


class InvalidTypeError(UnilsError, TypeError):
    """An argument of the wrong type or dtype."""


class NotFiniteError(InvalidArgumentError):
    """NaN or infinite audio; nothing of that push was taken and the session goes on."""


class StateError(UnilsError, RuntimeError):
    """The right call at the wrong moment: audio after `finish()`, say."""


class BusyError(UnilsError, RuntimeError):
    """A second thread on an entry point that serves one: two pullers, or two pushers on one track."""


class FileError(UnilsError, OSError):
    """A file that is missing, cannot be read or cannot be written."""


class BundleError(UnilsError, ValueError):
    """A bundle that is truncated, oversized, inconsistent or hostile."""


class BackendError(UnilsError, RuntimeError):
    """A backend that is absent or failed."""


class OutOfMemoryError(UnilsError, MemoryError):
    """The native library could not get memory."""


class PoolFullError(UnilsError, RuntimeError):
    """Every place of a `SessionPool` is taken."""


class InternalError(UnilsError, RuntimeError):
    """A defect of the native library."""


_BY_STATUS: dict[int, type[UnilsError]] = {
    1: InvalidArgumentError,
    2: StateError,
    3: BusyError,
    4: FileError,
    5: BundleError,
    6: BackendError,
    7: OutOfMemoryError,
    8: NotFiniteError,
    9: InternalError,
    10: PoolFullError,
}


def from_status(status: int, message: str) -> UnilsError:
    """The exception of a `unils_status` of unils.h."""
    return _BY_STATUS.get(status, InternalError)(message)
