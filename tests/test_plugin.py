"""Backend `cuda` is a shared library of its own: where Python looks for it, and what is said when it cannot run."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

import unils_sdk as unils
from unils_sdk import _core, doctor

ROOT = Path(__file__).resolve().parent.parent


def cuda() -> tuple[int, str, str | None]:
    """Score, detail and path of its plug-in."""
    return next(rest for name, *rest in _core.backends() if name == "cuda")  # type: ignore[return-value]


def test_the_folder_of_the_add_on_wheel_is_named_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[bytes] = []
    monkeypatch.setattr(_core, "plugin_folder", named.append)
    unils._name_plugin_folder()
    before = list(named)  # where it really is installed
    (tmp_path / "unils_sdk_cuda13").mkdir()
    (tmp_path / "unils_sdk_cuda13" / "__init__.py").write_text("raise AssertionError('nobody need import this')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    unils._name_plugin_folder()
    assert named[len(before) :] == [os.fsencode(tmp_path / "unils_sdk_cuda13" / "lib")]


def test_a_folder_named_too_late_is_an_error_and_no_reason_not_to_import() -> None:
    _core.backends()
    with pytest.raises(unils.StateError, match="before a model is loaded"):
        _core.plugin_folder(b"/nowhere")
    unils._name_plugin_folder()


def test_the_plugin_that_was_built_here_loads_and_says_what_it_lacks(tiny_path: Path) -> None:
    score, detail, plugin = cuda()
    if plugin is None:
        pytest.skip("nvcc is not installed" if shutil.which("nvcc") is None else "built with UNILS_CUDA=OFF")
    assert Path(plugin).name == "libunils_cuda.so"
    if score > 0:
        assert unils.Model.load(tiny_path).info.backend == "cuda"
        return
    assert not Path("/dev/nvidia0").exists(), f"there is a GPU: {detail}"
    assert "driver" in detail
    with pytest.raises(unils.BackendError, match=re.escape(f"backend cuda cannot run here: {detail}")):
        unils.Model.load(tiny_path, backend="cuda")
    fallen_back = unils.Model.load(tiny_path, backend="auto").info
    assert fallen_back.backend == "cpu"
    assert fallen_back.backend_detail.endswith(f"; not cuda: {detail}")


def test_without_a_plugin_the_error_says_how_to_get_it(tiny_path: Path) -> None:
    score, detail, plugin = cuda()
    if plugin is None:
        assert score == 0
        with pytest.raises(unils.BackendError, match="pip install unils-sdk-cuda13"):
            unils.Model.load(tiny_path, backend="cuda")
        assert "cuda" not in unils.Model.load(tiny_path).info.backend_detail
    assert detail


@pytest.mark.parametrize(("backend", "ok", "parts"), [
    (("cuda", 30, "NVIDIA H200, sm_90", "/x/libunils_cuda.so"), True, ["NVIDIA H200", "plug-in /x/libunils_cuda.so"]),
    (("cuda", 0, "no driver", "/x/libunils_cuda.so"), None, ["no driver", "plug-in /x/libunils_cuda.so"]),
    (("cuda", 0, "its plug-in is not installed; pip install unils-sdk-cuda13"), None, ["pip install"]),
    (("tensorrt", 0, "anything"), None, ["never run"]),
])  # fmt: skip
def test_doctor_tells_of_each_backend_what_it_has_and_lacks(
    backend: tuple[str, int, str], ok: bool | None, parts: list[str]
) -> None:
    finding = doctor._backend(*backend)
    assert finding.subject == f"backend {backend[0]}"
    assert finding.ok is ok
    for part in parts:
        assert part in finding.detail


def test_doctor_looks_for_the_driver_and_for_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_DRIVER", str(tmp_path / "version"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (doctor._nvidia_driver().ok, doctor._nvcc().ok) == (None, None)
    assert "pip install ." in doctor._nvcc().detail
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX  Open Kernel Module for x86_64  580.65.06\nGCC\n")
    (tmp_path / "nvcc").write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    (tmp_path / "nvcc").chmod(0o755)
    assert "580.65.06" in doctor._nvidia_driver().detail
    assert "GCC" not in doctor._nvidia_driver().detail
    assert doctor._nvcc().detail == f"CUDA 13.0, {tmp_path / 'nvcc'}"
    (tmp_path / "nvcc").write_text("no program")
    assert doctor._nvcc().ok is False


def test_the_add_on_wheel_is_of_the_version_of_the_package() -> None:
    main, addon = ((ROOT / place / "pyproject.toml").read_text() for place in (".", "packaging/cuda13"))
    version = re.search(r'^version = "(.+)"', main, re.MULTILINE)
    assert version is not None
    assert f'\nversion = "{version[1]}"\n' in addon
    assert f'"unils-sdk=={version[1]}"' in addon
    assert f'cuda13 = ["unils-sdk-cuda13=={version[1]}"]' in main
    assert f"VERSION {version[1]} " in (ROOT / "CMakeLists.txt").read_text()
