"""An account as a person reads it, and as a spreadsheet does."""

from __future__ import annotations

import csv
import io

import pytest

from tundish.ir import dims
from tundish.ir.ops.moe import distinct_experts
from tundish.profiler.report import accounting
from tundish.profiler.report.accounting import COUNTS, branches, count, formula, show, to_csv


def module(path: str, own: int, total: int, parameters: int = 0) -> dict:
    row = {"module": path, "depth": len(path.split(".")) if path else 0}
    for prefix, value in (("", own), ("total_", total)):
        row |= {f"{prefix}{c}": value for c in COUNTS} | {f"{prefix}count": 1, f"{prefix}intensity": 0.5}
        row |= {f"{prefix}parameters": parameters, f"{prefix}active_parameters": parameters}
    return row


def found(**changes) -> dict:
    paths = [f"model.layers.{i}" for i in range(3)]
    layers = [row for path in paths for row in (module(path, 0, 20), module(f"{path}.mlp", 20, 20))]
    row = {
        "model": "toy", "phase": "prefill", "sizes": {"batch": 1, "seq": 4}, "parameters": 60, "active_parameters": 60,
        "weights_bytes": 240, **dict.fromkeys(COUNTS, 70), "intensity": 0.5, "kv_cache": None,
        "activation_peak_bytes": 64, "activation_peak_at": {"batch": 1, "seq": 4},
        "by_module": [module("", 0, 70), module("model", 10, 70), module("model.layers", 0, 60), *layers],
        "by_op": [{"op": "linear", "count": 3, **dict.fromkeys(COUNTS, 70), "intensity": 0.5}], "notes": ["a note"],
    }  # fmt: skip
    row |= changes
    keys = ("phase", "sizes", *COUNTS, "intensity", "activation_peak_bytes", "activation_peak_at")
    return {**row, "by_phase": [{**{k: row[k] for k in keys}, "kv_cache_bytes": 0}]}


@pytest.mark.parametrize(("text", "wanted"), [
    ("3*batch*seq*seq-2*seq+1", "3·batch·seq² - 2·seq + 1"), ("18432*batch", "18,432·batch"), (7000, "7,000"),
    ("2*min(8, past+1)", "2·min(8, past + 1)"), ("-3*seq", "-3·seq"), ("(seq//2)*4", "4·(seq//2)"),
])  # fmt: skip
def test_a_formula_reads_as_people_write_it(text, wanted):
    assert formula(text) == wanted


def test_a_formula_says_what_it_is_worth():
    """Read back as arithmetic, it gives the same numbers."""
    batch, seq = dims.symbol("batch"), dims.symbol("seq")
    dim = 12345 * batch * seq * seq * seq - 7 * batch * dims.minimum(seq, 40) + 99
    text = formula(dim).replace(",", "").replace("min(40 seq)", "min(40, seq)").replace("·", "*").replace("³", "**3")
    for at in ({"batch": 2, "seq": 3}, {"batch": 5, "seq": 64}):
        assert eval(text, {"min": min}, dict(at)) == dims.evaluate(dim, at)


@pytest.mark.parametrize(("number", "wanted"), [
    (0, "0"), (999, "999"), (1280, "1.280 k"), (32_000_000_000, "32.00 G"), (999_960, "1.000 M"), (10**18, "1.000 E"),
])  # fmt: skip
def test_counts_have_four_digits(number, wanted):
    assert count(number) == wanted


def test_equal_layers_are_one_branch_with_their_sums():
    rows = [(b.name, b.depth, b.times, b.sums["flops"]) for b in branches(found())]
    assert rows == [("toy", 0, 1, 70), ("model", 1, 1, 70), ("layers.*", 2, 3, 60), ("mlp", 3, 3, 60)]
    assert [b.name for b in branches(found(), 1)] == ["toy", "model"]


def test_it_prints_every_part(capsys):
    show(found(), 0)
    out = capsys.readouterr().out
    for part in ("parameters  60", "by phase", "prefill by module", "layers.* ×3", "prefill by op", "note: a", "85.7%"):
        assert part in out, part
    assert "active" not in out


def test_a_narrow_terminal_gets_fewer_columns_and_is_told(monkeypatch, capsys):
    monkeypatch.setattr(accounting, "PIPED", 80)
    show(found())
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "…" not in out
    assert "too narrow for written" in out and "FLOP/byte" in out


def test_experts_are_told_apart_from_what_a_token_uses(capsys):
    show(found(active_parameters=15))
    out = capsys.readouterr().out
    assert "15 (15, 25.0%) active per token" in out and "parameters  active" in out


def test_symbols_are_printed_as_formulas(capsys):
    rows = [module("", 0, 0), {**module("mlp", 0, 0), "total_flops": "2*batch*seq*seq"}]
    show(found(flops="2*batch*seq*seq", sizes={"batch": "batch", "seq": 4}, by_module=rows))
    out = capsys.readouterr().out
    assert "prefill, with batch, seq = 4" in out and "2·batch·seq²" in out and "mlp" in out


def test_the_least_of_many_has_a_name_and_a_place_of_its_own(capsys):
    """What tokens reach of 4 experts is followed along lines, which nest in the order in which they were drawn."""
    tokens = dims.symbol("batch") * dims.symbol("seq")
    reached = distinct_experts(tokens, 4, 1, 1000)
    show(found(flops=str(32 * reached + tokens), sizes={"batch": "batch", "seq": "seq"}))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  flops") and line.endswith("batch·seq + 32·m1") for line in lines)
    start = next(i for i, line in enumerate(lines) if "m1 = min(1,000·batch·seq," in line)
    end = next(i for i, line in enumerate(lines) if i >= start and line.endswith(")"))
    text = "".join(lines[start : end + 1]).partition("min(")[2].rstrip(")")
    parts = [dims.parse(p.replace(",", "").replace("·", "*")) for p in text.split(",  ")]
    assert len(parts) > 2 and parts[-1] == 4000
    for n in (1, 3, 8, 100):
        at = {"batch": 1, "seq": n}
        assert min(dims.evaluate(p, at) for p in parts) == dims.evaluate(reached, at)


def test_csv_has_every_row_and_adds_up():
    rows = list(csv.DictReader(io.StringIO(to_csv(found()))))
    assert [r["table"] for r in rows].count("module") == [r["table"] for r in rows].count("own") == 9
    own = sum(int(r["flops"]) for r in rows if r["table"] == "own")
    whole = next(int(r["flops"]) for r in rows if r["table"] == "module" and r["name"] == "")
    assert own == whole == sum(int(r["flops"]) for r in rows if r["table"] == "op")
