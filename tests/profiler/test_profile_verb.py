"""`tundish profile` on the command line: its JSON, its files, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Command, command, made, refused  # noqa: F401  (fixtures)

from tundish.ir.save import load

ASKED = {"total_ms", "nodes", "unattributed_ms", "peak_bytes"}
COLUMNS = {
    "name", "op", "module", "source", "measured_ms", "predicted_ms", "flops", "read_bytes", "written_bytes", "roof",
    "percent_of_roof",
}  # fmt: skip
QUICK = ("--warmup", "0", "--repeats", "2")


def test_the_contract_for_scripts(command: Command, made: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"a.{kind}" for kind in ("html", "trace", "csv")}
    asked = [word for kind, file in files.items() for word in (f"--{kind}", file)]
    told = command("profile", made / "bert.tundish", "--batch", "2", "--seq", "16", *QUICK, *asked, "--json")
    assert told.code == 0, told.err
    found = told.json
    assert set(found) >= ASKED and all(set(n) >= COLUMNS for n in found["nodes"])  # type: ignore[call-overload,index]
    assert found["sizes"] == {"batch": 2, "seq": 16}  # type: ignore[call-overload,index]
    assert found["peak_bytes"]["measured"] > 0  # type: ignore[call-overload,index]
    assert all(file.stat().st_size for file in files.values())


def test_a_table_for_people(command: Command, made: Path) -> None:
    told = command("profile", made / "bert.tundish", "--seq", "8", "--no-memory", *QUICK)
    assert told.code == 0 and "unattributed" in told.out and "eling_bert.py:" in told.out


@pytest.mark.parametrize(
    "words, parts",
    [
        (("--repeats", "0"), ("at least one run", "--repeats 0")),
        (("--warmup", "-1"), ("--warmup -1",)),
        (("--threads", "4000"), ("cores for this process", "--threads 4000")),
        (("--seq", "33"), ("seq is 33, outside 1..32", "--seq")),
        (("--batch", "5"), ("batch is 5, outside 1..4", "--batch")),
        (("--past", "5"), ("a prefill has no past",)),
        (("--phase", "decode"), ("the bundle was compiled for prefill", "--phase decode")),
        (("--phase", "training"), ("there is no phase 'training'",)),
        (("--backend", "tpu"), ("there is no backend 'tpu'", "onnxruntime")),
        (("--backend", "reference"), ("the bundle was compiled for onnxruntime", "--backend reference")),
        (("--backend", "torch"), ("a bundle holds no torch module",)),
        (("--task", "masked-lm"), ("a bundle has its head already", "--task masked-lm")),
        (("--calibration", "/dev/zero"), ("zero is too large to be a calibration",)),
        (("--entry", "second"), ("there is no entry 'second'",)),
        (("--calibration", "nowhere.json"), ("nowhere.json",)),
        (("--html", "no/such/folder.html"), ("there is no folder",)),
    ],
)
def test_refusals(command: Command, made: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    refused(command("profile", made / "bert.tundish", "--no-memory", *words), *parts)


def test_a_corrupt_calibration_is_named(command: Command, made: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    told = command("profile", made / "bert.tundish", "--calibration", tmp_path / "broken.json", "--no-memory")
    refused(told, "broken.json is broken")


def test_it_runs_and_is_predicted_on_as_many_threads_as_the_bundle_says(
    command: Command, made: Path, tmp_path: Path
) -> None:
    options = json.loads((made / "bert.tundish" / "manifest.json").read_text())["options"]
    tuned = _changed(made, tmp_path, options={**options, "run": {"threads": "1"}})
    told = command("profile", tuned, "--no-memory", *QUICK, "--json")
    assert told.code == 0 and told.json["threads"] == 1, told.err  # type: ignore[call-overload,index]


def _changed(made: Path, folder: Path, **changes: object) -> Path:
    """A copy of the bundle with another manifest."""
    copy = folder / "changed.tundish"
    shutil.copytree(made / "bert.tundish", copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return copy


def test_a_bundle_for_another_machine(command: Command, made: Path, tmp_path: Path) -> None:
    told = command("profile", _changed(made, tmp_path, features=["sve9"]), "--no-memory")
    refused(told, "needs CPU features that this machine lacks: sve9")


def test_a_bundle_of_a_backend_that_is_not_there(command: Command, made: Path, tmp_path: Path) -> None:
    refused(command("profile", _changed(made, tmp_path, backend="xla"), "--no-memory"), "there is no backend 'xla'")


def test_a_bundle_from_before_there_were_maps_of_nodes(
    command: Command, made: Path, tmp_path: Path
) -> None:
    manifest = json.loads((made / "bert.tundish" / "manifest.json").read_text())
    copy = _changed(made, tmp_path, files={k: v for k, v in manifest["files"].items() if "nodes.json" not in k})
    (copy / "onnxruntime" / "forward.nodes.json").unlink()
    refused(command("profile", copy, "--no-memory"), "made by an older tundish", "compile it again")


def test_a_model_that_cannot_decode(command: Command) -> None:
    refused(command("profile", "bert-tiny", "--phase", "decode", "--no-memory"), "does not generate text")


@pytest.mark.parametrize("backend", [(), ("--backend", "torch")])
def test_a_length_of_another_phase_is_refused_before_the_model_is_loaded(
    command: Command, backend: tuple[str, ...]
) -> None:
    told = command("profile", "bert-tiny", "--past", "3", *backend)
    refused(told, "a prefill has no past")
    assert "loading" not in told.err


def test_the_null_backend_runs_nothing(command: Command, made: Path) -> None:
    refused(command("profile", made / "bert.tir", "--backend", "null", "--no-memory"), "the null backend runs nothing")


def test_a_captured_graph_has_no_torch_module(command: Command, made: Path) -> None:
    assert load(made / "bert.tir")
    refused(command("profile", made / "bert.tir", "--backend", "torch"), "is no torch module")


def test_a_decode_step(command: Command) -> None:
    """One token of the step that writes in place: what its nodes compute is what the account counts for a decode."""
    asked = ("--phase", "decode", "--past", "20")
    told = command("profile", "llama-tiny", *asked, "--no-memory", *QUICK, "--json")
    assert told.code == 0, told.err
    found: dict[str, Any] = told.json  # type: ignore[assignment]
    assert found["phase"] == "decode"
    assert found["sizes"] == {"batch": 1, "tokens": 1, "wanted": 1, "capacity": 21}
    assert all(n["source"] for n in found["nodes"])
    counted: dict[str, Any] = command("account", "llama-tiny", *asked, "--json").json  # type: ignore[assignment]
    by_op = {row["op"]: row["flops"] for row in counted["by_op"]}
    assert sum(n["flops"] for n in found["nodes"] if n["op"] == "cached_attention") == by_op["attention"] > 0
    of_masks = by_op["sum"] + by_op["sub"]  # the concatenated step counts its mask's tokens; this one is told a place
    of_places = 2 * found["sizes"]["tokens"]  # to which it adds each token's own
    assert sum(n["flops"] for n in found["nodes"]) == counted["flops"] - of_masks + of_places


def test_a_bundle_with_a_step(command: Command, tmp_path: Path) -> None:
    assert command("compile", "gemma3-tiny", "-o", tmp_path / "g.tundish").code == 0
    found: dict[str, Any] = command(  # type: ignore[assignment]
        "profile", tmp_path / "g.tundish", "--phase", "decode", "--past", "40", "--no-memory", *QUICK, "--json"
    ).json
    window = json.loads((tmp_path / "g.tundish" / "manifest.json").read_text())["info"]["generation"]["windows"][0]
    assert found["sizes"]["capacity"] == 41 and found["sizes"]["window_capacity"] == min(40, window["window"] - 1) + 1
    for words, part in (
        (("--phase", "decode", "--past", "100000"), "past is 100000, outside"),
        (("--phase", "decode", "--seq", "3"), "takes one token a row"),
        (("--phase", "prefill", "--entry", "step"), "the entry 'step' decodes"),
    ):
        refused(command("profile", tmp_path / "g.tundish", "--no-memory", *words), part)


def test_a_torch_module_in_the_same_table(command: Command) -> None:
    told = command("profile", "bert-tiny", "--seq", "8", "--backend", "torch", *QUICK, "--json")
    assert told.code == 0, told.err
    found = told.json
    rows = found["nodes"]  # type: ignore[call-overload,index]
    assert len({r["name"] for r in rows}) == len(rows)
    queries = [r for r in rows if r["module"].endswith("attention.self.query")]
    assert [r["op"] for r in queries] == ["linear"] * 3
    assert all(r["kernel"].startswith("aten::linear") and "modeling_bert.py:" in r["source"] for r in queries)
    assert {r["flops"] for r in queries} == {2 * 8 * 32 * 32 + 8 * 32}  # 2 per multiply-add, and the bias
    total = sum(r["measured_ms"] for r in rows) + found["unattributed_ms"]  # type: ignore[call-overload,index]
    assert total == pytest.approx(found["total_ms"])  # type: ignore[call-overload,index]
