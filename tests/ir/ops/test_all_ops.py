"""What must hold of every op: schema, shapes, axes, work, and the meaning of its decomposition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tundish.ir import dims
from tundish.ir.build import Builder
from tundish.ir.dims import Range
from tundish.ir.dtypes import boolean
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.op import OPS, Op
from tundish.ir.tensor import TensorType, Work

from .cases import CASES, DEFAULT, STRUCTURE, Case
from .splitting import named_axes, pieces, read

IDS = [str(c) for c in CASES]


def results(case: Case, arrays: list[np.ndarray | None], sizes: dict[str, int]) -> tuple[np.ndarray, ...]:
    with np.errstate(all="ignore"):
        raw = case.op.reference(*arrays, **case.attrs_at(sizes))
    outs = raw if isinstance(raw, tuple) else (raw,)
    return tuple(np.asarray(o) for o in outs)


def test_every_op_has_an_example():
    assert set(OPS) - {c.name for c in CASES} == STRUCTURE


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_says_what_it_is(name: str):
    op = OPS[name]
    assert op.__doc__ and op.__doc__ != Op.__doc__
    first = op.__doc__.strip().splitlines()[0]
    assert first.endswith((".", ":")), "the first line is one sentence"
    left, right = op.axes.split("->")
    assert all(read(group) is not None for group in (*left.split(","), *right.split(",")))


@pytest.mark.parametrize("case", CASES, ids=IDS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_infer_says_the_shape_of_the_reference(case: Case, data: st.DataObject):
    sizes = {name: data.draw(st.integers(1, 6), label=name) for name in DEFAULT}
    sizes["t"] = max(sizes["t"], sizes["s"])
    found = results(case, case.arrays(sizes), sizes)
    for type, array in zip(case.outs(), found, strict=True):
        assert array.shape == tuple(dims.evaluate(d, sizes) for d in type.shape)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_axes_name_the_dims(case: Case):
    """A letter is one size wherever it stands, `1` is one, `(a b)` a product; ranks agree."""
    groups = named_axes(case)
    size: dict[str, dims.Dim] = {}
    for type, names in groups:
        assert len(names) == type.rank
        for d, parts in zip(type.shape, names, strict=True):
            if parts == ("1",):
                assert d == 1
            elif len(parts) == 1 and not parts[0].endswith("!"):
                assert size.setdefault(parts[0], d) == d


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_free_axes_may_be_split(case: Case):
    """Two halves of every input along a free axis give two halves of every output."""
    sizes = dict(DEFAULT, b=4, s=4, t=6, n=6)
    arrays = case.arrays(sizes)
    whole = results(case, arrays, sizes)
    for inputs, where in pieces(case, arrays, sizes):
        with np.errstate(all="ignore"):
            parts = [case.op.reference(*half, **case.attrs_at(sizes)) for half in inputs]
        halves = [p if isinstance(p, tuple) else (p,) for p in parts]
        for i, axis in enumerate(where):
            joined = np.concatenate([h[i] for h in halves], axis)
            np.testing.assert_allclose(joined, whole[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_work_is_the_same_before_and_after_sizes_are_known(case: Case):
    work = case.op.work(case.outs(), case.types, case.full)
    assert isinstance(work, Work)
    for sizes in (DEFAULT, {"b": 1, "s": 1, "t": 1, "n": 1}, {"b": 7, "s": 16, "t": 33, "n": 12}):
        late = work.at(sizes)
        assert min(late.counts.values()) >= 0 and late.hardware_flops >= late.flops
        bound = [t if t is None else t.with_shape(*(dims.evaluate(d, sizes) for d in t.shape)) for t in case.types]
        outs = [t.with_shape(*(dims.evaluate(d, sizes) for d in t.shape)) for t in case.outs()]
        attrs = case.op.complete_attrs(case.attrs_at(sizes))
        assert late == case.op.work(outs, bound, attrs)


DECOMPOSED = [c for c in CASES if c.op.decompose is not None]


def decomposed(case: Case) -> Program:
    b = Builder()
    values = [None if t is None else b.input(f"x{i}", t) for i, t in enumerate(case.types)]
    for name in DEFAULT:  # so that every symbol has a size
        b.input(f"size_{name}", TensorType(boolean, (dims.symbol(name),)))
    raw = case.op.decompose(b, *values, **case.full)
    outs = raw if isinstance(raw, (tuple, list)) else (raw,)
    assert [v.type for v in outs] == list(case.outs())
    assert case.name not in {n.op.name for n in b.nodes}
    return Program({"main": b.finish(outs)}, ("main",), symbols={n: Range() for n in DEFAULT})


@pytest.mark.parametrize("case", DECOMPOSED, ids=str)
@pytest.mark.parametrize("sizes", [DEFAULT, dict.fromkeys("bstn", 1), {"b": 3, "s": 4, "t": 9, "n": 2}], ids=str)
def test_decompose_means_the_same(case: Case, sizes: dict[str, int]):
    program, arrays = decomposed(case), case.arrays(sizes, seed=1)
    given = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
    given |= {f"size_{n}": np.zeros(s, bool) for n, s in sizes.items()}
    found = evaluate(program, given).values()
    for got, wanted in zip(found, results(case, arrays, sizes), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("case", DECOMPOSED, ids=str)
def test_an_op_counts_no_more_flops_than_its_decomposition(case: Case):
    """So that a pass which raises a pattern to the op never seems to add work."""
    nodes = decomposed(case).entry.nodes
    parts = sum((n.op.work(n.output_types, n.input_types, n.attrs).flops for n in nodes), start=0)
    own = case.op.work(case.outs(), case.types, case.full).flops
    assert dims.evaluate(own, DEFAULT) <= dims.evaluate(parts, DEFAULT)
