"""Dependencies point one way (docs/architecture.md): a new edge between folders fails here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Who may include whom, besides itself. `include` is csrc/include/unils: unils.h and backend.h.
ALLOWED: dict[str, set[str]] = {
    "include": set(),
    "core": {"include"},
    "kernels": {"core"},
    "audio": {"core", "include"},
    "postprocess": {"core", "include"},
    "features": {"core", "include", "model/config.h"},
    "model": {"core", "include", "kernels", "backends/registry.h"},
    "backends": {"core", "include", "kernels", "model"},
    "engine": {"core", "include", "model"},
    "session": {"core", "include", "audio", "features", "model", "engine", "postprocess", "backends"},
    "c_api": {"core", "include", "session", "model", "engine", "backends"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)


def native_sources() -> list[Path]:
    return sorted(path for pattern in ("*.h", "*.cpp", "*.c") for path in (ROOT / "csrc").rglob(pattern))


def included(path: Path) -> list[str]:
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", native_sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_native_code_includes_only_what_lies_below_it(path: Path) -> None:
    folder = path.relative_to(ROOT / "csrc").parts[0]
    for name in included(path):
        target = "include" if name.startswith("unils/") else name.split("/")[0]
        if "/" not in name:  # the standard library, or a neighbour
            assert "." not in name or (path.parent / name).exists() or not (ROOT / "csrc" / name).exists()
            continue
        if target not in ALLOWED:
            assert not (ROOT / "csrc" / name).exists(), f"{path} includes {name}"
            continue
        assert target in {folder, *ALLOWED[folder]} or name in ALLOWED[folder], (
            f"{path.relative_to(ROOT)} includes {name}: {folder} may not know {target}"
        )


def test_every_native_folder_has_its_rule() -> None:
    folders = {path.relative_to(ROOT / "csrc").parts[0] for path in native_sources()}
    assert folders == set(ALLOWED)


def test_the_binding_knows_only_the_c_interface() -> None:
    for path in (ROOT / "bindings").glob("*.cpp"):
        own = [name for name in included(path) if "/" in name and not name.startswith("pybind11/")]
        assert own == ["unils/unils.h"]


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_sdk_imports_only_its_few_dependencies(path: Path) -> None:
    assert imported(path) - set(sys.stdlib_module_names) <= {"unils_sdk", "numpy", "av", "PIL", "tqdm"}


def test_import_loads_numpy_and_the_core_only() -> None:
    script = """
import sys
import unils_sdk
own = {name for name in sys.modules if name.startswith("unils_sdk")}
print(" ".join(sorted({name.split(".")[0] for name in sys.modules})))
assert not own & {"unils_sdk.cli", "unils_sdk.bench", "unils_sdk.doctor", "unils_sdk.demo", "unils_sdk.render"}, own
"""
    done = subprocess.run([sys.executable, "-S", "-c", _WITH_SITE + script], capture_output=True, text=True, check=True)
    heavy = {"torch", "onnxruntime", "av", "PIL", "tqdm", "scipy", "unils_training"} & set(done.stdout.split())
    assert not heavy


# Without -S the interpreter's own start-up could load what is installed beside us (through .pth files).
_WITH_SITE = f"import sys; sys.path[:] = {sys.path!r}\n"
