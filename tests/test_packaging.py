"""What is installed: the packages of the tree and nothing else, opened lazily, with every dependency declared."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
NOT_OURS = {"tests", "build", "dist", "demo", "docs"}
AT_ROOT = {
    "__init__.py", "__main__.py", "accounts.py", "api.py", "cli.py", "cli_base.py", "cli_measuring.py",
    "cli_generating.py", "generating.py",
    "cli_profiling.py", "contests.py", "measuring.py", "profiling.py", "steps.py", "work.py", "cli_tuning.py",
    "tuning.py",
    "choosing.py", "cli_evaluating.py", "compiling.py", "evaluating.py", "exporting.py", "originals.py",
    "weight_formats.py", "cli_placing.py", "placing.py", "recording.py",
}  # fmt: skip
# Import name -> distribution, where they differ.
DISTRIBUTIONS = {
    "onnxruntime": "onnxruntime-gpu", "google": "protobuf", "llama_cpp": "llama-cpp-python", "tvm": "apache-tvm",
    "tvm_ffi": "apache-tvm-ffi",
}  # fmt: skip


def tree() -> dict[str, Path]:
    """Every package of the tree: dotted name -> folder."""
    found = {"tundish": ROOT}
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.parent.relative_to(ROOT).parts
        if parts and parts[0] not in NOT_OURS and not any(p.startswith(".") or p == "__pycache__" for p in parts):
            found[".".join(("tundish", *parts))] = file.parent
    return found


def requirement(text: str) -> str:
    return re.split(r"[\s\[<>=!~;]", text, maxsplit=1)[0].lower().replace("_", "-")


def declared(*extras: str) -> set[str]:
    project = PROJECT["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][e] for e in extras)]
    return {requirement(r) for group in lists for r in group}


def imported() -> dict[str, str]:
    """Distribution -> one file of ours that imports it; the standard library and ourselves left out."""
    found: dict[str, str] = {}
    files = [ROOT / n for n in AT_ROOT if (ROOT / n).is_file()]
    files += [f for name, folder in tree().items() if name != "tundish" for f in folder.glob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names:
                    found[DISTRIBUTIONS.get(top, top).lower().replace("_", "-")] = str(file.relative_to(ROOT))
    return found


def test_the_list_of_packages_is_the_tree():
    assert SETUPTOOLS["packages"] == sorted(tree())


def test_every_package_has_an_init_with_a_docstring():
    for name, folder in tree().items():
        init = folder / "__init__.py"
        assert init.is_file(), name
        assert ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))), name


def test_nothing_else_lies_at_the_root():
    """Every module at the root lands in the wheel, so tests' helpers must not lie there."""
    assert {p.name for p in ROOT.glob("*.py")} == AT_ROOT


def test_types_are_checked_in_every_file_at_the_root():
    checked = {name.removeprefix("tundish.") for name in PROJECT["tool"]["mypy"]["modules"]}
    assert {name.removesuffix(".py") for name in AT_ROOT} - {"__init__"} == checked - {"tundish"}


def test_every_import_is_declared():
    known = declared("compile", "bench", "eval", "report", "ray", "llama")
    assert {dist: file for dist, file in imported().items() if dist not in known} == {}


def test_every_declared_runtime_dependency_is_used():
    used = imported()
    assert sorted(d for d in declared() - {"onnxruntime"} if d not in used) == []


def test_exactly_one_onnxruntime_on_every_machine():
    from packaging.markers import Marker

    markers = [Marker(r.partition(";")[2]) for r in PROJECT["project"]["dependencies"] if r.startswith("onnxruntime")]
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")):
        chosen = [m.evaluate({"sys_platform": system, "platform_machine": machine}) for m in markers]
        assert chosen.count(True) == 1, (system, machine)


def test_the_version_stands_in_one_number():
    import tundish

    assert tundish.__version__ == PROJECT["project"]["version"]


def test_every_public_name_is_one_of_the_api():
    import tundish

    api = importlib.import_module("tundish.api")
    assert [n for n in tundish.__all__ if not hasattr(api, n)] == []
    assert tundish.compile is api.compile
    with pytest.raises(AttributeError, match="no attribute 'melt'"):
        _ = tundish.melt


HEAVY = {"torch", "onnx", "onnxruntime", "transformers", "tvm", "jax", "numpy", "rich", "typer", "pydantic", "scipy"}


def run(code: str, path: Path | None = None) -> str:
    """The output of a fresh interpreter, in which `tundish` is the one under test, or that under `path`."""
    import tundish

    folder = path or Path(tundish.__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_opens_no_library():
    loaded = json.loads(run("import json, sys, tundish; print(json.dumps(sorted(sys.modules)))"))
    assert HEAVY & {name.partition(".")[0] for name in loaded} == set()
    assert [name for name in loaded if name.startswith("tundish.")] == []


@pytest.mark.parametrize("module", ["cli", "api", "ir.op", "backends.registry", "profiler.account", "models.open"])
def test_no_module_opens_a_heavy_library_before_it_is_needed(module):
    loaded = json.loads(run(f"import json, sys, tundish.{module}; print(json.dumps(sorted(sys.modules)))"))
    heavy = {"torch", "onnx", "onnxruntime", "transformers", "tvm", "jax"}
    assert heavy & {name.partition(".")[0] for name in loaded} == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tree as a clone holds it."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    junk = shutil.ignore_patterns(".*", "build", "dist", "demo", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=junk, dirs_exist_ok=True)
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_holds_our_modules_and_nothing_else(wheel):
    version = PROJECT["project"]["version"]
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if not n.startswith(f"tundish-{version}.dist-info/")}
        entry_points = archive.read(f"tundish-{version}.dist-info/entry_points.txt").decode()
        licence = archive.read(f"tundish-{version}.dist-info/licenses/LICENSE").decode()
    wanted = {"tundish/py.typed"}
    for name, folder in tree().items():
        wanted |= {f"{name.replace('.', '/')}/{f.name}" for f in folder.glob("*.py")}
        for pattern in SETUPTOOLS["package-data"].get(name, ()):
            wanted |= {f"{name.replace('.', '/')}/{f.relative_to(folder).as_posix()}" for f in folder.glob(pattern)}
    assert names == wanted
    assert "tundish = tundish.cli:main" in entry_points
    assert "Apache License" in licence and "Version 2.0" in licence


def test_the_wheel_opens_away_from_the_tree(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    names = [n for n in SETUPTOOLS["packages"] if n != "tundish.ir.capture"]
    code = f"import importlib; print(*(importlib.import_module(n).__file__ for n in {names!r}), sep='\\n')"
    files = run(code, tmp_path).split()
    assert len(files) == len(names) and all(f.startswith(str(tmp_path)) for f in files)


def test_the_licence_is_apache_in_full():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    for phrase in ("Version 2.0, January 2004", "9. Accepting Warranty", "END OF TERMS AND CONDITIONS"):
        assert phrase in text
