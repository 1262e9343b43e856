"""Kernels are kept by what they are: compiled once, read again, and never trusted when broken."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture
def small_files() -> Iterator[Any]:
    """Files can be no longer than asked: what is longer fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_nothing_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str], small_files: Any
):
    monkeypatch.setenv(FOLDER, "none")
    code = objects({"norm_0": function()}, V3)["norm_0"].code
    monkeypatch.setenv(FOLDER, str(tmp_path))
    small_files(len(code))  # the object itself can be written; with its hash, as it is kept, it cannot
    assert objects({"norm_0": function()}, V3)["norm_0"].code == code
    small_files(resource.RLIM_INFINITY)
    assert list(tmp_path.iterdir()) == [] and compiled == ["one"] * 2
    objects({"norm_0": function()}, V3)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    for name, age_s in ((".a.o.partial-1", 2 * objects_module.STALE_S), (".b.o.partial-2", 0.0)):
        (tmp_path / name).write_bytes(b"half")
        stamp = (tmp_path / name).stat().st_mtime - age_s
        os.utime(tmp_path / name, (stamp, stamp))
    objects({"norm_0": function()}, V3)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == [".b.o.partial-2"]


BUILD = """
import sys
from pathlib import Path
from tundish.backends.tvm.kernels.norm import norm
from tundish.backends.tvm.objects import objects, target_of
from tundish.compiler.hardware.baselines import BASELINES
made = {f"norm_{d}": norm("kernel", d=d, eps=1e-5, lanes=8, centred=True, biased=False) for d in range(24, 40)}
print("ready", flush=True)
sys.stdin.readline()
import hashlib
found = objects(made, target_of(BASELINES["x86-64-v3"]))
print(hashlib.sha256(b"".join(one.code for one in found.values())).hexdigest(), flush=True)
"""


def test_two_processes_at_once_share_a_folder(tmp_path: Path):
    """Neither sees a half-written kernel of the other's, and both make the same."""
    environment = {**os.environ, FOLDER: str(tmp_path), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    started = [
        subprocess.Popen([sys.executable, "-P", "-c", BUILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                         env=environment)
        for _ in range(2)
    ]  # fmt: skip
    assert [p.stdout.readline() for p in started if p.stdout] == ["ready\n"] * 2
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in started]
    assert said[0] == said[1] != "" and [p.returncode for p in started] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 16 and all(p.suffix == ".o" for p in tmp_path.iterdir())


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
