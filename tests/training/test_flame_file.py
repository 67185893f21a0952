"""FLAME files are read as data: what is inside is never run, and what is wrong is said in a sentence."""

from __future__ import annotations

import copyreg
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from flame_files import flame_arrays, write_flame, write_masks

from unils_training.flame import FlameFileError, geometric_regions, load_flame, load_masks
from unils_training.flame import pickle_reader as reader_module
from unils_training.flame.pickle_reader import as_array, read_pickle


def short(text: bytes) -> bytes:
    """Opcode SHORT_BINSTRING: a byte string of Python 2."""
    return b"U" + bytes([len(text)]) + text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_gives_the_arrays_back(tmp_path: Path, protocol: int) -> None:
    arrays = flame_arrays()
    flame = load_flame(write_flame(tmp_path / "flame.pkl", arrays, protocol))
    assert np.array_equal(flame.template, arrays["v_template"])
    assert np.array_equal(flame.triangles, arrays["f"])
    assert np.array_equal(flame.shape_directions, arrays["shapedirs"][:, :, :4])
    assert np.array_equal(flame.expression_directions, arrays["shapedirs"][:, :, 4:])
    assert np.array_equal(flame.pose_directions, arrays["posedirs"])
    assert np.array_equal(flame.joint_regressor, arrays["J_regressor"])
    assert np.array_equal(flame.skinning_weights, arrays["weights"])
    assert flame.parents == (-1, 0, 1, 1, 1)


@pytest.fixture
def chumpy(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Modules named like chumpy's, there while a test writes a file and gone before it reads it."""

    class Ch:
        def __init__(self, **attributes: Any) -> None:
            self.__dict__.update(attributes)

    class Select(Ch):
        pass

    for name, kind in (("chumpy.ch", Ch), ("chumpy.reordering", Select)):
        module = types.ModuleType(name)
        setattr(module, kind.__name__, kind)
        kind.__module__, kind.__qualname__ = name, kind.__name__
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    return types.SimpleNamespace(
        Ch=Ch, Select=Select, gone=lambda: [sys.modules.pop(n) for n in list(sys.modules) if n.startswith("chumpy")]
    )


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_chumpy_objects_are_read_without_chumpy(tmp_path: Path, chumpy: types.SimpleNamespace, protocol: int) -> None:
    arrays = flame_arrays()
    directions = arrays["shapedirs"]
    whole = chumpy.Ch(x=np.concatenate((directions, directions), axis=2), _dirty_vars={"x"}, _itr=None)
    picked = np.arange(whole.x.size).reshape(whole.x.shape)[:, :, : directions.shape[2]].ravel()
    write_flame(
        tmp_path / "flame.pkl",
        {
            **arrays,
            "v_template": chumpy.Ch(x=arrays["v_template"], _dirty_vars=set()),
            "shapedirs": chumpy.Select(a=whole, idxs=picked, preferred_shape=directions.shape),
        },
        protocol,
    )
    chumpy.gone()
    flame = load_flame(tmp_path / "flame.pkl")
    assert np.array_equal(flame.template, arrays["v_template"])
    assert np.array_equal(flame.expression_directions, directions[:, :, 4:])
    assert "chumpy" not in sys.modules


def test_a_chumpy_object_written_by_python_2_is_read(tmp_path: Path) -> None:
    data = np.array([1.0, 2.5, -3.0, 1e-300])
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\nq\x02K\x00\x85" + short(b"b")
        + b"tR(K\x01K\x02K\x02\x86cnumpy\ndtype\n(" + short(b"f8") + b"K\x00K\x01tR(K\x03" + short(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89" + short(data.astype("<f8").tobytes()) + b"tb"
    )  # fmt: skip
    object_two = b"\x80\x02}" + short(b"v") + b"cchumpy.ch\nCh\n)\x81}" + short(b"x") + array + b"sbs."
    object_zero = (
        b"(dS'v'\nccopy_reg\n_reconstructor\n(cchumpy.ch\nCh\nc__builtin__\nobject\nNtR(dS'x'\n"
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nI2\ntcnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"
        b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS" + repr(data.astype("<f8").tobytes())[1:].encode() + b"\ntbsbs."
    )
    for content in (object_two, object_zero):
        (tmp_path / "x.pkl").write_bytes(content)
        assert np.array_equal(as_array(read_pickle(tmp_path / "x.pkl")["v"], "v"), data.reshape(2, 2))


@pytest.mark.parametrize("form", [scipy.sparse.csc_matrix, scipy.sparse.csr_matrix, scipy.sparse.csc_array])
def test_sparse_matrices_become_dense(tmp_path: Path, form: Callable[[np.ndarray], Any]) -> None:
    dense = np.where(np.random.default_rng(0).random((5, 9)) < 0.4, 2.5, 0.0)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(form(dense), 2))
    assert np.array_equal(as_array(read_pickle(tmp_path / "x.pkl"), "x"), dense)


