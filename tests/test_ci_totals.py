"""What .ci/totals.py lets pass: only skips that name something this machine lacks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOTALS = Path(__file__).resolve().parent.parent / ".ci" / "totals.py"


@pytest.fixture
def totals() -> ModuleType:
    spec = importlib.util.spec_from_file_location("totals", TOTALS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(folder: Path, *bodies: str) -> list[str]:
    cases = "".join(f'<testcase classname="tests.x" name="test_{i}">{body}</testcase>' for i, body in enumerate(bodies))
    path = folder / "report.xml"
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return [str(path)]


def skip(reason: str) -> str:
    return f'<skipped type="pytest.skip" message="{reason}">tests/x.py:1: {reason}</skipped>'


def test_a_skip_is_allowed_only_where_the_part_it_names_is_absent(
    totals: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = report(tmp_path, "", skip("no NVIDIA GPU on this machine"))
    monkeypatch.setattr(totals, "ABSENT", [(totals.ABSENT[1][0], lambda: True)])
    assert totals.count(reports) == 0
    assert "skipped: tests.x test_1: no NVIDIA GPU on this machine" in capsys.readouterr().out
    monkeypatch.setattr(totals, "ABSENT", [(totals.ABSENT[0][0], lambda: False)])
    assert totals.count(reports) == 1
    assert "1 tests were skipped though" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "level", "absent"), [
    ("fpu avx2 fma", "avx512", True),
    ("fpu avx2 fma avx512f avx512bw avx512dq avx512vl", "avx512", False),
    ("fpu avx2 fma avx512f avx512dq avx512vl", "avx512", True),
    ("fpu avx2 fma", "avx2", False),
    ("fpu avx2 fma", "neon", True),
])  # fmt: skip
def test_instructions_are_absent_as_the_processor_says(
    totals: ModuleType, monkeypatch: pytest.MonkeyPatch, flags: str, level: str, absent: bool
) -> None:
    monkeypatch.setattr(totals.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(totals.Path, "read_text", lambda *_, **__: f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n")
    assert totals.is_absent(f"this processor has no {level}") == absent


def test_the_machine_itself_is_asked(totals: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia-smi", "nvcc"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "tensorrt.py").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for reason in ("no NVIDIA GPU", "nvcc is not installed", "TensorRT's builder is not installed"):
        assert not totals.is_absent(reason), reason


@pytest.mark.parametrize("body", [
    skip("cmake is not installed"),
    skip("could not import 'onnxruntime'"),
    '<skipped message="collection skipped">(\'tests/x.py\', 3, "Skipped: could not import \'onnx\'")</skipped>',
    "<skipped/>",
])  # fmt: skip
def test_any_other_skip_fails(totals: ModuleType, tmp_path: Path, body: str) -> None:
    assert totals.count(report(tmp_path, "", body)) == 1


def test_a_report_without_a_passed_test_fails(totals: ModuleType, tmp_path: Path) -> None:
    assert totals.count(report(tmp_path)) == 1
    assert totals.count(report(tmp_path, '<failure message="no"/>')) == 1
