"""Every name of TensorRT and of CUDA that the layer calls exists, and takes the arguments that it gets.

The bindings of TensorRT come as a package of a megabyte; its libraries, which need a card and gigabytes, do not. The
bindings only want eight functions of them to be imported, so functions that do nothing stand in here, and what the
bindings define (classes, members, and the signatures in their docstrings) is all there. CUDA's are cuda-python's.

The layer's source is read, not run: the type of every expression that comes from `trt` or `cudart` follows from the
signatures, so a call is checked on whatever object it is made.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LAYER = Path(__file__).resolve().parent.parent / "src" / "unils_sdk" / "tensorrt"
SOURCES = sorted(LAYER.glob("*.py"))

STAND_INS = """
#define NOTHING(name) void* name(void) { return 0; }
NOTHING(createInferBuilder_INTERNAL) NOTHING(createInferRefitter_INTERNAL) NOTHING(createInferRuntime_INTERNAL)
NOTHING(createNvOnnxParser_INTERNAL) NOTHING(createNvOnnxParserRefitter_INTERNAL) NOTHING(getBuilderPluginRegistry)
NOTHING(getNvOnnxParserVersion) NOTHING(getPluginRegistry) NOTHING(initLibNvInferPlugins)
"""

# In a process of its own: loads the stand-ins, imports the bindings, and writes down all that they define.
DESCRIBE = """
import ctypes, enum, json, sys
for library in sys.argv[1:]:
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
import tensorrt_bindings as trt
from cuda.bindings import runtime as cudart

def documented(thing):
    return thing.__doc__ if isinstance(getattr(thing, "__doc__", None), str) else ""

def described(module):
    found = {}
    for name in dir(module):
        thing = getattr(module, name)
        if isinstance(thing, type):
            members = {member: documented(getattr(thing, member)) for member in dir(thing)}
            found[name] = {"members": members, "doc": documented(thing)}
        else:
            found[name] = {"members": None, "doc": documented(thing)}
    return found

