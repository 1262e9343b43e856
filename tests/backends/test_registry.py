"""Backends by name, and what is said where a library is missing."""

from __future__ import annotations

import sys

import pytest

from tundish.backends import registry
from tundish.ir.diagnostics import LoadError


def test_all_are_usable_here() -> None:
    rows = {row.name: row for row in registry.available()}
    assert list(rows) == ["reference", "null", "onnxruntime", "tvm"]
    assert all(row.usable and not row.reason for row in rows.values())
    assert rows["onnxruntime"].versions["onnxruntime"]


def test_unknown_name() -> None:
    with pytest.raises(LoadError, match="there is no backend 'tvm2'") as caught:
        registry.get("tvm2")
    assert "reference, null, onnxruntime" in caught.value.hint


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    registry.get.cache_clear()
    try:
        with pytest.raises(LoadError, match="backend 'onnxruntime' is not usable here: .*onnxruntime") as caught:
            registry.get("onnxruntime")
        assert caught.value.hint == "pip install 'tundish'"
        row = next(r for r in registry.available() if r.name == "onnxruntime")
        assert not row.usable and "onnxruntime" in row.reason
    finally:
        registry.get.cache_clear()