@pytest.mark.parametrize("value", [
    np.arange(6.0).reshape(2, 3).T, np.array(3, ">i4"), np.float32(1.5), np.zeros((0, 3)), [1, 2.5],
    np.array([True, False]), np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, ::2],
])  # fmt: skip
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_any_order_and_kind_come_back(tmp_path: Path, value: Any, protocol: int) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
    read = as_array(read_pickle(tmp_path / "x.pkl"), "x")
    assert np.array_equal(read, value)
    assert read.shape == np.shape(value)


# Hostile files


class Nested:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def hostile(kind: str, file: Path) -> tuple[bytes, str]:
    """A pickle that writes `file` when it is unpickled, and the name it must be refused by."""
    command = f"echo run > {file}"
    code = f"open({str(file)!r}, 'w').write('run')"
    attacks: dict[str, tuple[bytes, str]] = {
        "reduce": (pickle.dumps(Nested(command), 2), f"'{os.system.__module__}.system'"),
        "reduce by name on the stack": (pickle.dumps(Nested(command), 4), f"'{os.system.__module__}.system'"),
        "eval": (b"cbuiltins\neval\n(V" + code.encode() + b"\ntR.", "'builtins.eval'"),
        "eval of Python 2": (b"c__builtin__\neval\n(S" + repr(code).encode() + b"\ntR.", "'__builtin__.eval'"),
        "nested in a FLAME file": (
            pickle.dumps({**flame_arrays(), "weights": [{"a": (Nested(command),)}]}, 2),
            f"'{os.system.__module__}.system'",
        ),
        "state of a class": (
            b"cunils_training.flame.pickle_reader\nRecord\n)\x81}" + short(b"__setstate__") + b"cos\nsystem\nsbV"
            + command.encode() + b"\nb.",
            "'unils_training.flame.pickle_reader.Record'",
        ),
        "state of a name": (b"cchumpy.ch\nCh\n}" + short(b"__reduce__") + b"K\x01sb.", "state of a Name"),
        "state of a list": (b"]}" + short(b"append") + b"K\x01sb.", "state of a list"),
        "instance": (b"(V" + command.encode() + b"\nios\nsystem\n.", "'os.system'"),
        "object": (b"(cposix\nsystem\nV" + command.encode() + b"\no.", "'posix.system'"),
        "new object": (b"\x80\x02csubprocess\nPopen\nV" + command.encode() + b"\n\x85\x81.", "'subprocess.Popen'"),
        "new object with keywords": (b"\x80\x04csubprocess\nPopen\n)}\x92.", "'subprocess.Popen'"),
        "call of a result": (b"cchumpy.ch\nCh\n)R)R.", "calls something that is not a name"),
        "attribute of an allowed name": (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.view\x93.", "'numpy.ndarray.view'"),
        "importer": (b"cimportlib\nimport_module\n(Vos\ntR.", "'importlib.import_module'"),
        "numpy's own pickle": (b"cnumpy\nload\n(Vx.npy\nNI01\ntR.", "'numpy.load'"),
        "persistent id": (b"P" + command.encode() + b"\n.", "a persistent object"),
        "binary persistent id": (b"V" + command.encode() + b"\nQ.", "a persistent object"),
        "extension of 1 byte": (b"\x80\x02\x82\xf0(V" + command.encode() + b"\ntR.", "a copyreg extension"),
        "extension of 2 bytes": (b"\x80\x02\x83\xf0\x00.", "a copyreg extension"),
        "extension of 4 bytes": (b"\x80\x02\x84\xf0\x00\x00\x00.", "a copyreg extension"),
        "buffer from outside": (b"\x80\x05\x97.", "a buffer outside"),
        "codec": (b"c_codecs\nencode\n(V" + command.encode() + b"\nVzip\ntR.", "encodes bytes as 'zip'"),
    }  # fmt: skip
    return attacks[kind]


ATTACKS = (
    "reduce", "reduce by name on the stack", "eval", "eval of Python 2", "nested in a FLAME file", "state of a class",
    "state of a name", "state of a list", "instance", "object", "new object", "new object with keywords",
    "call of a result", "attribute of an allowed name", "importer", "numpy's own pickle", "persistent id",
    "binary persistent id", "extension of 1 byte", "extension of 2 bytes", "extension of 4 bytes",
    "buffer from outside", "codec",
)  # fmt: skip
RUNS_UNDER_PICKLE = (
    "reduce", "reduce by name on the stack", "eval", "nested in a FLAME file", "instance", "object",
    "extension of 1 byte",
)  # fmt: skip


@pytest.fixture
def extension() -> Any:
    """`os.system` as extension 240 of this process, which a file may then call by its number."""
    copyreg.add_extension("os", "system", 0xF0)
    yield
    copyreg.remove_extension("os", "system", 0xF0)


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("kind", ATTACKS)
def test_a_hostile_file_is_refused_by_name_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    ran = tmp_path / "ran"
    content, name = hostile(kind, ran)
    (tmp_path / "flame.pkl").write_bytes(content)
    with pytest.raises(FlameFileError) as caught:
        load_flame(tmp_path / "flame.pkl")
    assert name in str(caught.value)
    assert "flame.pkl" in str(caught.value)
    assert not ran.exists()


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("kind", RUNS_UNDER_PICKLE)
def test_the_same_file_does_run_in_an_unpickler_that_trusts_it(tmp_path: Path, kind: str) -> None:
    """Otherwise the test above would show nothing."""
    ran = tmp_path / "ran"
    pickle.loads(hostile(kind, ran)[0])
    assert ran.exists()


def test_an_allowed_name_is_never_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    spy = types.ModuleType("chumpy.ch")
    spy.__getattr__ = ran.append  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.ch", spy)
    (tmp_path / "x.pkl").write_bytes(b"cchumpy.ch\nCh\n(tR}" + short(b"x") + b"K\x07sb.")
    assert as_array(read_pickle(tmp_path / "x.pkl"), "x") == 7
    assert ran == []


def test_a_file_cut_anywhere_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for protocol in (0, 2, 4):
        whole = write_flame(tmp_path / "whole.pkl", protocol=protocol).read_bytes()
        for cut in {0, 1, 2, 10, 57, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
            (tmp_path / "cut.pkl").write_bytes(whole[:cut])
            with pytest.raises(FlameFileError, match=r"truncated|well-formed"):
                load_flame(tmp_path / "cut.pkl")


def test_damaged_files_never_raise_anything_else(tmp_path: Path) -> None:
    whole = bytearray(
        write_flame(tmp_path / "whole.pkl", {**flame_arrays(), "shapedirs": np.zeros((124, 3, 100))}).read_bytes()
    )
    rng = np.random.default_rng(0)
    readable = 0
    for _ in range(300):
        damaged = whole.copy()
        for at in rng.integers(len(whole), size=int(rng.integers(1, 200))):
            damaged[at] = rng.integers(256)
        (tmp_path / "damaged.pkl").write_bytes(bytes(damaged))
        try:
            load_flame(tmp_path / "damaged.pkl")
        except FlameFileError:
            continue
        readable += 1
    assert readable < 300


def test_random_programs_of_opcodes_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    opcodes = [*reader_module._OPERATIONS, b"\x01", b"K\x01", b"U\x01x", b"cchumpy.ch\nCh\n", b"cnumpy\ndtype\n"]
    finished = 0
    for _ in range(1500):
        program = b"".join(opcodes[i] for i in rng.integers(len(opcodes), size=12)) + b"."
        (tmp_path / "x.pkl").write_bytes(program)
        try:
            as_array(read_pickle(tmp_path / "x.pkl"), f"{tmp_path / 'x.pkl'}")
        except FlameFileError:
            continue
        finished += 1
    assert finished < 1500


@pytest.mark.parametrize(("content", "says"), [
    (b"B\xff\xff\xff\xff.", "truncated"),
    (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "truncated"),
    (b"\x8b\x00\x00\x00\x01.", "an integer of 16777216 bytes"),
    (b"L" + b"9" * 5000 + b"L\n.", "a number of 5001 characters"),
    (b"\x80\x06N.", "protocol 6"),
    (b"", "truncated"),
    (b"\x89HDF\r\n\x1a\n", "no pickle opcode"),
    (b"(lp0\n0g0\n.", "holds no dictionary"),
    (b"}(].", "holds no dictionary"),
    (b"}].", "holds no dictionary"),
    (b"(1(.", "no dictionary|well-formed"),
])  # fmt: skip
def test_nonsense_and_bombs_are_refused_in_a_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "flame.pkl").write_bytes(content)
    with pytest.raises(FlameFileError, match=says):
        load_flame(tmp_path / "flame.pkl")


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_flame(tmp_path / "flame.pkl")
    for name, bound, says in (
        ("MAX_FILE_BYTES", 1000, "bytes"),
        ("MAX_OPCODES", 50, "opcodes"),
        ("MAX_ELEMENTS", 1000, "1000"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(reader_module, name, bound)
            with pytest.raises(FlameFileError, match=says):
                load_flame(path)
    load_flame(path)


def test_a_tuple_of_itself_a_thousand_times_over_takes_no_time_to_ignore(tmp_path: Path) -> None:
    # 2^1000 leaves, should anybody walk or hash it.
    bomb = b"}" + b")" + b"2\x86" * 1000 + b"K\x01s."
    (tmp_path / "x.pkl").write_bytes(bomb)
    assert read_pickle(tmp_path / "x.pkl") == {}


@pytest.mark.parametrize(("change", "says"), [
    ({"weights": None}, "'weights' is a NoneType, not an array"),
    ({"v_template": np.zeros((124, 2))}, r"'v_template' has the shape \(124, 2\), not \(any, 3\)"),
    ({"posedirs": np.zeros((124, 3, 18))}, "'posedirs' has the shape"),
    ({"shapedirs": np.zeros((124, 3, 50))}, "50 blendshapes"),
    ({"v_template": np.full((124, 3), np.nan)}, "NaN"),
    ({"f": np.array([[0, 1, 124]])}, "'f' names vertices"),
    ({"kintree_table": np.array([[-1, 2, 1, 1, 1], [0, 1, 2, 3, 4]])}, "tree"),
    ({"weights": np.array([["a"]], object)}, "not of numbers"),
    ({"J_regressor": np.eye(5)}, "'J_regressor' has the shape"),
])  # fmt: skip
def test_what_is_no_flame_model_is_said(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = write_flame(tmp_path / "flame.pkl", {**flame_arrays(), **change})
    with pytest.raises(FlameFileError, match=says):
        load_flame(path)


def test_a_missing_file_and_a_missing_key_are_said(tmp_path: Path) -> None:
    with pytest.raises(FlameFileError, match="No such file"):
        load_flame(tmp_path / "none.pkl")
    arrays = flame_arrays()
    del arrays["posedirs"]
    with pytest.raises(FlameFileError, match="has no 'posedirs'"):
        load_flame(write_flame(tmp_path / "flame.pkl", arrays))


def test_sparse_indices_out_of_range_are_refused(tmp_path: Path) -> None:
    matrix = scipy.sparse.csc_matrix(flame_arrays()["J_regressor"])
    matrix.indices[3] = 5
    path = write_flame(tmp_path / "flame.pkl", {**flame_arrays(), "J_regressor": matrix})
    with pytest.raises(FlameFileError, match="indices do not fit"):
        load_flame(path)


# Regions


def test_masks_give_the_regions(tmp_path: Path) -> None:
    regions = load_masks(write_masks(tmp_path / "masks.pkl"), 124)
    assert regions.lips.tolist() == list(range(40, 52))
    assert regions.upper_face.tolist() == list(range(85, 115))
    assert regions.source == "masks"


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FlameFileError, match="'forehead' is no list of vertices of a model of 110"):
        load_masks(write_masks(tmp_path / "masks.pkl"), 110)
    (tmp_path / "masks.pkl").write_bytes(pickle.dumps({"lips": np.arange(3)}))
    with pytest.raises(FlameFileError, match="no mask 'forehead'"):
        load_masks(tmp_path / "masks.pkl", 124)


def test_regions_without_masks_are_cut_out_below_and_above_the_eyes(tmp_path: Path) -> None:
    flame = load_flame(write_flame(tmp_path / "flame.pkl"))
    regions = geometric_regions(flame)
    lips, upper = flame.template[regions.lips], flame.template[regions.upper_face]
    # By hand, d = 0.06: lips within 0.027 of the middle, 0.048 to 0.078 under the eyes, which are at y = 0. The sheet
    # has columns 0.015 and rows 0.02 apart.
    assert set(np.round(lips[:, 1], 3)) == {-0.06}
    assert set(np.round(lips[:, 0], 3)) == {-0.015, 0.0, 0.015}
    assert set(np.round(upper[:, 1], 3)) == {-0.02, 0.0, 0.02, 0.04, 0.06}
    assert not set(range(5, 25)) & set(regions.upper_face.tolist())  # eyeballs
    assert regions.source == "geometry"
