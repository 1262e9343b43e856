"""A model of few layers, stretched, is the model of many layers, to the last name and place."""

from __future__ import annotations

from typing import Any

import pytest

from tundish.ir import dtypes
from tundish.ir.build import Builder
from tundish.ir.diagnostics import GraphError, Where
from tundish.ir.fold import fold
from tundish.ir.graph import Program
from tundish.ir.stretch import stretch
from tundish.ir.tensor import TensorType
from tundish.ir.text import to_text
from tundish.ir.verify import verify
from tundish.ir.walk import steps
from tundish.ir.weights import Held, Weight

X = TensorType(dtypes.f32, (2, 4))
W = TensorType(dtypes.f32, (4, 4))
ROW = TensorType(dtypes.f32, (4,))


class Layers:
    """x = norm(x + tanh(x · up) · down · shared) for each layer, flat, with a cache of its own for each."""

    def __init__(self, count: int, held: bool = False, odd: int = -1, caches: bool = True):
        import numpy as np

        self.b, self.weights = Builder(), {}
        self.held = (lambda t: Held(np.zeros(t.shape, np.float32))) if held else lambda t: Held()
        x = self.b.input("x", X)
        pasts = [self.b.input(f"past_{i}", X) for i in range(count)] if caches else []
        out = []
        for i in range(count):
            at = f"model.layers.{i}"
            up = self.weight(f"{at}.up" if i != odd else "model.layers.0.up", W)
            y = self.emit(f"{at}.mlp", "tanh", self.emit(f"{at}.mlp", "linear", x, up, None))
            y = self.emit(f"{at}.mlp", "linear", y, self.weight(f"{at}.down", W), None)
            y = self.emit(at, "mul", y, self.weight("model.layers.0.shared", ROW))
            y = self.emit(at, "sigmoid", self.emit(at, "silu", y))
            if caches:
                y = self.emit(at, "add", y, pasts[i])
                out.append(self.emit(at, "neg", y))
            after = f"model.layers.{i + 1}.norm" if i + 1 < count else "model.norm"
            x = self.emit(at, "add", x, y)
            x = self.emit(after, "rms_norm", x, self.weight(f"{after}.weight", ROW), eps=1e-6)
        names = ["y", *(f"present_{i}" for i in range(count if caches else 0))]
        graph = self.b.finish([x, *out], names)
        self.program = verify(fold(Program({"forward": graph}, ("forward",), self.weights)))

    def weight(self, name: str, type: TensorType) -> Any:
        if name not in self.weights:
            self.weights[name] = Weight(type, self.held(type))
            self.values = {**getattr(self, "values", {}), name: self.b.emit_node(
                "weight", (), {"name": name}, types=[type], names=[name], where=Where("m.py", 1)).output}  # fmt: skip
        return self.values[name]

    def emit(self, module: str, op: str, *values: Any, **attrs: Any) -> Any:
        with self.b.at(Where("m.py", 7, module)):
            return self.b.emit(op, *values, **attrs)


@pytest.mark.parametrize("caches", [False, True])
@pytest.mark.parametrize(("few", "many"), [(3, 3), (3, 4), (3, 11), (5, 6), (4, 40)])
def test_more_calls_are_more_layers(few: int, many: int, caches: bool) -> None:
    found = verify(stretch(Layers(few, caches=caches).program, {"model.layers": many}))
    assert to_text(found) == to_text(Layers(many, caches=caches).program)


def test_every_step_stands_at_its_own_layer() -> None:
    found = stretch(Layers(3).program, {"model.layers": 9})
    places = [s.where.module for s in steps(found) if s.node.op.name == "tanh"]
    assert places == [f"model.layers.{i}.mlp" for i in range(9)]


REFUSED = {
    "no three calls": (lambda: Layers(2).program, 9, "no three calls of one layer"),
    "fewer": (lambda: Layers(4).program, 3, "cannot become 3 layers"),
    "weights with numbers": (lambda: Layers(3, held=True).program, 9, "holds numbers"),
    "a layer that reads another's weight": (lambda: Layers(4, odd=1).program, 9, "does not follow from its number"),
    "a layer after it that does": (lambda: Layers(5, odd=2).program, 9, "does not follow from its number"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_stretched_says_why(why: str) -> None:
    make, depth, said = REFUSED[why]
    with pytest.raises(GraphError, match=said):
        stretch(make(), {"model.layers": depth})


def test_another_holder_is_refused() -> None:
    with pytest.raises(GraphError, match="encoder.block cannot be stretched"):
        stretch(Layers(3).program, {"encoder.block": 9})
