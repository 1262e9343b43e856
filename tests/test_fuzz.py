"""The fuzzer finds what is planted, keeps it so that it can be run again, and is quiet where nothing is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
from fuzz import driver
from fuzz.driver import Fuzzer
from fuzz.mutate import mutate_bytes, mutate_json, mutate_safetensors, mutate_text
from fuzz.proto import mutate_onnx
from fuzz.targets import PLANTED, TARGETS

from tundish.ir.build import Builder
from tundish.ir.diagnostics import Where
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32
from tundish.ir.graph import Program
from tundish.ir.save import save
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Weight

SAID = {
    "_fault": "KeyError: 'planted'",
    "_memory": "MemoryError",
    "_crash": "crash: SIGABRT",
    "_hang": "hang: ",
    "_outside": "does what it must not: writes ",
    "_process": "does what it must not: os.system",
}


def saved(folder: Path) -> Path:
    """A graph of two ops and a weight."""
    b = Builder(Where("m.py", 1))
    x = b.input("x", TensorType(f32, (symbol("batch"), 4)))
    weight = Weight(TensorType(f32, (4, 4)), Held(np.eye(4, dtype=np.float32)))
    w = b.emit_node("weight", (), {"name": "w"}, types=[weight.type], names=("w",)).output
    graph = b.finish([b.emit("relu", b.emit("matmul", x, w))], ["y"])
    save(Program({"main": graph}, ("main",), {"w": weight}, {"batch": Range(1, 4)}), folder)
    return folder


@pytest.fixture
def fuzzer(tmp_path: Path) -> Iterator[Fuzzer]:
    for name in PLANTED:
        (tmp_path / "seeds" / name / "one").mkdir(parents=True)
    saved(tmp_path / "graph")
    (tmp_path / "seeds" / "text" / "one").mkdir(parents=True)
    shutil.copy(tmp_path / "graph" / "program.txt", tmp_path / "seeds" / "text" / "one")
    (tmp_path / "work").mkdir()
    made = Fuzzer({"text": TARGETS["text"]}, tmp_path / "seeds", tmp_path / "work", tmp_path / "kept")
    yield made
    made.worker.stop()


def test_what_is_planted_is_found_and_can_be_run_again(fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "CPU_S", 1.0)
    monkeypatch.setattr(Fuzzer, "warm", lambda self: None)  # these seeds are no good ones
    fuzzer.targets = PLANTED
    found = {name: fuzzer.case(name, 0) for name in PLANTED}
    assert {n: f is not None and f.said.startswith(SAID[n]) for n, f in found.items()} == dict.fromkeys(SAID, True)
    assert fuzzer.case("_fault", 1) is None and fuzzer.outcomes["_fault", "finding"] == 2, "one is told of"
    kept = fuzzer.keep / "_fault-0-0"
    assert fuzzer.again(kept) == ("finding", json.loads((kept / "case.json").read_text())["said"])


def test_nothing_is_found_where_nothing_is_wrong(fuzzer: Fuzzer) -> None:
    assert [fuzzer.case("text", number) for number in range(250)] == [None] * 250
    assert fuzzer.outcomes["text", "done"] > 10 and fuzzer.outcomes["text", "refused"] > 100


@pytest.mark.parametrize("mutate", [mutate_bytes, mutate_json, mutate_safetensors, mutate_text, mutate_onnx])
def test_a_seed_gives_the_same_mutation_and_another_another(
    tmp_path: Path, mutate: Callable[[bytes, Random], bytes]
) -> None:
    import onnx
    from onnx import helper

    graph = saved(tmp_path / "graph")
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], []))
    content = {
        mutate_json: b'{"a": [1, {"b": "c"}], "d": null}', mutate_onnx: model.SerializeToString(),
        mutate_safetensors: (graph / "weights.safetensors").read_bytes(),
    }.get(mutate, (graph / "program.txt").read_bytes())  # fmt: skip
    assert isinstance(model, onnx.ModelProto)
    first = [mutate(content, Random(f"{i}")) for i in range(50)]
    assert first == [mutate(content, Random(f"{i}")) for i in range(50)]
    assert len(set(first)) > 30 and set(first) != {content}
