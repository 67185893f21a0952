"""Reads a pickle as data: no name in it is looked up, imported or called.

`pickle.load` runs a file: whatever its opcodes name is imported and called. This reader runs the same opcodes on inert
values only. A name becomes a `Name`, a call becomes a `Record` that remembers what would have been called with what,
and both only for the names that hold arrays in files of this kind; any other is refused by name. Arrays are read from
the records afterwards, by `as_array`. The opcodes are those of CPython's Lib/pickletools.py, protocols 0 to 5.
"""

from __future__ import annotations

import codecs
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_FILE_BYTES = 512 * 2**20  # FLAME 2020 is 53 MB
MAX_OPCODES = 4_000_000
MAX_ELEMENTS = 2**26  # of one array; FLAME's largest has 6 million
MAX_NUMBER_BYTES = 64  # of an integer or float written out
MAX_DEPTH = 16  # of arrays that are kept as views of others

_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_COPY = ("copy_reg._reconstructor", "copyreg._reconstructor")
_SPARSE = {
    f"scipy.sparse.{module}{kind}.{kind}_{form}": kind
    for kind in ("csc", "csr")
    for module in ("", "_")
    for form in ("matrix", "array")
}
_PLAIN = ("__builtin__.object", "builtins.object", "__builtin__.set", "builtins.set", "_codecs.encode")
_NO_BYTES = ("__builtin__.bytes", "builtins.bytes")
_NAMES = frozenset(
    (*_RECONSTRUCT, *_SCALAR, *_FROM_BUFFER, *_COPY, *_SPARSE, *_PLAIN, *_NO_BYTES, "numpy.ndarray", "numpy.dtype")
)


class FlameFileError(ValueError):
    """A FLAME file that cannot be used; the message says which, and why."""


@dataclass(frozen=True)
class Name:
    """A `module.attribute` that the file names. It stands for itself and is never looked up."""

    full: str


@dataclass
class Record:
    """What a call or an object in the file would have been made of."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    def attributes(self) -> dict[Any, Any]:
        """The object's `__dict__`, where its state is one, alone or before the state of its slots."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        return state if isinstance(state, dict) else {}


class _Mark:
    pass


_MARK = _Mark()


