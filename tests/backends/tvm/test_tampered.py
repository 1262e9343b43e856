"""What of a bundle of the TVM backend was changed, hashes and all, is told in one line before a kernel runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tundish.backends.bundle import open_bundle
from tundish.ir.diagnostics import LoadError, TundishError

from .test_runtime import D, build, close, inputs

SCHEDULE = "tvm/forward.0.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("tvm") / "tiny")


def changed(made: Path, path: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """A copy with one JSON file changed, and hashes that agree with it."""
    shutil.copytree(made, path)
    found = json.loads((path / name).read_text())
    made_of_it = change(found)
    (path / name).write_text(json.dumps(found if made_of_it is None else made_of_it))
    manifest = json.loads((path / "manifest.json").read_text())
    for file, entry in manifest["files"].items():
        data = (path / file).read_bytes()
        entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def refused(path: Path, rows: int = 13) -> None:
    with pytest.raises(TundishError) as caught, open_bundle(path) as opened:
        opened.run({"x": np.zeros((rows, D), np.float32)})
    assert isinstance(caught.value, LoadError) and "\n" not in caught.value.problem


def _first(kind: str) -> Callable[[Any], list[Any]]:
    """The first word of that kind."""
    return lambda found: next(a for call in found["calls"] for a in call["args"] if a[0] == kind)


def _value(kind: str, value: str) -> Callable[[Any], None]:
    def change(found: Any) -> None:
        word = _first(kind)(found)
        word[1:] = [*word[1:2], value] if len(word) > 1 else ["", value]

    return change


CHANGES: dict[str, Callable[[Any], Any]] = {
    "an offset far outside": _value("input", str(1 << 40)),
    "a negative offset": _value("input", "0-4096"),
    "a size too large": _value("size", "seq*1000000"),
    "a weight's offset": _value("weight", "64"),
    "no dim at all": _value("size", "]"),
    "a word too few": lambda found: found["calls"][0]["args"].pop() and None,
    "a word too many": lambda found: found["calls"][0]["args"].append(["size", "", "1"]),
    "a call less": lambda found: found["calls"].pop() and None,
    "no calls": lambda found: found["calls"].clear(),
    "no barriers": lambda found: [call.update(waits=False) for call in found["calls"]] and None,
    "buffers of nothing": lambda found: [b.update(bytes="0") for b in found["buffers"]] and None,
    "buffers that lie over others": lambda found: [b.update(first=0, last=0) for b in found["buffers"]] and None,
    "no buffers": lambda found: found["buffers"].clear(),
    "scratch memory of nothing": lambda found: found.update(scratch="0"),
    "an arena's place that is none": lambda found: _first("arena")(found).__setitem__(1, "99"),
    "no schedule": lambda found: [],
    "a number": lambda found: 7,
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_schedule(made: Path, tmp_path: Path, what: str):
    refused(changed(made, tmp_path / "bad", SCHEDULE, CHANGES[what]))


def _entry(**changes: Any) -> Callable[[Any], Any]:
    return lambda manifest: manifest["entries"]["forward"].update(changes)


IN_MANIFEST: dict[str, Callable[[Any], Any]] = {
    "longer rows": _entry(inputs=[["x", "f32", ["seq", 2 * D]]]),
    "an input of bytes": _entry(inputs=[["x", "u8", ["seq", D]]]),
    "a smaller output": _entry(outputs=[["y", "f32", ["seq", 1]]]),
    "sizes that were not compiled for": _entry(symbols={"seq": [1, 1 << 40]}),
    "another guard": lambda m: m["options"]["bodies"][0]["models"]["forward"][0].update(guard=["seq", ">", 0]),
    "features that it does not need": lambda m: m["options"]["bodies"][0].update(features=[]),
    "a file of no function": lambda m: m["options"]["bodies"][0].update(functions={}),
}  # fmt: skip


@pytest.mark.parametrize("what", IN_MANIFEST)
def test_a_changed_manifest(made: Path, tmp_path: Path, what: str):
    path = changed(made, tmp_path / "bad", "manifest.json", IN_MANIFEST[what])
    with pytest.raises(LoadError) as caught, open_bundle(path) as opened:
        signature = opened.entries["forward"]
        (given,) = signature.inputs
        opened.run({"x": np.zeros((3, given.shape[1]), given.type.dtype.numpy)})
    assert "\n" not in caught.value.problem


def test_weights_of_other_shapes(made: Path, tmp_path: Path):
    """Panels cut to one: the kernels would read beyond."""
    path = tmp_path / "bad"
    shutil.copytree(made, path)
    file = path / "weights.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = next(n for n, entry in header.items() if len(entry.get("shape", ())) > 1)
    header[name]["shape"] = [*header[name]["shape"], 1]
    text = json.dumps(header).encode()
    file.write_bytes((len(text)).to_bytes(8, "little") + text + data[8 + length :])
    refused(changed(path, tmp_path / "worse", "manifest.json", lambda m: None))


def test_a_bundle_that_takes_the_place_of_one_that_is_open(made: Path, tmp_path: Path):
    """A library that a process has loaded it is given again for the same path: so another's path must be another."""
    import tundish
    from tundish.backends.bundle_write import write_bundle
    from tundish.backends.registry import get
    from tundish.compiler.driver import compile_program
    from tundish.compiler.hardware.machine import this_machine
    from tundish.compiler.task import Task
    from tundish.ir.build import Builder
    from tundish.ir.dims import Range, symbol
    from tundish.ir.dtypes import f32
    from tundish.ir.graph import Program
    from tundish.ir.tensor import TensorType

    path = build(tmp_path / "same")
    first = tundish.load(path)
    before = first.run(inputs(5))["y"]
    b = Builder()
    x = b.input("x", TensorType(f32, (symbol("seq"), D)))
    program = Program({"forward": b.finish([b.emit("neg", x)], ["y"])}, ("forward",), {}, {"seq": Range(1, 64)})
    backend, machine = get("tvm"), this_machine()
    plan = compile_program(program, Task(machine, backend.capabilities(machine)))
    with write_bundle(path, plan, backend, name="other", info={"dtype": "f32"}) as second:
        np.testing.assert_array_equal(second.run(inputs(5))["y"], -inputs(5)["x"])
    np.testing.assert_array_equal(first.run(inputs(5))["y"], before)
    close(made)


@pytest.mark.parametrize("given", [
    {"x": np.zeros((3, D + 1), np.float32)}, {"x": np.zeros((3, D), np.float64)}, {"x": np.zeros((65, D), np.float32)},
    {"x": np.zeros((0, D), np.float32)}, {"x": np.zeros(D, np.float32)}, {"x": [1.0]}, {}, {"y": np.zeros(1)},
])  # fmt: skip
def test_inputs_that_do_not_fit(made: Path, given: Any):
    with open_bundle(made) as opened, pytest.raises(TundishError) as caught:
        opened.run(given)
    assert "\n" not in caught.value.problem


def test_inputs_that_lie_otherwise_are_taken_as_they_are_meant(made: Path):
    """Turned, reversed, at odd addresses, not writeable."""
    given = inputs(9)["x"]
    odd = np.frombuffer(b"?" + given.tobytes(), np.uint8)[1:].view(np.float32).reshape(given.shape)
    frozen = given.copy()
    frozen.flags.writeable = False
    ways = [np.asfortranarray(given), given[::-1][::-1], np.repeat(given, 2, axis=1)[:, ::2], odd, frozen]
    with open_bundle(made) as opened:
        wanted = opened.run({"x": given})["y"]
        for x in ways:
            np.testing.assert_array_equal(opened.run({"x": x})["y"], wanted)
