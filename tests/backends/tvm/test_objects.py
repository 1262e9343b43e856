"""Kernels are kept by what they are: compiled once, read again, and never trusted when broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tundish.backends.tvm import objects as objects_module
from tundish.backends.tvm.kernels.norm import norm
from tundish.backends.tvm.objects import FOLDER, objects, target_of
from tundish.compiler.hardware.baselines import BASELINES

V3 = target_of(BASELINES["x86-64-v3"])


def function(d: int = 24) -> Any:
    return norm("kernel", d=d, eps=1e-5, lanes=8, centred=True, biased=False)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were compiled, one by one."""
    seen: list[str] = []
    real = objects_module.object_code
    monkeypatch.setattr(objects_module, "object_code", lambda *a: seen.append("one") or real(*a))
    return seen


def test_a_kernel_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str]):
    monkeypatch.setenv(FOLDER, str(tmp_path / "kept"))
    first = objects({"norm_0": function()}, V3)["norm_0"]
    assert objects({"norm_7": function()}, V3)["norm_7"] == first and compiled == ["one"]
    assert objects({"norm_0": function(25)}, V3)["norm_0"].symbol != first.symbol
    assert objects({"norm_0": function()}, target_of(BASELINES["x86-64-v4"]))["norm_0"].symbol != first.symbol
    assert compiled == ["one"] * 3


def test_a_broken_one_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str]):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    first = objects({"norm_0": function()}, V3)["norm_0"]
    (file,) = tmp_path.glob("*.o")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    for broken in (bytes(data), b"", file.read_bytes()[:-1]):
        file.write_bytes(broken)
        assert objects({"norm_0": function()}, V3)["norm_0"] == first
    assert compiled == ["one"] * 4


@pytest.mark.parametrize("where", ["none", "/proc/nowhere"])
def test_it_works_where_nothing_can_be_kept(where: str, monkeypatch: pytest.MonkeyPatch, compiled: list[str]):
    monkeypatch.setenv(FOLDER, where)
    assert objects({"norm_0": function()}, V3)["norm_0"].code == objects({"norm_0": function()}, V3)["norm_0"].code
    assert compiled == ["one"] * 2


def test_the_oldest_make_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr(objects_module, "MOST_BYTES", 10_000)
    for d in range(20, 28):
        objects({"norm_0": function(d)}, V3)
    assert 0 < sum(p.stat().st_size for p in tmp_path.glob("*.o")) <= 10_000


def test_progress_counts_what_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    said: list[tuple[str, int, int]] = []
    objects({"norm_0": function(24), "norm_1": function(32)}, V3, lambda *words: said.append(words))
    assert said == [("compiling kernels", 1, 2), ("compiling kernels", 2, 2)]
