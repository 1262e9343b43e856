"""The search over choices: finds the fastest, goes on where it was, keeps to its time, trusts no wrong number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from compiler_kit import MACHINE

import tundish
from tundish.backends.onnxruntime.backend import OnnxRuntime
from tundish.backends.onnxruntime.lower import OTHERS, USUAL
from tundish.compiler.capabilities import Fusion
from tundish.compiler.tuning import WHOLE, Choice
from tundish.compiler.tuning_file import Chip, read_table
from tundish.profiler import host_lock
from tundish.profiler.candidates import Here
from tundish.profiler.duel import Duel, Ring, Side
from tundish.profiler.paired import paired
from tundish.profiler.tune import Subject, Tuner

QUICK = Ring(rounds=8, most=1, patience_s=0.0, slot_s=0.01)
COLOURS = (
    Choice("hue", ("red", "green", "blue"), at_run=True),
    Choice("tone", ("dark", "light"), at_run=True),
    Choice("grain", ("fine", "coarse"), at_run=True),
)
MS = {"red": 10.0, "green": 8.0, "blue": 6.0, "dark": 1.0, "light": 2.0, "fine": 5.0, "coarse": 4.0}


@pytest.fixture(autouse=True)
def own_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(host_lock.tempfile, "tempdir", None)


def total(run: Mapping[str, str]) -> float:
    return sum(MS[option] for option in run.values())


@dataclass
class Stopwatch:
    """In place of a duel: times that are known, and what was asked. stop_after: so many, then Ctrl-C."""

    time: Callable[[Mapping[str, str]], float] = total
    asked: list[tuple[dict[str, str], dict[str, str]]] = field(default_factory=list)
    stop_after: float = math.inf
    problems: Mapping[str, Duel] = field(default_factory=dict)

    def __call__(self, base: Side, other: Side, *_: object) -> Duel:
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((dict(base.run), dict(other.run)))
        for option in other.run.values():
            if option in self.problems:
                return self.problems[option]
        return Duel(paired([self.time(base.run)] * 15, [self.time(other.run)] * 15))


def tuner(place: Path, watch: Stopwatch, *, deadline: float = math.inf, choices=COLOURS, **subject: object) -> Tuner:
    given = Subject(
        "a test", "abc", {"batch": 1}, "f32", None, "tester", Chip.of(MACHINE), {},
        lambda table: tuple(table.pick(c, WHOLE, "abc", "f32") for c in choices), bundle=place.parent,
    )  # fmt: skip
    return Tuner(given, place, place.parent, Here(), Ring(), deadline, lambda *_: None, watch)


def chosen(place: Path) -> dict[str, str]:
    return {e.choice: e.option for e in read_table(place).entries}


BEST = {"hue": "blue", "tone": "dark", "grain": "coarse"}


def test_it_finds_the_fastest_of_each_choice(tmp_path):
    place, watch = tmp_path / "t.json", Stopwatch()
    result = tuner(place, watch).run()
    assert chosen(place) == BEST and result["complete"] and result["left"] == 0
    assert {c["site"].split()[0]: c["option"] for c in result["chosen"]} == {"hue": "blue", "grain": "coarse"}
    assert result["total"]["ratio"] == pytest.approx(total(BEST) / total({c.name: c.options[0] for c in COLOURS}))
    by = {e.choice: e for e in read_table(place).entries}
    assert by["hue"].ratio == pytest.approx(12 / 16)  # green, then blue, in the time of the whole
    assert by["tone"].measured == {"light": pytest.approx(13 / 12)}


def test_what_is_faster_is_measured_twice_and_the_default_against_itself(tmp_path):
    watch = Stopwatch()
    tuner(tmp_path / "t.json", watch).run()
    assert watch.asked[0][0] == watch.asked[0][1]
    wins = [pair for pair in watch.asked if total(pair[1]) < total(pair[0])]
    assert all(wins.count(pair) == 2 for pair in wins[:-1]) and wins[-1][0] == watch.asked[0][0]


@pytest.mark.parametrize("stops", range(1, 9))
def test_a_run_that_was_stopped_goes_on(tmp_path, stops):
    whole = Stopwatch()
    tuner(tmp_path / "whole.json", whole).run()
    place, first = tmp_path / "t.json", Stopwatch(stop_after=stops)
    try:
        tuner(place, first).run()
    except KeyboardInterrupt:
        pass
    second = Stopwatch()
    tuner(place, second).run()
    assert read_table(place) == read_table(tmp_path / "whole.json")
    assert len(first.asked) + len(second.asked) <= len(whole.asked) + 1  # the half of one that was to be sure
    third = Stopwatch()
    tuner(place, third).run()
    assert third.asked == []


TILES = Choice("tiles", ("usual", "rows 8", "rows 4", "deep x2", "deep /2", "rows 8, deep x2", "rows 4, deep x2"),
               at_run=True, alone=True)  # fmt: skip
ALONE = {"rows 8": 0.9, "rows 4": 0.95, "deep x2": 0.97, "deep /2": 1.1, "rows 8, deep x2": 0.85}
OF_TILES = {"usual": 10.0, "rows 8, deep x2": 9.0, "rows 8": 9.5}


@dataclass
class Kernels:
    """In place of kernels that are timed alone: ratios that are known."""

    asked: list[list[str]] = field(default_factory=list)

    def __call__(self, site, options, until):
        self.asked.append(list(options))
        return {o: paired([10.0] * 15, [10.0 * ALONE[o]] * 15) for o in options[1:]} if until > 1.0 else {}


def of_tiles(place: Path, watch: Stopwatch, kernels: Kernels, deadline: float = math.inf) -> Tuner:
    made = tuner(place, watch, choices=(TILES,), deadline=deadline)
    return replace(made, subject=replace(made.subject, alone=kernels))


def test_of_many_kernels_those_that_are_faster_alone_are_tried_in_the_model(tmp_path):
    place, kernels = tmp_path / "t.json", Kernels()
    watch = Stopwatch(time=lambda run: OF_TILES[run["tiles"]])
    result = of_tiles(place, watch, kernels).run()
    assert kernels.asked == [["usual", "rows 8", "rows 4", "deep x2", "deep /2"], ["usual", "rows 8, deep x2"]]
    assert {run["tiles"] for pair in watch.asked for run in pair} <= set(OF_TILES)
    assert chosen(place) == {"tiles": "rows 8, deep x2"} and result["complete"]
    (entry,) = read_table(place).entries
    assert set(entry.measured) <= set(OF_TILES) and entry.ratio == pytest.approx(0.9)
    again = Kernels()
    of_tiles(place, Stopwatch(stop_after=0), again).run()
    assert again.asked == []


def test_no_kernel_that_is_slower_alone_is_built_into_a_model(tmp_path):
    kernels, watch = Kernels(), Stopwatch()
    slow = {o: 1.5 for o in TILES.options}
    of_tiles(tmp_path / "t.json", watch, lambda site, options, until: {
        o: paired([10.0] * 15, [10.0 * slow[o]] * 15) for o in options[1:]}).run()  # type: ignore[arg-type]
    assert watch.asked == [] and kernels.asked == []


def test_kernels_are_not_timed_when_the_time_is_up(tmp_path):
    result = of_tiles(tmp_path / "t.json", Stopwatch(), Kernels(), deadline=0.0).run()
    assert not result["complete"] and read_table(tmp_path / "t.json").trials == []


def test_no_time_is_left(tmp_path):
    place, watch = tmp_path / "t.json", Stopwatch()
    result = tuner(place, watch, deadline=0.0).run()
    assert watch.asked == [] and not result["complete"] and result["left"] == 4
    assert any("4 options left" in note for note in result["notes"])


def test_one_that_time_cut_short_is_not_noted(tmp_path):
    place = tmp_path / "t.json"
    result = tuner(place, Stopwatch(problems={"green": Duel(None, cut=True)})).run()
    assert not result["complete"] and [t.choice for t in read_table(place).trials] == ["floor"]


def test_a_gain_must_exceed_what_two_processes_of_one_bundle_differ_by(tmp_path):
    class Uneasy(Stopwatch):
        def __call__(self, base: Side, other: Side, *rest: object) -> Duel:
            if base == other:
                return Duel(paired([10.0] * 15, [9.0] * 15))
            return super().__call__(base, other, *rest)

    place = tmp_path / "t.json"
    tuner(place, Uneasy(), choices=COLOURS[2:]).run()  # coarse gains 20%
    assert chosen(place) == {"grain": "coarse"}
    MS_5 = {"fine": 5.0, "coarse": 4.6}  # 8%, and the floor is 10%
    other = tmp_path / "u.json"
    tuner(other, Uneasy(time=lambda run: sum(MS_5[o] for o in run.values())), choices=COLOURS[2:]).run()
    assert chosen(other) == {"grain": "fine"}


def test_what_is_no_faster_together_is_not_kept(tmp_path):
    def slow_together(run: Mapping[str, str]) -> float:
        return 20.0 if {"blue", "coarse"} <= set(run.values()) and fooled else total(run)

    class Fooled(Stopwatch):
        def __call__(self, base: Side, other: Side, *rest: object) -> Duel:
            nonlocal fooled
            fooled = len({k for k in base.run if base.run[k] != other.run[k]}) > 1
            return super().__call__(base, other, *rest)

    fooled, place = False, tmp_path / "t.json"
    result = tuner(place, Fooled(time=slow_together)).run()
    assert result["chosen"] == [] and result["total"]["verdict"] == "not faster"
    assert chosen(place) == {c.name: c.options[0] for c in COLOURS}
    assert any("the defaults stay" in note for note in result["notes"])


@pytest.mark.parametrize("wrong, verdict", [(True, "wrong numbers"), (False, "cannot")])
def test_what_may_not_be_chosen_is_not_although_it_would_be_fastest(tmp_path, wrong, verdict):
    place = tmp_path / "t.json"
    result = tuner(place, Stopwatch(problems={"blue": Duel(None, problem="it is odd", wrong=wrong)})).run()
    assert chosen(place)["hue"] == "green"
    row = next(r for r in result["rows"] if r["option"] == "blue")
    assert (row["verdict"], row["reason"], row["ratio"]) == (verdict, "it is odd", None)


# -- a real model --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> str:
    """bert-tiny, captured once."""
    folder = tmp_path_factory.mktemp("graph") / "bert.tir"
    tundish.capture("bert-tiny", output=folder)
    return str(folder)


@pytest.fixture
def offers(monkeypatch):
    """What ONNX Runtime offers, cut to a few choices."""
    usual = OnnxRuntime.capabilities

    def cut(kernels: dict[str, tuple[str, ...]], fusions=frozenset()) -> None:
        from dataclasses import replace

        monkeypatch.setattr(
            OnnxRuntime, "capabilities",
            lambda self, machine: replace(usual(self, machine), kernels=kernels, fusions=fusions, runs=()),
        )  # fmt: skip
        monkeypatch.setattr("tundish.compiler.passes.fuse_projections.MEETINGS", {})

    return cut


def test_a_tiny_model_end_to_end(offers, graph, tmp_path):
    place = tmp_path / "table.json"
    offers({"attention": (USUAL, "products")}, frozenset({Fusion("linear", ("gelu",))}))
    result = tundish.tune(graph, place, seq=16, workers=0, ring=QUICK)
    assert [(r["choice"], r["pattern"], r["option"]) for r in result["rows"]] == [
        ("fuse", "linear + gelu", "apart"), ("kernel", "attention", "products")]  # fmt: skip
    assert result["complete"] and all(r["rounds"] == 8 and r["ratio"] > 0 for r in result["rows"])
    # What was found decides what is compiled, in the same bytes each time.
    taken = {e.choice: e.option for e in read_table(place).entries}
    made = [tundish.compile(graph, tmp_path / name, tuning=place) for name in ("one", "two")]
    assert made[0].manifest.text() == made[1].manifest.text()
    assert made[0].manifest.info["tuning"]["answers"] == 2
    operators = _operators(made[0].path)
    assert ("BiasGelu" in operators) == (taken["fuse"] == "fused")
    assert ("Attention" in operators) == (taken["kernel"] == USUAL)


def _operators(bundle: Path) -> set[str]:
    import onnx

    model = onnx.load(next(bundle.glob("onnxruntime/*.onnx")), load_external_data=False)
    return {n.op_type for n in model.graph.node}


def _scaled(factor: float):
    from tundish.backends.onnxruntime.lower_attention import _attention_23

    return lambda to, node: to("Mul", _attention_23(to, node), to.scalar(factor, node.output.type.dtype))


def _fails(to, node):
    raise ZeroDivisionError("no kernel")


def test_kernels_with_wrong_numbers_and_that_fail_are_never_chosen(offers, graph, tmp_path, monkeypatch):
    monkeypatch.setitem(OTHERS, "attention", {"wrong": _scaled(1.001), "fails": _fails})
    offers({"attention": (USUAL, "wrong", "fails")})
    result = tundish.tune(graph, tmp_path / "t.json", seq=16, workers=0, ring=QUICK)
    wrong, fails = result["rows"]
    assert wrong["verdict"] == "wrong numbers" and "it differs from the default" in wrong["reason"]
    assert fails["verdict"] == "cannot" and "ZeroDivisionError: no kernel" in fails["reason"]
    assert result["chosen"] == [] and read_table(tmp_path / "t.json").entries == []


def test_a_kernel_that_builds_the_same_files_is_not_measured(offers, graph, tmp_path, monkeypatch):
    from tundish.backends.onnxruntime.lower_attention import _attention_23

    monkeypatch.setitem(OTHERS, "attention", {"again": lambda to, node: _attention_23(to, node)})
    offers({"attention": (USUAL, "again")})
    (row,) = tundish.tune(graph, tmp_path / "t.json", seq=16, workers=0, ring=QUICK)["rows"]
    assert row["verdict"] == "same files" and row["rounds"] == 0


def test_of_a_bundle_only_what_is_set_when_it_is_opened(graph, tmp_path, monkeypatch):
    from dataclasses import replace

    usual = OnnxRuntime.capabilities
    runs = (Choice("spinning", ("on", "off"), at_run=True),)
    monkeypatch.setattr(OnnxRuntime, "capabilities", lambda s, m: replace(usual(s, m), runs=runs))
    bundle = tundish.compile(graph, tmp_path / "b")
    before = {p: p.read_bytes() for p in bundle.path.rglob("*") if p.is_file()}
    result = tundish.tune(bundle, tmp_path / "t.json", seq=16, ring=QUICK)
    assert [r["choice"] for r in result["rows"]] == ["spinning"]
    assert any("compile the model again" in note for note in result["notes"])
    assert {p: p.read_bytes() for p in bundle.path.rglob("*") if p.is_file()} == before
    answers = np.array([e.option for e in read_table(tmp_path / "t.json").entries])
    again = tundish.compile(graph, tmp_path / "c", tuning=tmp_path / "t.json")
    assert again.manifest.options.get("run", {}) == ({"spinning": "off"} if "off" in answers else {})
