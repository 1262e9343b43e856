"""A bundle from elsewhere: whatever its files say, it is refused with one message and nothing outside is read."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tundish import api
from tundish.backends.base import Built
from tundish.backends.bundle import Bundle, open_bundle
from tundish.backends.cases import Case, Cases
from tundish.backends.inputs import random_inputs
from tundish.backends.manifest import MANIFEST
from tundish.backends.onnxruntime.runner import OrtRunner
from tundish.backends.onnxruntime.sessions import PROVIDERS
from tundish.backends.options import OPTIONS, TARGETS
from tundish.backends.registry import BACKENDS
from tundish.backends.signature import Signature, TensorSpec
from tundish.ir.diagnostics import LoadError, TundishError
from tundish.ir.weights import materialize

Write = Callable[..., Bundle]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def rehash(path: Path) -> None:
    """Makes the manifest agree with the files, as whoever made the bundle can."""

    def change(manifest: dict[str, Any]) -> None:
        for name in manifest["files"]:
            data = (path / name).read_bytes()
            manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    edit(path, change)


def put(*keys: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the value at a path of keys."""

    def change(manifest: Any) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = to

    return change


FIRST = ("options", "models", "main", 0)
INPUT = ("entries", "main", "inputs", 0)
SYMBOLS = ("entries", "main", "symbols")
HOSTILE: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("a file outside", put(*FIRST, "file", to="../../../../../etc/hostname"), "not a plain file name"),
    ("an absolute file", put(*FIRST, "file", to="/etc/hostname"), "not a plain file name"),
    ("the folder above", put(*FIRST, "file", to=".."), "not a plain file name"),
    ("a file that is not listed", put(*FIRST, "file", to="other.onnx"), "'other.onnx' is not one of its files"),
    ("a file of another folder", put(*FIRST, "file", to="plan.txt"), "'plan.txt' is not one of its files"),
    ("a backend outside", put("backend", to="../evil"), "there is no backend '../evil'"),
    ("no options", put("options", to={}), "options: .*missing required field `models`"),
    ("options of a wrong type", put("options", "models", "main", to={"file": "x"}), "options: Expected `array`"),
    ("options about another entry", put("options", "models", to={"other": []}), "not about its entries"),
    ("no variant", put("options", "models", "main", to=[]), "there is no variant"),
    ("an unknown provider", put("options", "target", to="rocm"), "there is no target 'rocm'"),
    ("another target than its own", put("options", "target", to="cuda"), "the target is not 'cpu'"),
    ("an unknown target", put("target", to="rocm"), "there is no target 'rocm'"),
    ("an unknown comparison", put(*FIRST, "guard", to=["seq", "__import__", 3]), "there is no comparison '__import__'"),
    ("an unknown guard symbol", put(*FIRST, "guard", to=["nope", "==", 3]), "no input has 'nope'"),
    ("a short guard", put(*FIRST, "guard", to=["seq"]), "Expected `array` of length 3"),
    ("no entries", put("entries", to={}), "it has no entries"),
    ("a dim that cannot be read", put(*INPUT, 2, to=["((((seq", "seq"]), r"'\(\(\(\(seq' is not a size"),
    ("a dim that is code", put(*INPUT, 2, to=["exit(1, 2)", "seq"]), r"'exit\(1, 2\)' is not a size"),
    ("a very long dim", put(*INPUT, 2, to=["seq" + "+seq" * 9999, "seq"]), "is not a size"),
    ("a deep dim", put(*INPUT, 2, to=["-" * 900 + "seq+" + "(" * 90, "seq"]), "is not a size"),
    ("a negative dim", put(*INPUT, 2, to=[-1, "seq"]), "'-1' is not a size"),
    ("a dim of an unknown symbol", put(*INPUT, 2, to=["batch", "width"]), "there is no symbol 'width'"),
    ("a size that no input has", put("entries", "main", "inputs", to=[["x", "i64", ["seq+1"]]]), "no input has 'seq'"),
    ("no outputs", put("entries", "main", "outputs", to=[]), "entry 'main': it has no outputs"),
    ("an output twice", put("entries", "main", "outputs", 1, 0, to="last_hidden_state"), "'last_hidden_state' stands"),
    ("an unknown input type", put(*INPUT, 1, to="f99"), "there is no type 'f99'"),
    ("an unknown output type", put("entries", "main", "outputs", 0, 1, to="f99"), "there is no type 'f99'"),
    ("a range without sizes", put(*SYMBOLS, "seq", to=[9, 3]), "'seq' has no sizes from 9 to 3"),
    ("a range below zero", put(*SYMBOLS, "seq", to=[-3, None]), "'seq' has no sizes from -3"),
    ("a schema of a wrong type", put("schema", to="x"), "Expected `int`, got `str`"),
    ("a schema that never was", put("schema", to=-5), "there is no schema -5"),
    ("a type that is none", put("info", "dtype", to="zzz"), "there is no float type 'zzz'"),
    ("a type without a tolerance", put("info", "dtype", to="i64"), "there is no float type 'i64'"),
    ("a type that is no text", put("info", "dtype", to=[1]), r"there is no float type \[1\]"),
]


