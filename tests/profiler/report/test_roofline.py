"""The drawing against the formula: a point at a roof lies on its line."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_kit import ROOFS, profile

from tundish.profiler.profiles import Roofs
from tundish.profiler.report.roofline import Point, ceilings, points, roofline_svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*args, **options):
    return ElementTree.fromstring(roofline_svg(*args, **options))


def number(element, name: str) -> float:
    return float(element.get(name).rstrip("%"))


def test_every_ceiling_is_a_line_with_its_name_and_value():
    root = drawn(ROOFS, standalone=True, title="here")
    titles = [t.text for line in root.iter(f"{SVG}line") for t in line.iter(f"{SVG}title")]
    assert titles == [str(c) for c in ceilings(ROOFS)]
    assert "memory 24 GB/s" in titles and "compute 224 GFLOP/s" in titles and "bf16 460 GFLOP/s" in titles
    text = [t.text for t in root.iter(f"{SVG}text")]
    assert "here" in text and {"L1", "L2", "L3", "memory"} <= set(text)


@given(st.floats(0.2, 9.0), st.sampled_from(sorted(ROOFS.bandwidths)))
def test_a_point_at_a_bandwidth_lies_on_its_line(intensity: float, level: str):
    speed = min(intensity * ROOFS.bandwidths[level], ROOFS.peak_flops_per_s)
    root = drawn(ROOFS, [Point("p", intensity, speed), Point("far", 0.01, 1e8)])
    dot = next(c for c in root.iter(f"{SVG}circle") if c.get("data-point") == "p")
    line = next(e for e in root.iter(f"{SVG}line") if (e.findtext(f"{SVG}title") or "").startswith(level))
    x1, x2, y1, y2 = (number(line, n) for n in ("x1", "x2", "y1", "y2"))
    x, y = number(dot, "cx"), number(dot, "cy")
    wanted = y2 if x >= x2 else y1 + (y2 - y1) * (x - x1) / (x2 - x1)
    assert y == pytest.approx(wanted, abs=0.3)


def test_there_is_a_point_for_each_node_that_does_flops():
    made = profile()
    found = points(made, {"linear": 0})
    assert {p.name for p in found} == {n.name for n in made.nodes if n.hardware_flops and n.measured_ms}
    assert 0 < len(found) < len(made.nodes)
    linear = next(n for n in made.nodes if n.op == "linear")
    point = next(p for p in found if p.name == linear.name)
    assert point.intensity == linear.flops / (linear.read_bytes + linear.written_bytes) and point.group == 0
    assert point.flops_per_s == pytest.approx(linear.flops / linear.measured_ms * 1e3)


@given(
    st.floats(1e6, 1e18),
    st.dictionaries(st.text(min_size=1), st.floats(1e6, 1e15), max_size=5),
    st.lists(st.tuples(st.floats(1e-9, 1e9), st.floats(1.0, 1e19)), max_size=5),
)
def test_whatever_is_given_stays_in_the_frame(peak, bandwidths, at):
    bandwidths = {k: v for k, v in bandwidths.items() if k.isprintable()}
    root = drawn(Roofs(peak, bandwidths), [Point(f"<{i}>", x, y, 0.5) for i, (x, y) in enumerate(at)])
    for element in root.iter():
        for name in ("cx", "x1", "x2"):
            if name in element.attrib:
                assert 0 <= number(element, name) <= 100
        for name in ("cy", "y1", "y2"):
            if name in element.attrib:
                assert math.isfinite(number(element, name)) and 0 <= number(element, name) <= number(root, "height")


def test_names_are_escaped():
    hostile = '"></svg><script>alert(1)</script>'
    point = Point(hostile, 1.0, 1e8, 1.0, 0, hostile)
    text = roofline_svg(Roofs(1e9, {hostile: 1e9}), [point], standalone=True, title=hostile)
    assert "<script" not in text
    ElementTree.fromstring(text)
