"""The page in a real browser: what is in it, what it does, and that it asks for nothing; then its text alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser_kit import Page, opened
from profile_kit import ROOFS, profile, transformer

from tundish.profiler.modules import module_rows
from tundish.profiler.profiles import NodeRow, Profile, Roofs
from tundish.profiler.report import html
from tundish.profiler.report.roofline import points

ROWS = "[...document.querySelectorAll('tr[data-node]')]"
NAMES = f"{ROWS}.map((row) => row.dataset.node)"
HOSTILE = "</script><img src=x onerror=\"document.title='taken'\">'\"&{{data}}"
WIDTHS, SCHEMES = (1280, 400), ("light", "dark")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with opened() as tab:
        yield tab


@pytest.fixture
def shown(page: Page, tmp_path: Path):
    """Opens a profile's page in a fresh tab state; afterwards nothing may have gone wrong or been asked for."""
    page.requests.clear(), page.complaints.clear()
    file = tmp_path / "profile.html"

    def show(made: Profile, width: int = 1280, scheme: str = "light") -> Page:
        html.write(made, file)
        page.show(width, scheme=scheme)
        page.open(file)
        return page

    yield show
    page.drawn()
    assert set(page.requests) <= {file.as_uri()} and page.requests
    assert page.complaints == []


MADE = profile(transformer(3))


def test_there_is_a_cell_for_each_module_and_a_row_for_each_node(shown):
    page = shown(MADE)
    cells = page.ask("[...document.querySelectorAll('[data-module]')].map((cell) => cell.dataset.module)")
    assert sorted(cells) == sorted(r.path for r in module_rows(MADE))
    assert sorted(page.ask(NAMES)) == sorted(n.name for n in MADE.nodes)
    dots = page.ask("[...document.querySelectorAll('[data-point]')].map((dot) => dot.dataset.point)")
    assert sorted(dots) == sorted(p.name for p in points(MADE, {}))


def test_cells_are_as_wide_as_their_time_and_stand_in_their_parent(shown):
    page = shown(MADE)
    boxes = page.ask(
        "Object.fromEntries([...document.querySelectorAll('[data-module]')].map((cell) => {"
        " const b = cell.getBoundingClientRect(); return [cell.dataset.module, [b.left, b.right]]; }))"
    )
    whole = boxes[""][1] - boxes[""][0]
    rows = module_rows(MADE)
    for row in rows:
        left, right = boxes[row.path]
        assert right - left == pytest.approx(whole * row.measured_ms / rows[0].measured_ms, abs=0.5)
        above = boxes[row.path.rpartition(".")[0]]
        assert above[0] - 0.5 <= left and right <= above[1] + 0.5


def test_typing_narrows_the_rows_and_clearing_brings_them_back(shown):
    page = shown(MADE)
    page.type("#search", "layers.1.mlp linear")
    wanted = {n.name for n in MADE.nodes if "layers.1.mlp" in n.module and n.op == "linear"}
    assert set(page.ask(NAMES)) == wanted and wanted
    page.type("#search", "TINY.PY:61")
    assert page.ask(NAMES) == [n.name for n in MADE.nodes if n.source == "models/tiny.py:61"]
    page.type("#search", "no such thing")
    assert page.ask(NAMES) == [] and page.ask("document.querySelector('#shown').textContent").startswith("0 of ")
    page.type("#search", "")
    assert len(page.ask(NAMES)) == len(MADE.nodes)


def test_a_heading_sorts_by_its_column_both_ways(shown):
    page = shown(MADE)
    by_name = {n.name: n for n in MADE.nodes}
    times = [by_name[name].measured_ms for name in page.ask(NAMES)]
    assert times == sorted(times, reverse=True), "the costliest stand first"
    for press in range(2):
        page.ask("[...document.querySelectorAll('th button')].find((b) => b.textContent === 'GB/s').click()")
        speeds = [by_name[name].bytes_per_s for name in page.ask(NAMES)]
        assert speeds == sorted(speeds, reverse=press == 0)
    assert page.ask("document.querySelectorAll('th[aria-sort]').length") == 1


def test_what_is_not_known_sorts_last(shown):
    blind = replace(MADE.nodes[4], predicted_ms=None)
    page = shown(replace(MADE, nodes=(*MADE.nodes[:4], blind, *MADE.nodes[5:])))
    for _ in range(2):
        page.ask("[...document.querySelectorAll('th button')].find((b) => b.textContent === 'Predicted ms').click()")
        assert page.ask(NAMES)[-1] == blind.name


