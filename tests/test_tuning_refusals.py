"""What `tune` and `--tuning` refuse, as the one who typed the command reads it: one clear line, exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_kit import Command, command, made, refused  # noqa: F401

from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.tuning_file import SCHEMA, Chip, add

BUNDLE = ("compile", "bert-tiny", "-o", "out.tundish", "--tuning")


def _foreign(at: Path) -> str:
    table = add(at / "t.json", Chip.of(this_machine()))
    rows = json.loads((at / "t.json").read_bytes())
    rows["chip"]["name"] = "another chip"
    (at / "t.json").write_text(json.dumps(rows))
    return f"{table.chip.cores} cores"


TABLES = {
    "broken": ('{"schema": 1, "chip": {', "is no tuning table"),
    "newer": (json.dumps({"schema": SCHEMA + 1}), "newer tundish"),
    "of a bundle": (json.dumps({"schema": 1, "name": "x", "backend": "onnxruntime"}), "is no tuning table"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("verb", ["compile", "tune"])
def test_tables(name: str, verb: str, command: Command, tmp_path: Path) -> None:
    text, part = TABLES[name]
    (tmp_path / "t.json").write_text(text)
    given = (*BUNDLE, "t.json") if verb == "compile" else ("tune", "bert-tiny", "-o", "t.json")
    refused(command(*given), part, "t.json")
    assert (tmp_path / "t.json").read_text() == text and not (tmp_path / "out.tundish").exists()


def test_a_table_of_another_chip(command: Command, tmp_path: Path) -> None:
    """It cannot be added to; a compilation leaves it out, and says so."""
    cores = _foreign(tmp_path)
    refused(command("tune", "bert-tiny", "-o", "t.json"), "measured on another chip", "another chip", cores)
    told = command(*BUNDLE, "t.json")
    assert told.code == 0 and "measured on another chip" in " ".join(told.out.split())
    told = command(*BUNDLE, "t.json", "--backend", "tvm", "--json")
    (note,) = [n for n in told.json["notes"] if "tuning" in n]  # type: ignore[index]
    assert "measured on another chip" in note and cores in note and told.json["tuning"] == "defaults"  # type: ignore[index]


def test_no_such_table(command: Command) -> None:
    refused(command(*BUNDLE, "none.json"), "cannot read the tuning table none.json", "tundish tune")


TUNE = {
    ("--budget", "soon"): "--budget takes a time",
    ("--budget=-5min",): "--budget takes a time",
    ("--workers", "many"): "--workers takes",
    ("--workers", "ray://nowhere"): "--workers takes",
    ("--precision", "int4"): "there is no precision",
    ("--seq", "100000"): "at most",
    ("--past", "4"): "a prefill has no past",
    ("--backend", "none"): "backend",
    ("--target", "tpu"): "there is no target 'tpu'",
    ("--threads", "4000"): "cores for this process",
    (): "TUNDISH_TUNING says that there is no table",
}


@pytest.mark.parametrize("given", TUNE)
def test_tune(given: tuple[str, ...], command: Command) -> None:
    place = ("-o", "t.json") if given else ()
    refused(command("tune", "bert-tiny", *place, *given), TUNE[given])
    assert not Path("t.json").exists()


BUNDLES = {
    ("--phase", "decode"): "a bundle has its phase already",
    ("--task", "fill-mask"): "a bundle has its task already",
    ("--target", "cuda"): "a bundle has its target already",
    ("--backend", "reference"): "a bundle has its backend already",
    ("--seq", "4096"): "seq is 4096, outside",
    ("--past", "4"): "a prefill has no past",
}


@pytest.mark.parametrize("given", BUNDLES)
def test_tune_of_a_bundle(given: tuple[str, ...], command: Command, made: Path) -> None:
    refused(command("tune", made / "bert.tundish", "-o", "t.json", *given), BUNDLES[given])


def test_a_backend_that_runs_nothing(command: Command) -> None:
    refused(command("tune", "bert-tiny", "-o", "t.json", "--backend", "null"), "the null backend runs nothing")