def read_pickle(path: str | Path) -> Any:
    """The plain values, `Name`s and `Record`s of a pickle.

    Byte strings of Python 2 stay `bytes`, except as keys of dictionaries, where they are text (Latin-1).

    Raises:
        FlameFileError: no such file, too large, truncated, no pickle, or one that names what holds no arrays.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise FlameFileError(f"{path} has {size} bytes; a FLAME file has less than {MAX_FILE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise FlameFileError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _Reader(data).run()
    except FlameFileError as error:
        raise FlameFileError(f"{path}: {error}") from None
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise FlameFileError(f"{path} is not a well-formed pickle ({type(error).__name__}: {error})") from error


class _Reader:
    """The machine that a pickle is a program for: a stack with marks, and a memo."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            opcode = self.take(1)
            if opcode == b".":
                return self.stack.pop()
            operation = _OPERATIONS.get(opcode)
            if operation is None:
                raise FlameFileError(f"byte {self.at - 1} ({opcode!r}) is no pickle opcode that holds data")
            operation(self)
        raise FlameFileError(f"has more than {MAX_OPCODES} opcodes")

    # Reading

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise FlameFileError(f"is truncated: {count} bytes are expected at byte {self.at} of {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self, longest: int | None = None) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise FlameFileError(f"is truncated: byte {self.at} begins a line that does not end")
        if longest is not None and end - self.at > longest:
            raise FlameFileError(f"has a number of {end - self.at} characters at byte {self.at}")
        return self.take(end + 1 - self.at)[:-1]

    def sized(self, form: str) -> bytes:
        return self.take(self.number(form))

    # The stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise FlameFileError("is not a well-formed pickle (a mark where a value should be)")
        return value

    def since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise FlameFileError("is not a well-formed pickle (no mark)")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise FlameFileError("is not a well-formed pickle (a mark where a value should be)")
        return self.stack[-1]

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    # What other unpicklers run

    def name(self, module: bytes | str, attribute: bytes | str) -> Name:
        full = f"{_text(module)}.{_text(attribute)}"
        if full not in _NAMES and not full.startswith("chumpy."):
            raise FlameFileError(f"names {full[:200]!r}, which holds no array; nothing in this file has been run")
        return Name(full)

    def call(self, callee: Any, arguments: Any) -> None:
        if not isinstance(callee, Name) or not isinstance(arguments, tuple):
            raise FlameFileError("calls something that is not a name; nothing in this file has been run")
        if callee.full in _COPY and arguments and isinstance(arguments[0], Name):
            self.push(Record(arguments[0].full))
        elif callee.full == "_codecs.encode":  # how Python 3 writes bytes for Python 2
            text, encoding = arguments
            if _text(encoding) not in ("latin1", "latin-1"):
                raise FlameFileError(f"encodes bytes as {_text(encoding)!r}, not as latin1")
            self.push(text.encode("latin-1"))
        elif callee.full in _NO_BYTES and arguments == ():  # and how it writes none
            self.push(b"")
        else:
            self.push(Record(callee.full, arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if not isinstance(target, Record):
            raise FlameFileError(f"sets the state of a {type(target).__name__}; nothing in this file has been run")
        target.state = state

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        items = target.items if isinstance(target, Record) else target
        if not isinstance(items, dict):
            raise FlameFileError("sets items of something that is not a dictionary")
        items.update(_pairs(values))

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise FlameFileError("appends to something that is not a list")
        target.extend(values)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise FlameFileError(f"has a {type(value).__name__} where text should be")


def _pairs(values: list[Any]) -> dict[Any, Any]:
    """Items by key. Those under a key that is no text or number go: nobody asks for them; their hash can be slow."""
    pairs = {}
    for key, value in zip(values[::2], values[1::2], strict=True):
        if isinstance(key, (bytes, str, int, float)):
            pairs[key.decode("latin-1") if isinstance(key, bytes) else key] = value
    return pairs


def _integer(line: bytes) -> int:
    return int(line.removesuffix(b"L"))


def _long(reader: _Reader, form: str) -> None:
    size = reader.number(form)
    if not 0 <= size <= MAX_NUMBER_BYTES:
        raise FlameFileError(f"has an integer of {size} bytes")
    reader.push(int.from_bytes(reader.take(size), "little", signed=True))


def _int_or_bool(reader: _Reader) -> None:
    line = reader.line(MAX_NUMBER_BYTES)
    reader.push(line == b"01" if line in (b"00", b"01") else _integer(line))


def _quoted(reader: _Reader) -> None:
    line = reader.line().strip()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise FlameFileError(f"has a string without quotes before byte {reader.at}")
    reader.push(codecs.escape_decode(line[1:-1])[0])


def _protocol(reader: _Reader) -> None:
    protocol = reader.number("<B")
    if protocol > 5:
        raise FlameFileError(f"is of pickle protocol {protocol}; 0 to 5 are known")


def _last(reader: _Reader, count: int) -> tuple[Any, ...]:
    return tuple(reader.pop() for _ in range(count))[::-1]


def _refuse(what: str) -> Callable[[_Reader], None]:
    def refuse(_reader: _Reader) -> None:
        raise FlameFileError(f"asks for {what}; nothing in this file has been run")

    return refuse


def _instance(reader: _Reader) -> None:
    name = reader.name(reader.line(), reader.line())
    reader.call(name, tuple(reader.since_mark()))


def _object(reader: _Reader) -> None:
    callee, *arguments = reader.since_mark()
    reader.call(callee, tuple(arguments))


def _reduce(reader: _Reader) -> None:
    arguments = reader.pop()
    reader.call(reader.pop(), arguments)


def _new_with_keywords(reader: _Reader) -> None:
    _keywords, arguments = reader.pop(), reader.pop()
    reader.call(reader.pop(), arguments)


def _stack_name(reader: _Reader) -> None:
    attribute = reader.pop()
    reader.push(reader.name(reader.pop(), attribute))


def _append(reader: _Reader) -> None:
    value = reader.pop()
    reader.extend([value])


_OPERATIONS: dict[bytes, Callable[[_Reader], Any]] = {
    b"\x80": _protocol,
    b"\x95": lambda r: r.take(8),  # a frame's length: a hint for readers of streams
    # Values
    b"N": lambda r: r.push(None),
    b"\x88": lambda r: r.push(True),
    b"\x89": lambda r: r.push(False),
    b"I": _int_or_bool,
    b"L": lambda r: r.push(_integer(r.line(MAX_NUMBER_BYTES))),
    b"J": lambda r: r.push(r.number("<i")),
    b"K": lambda r: r.push(r.number("<B")),
    b"M": lambda r: r.push(r.number("<H")),
    b"\x8a": lambda r: _long(r, "<B"),
    b"\x8b": lambda r: _long(r, "<i"),
    b"F": lambda r: r.push(float(r.line(MAX_NUMBER_BYTES))),
    b"G": lambda r: r.push(r.number(">d")),
    b"S": _quoted,
    b"T": lambda r: r.push(r.sized("<i")),
    b"U": lambda r: r.push(r.sized("<B")),
    b"B": lambda r: r.push(r.sized("<I")),
    b"C": lambda r: r.push(r.sized("<B")),
    b"\x8e": lambda r: r.push(r.sized("<Q")),
    b"\x96": lambda r: r.push(r.sized("<Q")),
    b"V": lambda r: r.push(r.line().decode("raw-unicode-escape")),
    b"X": lambda r: r.push(r.sized("<I").decode("utf-8", "surrogatepass")),
    b"\x8c": lambda r: r.push(r.sized("<B").decode("utf-8", "surrogatepass")),
    b"\x8d": lambda r: r.push(r.sized("<Q").decode("utf-8", "surrogatepass")),
    # Containers; a set is kept as the list of its members
    b"(": lambda r: r.push(_MARK),
    b"]": lambda r: r.push([]),
    b"l": lambda r: r.push(r.since_mark()),
    b"a": _append,
    b"e": lambda r: r.extend(r.since_mark()),
    b")": lambda r: r.push(()),
    b"t": lambda r: r.push(tuple(r.since_mark())),
    b"\x85": lambda r: r.push(_last(r, 1)),
    b"\x86": lambda r: r.push(_last(r, 2)),
    b"\x87": lambda r: r.push(_last(r, 3)),
    b"}": lambda r: r.push({}),
    b"d": lambda r: r.push(_pairs(r.since_mark())),
    b"s": lambda r: r.set_items(list(_last(r, 2))),
    b"u": lambda r: r.set_items(r.since_mark()),
    b"\x8f": lambda r: r.push([]),
    b"\x90": lambda r: r.extend(r.since_mark()),
    b"\x91": lambda r: r.push(r.since_mark()),
    # Stack and memo
    b"0": lambda r: r.stack.pop(),
    b"1": lambda r: r.since_mark(),
    b"2": lambda r: r.push(r.top()),
    b"g": lambda r: r.push(r.memo[_integer(r.line(MAX_NUMBER_BYTES))]),
    b"h": lambda r: r.push(r.memo[r.number("<B")]),
    b"j": lambda r: r.push(r.memo[r.number("<I")]),
    b"p": lambda r: r.remember(_integer(r.line(MAX_NUMBER_BYTES))),
    b"q": lambda r: r.remember(r.number("<B")),
    b"r": lambda r: r.remember(r.number("<I")),
    b"\x94": lambda r: r.remember(len(r.memo)),
    # Names, calls and objects
    b"c": lambda r: r.push(r.name(r.line(), r.line())),
    b"\x93": _stack_name,
    b"R": _reduce,
    b"\x81": _reduce,
    b"\x92": _new_with_keywords,
    b"i": _instance,
    b"o": _object,
    b"b": lambda r: r.build(),
    # What only means something to the program that wrote the file
    b"P": _refuse("a persistent object"),
    b"Q": _refuse("a persistent object"),
    b"\x82": _refuse("a copyreg extension"),
    b"\x83": _refuse("a copyreg extension"),
    b"\x84": _refuse("a copyreg extension"),
    b"\x97": _refuse("a buffer outside of itself"),
    b"\x98": _refuse("a buffer outside of itself"),
}


def as_array(value: Any, what: str, depth: int = 0) -> NDArray[Any]:
    """The array that a value of `read_pickle` holds: numpy's, a chumpy object's, a sparse matrix made dense, a list.

    Raises:
        FlameFileError: it holds none; `what` names it in the message.
    """
    if depth > MAX_DEPTH:
        raise FlameFileError(f"{what} is a view of a view more than {MAX_DEPTH} deep")
    try:
        if isinstance(value, (list, int, float)):
            flat = value if isinstance(value, list) else [value]
            if not all(isinstance(item, (int, float)) for item in flat):
                raise FlameFileError(f"{what} is a list of other things than numbers")
            return np.array(value)
        if isinstance(value, Record):
            if value.name in _RECONSTRUCT:
                _version, shape, dtype, fortran, data = value.state
                return _array(data, dtype, shape, "F" if fortran else "C", what)
            if value.name in _FROM_BUFFER:
                data, dtype, shape, order = value.arguments
                return _array(data, dtype, shape, _text(order), what)
            if value.name in _SCALAR:
                dtype, data = value.arguments
                return _array(data, dtype, (), "C", what)
            if value.name in _SPARSE:
                return _dense(value, what, depth)
            if value.name.startswith("chumpy."):
                return _chumpy(value, what, depth)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, FlameFileError):
            raise
        raise FlameFileError(f"{what} is not a well-formed array ({type(error).__name__}: {error})") from error
    kind = value.name if isinstance(value, Record) else type(value).__name__
    raise FlameFileError(f"{what} is a {kind}, not an array")


def _dtype(record: Any, what: str) -> np.dtype[Any]:
    if not isinstance(record, Record) or record.name != "numpy.dtype":
        raise FlameFileError(f"{what} has no dtype")
    code = _text(record.arguments[0])
    order = _text(record.state[1]) if isinstance(record.state, tuple) and len(record.state) > 1 else "<"
    if (
        code[:1] not in ("f", "i", "u", "b")
        or code[1:] not in ("1", "2", "4", "8")
        or order not in ("<", ">", "|", "=")
    ):
        raise FlameFileError(f"{what} is an array of {code[:20]!r}, not of numbers")
    return np.dtype(order + code)


def _array(data: Any, dtype: Any, shape: Any, order: str, what: str) -> NDArray[Any]:
    kind = _dtype(dtype, what)
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise FlameFileError(f"{what} has no shape")
    count = math.prod(shape)
    if count > MAX_ELEMENTS:
        raise FlameFileError(f"{what} has {count} numbers; at most {MAX_ELEMENTS} are read")
    content = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(content, bytes) or len(content) != count * kind.itemsize:
        raise FlameFileError(f"{what}: its data do not fill the shape {shape}")
    if order not in ("C", "F"):
        raise FlameFileError(f"{what} is in order {order!r}, neither C nor F")
    array = np.frombuffer(content, kind).reshape(shape, order=order)  # type: ignore[call-overload]
    return np.ascontiguousarray(array, kind.newbyteorder("=")).reshape(shape)


def _dense(record: Record, what: str, depth: int) -> NDArray[Any]:
    """A compressed sparse matrix (rows, columns), written out; entries given twice add up, as scipy has it."""
    state = record.attributes()
    shape = state.get("_shape", state.get("shape"))
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise FlameFileError(f"{what} is a sparse matrix without a shape")
    if math.prod(shape) > MAX_ELEMENTS:
        raise FlameFileError(f"{what} is a sparse matrix of shape {shape}; at most {MAX_ELEMENTS} numbers are read")
    data, indices, pointers = (as_array(state[key], what, depth + 1) for key in ("data", "indices", "indptr"))
    by_column = _SPARSE[record.name] == "csc"
    major, minor = (shape[1], shape[0]) if by_column else shape
    steps = np.diff(pointers)
    fits = (
        len(pointers) == major + 1
        and pointers[0] == 0
        and (steps >= 0).all()
        and pointers[-1] == len(data) == len(indices)
        and (len(indices) == 0 or (indices.min() >= 0 and indices.max() < minor))
    )
    if not fits:
        raise FlameFileError(f"{what} is a sparse matrix whose indices do not fit its shape {shape}")
    dense = np.zeros((major, minor), np.float64)
    np.add.at(dense, (np.repeat(np.arange(major), steps), indices.astype(np.int64)), data)
    return dense.T.copy() if by_column else dense


def _chumpy(record: Record, what: str, depth: int) -> NDArray[Any]:
    """The value of a chumpy object: `Ch` keeps an array `x`; `Select` picks `idxs` of another's flattened array `a`."""
    state = record.attributes()
    if "x" in state:
        return as_array(state["x"], what, depth + 1)
    if "a" in state and "idxs" in state:
        source = as_array(state["a"], what, depth + 1).ravel()
        picked = as_array(state["idxs"], what, depth + 1).astype(np.int64).ravel()
        if picked.size and (picked.min() < 0 or picked.max() >= source.size):
            raise FlameFileError(f"{what} picks entries that the array behind it does not have")
        shape = state.get("preferred_shape", picked.shape)
        return source[picked].reshape(shape if isinstance(shape, tuple) else tuple(as_array(shape, what).tolist()))
    raise FlameFileError(f"{what} is a {record.name} that holds no array")
