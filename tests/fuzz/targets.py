"""What is fuzzed: how a seed is changed, and what is then done with it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from .mutate import mutate_bytes, mutate_json, mutate_safetensors, mutate_text
from .proto import mutate_onnx

SMALL = {"batch": "1..2", "seq": "1..8"}


@dataclass(frozen=True)
class Target:
    """change: mutates the case's folder and says what it did. use: does what a user would do, in a folder for output.

    deep: the share of cases in which the slow steps after opening are taken too; the choice is part of the case.
    """

    change: Callable[[Path, Random], str]
    use: Callable[[Path, Path, bool], None]
    deep: float = 1.0


_BY_SUFFIX = {".json": mutate_json, ".safetensors": mutate_safetensors, ".txt": mutate_text, ".onnx": mutate_onnx}


def _change_file(folder: Path, rng: Random) -> str:
    """Mutates one of the files, each as often as another."""
    file = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    mutate = _BY_SUFFIX.get(file.suffix, mutate_bytes)
    file.write_bytes(mutate(file.read_bytes(), rng))
    return f"{mutate.__name__} of {file.relative_to(folder)}"


def _change_bundle(folder: Path, rng: Random) -> str:
    """In half of the cases the manifest is made to agree with what was changed, but for machine code: who can make its
    hash anew can have it do anything."""
    said = _change_file(folder, rng)
    manifest = folder / "b.tundish" / "manifest.json"
    if rng.random() < 0.5 or said.endswith(("manifest.json", ".so")):
        return said
    found = json.loads(manifest.read_bytes())
    for name, entry in found["files"].items():
        data = (manifest.parent / name).read_bytes()
        entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write_text(json.dumps(found))
    return f"{said}, hashes made anew"


# -- what is done ----------------------------------------------------------------------------------------


def _use_bundle(case: Path, out: Path, deep: bool) -> None:
    """Opens it, and takes each of the ways to use it; what one refuses does not keep the next from being tried."""
    import tundish
    from tundish import api
    from tundish.backends.inputs import random_inputs

    with tundish.load(case / "b.tundish") as bundle:
        entry = next(iter(bundle.entries))
        ways: tuple[Callable[[], Any], ...] = (
            lambda: bundle.program,
            lambda: bundle.cases(),
            lambda: api.summary(bundle),
            lambda: api.explain(bundle),
            lambda: api.run(bundle, random_inputs(bundle.entries[entry]), output=out / "answers", threads=1),
            lambda: api.verify(bundle, bisect=True, threads=1),
        )
        _all(ways)


def _use_graph(case: Path, out: Path, deep: bool) -> None:
    import tundish
    from tundish.ir.save import load

    program = load(case / "graph", check=deep)
    _all((
        lambda: tundish.compile(program, out / "reference", backend="reference", **SMALL).close(),
        lambda: tundish.compile(program, out / "b.tundish", **SMALL).close(),
        lambda: tundish.export(program, out / "model.onnx"),
    ) if deep else ())  # fmt: skip


def _use_text(case: Path, out: Path, deep: bool) -> None:
    from tundish.ir.text import from_text, to_text
    from tundish.ir.verify import verify

    program = from_text((case / "program.txt").read_text(encoding="utf-8", errors="replace"), origin="program.txt")
    again = to_text(program)
    assert to_text(from_text(again)) == again, "the text of a program does not read back as itself"
    verify(program)


def _use_onnx(case: Path, out: Path, deep: bool) -> None:
    import tundish

    _model(case / "model.onnx", out, deep, tundish.compile)


def _use_gguf(case: Path, out: Path, deep: bool) -> None:
    import tundish

    _model(case / "model.gguf", out, deep, tundish.capture)


def _use_folder(case: Path, out: Path, deep: bool) -> None:
    import tundish

    _model(case / "model", out, deep, tundish.capture)


def _model(path: Path, out: Path, deep: bool, verb: Callable[..., Any]) -> None:
    from tundish.models.open import estimate_bytes, open_model

    if deep:
        made = verb(str(path), output=out / "made", **SMALL)
        getattr(made, "close", int)()
        return
    estimate_bytes(path)
    open_model(path).tokenizer_files()


def _all(ways: Any) -> None:
    """Each in turn; the first refusal is raised at the end."""
    from tundish.api import TundishError

    refused = None
    for way in ways:
        try:
            way()
        except TundishError as error:
            refused = refused or error
    if refused is not None:
        raise refused


TARGETS: dict[str, Target] = {
    "bundle": Target(_change_bundle, _use_bundle),
    "onnx": Target(_change_file, _use_onnx, deep=0.7),
    "gguf": Target(_change_file, _use_gguf, deep=0.2),
    "folder": Target(_change_file, _use_folder, deep=0.2),
    "graph": Target(_change_file, _use_graph, deep=0.5),
    "text": Target(_change_file, _use_text),
}


# -- for the test of the fuzzer itself ---------------------------------------------------------------------


def _fault(case: Path, out: Path, deep: bool) -> None:
    raise KeyError("planted")


def _memory(case: Path, out: Path, deep: bool) -> None:
    bytearray(3 << 30)


def _hang(case: Path, out: Path, deep: bool) -> None:
    while True:
        pass


def _crash(case: Path, out: Path, deep: bool) -> None:
    os.abort()


def _outside(case: Path, out: Path, deep: bool) -> None:
    (case.parent / "outside").write_text("x")


def _process(case: Path, out: Path, deep: bool) -> None:
    os.system("true")


PLANTED = {f.__name__: Target(lambda folder, rng: "nothing", f)
           for f in (_fault, _memory, _hang, _crash, _outside, _process)}  # fmt: skip
