"""The calibration file: round trip, its place, whose it is, and files that are none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tundish.compiler.hardware.caches import ASSUMED, Cache, caches
from tundish.compiler.hardware.calibration import (
    Point,
    default_path,
    find_calibration,
    mismatch,
    read_calibration,
    write_calibration,
)
from tundish.ir.diagnostics import BuildError, LoadError

from .calibration_kit import MACHINE, calibration, family

WHOLE = calibration(family("linear", Point(at=(8.0, 16.0, 32.0), seconds=1e-5, residual=-0.1)))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "cpu.json"
    write_calibration(place, WHOLE)
    assert read_calibration(place) == WHOLE
    assert [p.name for p in place.parent.iterdir()] == ["cpu.json"]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="cannot write"):
        write_calibration(tmp_path / "file" / "cpu.json", WHOLE)


def changed(**at: Any) -> dict[str, Any]:
    """The file's JSON with one value changed: `peaks__0__flops_per_s=-1`."""
    found: Any = msgspec.to_builtins(WHOLE)
    for path, value in at.items():
        *parents, last = [int(p) if p.isdigit() else p for p in path.split("__")]
        inner = found
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return found


BAD: list[tuple[str, str, str]] = [
    ("not JSON", "hello", "malformed"),
    ("empty", "", "truncated"),
    ("cut off", json.dumps(changed())[:400], "truncated"),
    ("a list", "[]", "object"),
    ("NaN", json.dumps(changed(peaks__0__flops_per_s=float("nan"))), "malformed"),
    ("infinite", json.dumps(changed(peaks__0__flops_per_s=1234.5)).replace("1234.5", "1e999"), "range"),
    ("negative", json.dumps(changed(peaks__0__flops_per_s=-1.0)), "peaks"),
    ("nought", json.dumps(changed(bandwidths__2__read_bytes_per_s=0.0)), "bandwidths"),
    ("text for a number", json.dumps(changed(backends__onnxruntime__families__0__overhead_s="fast")), "overhead_s"),
    ("a field that is missing", json.dumps({k: v for k, v in changed().items() if k != "machine"}), "machine"),
    ("no peak", json.dumps(changed(peaks=[])), "peaks"),
    ("newer", json.dumps(changed(schema=99)), "schema 99"),
    ("no such schema", json.dumps(changed(schema=0)), "schema"),
    ("nested without end", "[" * 100_000, ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "field"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_file_that_is_none_is_refused_by_name_and_field(text: str, field: str, tmp_path: Path) -> None:
    place = tmp_path / "cpu.json"
    place.write_text(text)
    with pytest.raises(LoadError) as caught:
        read_calibration(place)
    assert "cpu.json" in caught.value.problem
    assert field in caught.value.message


def test_points_of_one_family_have_one_number_of_coordinates(tmp_path: Path) -> None:
    ragged = family("linear", *(Point(at=at, seconds=1e-5, residual=0.0) for at in ((1.0,), (1.0, 2.0))))
    write_calibration(tmp_path / "cpu.json", calibration(ragged))
    with pytest.raises(LoadError, match="coordinates"):
        read_calibration(tmp_path / "cpu.json")


def test_its_place(tmp_path: Path) -> None:
    assert default_path("cpu", {"TUNDISH_CALIBRATION": "/a/b.json", "XDG_CACHE_HOME": "/c"}) == Path("/a/b.json")
    assert default_path("cuda", {"XDG_CACHE_HOME": "/c"}) == Path("/c/tundish/calibration/cuda.json")
    assert default_path("cpu", {"HOME": "/h"}) == Path("/h/.cache/tundish/calibration/cpu.json")


@pytest.mark.parametrize("field", ["name", "arch", "cores", "features", "target"])
def test_another_machines_is_not_used_and_it_says_why(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNDISH_CALIBRATION", str(tmp_path / "cpu.json"))
    write_calibration(tmp_path / "cpu.json", WHOLE)
    found, about = find_calibration(MACHINE)
    assert found == WHOLE and "2026-11-25" in about
    values: dict[str, Any] = {"cores": 3, "features": frozenset({"fma"})}
    other = dataclasses.replace(MACHINE, **{field: values.get(field, "another")})
    found, about = find_calibration(other)
    assert found is None and field in about
    assert mismatch(WHOLE, MACHINE) is None


def test_no_file_is_a_reason_unless_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNDISH_CALIBRATION", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_calibration(MACHINE) == (None, "this machine was never calibrated (tundish calibrate)")
    with pytest.raises(LoadError, match="tundish calibrate"):
        find_calibration(MACHINE, tmp_path / "none.json")


def test_caches_are_read_as_the_kernel_tells_them(tmp_path: Path) -> None:
    for i, (kind, level, size, cpus) in enumerate(
        [("Data", 1, "48K", "0"), ("Instruction", 1, "32K", "0"), ("Unified", 2, "1024K", "0-1"),
         ("Unified", 3, "32M", "0-7,16")]
    ):  # fmt: skip
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size), ("shared_cpu_list", cpus)):
            (folder / name).write_text(f"{text}\n")
    assert caches(tmp_path) == (Cache("L1", 48 << 10, 1), Cache("L2", 1 << 20, 2), Cache("L3", 32 << 20, 9))
    assert caches(tmp_path / "none") == ASSUMED