@pytest.mark.parametrize(("change", "message"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_a_hostile_manifest_is_refused(write: Write, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = write(info={"dtype": "f32"}).path
    open_bundle(path)
    edit(path, change)
    with pytest.raises(LoadError, match=f"manifest.json is broken\n  found: .*{message}"):
        open_bundle(path)


def test_a_manifest_of_brackets_is_refused(write: Write) -> None:
    path = write().path
    (path / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(LoadError, match="manifest.json is broken"):
        open_bundle(path)


def test_the_options_of_the_reference_are_checked_too(write: Write) -> None:
    path = write(backend="reference").path
    edit(path, put("options", "entries", "main", 0, "function", to="other"))
    with pytest.raises(LoadError, match=r"program.txt has no function 'other'"):
        open_bundle(path).runner()
    edit(path, put("options", to={}))
    with pytest.raises(LoadError, match="missing required field `entries`"):
        open_bundle(path)


def test_a_runner_opens_no_file_outside_its_folder(write: Write) -> None:
    """Also where no manifest stands before it."""
    bundle = write()
    options = {"target": "cpu", "models": {"main": [{"guard": ["", "==", 0], "file": "../main.onnx"}]}}
    with pytest.raises(LoadError, match="not a plain file name"):
        OrtRunner(Built(bundle.path, bundle.weights, bundle.entries, options), None)


def test_a_bundle_without_a_type_says_so_when_it_matters(write: Write) -> None:
    assert write(info={"dtype": "bf16"}).manifest.dtype == "bf16"
    with pytest.raises(LoadError, match="does not say in what type"):
        write(name="bare.tundish").manifest.dtype  # noqa: B018


def test_an_open_range_has_no_end_in_text(write: Write) -> None:
    path = write().path
    edit(path, put(*SYMBOLS, "seq", to=[1, None]))
    assert {n: str(r) for n, r in open_bundle(path).entries["main"].ranges.items()} == {"batch": "1..8", "seq": "1.."}


def test_the_tables_agree() -> None:
    assert set(TARGETS) == set(PROVIDERS) and set(OPTIONS) == set(BACKENDS) - {"null"}


# -- files that agree with the manifest but not with what they should be ---------------------------------


def _cases() -> Cases:
    ids = np.ones((1, 4), np.int64)
    return Cases("torch 2.13.0", (Case("a", "main", {"input_ids": ids}, {"logits": np.float32([1])}),))


def _huge_header(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[:8] = struct.pack("<Q", 2**62)
    file.write_bytes(data)


def _weights_outside(file: Path) -> None:
    import onnx

    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = "../../../etc/passwd"
    file.write_bytes(model.SerializeToString())


def _cases_name(file: Path) -> None:
    index = json.loads(file.read_text())
    index["cases"][0]["inputs"] = ["../x"]
    file.write_text(json.dumps(index))


def _run(bundle: Bundle) -> object:
    ids = np.ones((1, 4), np.int64)
    return bundle.run({"input_ids": ids, "attention_mask": ids})


def _weights(bundle: Bundle) -> object:
    return materialize(bundle.program.weights["words"], bundle.path)


FILES: list[tuple[str, str, Callable[[Path], object], Callable[[Bundle], object]]] = [
    ("weights with a huge header", "weights.safetensors", _huge_header, _weights),
    ("cases with a huge header", "cases.safetensors", _huge_header, Bundle.cases),
    ("cases of other arrays", "cases.json", _cases_name, Bundle.cases),
    ("cases that are a list", "cases.json", lambda f: f.write_text("[1]"), Bundle.cases),
    ("cases of brackets", "cases.json", lambda f: f.write_text("[" * 100_000), Bundle.cases),
    ("a plan of brackets", "plan.txt", lambda f: f.write_text("(" * 200_000), lambda b: b.program),
    ("a plan that is no text", "plan.txt", lambda f: f.write_bytes(b"\xff\xfe"), lambda b: b.program),
    ("a model that is none", "onnxruntime/main.onnx", lambda f: f.write_bytes(b"none"), _run),
    ("a model whose weights lie outside", "onnxruntime/main.onnx", _weights_outside, _run),
]


@pytest.mark.parametrize(("file", "damage", "use"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
def test_a_hostile_file_is_refused(
    write: Write, capfd: pytest.CaptureFixture[str], file: str, damage: Callable[[Path], object],
    use: Callable[[Bundle], object],
) -> None:  # fmt: skip
    path = write(cases=_cases()).path
    damage(path / file)
    rehash(path)
    opened = open_bundle(path)
    with pytest.raises(TundishError):
        use(opened)
    assert capfd.readouterr().err == "", "a library's own words on stderr"


@pytest.mark.parametrize("notes", [b"{", b"\xff", b"[" * 100_000, b"null", b"[1]", b'[{"pass": "x"}]'])
def test_notes_that_are_none_are_refused(write: Write, notes: bytes) -> None:
    with pytest.raises(LoadError, match="notes.json of .* is broken"):
        api.explain(write(extra_files=[(api.NOTES, notes)]))


def test_a_plan_whose_weights_lie_elsewhere_is_refused(write: Write) -> None:
    path = write().path
    plan = (path / "plan.txt").read_text()
    (path / "plan.txt").write_text(plan.replace('"weights.safetensors"', '"../weights.safetensors"', 1))
    rehash(path)
    with pytest.raises(LoadError, match="does not lie in weights.safetensors"):
        _ = open_bundle(path).program


@pytest.mark.parametrize(
    ("shape", "symbols"),
    [(["batch"], {"batch": [2**40, None]}), (["batch", "batch*10000000000"], {"batch": [1, 2]}),
     (["batch", "batch//(batch-2)"], {"batch": [1, 2]}), (["batch", "batch-9"], {"batch": [1, 2]}),
     (["batch"] * 70, {"batch": [1, 2]})],
)  # fmt: skip
def test_sizes_that_cannot_be_drawn_are_refused(shape: list[int | str], symbols: dict[str, tuple[int, int]]) -> None:
    signature = Signature((TensorSpec("x", "f32", tuple(shape)),), (), symbols)
    with pytest.raises(LoadError, match="input 'x' (cannot be drawn at random|has no size)"):
        random_inputs(signature)
