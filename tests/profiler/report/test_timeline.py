"""Spans nest, do not overlap, and last as long as was measured, whatever the medians of the starts are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_kit import profile, transformer

from tundish.profiler.modules import paths_to
from tundish.profiler.profiles import Profile
from tundish.profiler.report.timeline import ENTRY, KERNEL, MODULE, NODE, spans

MADE = profile(transformer(2))


@given(st.lists(st.floats(0, 2), min_size=len(MADE.nodes), max_size=len(MADE.nodes)), st.sampled_from([0.0, 1e-3, 1.0]))
def test_spans_nest(starts: list[float], took: float):
    pairs = enumerate(zip(MADE.nodes, starts, strict=True))
    rows = [replace(n, start_ms=s, measured_ms=took * (i % 3)) for i, (n, s) in pairs]
    check(replace(MADE, nodes=tuple(rows)))


def test_spans_of_a_run_nest():
    check(MADE)


def check(made: Profile):
    found = spans(made)
    open_ = []
    for span in found:
        while open_ and open_[-1].depth >= span.depth:
            closed = open_.pop()
            assert closed.end_ms <= span.start_ms
        assert span.depth == len(open_)
        for outer in open_:
            assert outer.start_ms <= span.start_ms and span.end_ms <= outer.end_ms
        open_.append(span)
        if span.kind == NODE:
            above = [s.name for s in open_ if s.kind == MODULE]
            assert ["", *above] == list(paths_to(span.row.module))
            assert span.ms == pytest.approx(span.row.measured_ms, abs=1e-9)
        if span.kind == KERNEL:
            assert open_[-2].kind == NODE and (span.start_ms, span.ms) == (open_[-2].start_ms, open_[-2].ms)
    assert [s.kind for s in found].count(ENTRY) == 1 and found[0].kind == ENTRY
    assert sorted(s.name for s in found if s.kind == NODE) == sorted(n.name for n in made.nodes)
    assert [s.kind for s in found].count(KERNEL) == sum(bool(n.kernel) for n in made.nodes)
