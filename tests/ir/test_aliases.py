"""Which outputs are inputs written over: through calls and several writes, and no others."""

from __future__ import annotations

import pytest

from tundish.ir.aliases import overwritten
from tundish.ir.build import Builder
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32, i64
from tundish.ir.graph import Graph, Program, Value
from tundish.ir.tensor import TensorType
from tundish.ir.verify import verify

CACHE = TensorType(f32, (symbol("rows"), 2, symbol("room"), 4))
NEW = CACHE.with_shape(symbol("rows"), 2, 1, 4)
PLACE = TensorType(i64, (symbol("rows"),))
SIZES = {"rows": Range(1, 4), "room": Range(1, 16)}


def start() -> tuple[Builder, Value, Value, Value]:
    b = Builder()
    return b, b.input("cache", CACHE), b.input("new", NEW), b.input("at", PLACE)


def program(main: Graph, **functions: Graph) -> Program:
    return verify(Program({**functions, "main": main}, ("main",), {}, SIZES))


def test_a_write_is_the_buffer_that_it_is_given():
    b, cache, new, at = start()
    done = b.emit("cache_write", cache, new, at, axis=2)
    assert overwritten(program(b.finish([b.emit("neg", new), done], ["y", "cache_out"])), "main") == {
        "cache_out": "cache"
    }


def test_writes_one_after_the_other_are_one_buffer():
    b, cache, new, at = start()
    once = b.emit("cache_write", cache, new, at, axis=2)
    done = b.emit("cache_write", once, b.emit("neg", new), at, axis=2)
    assert overwritten(program(b.finish([done], ["out"])), "main") == {"out": "cache"}


def test_an_op_says_which_outputs_are_which_inputs():
    b = Builder()
    q, k, v = (b.input(n, TensorType(f32, (symbol("rows"), 1, 2, 4))) for n in "qkv")
    held = [b.input(n, CACHE) for n in ("keys", "values")]
    at = b.input("at", PLACE)
    made = b.emit_node("cached_attention", (q, k, v, *held, at), {"scale": 1.0}).outputs
    found = overwritten(program(b.finish(made, ["y", "keys_out", "values_out"])), "main")
    assert found == {"keys_out": "keys", "values_out": "values"}


@pytest.mark.parametrize("passed", ["cache", "other"])
def test_through_a_call_it_is_the_buffer_that_was_passed(passed: str):
    inner, cache, new, at = start()
    body = inner.finish([inner.emit("neg", new), inner.emit("cache_write", cache, new, at, axis=2)])
    b, cache, new, at = start()
    other = b.input("other", CACHE)
    given = {"cache": cache, "other": other}[passed]
    types = [v.type for v in body.outputs]
    y, out = b.emit_node("call", (given, new, at), {"function": "body"}, types=types).outputs
    assert overwritten(program(b.finish([y, out], ["y", "out"]), body=body), "main") == {"out": passed}


def test_what_is_passed_on_untouched_or_made_anew_is_no_buffer_written_over():
    b, cache, new, at = start()
    copied = b.emit("neg", b.emit("cache_write", cache, new, at, axis=2))
    assert overwritten(program(b.finish([new, copied], ["same", "copied"])), "main") == {}
