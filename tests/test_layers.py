"""The directions between the folders: who may import whom, and where heavy libraries may be opened.

Every import counts, also those inside functions and those for type checkers only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("models", "ir", "compiler", "backends", "profiler")

# What each part may import of ours, itself aside. No arrow runs back.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "models": frozenset(),
    "ir": frozenset(),
    "compiler": frozenset({"ir"}),
    "backends": frozenset({"ir", "compiler"}),
    "profiler": frozenset({"ir", "compiler", "backends"}),
    "api": frozenset({
        *FOLDERS, "compiling", "evaluating", "exporting", "generating", "work", "measuring", "profiling", "tuning",
        "weight_formats", "placing", "recording",
    }),
    "weight_formats": frozenset({*FOLDERS, "work"}),
    "compiling": frozenset({*FOLDERS, "choosing", "weight_formats", "work"}),
    "choosing": frozenset(FOLDERS),
    "placing": frozenset(FOLDERS),
    "recording": frozenset({*FOLDERS, "compiling", "work"}),
    "cli_placing": frozenset({"api", "cli_base"}),
    "exporting": frozenset({*FOLDERS, "originals", "weight_formats", "work"}),
    "generating": frozenset({*FOLDERS, "originals", "work"}),
    "tuning": frozenset({*FOLDERS, "work"}),
    "evaluating": frozenset(FOLDERS),
    "measuring": frozenset({*FOLDERS, "work", "accounts", "contests"}),
    "accounts": frozenset({*FOLDERS, "originals", "weight_formats", "work"}),
    "contests": frozenset({*FOLDERS, "originals", "work"}),
    "profiling": frozenset({*FOLDERS, "originals", "recording", "work"}),
    "work": frozenset({*FOLDERS, "originals", "steps"}),
    "steps": frozenset({*FOLDERS, "originals"}),
    "originals": frozenset(FOLDERS),
    "cli": frozenset({
        "api", "cli_base", "cli_evaluating", "cli_generating", "cli_measuring", "cli_placing", "cli_profiling",
        "cli_tuning",
    }),
    "cli_generating": frozenset({"api", "cli_base"}),
    "cli_tuning": frozenset({"api", "cli_base"}),
    "cli_evaluating": frozenset({"api", "cli_base"}),
    "cli_profiling": frozenset({"api", "cli_base"}),
    "cli_measuring": frozenset({"api", "cli_base"}),
    "cli_base": frozenset({"api"}),
    "__init__": frozenset({"api"}),
    "__main__": frozenset({"cli"}),
}

MODELS_LIBRARIES = frozenset({"torch", "transformers", "onnx", "gguf", "accelerate", "safetensors", "tokenizers"})
HEAVY = frozenset({
    "torch", "transformers", "onnx", "onnxruntime", "onnxscript", "tvm", "jax", "ray", "gguf", "lm_eval", "datasets",
})  # fmt: skip
# Where heavy libraries may be opened at all; elsewhere never.
MAY_OPEN: tuple[tuple[str, frozenset[str]], ...] = (
    ("models/", MODELS_LIBRARIES | {"onnxruntime"}),  # the original of an ONNX file answers through it
    ("ir/capture/", MODELS_LIBRARIES),
    ("backends/", HEAVY),
    ("profiler/", HEAVY),
    ("api.py", HEAVY),
    ("exporting.py", HEAVY),
    ("measuring.py", HEAVY),
    ("contests.py", HEAVY),
    ("work.py", HEAVY),
)
# Opened only once torch is in use, or TVM, by a function of its neighbours.
AT_MODULE_LEVEL = frozenset({"ir/capture/torch_ops.py", "models/palm.py", "models/transformer.py"}) | {
    f"backends/tvm/{name}.py" for name in (
        "cuda/block", "cuda/library", "cuda/warp", "formulas", "library", "objects", "script", "steps", "vector_math",
        "vectors",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """target: a dotted name, `.`-relative ones resolved to `tundish.…`; deep: inside a function."""

    file: str
    line: int
    target: str
    deep: bool
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def sources() -> list[Path]:
    files = [ROOT / f"{name}.py" for name in MAY_IMPORT]
    for folder in FOLDERS:
        files += sorted((ROOT / folder).rglob("*.py"))
    return [f for f in files if f.is_file()]


def part(file: str) -> str:
    head, _, rest = file.partition("/")
    return head if rest else head.removesuffix(".py")


class Reader(ast.NodeVisitor):
    def __init__(self, file: str) -> None:
        self.file, self.found = file, []
        self.package = ("tundish", *Path(file).parent.parts)
        self.depth, self.typing = 0, 0

    def add(self, node: ast.stmt, target: str) -> None:
        self.found.append(Import(self.file, node.lineno, target, self.depth > 0, self.typing > 0))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            base = ".".join(self.package[: len(self.package) - node.level + 1])
            base += f".{node.module}" if node.module else ""
        else:
            base = node.module or ""
        for alias in node.names:
            self.add(node, f"{base}.{alias.name}")

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        guarded = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        self.typing += guarded
        for child in node.body:
            self.visit(child)
        self.typing -= guarded
        for child in node.orelse:
            self.visit(child)


def read(text: str, file: str) -> list[Import]:
    reader = Reader(file)
    reader.visit(ast.parse(text))
    return reader.found


def imports() -> Iterator[Import]:
    for path in sources():
        yield from read(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())


def wrong_direction(found: Import) -> bool:
    parts = found.target.split(".")
    if parts[0] != "tundish" or len(parts) < 2:
        return False
    target = parts[1]
    here = part(found.file)
    if target not in MAY_IMPORT:  # a name of the package itself, as in `from . import __version__`
        return here not in ("api", "cli", "work", "__main__")
    return target != here and target not in MAY_IMPORT[here]


def wrong_library(found: Import) -> bool:
    library = found.target.partition(".")[0]
    if library not in HEAVY:
        return False
    allowed = next((libs for prefix, libs in MAY_OPEN if found.file.startswith(prefix)), frozenset())
    lazy = found.deep or found.typing_only or found.file in AT_MODULE_LEVEL
    return library not in allowed or not lazy


def test_no_arrow_runs_back():
    assert [str(i) for i in imports() if wrong_direction(i)] == []


def test_heavy_libraries_are_opened_where_they_belong():
    assert [str(i) for i in imports() if wrong_library(i)] == []


def test_inside_the_package_imports_are_relative():
    found = []
    for path in sources():
        file = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            absolute = isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("tundish")
            if absolute or isinstance(node, ast.Import) and any(a.name.startswith("tundish") for a in node.names):
                found.append(f"{file}:{node.lineno}")
    assert found == []


def test_no_string_goes_round_the_rule():
    """`import_module("tundish.models")` in a lower folder would be an arrow that no import shows."""
    banned = tuple(f"tundish.{name}" for name in ("models", "api", "cli"))
    found = []
    for path in sources():
        file = path.relative_to(ROOT).as_posix()
        if part(file) in ("ir", "compiler", "backends", "profiler"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(banned):
                    found.append(f"{file}:{node.lineno}: {node.value!r}")
    assert found == []


def test_all_parts_are_read():
    seen = {part(p.relative_to(ROOT).as_posix()) for p in sources()}
    assert seen == set(MAY_IMPORT)


@pytest.mark.parametrize(("file", "text", "wrong"), [
    ("ir/x.py", "from ..compiler.plan import Plan", True),
    ("ir/x.py", "def f():\n    from ..models import zoo", True),
    ("ir/x.py", "if TYPE_CHECKING:\n    from ..backends.base import Backend", True),
    ("ir/capture/x.py", "from ..graph import Graph", False),
    ("ir/capture/x.py", "from ...models import zoo", True),
    ("models/x.py", "from ..ir.graph import Graph", True),
    ("models/x.py", "from .. import ir", True),
    ("compiler/passes/x.py", "from ...ir.graph import Graph", False),
    ("compiler/x.py", "from ..backends import registry", True),
    ("profiler/x.py", "from ..api import compile", True),
    ("backends/x.py", "from ..profiler import account", True),
    ("cli.py", "from .ir.graph import Graph", True),
    ("cli.py", "from . import api", False),
    ("cli.py", "from . import __version__", False),
    ("ir/x.py", "from .. import __version__", True),
])  # fmt: skip
def test_the_rule_itself_on_directions(file, text, wrong):
    assert any(map(wrong_direction, read(text, file))) is wrong


@pytest.mark.parametrize(("file", "text", "wrong"), [
    ("ir/graph.py", "def f():\n    import torch", True),
    ("compiler/x.py", "def f():\n    import onnxruntime", True),
    ("compiler/x.py", "if TYPE_CHECKING:\n    import torch", True),
    ("ir/capture/x.py", "def f():\n    from torch.fx import Node", False),
    ("ir/capture/x.py", "import torch", True),
    ("ir/capture/torch_ops.py", "import torch", False),
    ("models/x.py", "if TYPE_CHECKING:\n    import torch", False),
    ("models/x.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch", True),
    ("backends/x.py", "import onnx", True),
    ("backends/x.py", "def f():\n    import onnx", False),
    ("cli.py", "def f():\n    import torch", True),
])  # fmt: skip
def test_the_rule_itself_on_libraries(file, text, wrong):
    assert any(map(wrong_library, read(text, file))) is wrong
