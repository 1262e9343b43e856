"""The reference backend: what it opens must be what the manifest says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tundish
from tundish.ir.build import Builder
from tundish.ir.diagnostics import LoadError, Where
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType


def negated() -> Program:
    b = Builder(Where("m.py", 1))
    x = b.input("x", TensorType(f32, (symbol("batch"),)))
    graph = b.finish([b.emit("neg", x)], ["y"])
    return Program({"main": graph}, ("main",), symbols={"batch": Range(1, 4)})


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_manifest_with_other_names_is_refused(tmp_path: Path, side: str) -> None:
    path = tmp_path / "b.tundish"
    tundish.compile(negated(), path, backend="reference")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["entries"]["main"][side][0][0] = "other"
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(LoadError, match="differ on the inputs or outputs of 'main'"):
        bundle = tundish.load(path)
        bundle.run({spec.name: np.ones(2, np.float32) for spec in bundle.entries["main"].inputs})
