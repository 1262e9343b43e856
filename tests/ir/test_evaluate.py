"""Running in numpy: binding of sizes, calls, dtypes, and what is said when inputs do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tundish.ir.diagnostics import LoadError, RunError
from tundish.ir.dtypes import bf16, f32
from tundish.ir.evaluate import Evaluator, bind, evaluate
from tundish.ir.graph import Node
from tundish.ir.tensor import TensorType
from tundish.ir.text import from_text
from tundish.ir.weight_file import write_weights
from tundish.ir.weights import Held, Weight

TEXT = """\
symbol batch: 1..4
symbol seq: 1..

weight w: f32[2, 2] = held

function layer(%x: f32[batch, seq, 2], %w: f32[2, 2]) {
  %0: f32[batch, seq, 2] = linear(%x, %w, _)   # m.py:5 layers.{i}
  return %0
}

entry main(%x: f32[batch, seq, 2], %past: f32[batch, 2*seq]) {
  %w: f32[2, 2] = weight(name="w")   # m.py:1
  %0: f32[batch, seq, 2] = call(%x, %w, function="layer", index=0)   # m.py:2 layers.0
  %1: f32[batch, seq, 2] = call(%0, %w, function="layer", index=1)   # m.py:3 layers.1
  %2: f32[batch, seq*2] = reshape(%1, shape=[batch, 2*seq])   # m.py:4
  %3: f32[batch, seq*2] = add(%2, %past)   # m.py:4
  return flat=%3, hidden=%1
}

entry count(%x: f32[batch, seq, 2]) {
  %0: i64[] = dim_value(dim=batch*seq)   # m.py:9
  return n=%0
}
"""
W = np.array([[0, 1], [2, 0]], np.float32)
PROGRAM = from_text(TEXT, weights={"w": Weight(TensorType(f32, (2, 2)), Held(W))})


def inputs(batch: int = 2, seq: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((batch, seq, 2)).astype(np.float32),
        "past": rng.standard_normal((batch, 2 * seq)).astype(np.float32),
    }


@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (2, 3), (4, 50)])
def test_outputs_are_those_of_numpy_at_any_size(batch: int, seq: int) -> None:
    given = inputs(batch, seq)
    found = evaluate(PROGRAM, given)
    hidden = given["x"] @ W @ W
    assert list(found) == ["flat", "hidden"]
    np.testing.assert_allclose(found["hidden"], hidden, rtol=1e-6)
    np.testing.assert_allclose(found["flat"], hidden.reshape(batch, -1) + given["past"], rtol=1e-6)
    assert all(a.dtype == np.float32 for a in found.values())


def test_an_entry_is_chosen_by_name() -> None:
    assert evaluate(PROGRAM, {"x": inputs(2, 3)["x"]}, "count")["n"] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.pop("past"), "missing input past(.|\n)*the inputs are x: "),
        (lambda g: g.update(more=g["x"]), "unknown input more"),
        (lambda g: g.update(x=g["x"].astype(np.float64)), r"input 'x' is f32\[batch, seq, 2\](.|\n)*found: float64"),
        (lambda g: g.update(x=g["x"][0]), r"input 'x' is f32(.|\n)*found: float32\[3, 2\]"),
        (lambda g: g.update(x=g["x"][:, :, :1]), r"input 'x' is f32\[batch, seq, 2\](.|\n)*found: \[2, 3, 1\]"),
        (lambda g: g.update(past=g["past"][:1]), "batch is 2 in one input and 1 in 'past'"),
        (lambda g: g.update(past=g["past"][:, :5]), r"input 'past' is f32\[batch, 2\*seq\](.|\n)*found: \[2, 5\]"),
        (lambda g: g.update(x=g["x"].tolist()), "input 'x' is no numpy array(.|\n)*found: list(.|\n)*numpy.asarray"),
        (lambda g: g.update(inputs(5, 3)), "batch is 5, outside 1..4"),
        (lambda g: g.update(inputs(2, 0)), "seq is 0, outside 1.."),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: object, message: str) -> None:
    given = inputs()
    change(given)  # type: ignore[operator]
    with pytest.raises(RunError, match=message):
        evaluate(PROGRAM, given)


def test_sizes_are_read_from_the_inputs() -> None:
    assert bind(PROGRAM.functions["main"], inputs(2, 3), PROGRAM.symbols) == {"batch": 2, "seq": 3}


def test_float64_computes_wider_and_keeps_integers() -> None:
    given = inputs()
    wide = Evaluator(PROGRAM, float64=True).run(given)
    assert wide["hidden"].dtype == np.float64
    exact = given["x"].astype(np.float64) @ W @ W
    np.testing.assert_array_equal(wide["hidden"], exact)
    assert Evaluator(PROGRAM, float64=True).run({"x": given["x"]}, "count")["n"].dtype == np.int64


def test_every_node_is_shown_with_the_path_of_its_calls() -> None:
    seen: list[tuple[str, str]] = []

    def note(path: str, node: Node, results: tuple[np.ndarray, ...]) -> None:
        assert [r.shape for r in results] == [a.shape for a in results]
        seen.append((path, node.op.name))

    Evaluator(PROGRAM, on_node=note).run(inputs())
    assert seen == [
        ("", "weight"), ("0", "linear"), ("", "call"), ("1", "linear"), ("", "call"), ("", "reshape"), ("", "add"),
    ]  # fmt: skip


def test_narrow_types_are_rounded_after_every_node() -> None:
    text = """\
