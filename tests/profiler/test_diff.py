"""Two profiles of known differences, and what is said of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from cli_kit import Command, command, refused  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from profile_kit import profile, transformer

from tundish.ir.diagnostics import LoadError, TundishError
from tundish.profiler.diff import FASTER, SAME, SLOWER, diff, read_percent
from tundish.profiler.modules import module_rows
from tundish.profiler.profiles import NodeRow, Profile
from tundish.profiler.report import rows

MADE = profile(transformer(3))


def changed(which: Callable[[NodeRow], bool], factor: float, made: Profile = MADE, **changes: object) -> Profile:
    """The same run with some nodes slower, and the whole by as much."""
    nodes = tuple(replace(n, measured_ms=n.measured_ms * factor) if which(n) else n for n in made.nodes)
    lost = sum(n.measured_ms for n in nodes) - sum(n.measured_ms for n in made.nodes)
    return replace(made, nodes=nodes, total_ms=made.total_ms + lost, **changes)


def test_a_profile_differs_from_itself_in_nothing():
    found = diff(MADE, MADE)
    assert {c.verdict for c in (found.total, *found.modules, *found.nodes)} == {SAME}
    assert not found.added and not found.removed and not found.warning
    assert len(found.nodes) == len(MADE.nodes)
    assert {c.name for c in found.modules} == {r.path for r in module_rows(MADE) if r.path}


def test_what_got_slower_stands_first_with_all_that_holds_it():
    found = diff(MADE, changed(lambda n: n.module == "layers.1.mlp.up", 2.0))
    (node,) = [c for c in found.nodes if c.verdict != SAME]
    assert found.nodes[0] == node and node.verdict == SLOWER and node.op == "linear"
    assert node.change_percent == pytest.approx(100) and node.source == "models/tiny.py:50"
    slower = {c.name for c in found.modules if c.verdict == SLOWER}
    holding = {"layers.1.mlp.up", "layers.1.mlp", "layers.1"}
    assert holding <= slower <= {"layers", *holding}
    assert found.total.change_ms == pytest.approx(node.change_ms)


@given(st.floats(0.2, 5.0), st.floats(0, 50))
def test_the_verdict_is_the_rule(factor: float, threshold: float):
    found = diff(MADE, changed(lambda n: n.op == "gelu", factor), threshold)
    for c in found.nodes:
        percent = 100 * (c.after_ms / c.before_ms - 1)
        # In the kit each IQR is a twentieth of the time before: the two halves together are one.
        moved = abs(percent) > threshold and abs(c.after_ms - c.before_ms) > c.before_ms / 20
        edge = math.isclose(abs(percent), threshold, abs_tol=1e-6) or math.isclose(abs(percent), 5.0, abs_tol=1e-6)
        assert edge or c.verdict == ((SLOWER if percent > 0 else FASTER) if moved else SAME)


def test_the_spread_hides_what_may_be_chance():
    noisy = replace(MADE, nodes=tuple(replace(n, iqr_ms=n.measured_ms) for n in MADE.nodes), iqr_ms=MADE.total_ms)
    found = diff(noisy, changed(lambda n: True, 1.8, noisy))
    assert {c.verdict for c in found.nodes} == {SAME} and found.total.verdict == SAME
    assert {c.verdict for c in diff(MADE, changed(lambda n: True, 1.8)).nodes} == {SLOWER}


def test_nodes_that_only_one_has_are_told():
    fewer = replace(MADE, nodes=MADE.nodes[:-2])
    found = diff(MADE, fewer)
    assert [n.name for n in found.removed] == [n.name for n in MADE.nodes[-2:]] and not found.added
    assert [n.name for n in diff(fewer, MADE).added] == [n.name for n in MADE.nodes[-2:]]


def test_a_node_that_took_no_time_before_has_no_percentage():
    still = replace(MADE, nodes=(replace(MADE.nodes[0], measured_ms=0.0, iqr_ms=0.0), *MADE.nodes[1:]))
    found = next(c for c in diff(still, MADE).nodes if c.name == MADE.nodes[0].name)
    assert found.change_percent is None and found.verdict == SLOWER
    json.dumps(diff(still, MADE).to_json(), allow_nan=False)


def test_unlike_profiles_are_told_in_one_line():
    other = replace(MADE, machine="another machine", threads=4, sizes={"batch": 1, "seq": 32})
    warning = diff(MADE, other).warning
    assert "\n" not in warning
    for part in ("machine", "another machine", "threads (2 | 4)", "sizes (batch 2, seq 32 | batch 1, seq 32)"):
        assert part in warning


def test_names_must_be_unique():
    with pytest.raises(LoadError, match="two nodes of a profile bear one name"):
        diff(replace(MADE, nodes=(*MADE.nodes, MADE.nodes[0])), MADE)


@pytest.mark.parametrize(("text", "value"), [("5%", 5.0), ("5", 5.0), (" 2.5 % ", 2.5), (0, 0.0), ("0%", 0.0)])
def test_percentages(text, value):
    assert read_percent(text, "it") == value


@pytest.mark.parametrize("text", ["", "five", "-1%", "nan", "inf", "%", "5%%"])
def test_no_percentages(text):
    with pytest.raises(TundishError, match="takes a percentage"):
        read_percent(text, "it")


# -- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    slow = changed(lambda n: n.op == "linear", 1.5, peak_bytes={"measured": None, "predicted": 1})
    rows.write_json(MADE, tmp_path / "a.json")
    rows.write_json(slow, tmp_path / "b.json")
    rows.write_json(replace(slow, threads=7), tmp_path / "c.json")
    return slow


def test_the_table_is_plain_and_fits(command: Command, saved):
    told = command("diff", "a.json", "b.json")
    assert told.code == 0 and not told.err
    lines = told.out.splitlines()
    assert max(map(len, lines)) <= 80 and "\x1b" not in told.out
    assert lines[0].startswith("total") and lines[0].endswith(": slower")
    slower = sum(n.op == "linear" for n in MADE.nodes)
    assert f"nodes: {slower} slower, 0 faster, {len(MADE.nodes) - slower} the same" in lines
    assert any("head linear" in line and "+50.0%" in line and "tiny.py:61" in line for line in lines)


def test_json(command: Command, saved):
    told = command("diff", "a.json", "b.json", "--json", "--threshold", "60")
    assert told.code == 0
    assert {c["verdict"] for c in told.json["nodes"]} == {"same"} and told.json["total"]["change_percent"] > 20
    assert told.json["warning"] is None and told.json["threshold_percent"] == 60


def test_the_exit_code_tells_only_when_asked(command: Command, saved):
    assert command("diff", "a.json", "b.json").code == 0
    told = command("diff", "a.json", "b.json", "--fail-above", "10%")
    assert told.code == 1 and "got slower by" in told.err and "more than 10%" in told.err
    assert command("diff", "a.json", "b.json", "--fail-above", "90%").code == 0
    assert command("diff", "b.json", "a.json", "--fail-above", "0%").code == 0


def test_unlike_profiles_are_warned_of(command: Command, saved):
    told = command("diff", "a.json", "c.json")
    assert told.code == 0 and told.err.count("\n") == 1 and "threads (2 | 7)" in told.err


def test_bad_input_is_one_line(command: Command, saved, tmp_path):
    (tmp_path / "torn.json").write_bytes((tmp_path / "a.json").read_bytes()[:-100])
    (tmp_path / "other.json").write_text('{"rows": []}')
    refused(command("diff", "a.json", "torn.json"), "torn.json is no profile")
    refused(command("diff", "other.json", "a.json"), "other.json is no profile")
    refused(command("diff", "a.json", "none.json"), "cannot read none.json")
    refused(command("diff", "a.json", "b.json", "--threshold", "x"), "the threshold takes a percentage")
    refused(command("diff", "a.json", "b.json", "--fail-above", "-1"), "--fail-above takes a percentage")
