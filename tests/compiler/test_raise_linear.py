"""Products with a matrix become linear, take their bias, and work on rows where they are."""

from __future__ import annotations

from compiler_kit import BATCH, SEQ, Draft, ops, run, same_numbers

from tundish.compiler.passes.raise_linear import raise_linear


def raised(program):
    done = run(raise_linear, program)
    same_numbers(program, done.program)
    return ops(done.program)


def test_a_matmul_with_one_matrix_and_a_vector_added():
    d = Draft()
    y = d.emit("matmul", d.x(BATCH, SEQ, 4), d.weight("w", 4, 6))
    assert raised(d.program(d.emit("add", d.weight("b", 6), y))) == ["linear"]


def test_a_matmul_of_stacks_stays():
    d = Draft()
    assert raised(d.program(d.emit("matmul", d.x(BATCH, SEQ, 4), d.x(BATCH, 4, 6, name="y")))) == ["matmul"]


def test_what_is_added_by_row_is_no_bias():
    d = Draft()
    y = d.emit("linear", d.x(6, 4), d.weight("w", 4, 6))
    assert raised(d.program(d.emit("add", y, d.weight("b", 6, 1)))) == ["linear", "add"]


def test_a_second_vector_is_no_bias_of_a_linear_that_has_one():
    d = Draft()
    y = d.emit("linear", d.x(6, 4), d.weight("w", 4, 6), d.weight("b", 6))
    assert raised(d.program(d.emit("add", y, d.weight("c", 6)))) == ["linear", "add"]


def rows(d, x, features):
    """GPT-2's Conv1D: flatten, multiply, unflatten."""
    flat = d.emit("reshape", x, shape=(BATCH * SEQ, 4))
    y = d.emit("linear", flat, d.weight("w", 4, features), d.weight("b", features))
    return d.emit("reshape", y, shape=(BATCH, SEQ, features))


def test_flattened_rows_come_back():
    d = Draft()
    assert raised(d.program(rows(d, d.x(BATCH, SEQ, 4), 6))) == ["reshape", "linear"]


def test_flattened_heads_come_back():
    d = Draft()
    assert raised(d.program(rows(d, d.x(BATCH, SEQ, 2, 2), 6))) == ["reshape", "linear"]


def test_features_that_are_cut_stay_as_they_are():
    d = Draft()
    y = d.emit("linear", d.emit("reshape", d.x(BATCH, SEQ, 4), shape=(BATCH * SEQ, 4)), d.weight("w", 4, 6))
    assert raised(d.program(d.emit("reshape", y, shape=(BATCH, SEQ, 3, 2)))) == ["reshape", "linear", "reshape"]