symbol n: 1..

entry main(%x: bf16[n]) {
  %0: bf16[] = constant(value=1.0, dtype=bf16)   # m.py:1
  %1: bf16[n] = add(%x, %0)   # m.py:1
  %2: bf16[n] = sub(%1, %0)   # m.py:2
  return y=%2
}
"""
    program = from_text(text)
    x = np.array([0.001, 0.5], bf16.numpy)
    np.testing.assert_array_equal(evaluate(program, {"x": x})["y"].astype(np.float32), [0.0, 0.5])
    assert evaluate(program, {"x": x}, float64=True)["y"][0] == pytest.approx(float(x[0]), abs=1e-15)


def test_weights_are_read_from_a_folder(tmp_path: Path) -> None:
    stored = write_weights(tmp_path / "w.safetensors", [("w", TensorType(f32, (2, 2)), lambda: W)])
    program = PROGRAM.replace(weights={"w": Weight(TensorType(f32, (2, 2)), stored["w"])})
    found = evaluate(program, inputs(), folder=tmp_path)
    np.testing.assert_array_equal(found["flat"], evaluate(PROGRAM, inputs())["flat"])


def test_a_program_without_bytes_does_not_run() -> None:
    with pytest.raises(LoadError, match="a weight has a shape but no bytes"):
        evaluate(from_text(TEXT), inputs())


def test_a_size_that_is_none_is_refused() -> None:
    program = from_text("""\
symbol n: 1..
entry main(%x: f32[n], %y: f32[n//(n-1)]) {
  %0: f32[n] = neg(%x)   # m.py:1
  return %0
}
""")
    evaluate(program, {"x": np.ones(3, np.float32), "y": np.ones(1, np.float32)})
    with pytest.raises(RunError, match="input 'y' is f32.*, which has no size here"):
        evaluate(program, {"x": np.ones(1, np.float32), "y": np.ones(1, np.float32)})


def test_sizes_that_an_op_cannot_take_name_the_users_line() -> None:
    program = from_text("""\
symbol n: 1..
entry main(%x: f32[n]) {
  %0: f32[2, n//2] = reshape(%x, shape=[2, n//2])   # model.py:7 halves
  return %0
}
""")
    assert evaluate(program, {"x": np.ones(4, np.float32)})["output_0"].shape == (2, 2)
    with pytest.raises(RunError, match=r"model.py:7 \(in halves\): reshape cannot be computed: (.|\n)*float32\[3\]"):
        evaluate(program, {"x": np.ones(3, np.float32)})
