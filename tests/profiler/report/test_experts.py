"""The heat map of layers by experts."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from tundish.profiler.profiles import RoutingRow
from tundish.profiler.report.experts import MOST_TITLES, heat_map


def rows(layers: int, experts: int) -> list[RoutingRow]:
    counts = [tuple(1 + (i + e) % experts for e in range(experts)) for i in range(layers)]
    return [RoutingRow(f"model.layers.{i}.<experts>", experts, 2, c, max(c) * experts / sum(c), 0.5, 0.25)
            for i, c in enumerate(counts)]  # fmt: skip


def test_each_expert_of_each_layer_has_a_cell_as_dark_as_it_is_hot():
    told = rows(3, 8)
    root = ElementTree.fromstring(heat_map(told))
    name = "{http://www.w3.org/2000/svg}"
    cells = [[float(c.get("fill-opacity")) for c in row.iter(f"{name}rect")] for row in root.findall(f"{name}svg")]
    assert [len(row) for row in cells] == [8, 8, 8]
    for shades, row in zip(cells, told, strict=True):
        assert sorted(range(8), key=shades.__getitem__) == sorted(range(8), key=row.counts.__getitem__)
        assert max(shades) == 1.0
    assert "layers.2.<experts>" in "".join(root.itertext())


def test_a_map_of_very_many_cells_says_no_numbers():
    assert "<title>" in heat_map(rows(2, 8))
    assert "<title>" not in heat_map(rows(40, MOST_TITLES // 32))


def test_the_names_of_modules_are_text():
    assert not re.search(r"<experts>", heat_map(rows(1, 4)))
