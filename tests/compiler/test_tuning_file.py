"""The table's file: what is written is read, whatever else lies there is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from compiler_kit import MACHINE

from tundish.compiler import tuning_file
from tundish.compiler.tuning import Answer, Site
from tundish.compiler.tuning_file import (
    Chip,
    Entry,
    Trial,
    add,
    answers,
    choose_table,
    default_place,
    engine_of,
    read_table,
)
from tundish.ir.diagnostics import BuildError, LoadError

CHIP = Chip.of(MACHINE)
ENGINE = engine_of("tester", {"library": "1.2"})
SITE = Site("fuse", "linear + gelu", "8x16", "f32")


def entry(option: str = "apart", **changes: object) -> Entry:
    row = Entry(ENGINE, SITE.choice, SITE.pattern, SITE.shape, SITE.dtype, option, 0.9, {option: 0.9}, "m",
                {"batch": 1}, "2026-01-01")  # fmt: skip
    return msgspec.structs.replace(row, **changes)


def trial(option: str = "apart") -> Trial:
    return Trial(ENGINE, "abc", {"batch": 1}, None, "f32", "", SITE.choice, SITE.pattern, SITE.shape, SITE.dtype,
                 option, "fused", "faster", ms=9.0, base_ms=10.0, ratio=0.9, low=0.8, high=0.95, rounds=15)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TUNDISH_TUNING", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "table.json"


def test_what_is_written_is_read(place):
    written = add(place, CHIP, [trial()], [entry()])
    assert read_table(place) == written
    assert written.entries == [entry()] and written.trials == [trial()]
    assert answers(written, ENGINE).answers == {SITE: Answer("apart", 0.9)}
    assert answers(written, "tester, library 1.3").answers == {}
    assert [p.name for p in place.parent.iterdir()] == [place.name]


def test_rows_are_added_and_an_entry_takes_the_place_of_its_own(place):
    add(place, CHIP, [trial()], [entry()])
    other = entry(shape="4x4")
    table = add(place, CHIP, [trial("other")], [entry("fused"), other])
    assert len(table.trials) == 2 and {e.site: e.option for e in table.entries} == {SITE: "fused", other.site: "apart"}
    elsewhere = entry(engine="tester, library 2")
    assert len(add(place, CHIP, entries=[elsewhere]).entries) == 3


def test_a_write_that_fails_leaves_what_was_there(place, monkeypatch):
    add(place, CHIP, [trial()])
    before = place.read_bytes()

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tuning_file.os, "replace", fails)
    with pytest.raises(BuildError, match="disk is full|No space"):
        add(place, CHIP, [trial()])
    assert place.read_bytes() == before and len(list(place.parent.iterdir())) == 1


def test_the_default_place_is_one_file_for_each_chip(place, monkeypatch):
    found = default_place(CHIP)
    assert found.parent.parts[-3:] == ("cache", "tundish", "tuning") and found.name.startswith("a-test-machine-2-")
    assert default_place(Chip.of(replace(MACHINE, cores=4))) != found
    assert default_place(Chip.of(replace(MACHINE, features=frozenset({"avx2"})))) != found
    monkeypatch.setenv("TUNDISH_TUNING", str(place))
    assert default_place(CHIP) == place
    monkeypatch.setenv("TUNDISH_TUNING", "none")
    assert default_place(CHIP) is None


def test_which_table_a_compilation_takes(place, monkeypatch):
    assert choose_table(None, MACHINE, ENGINE).info is None
    default = default_place(CHIP)
    add(default, CHIP, entries=[entry()])
    chosen = choose_table(None, MACHINE, ENGINE)
    assert chosen.file == default and chosen.info == {"sha256": chosen.table.digest, "answers": 1}
    assert choose_table("none", MACHINE, ENGINE).info is None
    add(place, CHIP, entries=[entry("fused")])
    assert choose_table(place, MACHINE, ENGINE).table.answers[SITE].option == "fused"
    monkeypatch.setenv("TUNDISH_TUNING", str(place.with_name("to-be-made.json")))
    assert choose_table(None, MACHINE, ENGINE).info is None


def test_another_version_of_the_backend(place):
    newer = engine_of("tester", {"library": "1.3"})
    add(default_place(CHIP), CHIP, entries=[entry()])
    chosen = choose_table(None, MACHINE, newer)
    assert chosen.info is None and "library 1.2" in chosen.note and "tundish tune" in chosen.note
    add(place, CHIP, entries=[entry()])
    with pytest.raises(LoadError, match=r"has nothing for tester, library 1\.3"):
        choose_table(place, MACHINE, newer)
    assert "was left out" in choose_table(place, MACHINE, newer, only=False).note


def test_another_chip(place):
    add(place, Chip.of(replace(MACHINE, cores=64)), entries=[entry()])
    chosen = choose_table(place, MACHINE, ENGINE)
    assert chosen.info is None and not chosen.table.answers
    assert all(part in chosen.note for part in ("measured on another chip", "64 cores", "2 cores", "left out"))
    with pytest.raises(LoadError, match="measured on another chip"):
        add(place, CHIP, [trial()])


def changed(change: Callable[[dict], object]) -> Callable[[dict], bytes]:
    def make(table: dict) -> bytes:
        result = change(table)
        return json.dumps(table if result is None else result).encode()

    return make


HOSTILE = {
    "empty": lambda t: b"",
    "no JSON": lambda t: b"\x80\x04.",
    "a list": lambda t: b"[]",
    "deep": lambda t: b"[" * 100_000,
    "half of it": lambda t: json.dumps(t).encode()[:-40],
    "no schema": changed(lambda t: {k: v for k, v in t.items() if k != "schema"}),
    "schema 0": changed(lambda t: t.update(schema=0)),
    "no entries": changed(lambda t: t.pop("entries") and None),
    "an entry without a site": changed(lambda t: t["entries"][0].pop("shape") and None),
    "a number for a name": changed(lambda t: t["entries"][0].update(option=3)),
    "an empty option": changed(lambda t: t["entries"][0].update(option="")),
    "a line break in a name": changed(lambda t: t["entries"][0].update(pattern="a\nb")),
    "a name too long": changed(lambda t: t["entries"][0].update(pattern="a" * 1000)),
    "a ratio of nothing": changed(lambda t: t["entries"][0].update(ratio=0)),
    "a negative ratio": changed(lambda t: t["entries"][0]["measured"].update(apart=-1.0)),
    "twice": changed(lambda t: t["entries"].append(t["entries"][0])),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_table_is_refused(name, place):
    add(place, CHIP, [trial()], [entry()])
    place.write_bytes(HOSTILE[name](json.loads(place.read_bytes())))
    with pytest.raises(LoadError) as stop:
        choose_table(place, MACHINE, ENGINE)
    assert "\n" not in stop.value.problem and place.name in stop.value.problem and "--tuning none" in stop.value.hint
    with pytest.raises(LoadError):
        add(place, CHIP, [trial()])


def test_a_newer_table(place):
    add(place, CHIP, entries=[entry()])
    place.write_bytes(json.dumps({"schema": 99, "chips": "all"}).encode())
    with pytest.raises(LoadError, match="made by a newer tundish"):
        choose_table(place, MACHINE, ENGINE)


def test_no_file_and_a_folder(place, tmp_path):
    for wrong in (place, tmp_path):
        with pytest.raises(LoadError, match="cannot read the tuning table"):
            choose_table(wrong, MACHINE, ENGINE)
