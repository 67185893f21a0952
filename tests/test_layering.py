"""Dependencies point one way (docs/architecture.md): a new edge between folders fails here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The parts of the engine that every backend shares: they know nothing above core.
ENGINE_PARTS = {f"engine/{name}.h" for name in ("kv_ring", "rope", "row_ring", "sampler", "state_layout")}

# Who may include whom, besides itself: a folder, or one header of it. `include` is csrc/include: unils.h and backend.h.
ALLOWED: dict[str, set[str]] = {
    "include": set(),
    "core": {"include"},
    "kernels": {"core"},
    "audio": {"core", "include"},
    "postprocess": {"core", "include"},
    "features": {"core", "include"},
    "model": {"core", "include", "kernels"},
    # One that hears hops makes log-mel rows itself, from the same tables.
    "backends": {"core", "include", "kernels", "model", "features/log_mel.h", *ENGINE_PARTS},
    "engine": {"core", "include", "features", "model"},
    "session": {"core", "include", "audio", "model", "engine", "postprocess"},
    "c_api": {"core", "include", "session", "model", "backends/registry.h", "backends/plugin.h"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)


def native_sources() -> list[Path]:
    return sorted(path for pattern in ("*.h", "*.cpp", "*.c", "*.cu") for path in (ROOT / "csrc").rglob(pattern))


def included(path: Path) -> list[str]:
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


def edges(path: Path) -> list[tuple[str, str]]:
    """(folder or `include`, header) of every include of another file of csrc."""
    headers = [name for name in included(path) if name.startswith("unils/") or (ROOT / "csrc" / name).exists()]
    return [("include" if name.startswith("unils/") else name.split("/")[0], name) for name in headers]


@pytest.mark.parametrize("path", native_sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_native_code_includes_only_what_lies_below_it(path: Path) -> None:
    own = path.relative_to(ROOT / "csrc").parts[0]
    for folder, header in edges(path):
        allowed = folder in {own, *ALLOWED[own]} or header in ALLOWED[own]
        assert allowed, f"{path.relative_to(ROOT)} includes {header}: {own} may not know {folder}"


def test_engine_parts_that_backends_share_know_nothing_above_core() -> None:
    for header in sorted(ENGINE_PARTS):
        for path in (ROOT / "csrc" / header, (ROOT / "csrc" / header).with_suffix(".cpp")):
            known = (
                {name for folder, name in edges(path) if folder not in ("core", "include")} if path.exists() else set()
            )
            assert known <= ENGINE_PARTS, f"{path.name} includes {known - ENGINE_PARTS}"


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
    allowed = {"unils_sdk", "numpy", "av", "PIL", "tqdm"}
    if path.name == "graph_runner.py":  # late, when the first bundle of graphs is loaded
        allowed.add("onnxruntime")
    if path.parent.name == "tensorrt":  # late, when a bundle is compiled or its engines are loaded
        allowed |= {"tensorrt", "cuda", "onnx"}
    assert imported(path) - set(sys.stdlib_module_names) <= allowed


def test_import_loads_numpy_and_the_core_only() -> None:
    script = """
import sys
before = set(sys.modules)  # an interpreter may start with more, through .pth files
import unils_sdk
print(*(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"unils_sdk", "unils_sdk._core", "numpy"} <= loaded
    top = {name.split(".")[0] for name in loaded}
    assert not top & {
        "torch",
        "onnxruntime",
        "onnx",
        "tensorrt",
        "cuda",
        "av",
        "PIL",
        "tqdm",
        "scipy",
        "unils_training",
    }
    assert not loaded & {f"unils_sdk.{name}" for name in ("cli", "bench", "doctor", "demo", "render", "tensorrt")}


def test_the_stubs_name_what_the_core_has() -> None:
    from unils_sdk import _core

    def stubbed(body: list[ast.stmt]) -> set[str]:
        named = (node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
        return {name for name in named if not name.startswith("_")}

    def present(thing: object) -> set[str]:
        return {name for name in vars(thing) if not name.startswith("_")}

    stubs = ast.parse((ROOT / "src" / "unils_sdk" / "_core.pyi").read_text(encoding="utf-8"))
    assert stubbed(stubs.body) == present(_core)
    for node in stubs.body:
        if isinstance(node, ast.ClassDef):
            assert stubbed(node.body) == present(getattr(_core, node.name))