def test_a_click_on_a_module_zooms_and_narrows(shown):
    page = shown(MADE)
    page.click("[data-module='layers.1.attn']")
    inside = {n.name for n in MADE.nodes if n.module.startswith("layers.1.attn")}
    assert set(page.ask(NAMES)) == inside
    width = "document.querySelector(\"[data-module='layers.1.attn']\").clientWidth"
    assert page.ask(width) > 1000
    crumbs = page.ask("[...document.querySelectorAll('#crumbs button')].map((b) => b.textContent)")
    assert crumbs == [MADE.model, "layers", "1", "attn"]
    page.click("#within")
    assert len(page.ask(NAMES)) == len(MADE.nodes) and page.ask(width) < 1000


def test_the_keyboard_reaches_every_module(shown):
    page = shown(MADE)
    page.ask("document.querySelector('[data-module][tabindex=\"0\"]').focus()")
    focused = "document.activeElement.dataset.module"
    seen = [page.ask(focused)]
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"):
        page.key(key)
        seen.append(page.ask(focused))
    assert seen == ["", "embed", "layers", "layers.0", "layers.1", "layers.2", "layers", ""]
    page.key("ArrowDown"), page.key("ArrowRight"), page.key("Enter", 13)
    assert len(page.ask(NAMES)) == sum(n.module.startswith("layers") for n in MADE.nodes)
    page.key("Escape", 27)
    assert len(page.ask(NAMES)) == len(MADE.nodes)


def test_the_tip_says_time_share_and_source(shown):
    page = shown(MADE)
    row = next(r for r in module_rows(MADE) if r.path == "head")
    page.hover("[data-module='head']")
    said = page.ask("document.querySelector('#tip').innerText")
    assert "head" in said and row.source in said and f"{row.measured_ms:.3f} ms" in said
    assert f"{row.measured_ms / MADE.total_ms:.1%}" in said
    point = points(MADE, {})[-1]
    page.hover(f"[data-point='{point.name}']")
    node = next(n for n in MADE.nodes if n.name == point.name)
    assert node.module in page.ask("document.querySelector('#tip').innerText")


def test_numbers_bear_units_of_a_thousand_or_1024(shown):
    page = shown(MADE)
    said = page.ask("[0, 1, 999, 1023, 1024, 1536, 10240, 3 << 20, 1023.9 * 1024].map(bytes)")
    assert said == ["0 B", "1 B", "999 B", "1023 B", "1 KiB", "1.5 KiB", "10 KiB", "3 MiB", "1 MiB"]
    assert page.ask("[999, 1e3, 2.24e11, 1.234e13].map((v) => rate(v, 'FLOP/s'))") == [
        "999 FLOP/s", "1 kFLOP/s", "224 GFLOP/s", "12.3 TFLOP/s",
    ]  # fmt: skip


