"""The tree of modules: every node counted once on each level above it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from profile_kit import profile, transformer

from tundish.profiler.modules import depth_of, module_rows, paths_to, predicted_sum, roofline_share


def test_every_path_of_a_node_is_a_row_once_and_parents_come_first():
    made = profile(transformer(3))
    paths = [r.path for r in module_rows(made)]
    assert len(set(paths)) == len(paths) and paths[0] == ""
    assert set(paths) == {p for n in made.nodes for p in paths_to(n.module)}
    for i, path in enumerate(paths[1:], 1):
        assert path.rpartition(".")[0] in paths[:i]


def test_a_module_is_its_own_nodes_and_its_children():
    rows = {r.path: r for r in module_rows(profile(transformer(3)))}
    for row in rows.values():
        children = [r for r in rows.values() if r.path and r.path.rpartition(".")[0] == row.path and r is not row]
        assert row.measured_ms == pytest.approx(row.self_ms + sum(c.measured_ms for c in children))
        assert row.flops >= sum(c.flops for c in children) and row.depth == depth_of(row.path)
        assert all(c.depth == row.depth + 1 for c in children)


def test_the_root_holds_all_but_what_is_no_node():
    made = profile()
    extra = replace(made.nodes[0], name="unattributed", op="", module="", measured_ms=5.0)
    root = module_rows(replace(made, nodes=(*made.nodes, extra)))[0]
    assert root.nodes == len(made.nodes)
    assert root.measured_ms == pytest.approx(sum(n.measured_ms for n in made.nodes))


def test_a_module_with_a_node_without_prediction_has_none():
    made = profile()
    blind = replace(made, nodes=(replace(made.nodes[0], predicted_ms=None), *made.nodes[1:]))
    rows = {r.path: r for r in module_rows(blind)}
    assert rows[""].predicted_ms is None and rows[made.nodes[0].module].predicted_ms is None
    assert rows["head"].predicted_ms == predicted_sum(n for n in made.nodes if n.module == "head")


def test_the_share_of_the_roofline_is_weighted_by_time():
    node = profile().nodes[1]
    slow = replace(node, measured_ms=3.0, percent_of_roof=20.0, roof="memory")
    fast = replace(node, measured_ms=1.0, percent_of_roof=100.0, roof="compute")
    unknown = replace(node, measured_ms=9.0, percent_of_roof=None, roof=None)
    assert roofline_share([slow, fast, unknown]) == (pytest.approx(40.0), "memory")
    assert roofline_share([unknown]) == (None, None)
