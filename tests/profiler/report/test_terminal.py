"""The table of a profile in a pipe: plain, within 80 columns, the costliest first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from profile_kit import profile, transformer

from tundish.profiler.report import terminal


@pytest.fixture
def said(capsys):
    def of(made, **options) -> list[str]:
        terminal.show(made, **options)
        return capsys.readouterr().out.splitlines()

    return of


def test_it_is_plain_and_fits(said):
    lines = said(profile(transformer(12)))
    assert not any("\x1b" in line for line in lines)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in ("measured  ", "predicted  ", "unattributed", "peak memory", "calibration", "batch 2, seq 32"):
        assert part in text


def test_names_that_are_too_long_keep_their_ends(said):
    made = profile()
    module = "model." + "deep." * 40 + "query"
    long = replace(made.nodes[0], module=module, source="x" * 90 + ".py:123", measured_ms=9.0)
    lines = said(replace(made, nodes=(long, *made.nodes[1:]), machine="m" * 200, total_ms=10.0))
    assert max(map(len, lines)) <= 80
    assert any("deep.query" in line and ".py:123" in line for line in lines)


def test_hostile_text_is_text(said):
    made = profile()
    odd = replace(made.nodes[0], module="[red]x[/red] [link=a]", measured_ms=9.0)
    assert any("[red]x[/red]" in line for line in said(replace(made, model="[bold]m", nodes=(odd,))))


def test_equal_layers_are_one_line_and_add_up():
    made = profile(transformer(5))
    lines = terminal.by_module(made)
    assert [line["measured"] for line in lines] == sorted((line["measured"] for line in lines), reverse=True)
    assert sum(line["measured"] for line in lines) == pytest.approx(sum(n.measured_ms for n in made.nodes))
    assert {"layers.*.mlp.up ×5", "layers.*.attn ×5", "head"} <= {line["name"] for line in lines}


def test_unknown_is_not_zero(said):
    made = profile()
    blind = [replace(n, predicted_ms=None, percent_of_roof=None, roof=None) for n in made.nodes]
    peak = {"measured": None, "predicted": None}
    lines = said(replace(made, nodes=tuple(blind[:1]), predicted_ms=None, peak_bytes=peak))
    assert "predicted     not known" in lines and "peak memory   unknown measured, unknown predicted" in lines
    (head,) = [line for line in lines if line.startswith("embed gather")]
    assert head.split()[5:8] == ["-", "-", "-"]


def test_a_row_of_what_is_no_node_is_not_a_node():
    made = profile()
    extra = replace(made.nodes[0], name="unattributed", measured_ms=99.0)
    assert len(terminal.by_node(replace(made, nodes=(*made.nodes, extra)))) == len(made.nodes)
