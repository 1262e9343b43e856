"""How much memory a plan says that caches take."""

from __future__ import annotations

import pytest
from compiler_kit import task

from tundish.compiler.driver import compile_program
from tundish.compiler.passes.cache_room import CacheRoom, cache_room
from tundish.ir.build import Builder
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32, i64
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType

HELD = ("cache_0", "cache_1", "cache_2")
LONG = {"capacity": 100, "window_capacity": 7}


def program(*lengths: str) -> Program:
    """One write into a cache of two heads of four numbers for each length."""
    b, rows = Builder(), symbol("batch")
    at = b.input("position", TensorType(i64, (rows,)))
    outs = []
    for i, name in enumerate(lengths):
        cache = b.input(f"cache_{i}", TensorType(f32, (rows, 2, symbol(name), 4)))
        new = b.input(f"new_{i}", TensorType(f32, (rows, 2, symbol("tokens"), 4)))
        outs.append(b.emit("cache_write", cache, new, at, axis=2))
    graph = b.finish(outs, [f"out_{i}" for i in range(len(outs))])
    symbols = {"batch": Range(1, 8), "tokens": Range(1, 5), **{n: Range(1, LONG[n]) for n in lengths}}
    return Program({"step": graph}, ("step",), {}, symbols)


def test_places_are_counted_by_length():
    room = cache_room(program("capacity", "capacity", "window_capacity"), "step", HELD, 1 << 20)
    assert room.place_bytes == {"capacity": 2 * 32, "window_capacity": 32}


@pytest.mark.parametrize(("free", "fits"), [(1 << 20, 100), (64 * 17 + 5, 17), (-1, 0)])
def test_the_longest_text_is_what_memory_or_the_model_allows(free: int, fits: int):
    room = cache_room(program("capacity", "capacity"), "step", HELD, free)
    assert room.longest == fits


def test_a_cache_of_a_fixed_length_is_not_counted_by_places():
    b, rows = Builder(), symbol("batch")
    cache = b.input("cache_0", TensorType(f32, (rows, 2, 16, 4)))
    new, at = b.input("new", TensorType(f32, (rows, 2, 1, 4))), b.input("position", TensorType(i64, (rows,)))
    graph = b.finish([b.emit("cache_write", cache, new, at, axis=2)], ["out"])
    made = Program({"step": graph}, ("step",), {}, {"batch": Range(1, 8)})
    assert cache_room(made, "step", HELD, 1 << 20) == CacheRoom({}, None)
    plan = compile_program(made, task(ranges=made.symbols))
    assert plan.aliases == {"step": {"out": "cache_0"}} and not [n for n in plan.notes if "caches of" in n.text]