print(json.dumps({"version": trt.__version__, "trt": described(trt), "cudart": described(cudart)}))
"""


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the bindings of TensorRT, and cuda-python, define."""
    assert installed("cuda-bindings"), "cuda-bindings is not installed: pip install '.[test]'"
    folder = tmp_path_factory.mktemp("stand-ins")
    (folder / "nothing.c").write_text(STAND_INS)
    spec = importlib.util.find_spec("tensorrt_bindings")
    assert spec is not None, "the bindings of TensorRT are not installed: pip install '.[test]'"
    assert spec.origin is not None
    binary = (Path(spec.origin).parent / "tensorrt.so").read_bytes()
    needed = sorted({name.decode() for name in re.findall(rb"libnv[a-z_]+\.so\.\d+", binary)})
    assert len(needed) == 3, needed
    for name in needed:
        build = [os.environ.get("CC", "cc"), "-shared", "-fPIC", f"-Wl,-soname,{name}"]
        subprocess.run([*build, "-o", str(folder / name), str(folder / "nothing.c")], check=True)
    libraries = [str(folder / name) for name in needed]
    done = subprocess.run([sys.executable, "-c", DESCRIBE, *libraries], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@dataclass(frozen=True)
class Value:
    """What an expression is: a module, a class of one, an instance of a class, a function, or a method: of an instance,
    or `unbound`, which is given its `self`."""

    kind: str
    module: str
    name: str = ""
    member: str = ""


class Reader(ast.NodeVisitor):
    """Walks a file in order, follows what comes from `trt` and `cudart`, and notes each use and each mistake."""

    def __init__(self, described: dict[str, Any], path: Path) -> None:
        self.described, self.path = described, path
        self.known: dict[str, Value] = {}
        self.uses: set[str] = set()
        self.mistakes: list[str] = []

    # --- where values come from

    def value(self, node: ast.expr) -> Value | None:
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            if node.attr in ("trt", "cudart"):
                return Value("module", node.attr)
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return self.known.get(f"self.{node.attr}")
            return self.member(self.value(node.value), node)
        if isinstance(node, ast.Subscript):
            return self.value(node.value)  # a container of instances goes by what it holds
        if isinstance(node, ast.Call):
            return self.call(node)
        return None

    def member(self, owner: Value | None, node: ast.Attribute) -> Value | None:
        if owner is None:
            return None
        defined = self.described[owner.module]
        if owner.kind == "module":
            if node.attr in defined:
                self.uses.add(f"{owner.module}.{node.attr}")
                is_class = defined[node.attr]["members"] is not None
                return Value("class" if is_class else "function", owner.module, node.attr)
        elif owner.kind in ("class", "instance"):
            members = defined[owner.name]["members"]
            if node.attr in members or node.attr in OWN_MEMBERS:
                self.uses.add(f"{owner.module}.{owner.name}.{node.attr}")
                return Value("unbound" if owner.kind == "class" else "method", owner.module, owner.name, node.attr)
        else:
            return None
        self.mistakes.append(f"{self.path.name}:{node.lineno}: {owner.module}.{owner.name} has no {node.attr}")
        return None

    def signatures(self, function: Value) -> list[str]:
        defined = self.described[function.module]
        if function.kind == "class":
            doc = defined[function.name]["members"]["__init__"]
        elif function.member:
            doc = defined[function.name]["members"].get(function.member, "")
        else:
            doc = defined[function.name]["doc"]
        name = function.member or ("__init__" if function.kind == "class" else function.name)
        # Defaults such as <Strategy.STATIC: 0> hold what looks like syntax.
        lines = [re.sub(r"<[^<>]*>", "0", line) for line in doc.splitlines()]
        return [line for line in lines if re.match(rf"(\d+\. )?{name}\(", line) and "*args" not in line]

    def call(self, node: ast.Call) -> Value | None:
        function = self.value(node.func)
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.value(argument)
        if function is None or function.kind in ("instance", "module"):
            return None
        signatures = self.signatures(function)
        given = len(node.args) + len(node.keywords) - (function.kind == "unbound")
        # Enums are called by nobody; what has no signature (a Python class, say) cannot be counted.
        if signatures and not any(least <= given <= most for least, most in map(counts, signatures)):
            called = f"{self.path.name}:{node.lineno}: {function.name}.{function.member}"
            self.mistakes.append(f"{called} gets {given} arguments: {signatures}")
        if function.kind == "class":
            return Value("instance", function.module, function.name)
        returned = {found for line in signatures for found in re.findall(r"-> .*?(\w+)\]?$", line)}
        returned = {ALIASES.get(name, name) for name in returned}
        for name in returned:
            if (self.described[function.module].get(name) or {}).get("members") is not None:
                return Value("instance", function.module, name)
        return None

    # --- what is walked

    def visit_Assign(self, node: ast.Assign) -> None:
        self.assign(node.targets, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.assign([node.target], node.value)
        self.annotate(ast.unparse(node.target), node.annotation)

    def assign(self, targets: list[ast.expr], source: ast.expr) -> None:
        self.visit(source)
        value = self.value(source)
        for target in targets:
            self.visit(target)
            if isinstance(target, ast.Tuple) and isinstance(source, ast.Tuple):
                for one, part in zip(target.elts, source.elts, strict=True):
                    self.remember(ast.unparse(one), self.value(part))
            else:
                self.remember(ast.unparse(target), value)

    def remember(self, name: str, value: Value | None) -> None:
        if value is not None:
            self.known[name] = value
        elif name not in ("trt", "cudart"):
            self.known.pop(name, None)

    def annotate(self, name: str, annotation: ast.expr | None) -> None:
        found = re.search(r"\btrt\.(\w+)", ast.unparse(annotation) if annotation is not None else "")
        if found:
            assert found[1] in self.described["trt"], f"{self.path.name}: there is no trt.{found[1]}"
            self.known[name] = Value("instance", "trt", found[1])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for argument in node.args.args:
            if argument.arg in ("trt", "cudart"):
                self.known[argument.arg] = Value("module", argument.arg)
            else:
                self.known.pop(argument.arg, None)
            self.annotate(argument.arg, argument.annotation)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self.loop(node.target, node.iter)
        for statement in node.body:
            self.visit(statement)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self.comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self.comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self.comprehension(node)

    def comprehension(self, node: Any) -> None:
        for part in node.generators:
            self.visit(part.iter)
            self.loop(part.target, part.iter)
        self.generic_visit(node)

    def loop(self, target: ast.expr, source: ast.expr) -> None:
        """`for x in self._engines.values()` and `for name, x in self._engines.items()` give what is held."""
        if isinstance(source, ast.Call) and isinstance(source.func, ast.Attribute):
            held = self.value(source.func.value) if source.func.attr in ("values", "items") else None
            last = target.elts[-1] if isinstance(target, ast.Tuple) else target
            if held is not None:
                self.known[ast.unparse(last)] = held

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.value(node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.call(node)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            self.value(base)
        # Annotations of attributes hold for every method, wherever they stand.
        for inside in ast.walk(node):
            if isinstance(inside, ast.AnnAssign):
                self.annotate(ast.unparse(inside.target), inside.annotation)
        self.generic_visit(node)


# The docstring names the C++ class where pybind11 had not met it yet.
ALIASES = {"IParserError": "ParserError"}
# Of containers that go by what they hold.
OWN_MEMBERS = {"values", "items", "clear", "get"}


def counts(signature: str) -> tuple[int, int]:
    """Fewest and most arguments that a signature takes, `self` not counted."""
    inside = signature[signature.index("(") + 1 : signature.rindex(")")]
    parts, depth, part = [], 0, ""
    for letter in inside + ",":
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += letter
    parts = [part for part in parts if part and not part.startswith("self") and part not in ("/", "*")]
    return sum("=" not in part for part in parts), len(parts)


def read(described: dict[str, Any], path: Path, source: str | None = None) -> Reader:
    reader = Reader(described, path)
    reader.visit(ast.parse(path.read_text(encoding="utf-8") if source is None else source))
    return reader


def test_every_name_that_is_called_is_there_and_takes_what_it_gets(described: dict[str, Any]) -> None:
    readers = [read(described, path) for path in SOURCES]
    assert [mistake for reader in readers for mistake in reader.mistakes] == []
    used = set().union(*(reader.uses for reader in readers))
    # The reader followed the objects themselves: these are reached through several calls.
    assert used >= {
        "trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "trt.Builder.build_serialized_network",
        "trt.INetworkDefinition.get_input",
        "trt.ITensor.name",
        "trt.OnnxParser.parse_from_file",
        "trt.ParserError.desc",
        "trt.IBuilderConfig.set_timing_cache",
        "trt.IBuilderConfig.progress_monitor",
        "trt.IBuilderConfig.max_aux_streams",
        "trt.IOptimizationProfile.set_shape",
        "trt.ITimingCache.serialize",
        "trt.Runtime.deserialize_cuda_engine",
        "trt.ICudaEngine.get_tensor_profile_shape",
        "trt.ICudaEngine.device_memory_size_v2",
        "trt.IExecutionContext.set_tensor_address",
        "trt.IExecutionContext.execute_async_v3",
        "trt.TensorIOMode.INPUT",
        "cudart.cudaStreamBeginCapture",
        "cudart.cudaGraphLaunch",
        "cudart.cudaMemcpyKind.cudaMemcpyDefault",
    }


def test_what_the_layer_overrides_is_what_tensorrt_calls(described: dict[str, Any]) -> None:
    """A misspelt method of a subclass would never be called."""
    tree = ast.parse((LAYER / "compiler.py").read_text(encoding="utf-8"))
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for name, base in (("Log", "ILogger"), ("Monitor", "IProgressMonitor")):
        methods = [node for node in classes[name].body if isinstance(node, ast.FunctionDef)]
        public = [method for method in methods if not method.name.startswith("_")]
        assert public
        for method in public:
            signature = described["trt"][base]["members"][method.name].strip().splitlines()[0]
            names = re.findall(r"(\w+):", signature[: signature.rindex(")")])
            assert [argument.arg for argument in method.args.args] == names, signature


@pytest.mark.parametrize(
    ("source", "mistake"),
    [
        ("def f(trt): trt.Buidler(1)", "trt. has no Buidler"),
        ("def f(trt):\n    b = trt.Builder(1)\n    n = b.create_network(0)\n    n.get_inputs(0)", "no get_inputs"),
        ("def f(trt):\n    b = trt.Builder(1)\n    b.create_builder_config(1)", "gets 1 arguments"),
        ("def f(trt):\n    b = trt.Builder(1)\n    c = b.create_builder_config()\n    c.progress = 1", "no progress"),
        ("def f(cudart): cudart.cudaMalloc()", "gets 0 arguments"),
        ("def f(cudart): cudart.cudaMemcpyKind.cudaMemcpyAnywhere", "has no cudaMemcpyAnywhere"),
        ("class A:\n  def f(self, c: trt.IExecutionContext): c.enqueue_v3(1)", "no enqueue_v3"),
    ],
)
def test_a_wrong_name_or_count_is_found(described: dict[str, Any], source: str, mistake: str) -> None:
    assert mistake in " ".join(read(described, Path("x.py"), source).mistakes)
