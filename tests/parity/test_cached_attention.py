"""Caches that ONNX Runtime writes in place: one buffer in and out, whose other places it leaves alone."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tundish.backends.generation.caches import allocate
from tundish.backends.onnxruntime.bound import OrtBound
from tundish.ir.build import Builder
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32, i64
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType

from .build_kit import compiled, opened

ROWS, NEW, ROOM = symbol("rows"), symbol("new"), symbol("room")
SIZES = {"rows": Range(1, 4), "new": Range(1, 16), "room": Range(1, 1 << 20)}
HEADS, GROUPS, PLACES = 4, 2, 23
KERNEL, WRITES = "GroupQueryAttention", "ScatterND"


def attending(size: int, value_size: int, bias: bool, sinks: bool, **attrs: object) -> Program:
    b = Builder()
    q, k, v = (
        b.input(n, TensorType(f32, (ROWS, NEW, h, d)))
        for n, h, d in (("q", HEADS, size), ("k", GROUPS, size), ("v", GROUPS, value_size))
    )
    held = [b.input(n, TensorType(f32, (ROWS, GROUPS, ROOM, d))) for n, d in (("keys", size), ("values", value_size))]
    at = b.input("position", TensorType(i64, (ROWS,)))
    more = [
        b.input("bias", TensorType(f32, (1, HEADS, 1, ROOM))) if bias else None,
        b.input("sinks", TensorType(f32, (HEADS,))) if sinks else None,
    ]
    made = b.emit_node("cached_attention", (q, k, v, *held, at, *more), {"scale": 0.4, **attrs}).outputs
    return Program({"step": b.finish(made, ["y", "keys_out", "values_out"])}, ("step",), {}, SIZES)


def writing() -> Program:
    """Two writes that no attention follows, of rows and of a single place for all."""
    b = Builder()
    keys, values = (b.input(n, TensorType(f32, (ROWS, GROUPS, ROOM, 8))) for n in ("keys", "values"))
    new = b.input("k", TensorType(f32, (ROWS, GROUPS, NEW, 8)))
    made = [b.emit("cache_write", c, new, b.input(n, TensorType(i64, s)), axis=2)
            for c, n, s in ((keys, "position", (ROWS,)), (values, "at", ()))]  # fmt: skip
    y = b.emit("neg", new)
    return Program({"step": b.finish([y, *made], ["y", "keys_out", "values_out"])}, ("step",), {}, SIZES)


def turn(program: Program, rows: int, new: int, position: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    rng, sizes = np.random.default_rng(seed), {"rows": rows, "new": new, "room": PLACES}
    given = {
        v.name: rng.standard_normal([sizes.get(str(d), d) for d in v.type.shape]).astype(v.type.dtype.numpy)
        for v in program.functions["step"].inputs
    }
    return {**given, "position": np.array(position), **({"at": np.array(3)} if "at" in given else {})}


# rows, new tokens, each row's place: one after texts of all lengths, prompts, pieces that are run row by row, the end.
TURNS = [(3, 1, [0, 9, 22]), (2, 7, [0, 0]), (3, 5, [4, 0, 18]), (1, 6, [11]), (1, 1, [22]), (1, 16, [7])]
KINDS: dict[str, tuple[Program, str]] = {
    "plain": (attending(8, 8, False, False), KERNEL),
    "a window": (attending(8, 8, False, False, window=3), KERNEL),
    "a cap": (attending(8, 8, False, False, softcap=2.0), KERNEL),
    "sinks": (attending(8, 8, False, True), KERNEL),
    "a bias": (attending(8, 8, True, False), KERNEL),
    "all": (attending(16, 16, False, True, window=4, softcap=3.0), KERNEL),
    "a size that the kernel does not take": (attending(5, 5, True, False), WRITES),
    "values of another size": (attending(8, 16, False, False, window=3), WRITES),
    "writes alone": (writing(), WRITES),
}


@pytest.fixture(scope="module", params=KINDS)
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    program, kernel = KINDS[request.param]
    folder: Path = tmp_path_factory.mktemp("ort")
    plan = compiled(program)
    runner = opened(plan, folder)
    assert runner.built.entries["step"].aliases == {"keys_out": "keys", "values_out": "values"}
    assert kernel in {n.op_type for n in nodes(runner)}
    yield program, runner
    runner.close()


def nodes(runner: Any) -> list[Any]:
    import onnx

    (file,) = runner.built.folder.glob("*.onnx")
    model = onnx.load(str(file), load_external_data=False)
    return [*model.graph.node, *(n for f in model.functions for n in f.node)]


@pytest.mark.parametrize(("rows", "new", "position"), TURNS)
def test_it_says_what_numpy_says_and_writes_nothing_else(ready: Any, rows: int, new: int, position: list[int]):
    program, runner = ready
    given = turn(program, rows, new, position)
    want = evaluate(program, given)
    held = {n: given[n].copy() for n in ("keys", "values")}
    bound = runner.bind("step", held)
    got = bound.run(given)
    assert set(got) == {"y"}, "what is written in place is not handed back"
    assert np.abs(got["y"] - want["y"]).max() < 1e-5
    for name, array in held.items():
        assert np.array_equal(array, want[f"{name}_out"])
    for name in held:  # and what a caller passes to a plain run is left as it was
        before = given[name].copy()
        assert np.array_equal(runner.run("step", given)[f"{name}_out"], want[f"{name}_out"])
        assert np.array_equal(given[name], before)


def test_turn_after_turn_in_one_pair_of_buffers(ready: Any):
    program, runner = ready
    given = turn(program, 2, 4, [0, 0])
    held = {n: np.zeros_like(given[n]) for n in ("keys", "values")}
    bound, want = runner.bind("step", held), {n: a.copy() for n, a in held.items()}
    at = np.zeros(2, np.int64)
    for i, new in enumerate((4, 1, 1, 3, 1)):
        given = {**turn(program, 2, new, at.tolist(), i), **want}
        answers = evaluate(program, given)
        want = {n: answers[f"{n}_out"] for n in want}
        assert np.abs(bound.run(given)["y"] - answers["y"]).max() < 1e-5
        assert all(np.array_equal(held[n], want[n]) for n in held)
        at += (new, new - 1 if i == 1 else new)


def test_output_and_input_are_bound_to_one_address(ready: Any, monkeypatch: pytest.MonkeyPatch):
    """What numpy cannot see: ONNX Runtime is given one piece of memory, and says no other one back."""
    from tundish.backends.onnxruntime import bound as module

    program, runner = ready
    seen: dict[str, int] = {}
    plain = module._bind
    monkeypatch.setattr(module, "_bind", lambda b, n, a: (seen.__setitem__(n, a.ctypes.data), plain(b, n, a))[1])
    given = turn(program, 1, 1, [2])
    held = {n: given[n].copy() for n in ("keys", "values")}
    bound = runner.bind("step", held)
    bound.run(given)
    assert isinstance(bound, OrtBound)
    for name, array in held.items():
        assert seen[name] == seen[f"{name}_out"] == array.ctypes.data
    handed = [v.data_ptr() for v in bound._binding.get_outputs()]
    assert {a.ctypes.data for a in held.values()} <= set(handed)


@pytest.mark.parametrize("odd", ["a view with gaps", "read only"])
def test_memory_that_cannot_be_written_in_place_is_refused(ready: Any, odd: str):
    from tundish.ir.diagnostics import RunError

    program, runner = ready
    given = turn(program, 1, 1, [2])
    held = {n: given[n].copy() for n in ("keys", "values")}
    if odd == "read only":
        held["keys"].flags.writeable = False
    else:
        held["keys"] = np.repeat(held["keys"], 2, axis=3)[..., ::2]
    with pytest.raises(RunError, match="'keys' cannot be written over in place"):
        runner.bind("step", held)


def resident(array: np.ndarray) -> int:
    """Bytes of the mapping that an array lies in that are in memory."""
    at, held = array.ctypes.data, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(x, 16) for x in first.split("-"))
            held = low <= at < high
        elif held and first == "Rss:":
            return int(line.split()[1]) << 10
    raise AssertionError("the array lies in no mapping")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_places_that_nothing_was_written_to_take_no_memory(ready: Any):
    program, runner = ready
    room, new = 1 << 16, 9
    held = allocate(runner.built.entries["step"], {"rows": 1, "room": room})
    given = turn(program, 1, new, [0])
    if "bias" in given:
        given["bias"] = np.zeros((1, HEADS, 1, room), np.float32)
    before = resident(held["keys"])
    runner.bind("step", held).run(given)
    pages = sum(a.shape[1] * (1 + -(-new * a.shape[3] * 4 // mmap.PAGESIZE)) for a in held.values())
    assert all(a[:, :, :new].any() for a in held.values())
    assert resident(held["keys"]) - before <= pages * mmap.PAGESIZE < sum(a.nbytes for a in held.values()) / 50