def test_the_timeline_paints_and_a_press_on_a_node_marks_its_row(shown):
    page = shown(MADE)
    page.middle("#timeline")
    left, top, width = page.ask("(({x, y, width}) => [x, y, width])($('timeline').getBoundingClientRect())")
    colours = page.ask(
        "(() => { const d = lanes.getContext('2d').getImageData(0, 0, lanes.width, lanes.height).data;"
        " const s = new Set();"
        " for (let i = 0; i < d.length; i += 4) s.add(`${d[i]},${d[i+1]},${d[i+2]}`); return s.size; })()"
    )
    assert colours > len({n.op for n in MADE.nodes})
    last = max(MADE.nodes, key=lambda n: n.start_ms)
    end = last.start_ms + last.measured_ms
    x = left + width * (last.start_ms + last.measured_ms / 2) / end
    y = top + 22 + 19 * last.module.count(".") + 19 + 9
    page.mouse("mousePressed", x, y), page.mouse("mouseReleased", x, y), page.drawn()
    assert page.ask("document.querySelector('tr.on').dataset.node") == last.name


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_fits_its_window_and_is_readable(shown, width, scheme, tmp_path):
    page = shown(MADE, width, scheme)
    assert page.ask("document.documentElement.scrollWidth") <= width
    ink, paper = page.ask("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert contrast(ink, paper) > 7 and (luminance(paper) > 0.5) == (scheme == "light")
    for element in ("dd:last-child", ".hint", "#shown", ".predicted dd", "td.predicted"):
        colour = page.ask(f"getComputedStyle(document.querySelector('{element}')).color")
        assert contrast(colour, paper) >= 4.5, element
    cells = page.ask("[...document.querySelectorAll('[data-module]')].map((c) => [c.style.color, c.style.background])")
    for ink, under in cells:
        assert contrast(ink, under) >= 4.5
    shot = Path(os.environ.get("TUNDISH_SHOTS", tmp_path)) / f"profile-{width}-{scheme}.png"
    page.screenshot(shot)
    assert shot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and shot.stat().st_size > 20_000


def test_the_button_turns_light_into_dark_and_back(shown):
    page = shown(MADE)
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.ask(paper)
    page.click("#theme")
    assert luminance(page.ask(paper)) < 0.1 < luminance(before)
    page.click("#theme")
    assert page.ask(paper) == before


def test_hostile_text_is_shown_as_text(shown):
    rows = [replace(n, **dict.fromkeys(("op", "source", "kernel", "roof"), HOSTILE)) for n in MADE.nodes[:4]]
    rows = [replace(n, name=f"{HOSTILE}{i}", module=f"{HOSTILE}.{i}") for i, n in enumerate(rows)]
    texts = ("model", "backend", "target", "machine", "date", "phase", "precision", "calibration")
    made = replace(
        MADE, **dict.fromkeys(texts, HOSTILE), nodes=tuple(rows), memory=(), notes=(HOSTILE,), sizes={HOSTILE: 1},
        versions={HOSTILE: HOSTILE}, roofs=Roofs(ROOFS.peak_flops_per_s, {HOSTILE: 1e10}, {HOSTILE: 1e9}),
    )  # fmt: skip
    page = shown(made)
    assert page.ask("document.title").startswith(HOSTILE) and page.ask("document.querySelectorAll('img').length") == 0
    assert page.ask("document.querySelectorAll('script').length") == 2
    assert page.ask("document.querySelector('h1').textContent") == HOSTILE
    assert page.ask("document.querySelector('#search').value = 'onerror', fillTable(), 0") == 0
    assert sorted(page.ask(NAMES)) == sorted(n.name for n in rows)
    modules = page.ask("[...document.querySelectorAll('[data-module]')].map((cell) => cell.dataset.module)")
    assert sorted(modules) == sorted(r.path for r in module_rows(made))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_profile_with_nothing_known_opens(shown, width):
    unknown = ("predicted_ms", "predicted_low_ms", "predicted_high_ms", "roof", "percent_of_roof")
    nodes = [replace(n, measured_ms=0.0, **dict.fromkeys(unknown)) for n in MADE.nodes]
    bare = replace(MADE, nodes=tuple(nodes), memory=(), roofs=None, predicted_ms=None, total_ms=0.0, peak_bytes={})
    page = shown(bare, width)
    assert len(page.ask(NAMES)) == len(MADE.nodes)
    assert "calibrate" in page.ask("document.querySelector('#roofline').innerText")
    shown(replace(bare, nodes=()))
    assert page.ask(NAMES) == []


def test_three_thousand_nodes(shown):
    made = profile(transformer(200))
    page = shown(made)
    assert len(made.nodes) > 3000 and len(page.ask(NAMES)) == len(made.nodes)
    assert page.ask("document.querySelectorAll('[data-module]').length") == len(module_rows(made))
    page.type("#search", "layers.150.")
    assert len(page.ask(NAMES)) == sum("layers.150." in n.module for n in made.nodes)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it, of `rgb(r, g, b)`."""
    parts = [float(v) / 255 for v in re.findall(r"[\d.]+", colour)[:3]]
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# -- without a browser ---------------------------------------------------------------------------------


def test_the_page_is_one_file_and_equal_for_equal_profiles():
    text = html.page(MADE)
    assert text == html.page(profile(transformer(3)))
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of SVG, which no browser fetches"
    assert "{{" not in text


def test_the_data_is_the_profile():
    text = html.page(MADE).split('id="data">')[1].split("</script>")[0]
    data = json.loads(text)
    columns = data["node_columns"]
    for row, listed in zip(MADE.nodes, data["nodes"], strict=True):
        found = dict(zip(columns, listed, strict=True))
        assert (found["name"], found["module"], found["source"]) == (row.name, row.module, row.source)
        assert found["measured_ms"] == pytest.approx(row.measured_ms, rel=1e-6)
    assert [m[0] for m in data["modules"]] == [r.path for r in module_rows(MADE)]
    assert set(html.NODE_COLUMNS) <= {*NodeRow.__slots__, "flops_per_s", "bytes_per_s"}


def test_nothing_in_the_data_can_end_its_element():
    odd = replace(MADE.nodes[0], module="</script><!--<script>\u2028\u2029")
    text = html.page(replace(MADE, nodes=(odd,)))
    data = text.split('id="data">')[1].split("</script>")[0]
    assert "<" not in data and "\u2028" not in data and json.loads(data)["nodes"][0][2] == odd.module


def test_colours_go_to_the_ops_that_take_most_time():
    groups = html._groups(MADE)
    times = {op: sum(n.measured_ms for n in MADE.nodes if n.op == op) for op in groups}
    ranked = sorted(groups, key=lambda op: groups[op])
    assert [times[op] for op in ranked] == sorted(times.values(), reverse=True)
    many = tuple(replace(n, op=f"op{i}") for i, n in enumerate(MADE.nodes))
    assert max(html._groups(replace(MADE, nodes=many)).values()) == html.COLOURS
