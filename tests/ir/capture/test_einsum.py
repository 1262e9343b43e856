"""einsum, written out, against numpy's."""

from __future__ import annotations

import numpy as np
import pytest

from tundish.ir.build import Builder
from tundish.ir.capture.einsum import einsum
from tundish.ir.diagnostics import GraphError
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType

SIZES = {"b": 2, "h": 3, "i": 4, "j": 5, "d": 6, "e": 7, "g": 2, "x": 4, "A": 3}
EQUATIONS = [
    "bhid,bhjd->bhij", "bqhd,bkhd->bhqk".replace("q", "i").replace("k", "j"), "bhij,bjhd->bihd", "bid,de->bie",
    "bid,dhe->bihe", "bihe,hed->bid", "id,jd->ji", "bghid,bgjd->bghij", "ij->ji", "ij->", "ij->i", "i,i->", "i,j->ij",
    "bi,bi->bi", "bi,bj", "ba,A", "ii->i", "ii", "bii->b", "iji->j", "bi,ij,jd->bd", "bid,bjd,hd->bhij", "b,b,b->b",
    "bhi,d->dbhi", " b i , i j -> b j ", "bij,j->bi", "ij,bj->bi", ",i->i", "bd,ebd,id->ei",
]  # fmt: skip
DOTTED = [
    ("...id,...jd->...ij", ("bhid", "bhjd")), ("...id,de->...ie", ("bhid", "de")), ("b...d,bd->b...", ("bhid", "bd")),
    ("...ij->...ji", ("ij",)), ("...d,...d->...", ("hid", "bhid")), ("...i,...i", ("bhi", "hi")),
    ("i...->...", ("ijb",)), ("...ii->...i", ("bhii",)),
]  # fmt: skip
OPERANDS = [(e, tuple(e.replace(" ", "").split("->")[0].split(","))) for e in EQUATIONS] + DOTTED


def _sizes(terms: tuple[str, ...]) -> dict[str, int]:
    return {**SIZES, **{c: 3 for t in terms for c in t if c not in SIZES}}


def _run(equation: str, arrays: list[np.ndarray], shapes: list[tuple]) -> tuple[np.ndarray, list[str]]:
    b = Builder()
    values = [b.input(f"x{i}", TensorType(f32, s)) for i, s in enumerate(shapes)]
    y = einsum(b.emit, equation, values)
    symbols = {str(d) for s in shapes for d in s if not isinstance(d, int)}
    program = Program({"main": b.finish([y], ["y"])}, ("main",), symbols={n: Range() for n in symbols})
    ops = [n.op.name for n in program.entry.nodes]
    return evaluate(program, {f"x{i}": a for i, a in enumerate(arrays)})["y"], ops


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "symbolic"])
@pytest.mark.parametrize(("equation", "terms"), OPERANDS, ids=[e for e, _ in OPERANDS])
def test_means_what_numpy_says(equation: str, terms: tuple[str, ...], fixed: bool):
    rng, sizes = np.random.default_rng(len(equation)), _sizes(terms)
    arrays = [rng.normal(size=[sizes[c] for c in t]).astype(np.float32) for t in terms]
    shapes = [tuple(sizes[c] if fixed else symbol(f"size_{c}") for c in t) for t in terms]
    got, _ = _run(equation, arrays, shapes)
    np.testing.assert_allclose(got, np.einsum(equation.replace(" ", ""), *arrays), rtol=1e-5, atol=1e-5)


def test_axes_of_one_broadcast():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1, 4, 6)).astype(np.float32), rng.normal(size=(3, 5, 6)).astype(np.float32)
    got, _ = _run("hid,hjd->hij", [a, b], [a.shape, b.shape])
    np.testing.assert_allclose(got, np.einsum("id,hjd->hij", a[0], b), rtol=1e-5)


@pytest.mark.parametrize(
    ("equation", "terms", "ops"),
    [("bhid,bhjd->bhij", ("bhid", "bhjd"), ["transpose", "matmul"]), ("bid,de->bie", ("bid", "de"), ["matmul"]),
     ("bhij,bhjd->bhid", ("bhij", "bhjd"), ["matmul"]), ("id,jd->ji", ("id", "jd"), ["transpose", "matmul"]),
     ("bi,bi->bi", ("bi", "bi"), ["mul"]), ("i,j->ij", ("i", "j"), ["reshape", "reshape", "mul"])],
)  # fmt: skip
def test_writes_no_more_than_it_needs(equation: str, terms: tuple[str, ...], ops: list[str]):
    arrays = [np.ones([SIZES[c] for c in t], np.float32) for t in terms]
    assert _run(equation, arrays, [a.shape for a in arrays])[1] == ops


@pytest.mark.parametrize(
    ("equation", "shapes", "said"),
    [("ij,jk->ik", [(2, 3)], "names 2 operands"), ("ij->ik", [(2, 3)], "output letter"), ("ij", [(2, 3, 4)], "3 axes"),
     ("i1->i", [(2, 3)], "no equation"), ("ij,jk->ik", [(2, 3), (4, 5)], "is 3 and 4"), ("ii->i", [(2, 3)], "2 and 3"),
     ("ij->ijj", [(2, 3)], "twice")],
)  # fmt: skip
def test_refuses(equation: str, shapes: list[tuple], said: str):
    b = Builder()
    with pytest.raises(GraphError, match=said):
        einsum(b.emit, equation, [b.input(f"x{i}", TensorType(f32, s)) for i, s in enumerate(shapes)])
