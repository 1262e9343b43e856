"""The contract for scripts: JSON shapes, exit codes, identical bytes, and refusals before work starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tundish
from tundish import cli
from tundish.ir.diagnostics import LoadError


def tundish_(*arguments: str) -> int:
    """The exit code of a command line, run in this process."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("contract") / "gpt2.tundish"
    tundish.compile("gpt2-tiny", path)
    return path


def out(capsys: pytest.CaptureFixture[str]) -> object:
    return json.loads(capsys.readouterr().out)


def test_verify_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tundish_("verify", str(bundle), "--json") == 0
    report = out(capsys)
    assert report["passed"] is True and report["cases"] >= 8
    assert {"name", "max_abs_error", "max_rel_error", "tolerance"} <= set(report["outputs"][0])


def test_show_and_account_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert tundish_("show", "gpt2-tiny", "--json") == 0
    shown = out(capsys)
    assert shown["op_counts"]["attention"] == 3 and "call" not in shown["op_counts"]
    assert tundish_("account", "gpt2-tiny", "--batch", "2", "--seq", "16", "--json") == 0
    row = out(capsys)
    assert {"parameters", "flops", "read_bytes", "written_bytes", "by_module", "by_op"} <= set(row)
    assert row["parameters"] == 44_320
    assert sum(r["flops"] for r in row["by_op"]) == sum(r["flops"] for r in row["by_module"]) == row["flops"]


def test_run_takes_files_and_writes_files(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "ids.npy", np.arange(6).reshape(2, 3))
    given = ("--input", f"input_ids={tmp_path / 'ids.npy'}", "--input", "attention_mask=random")
    assert tundish_("run", str(bundle), *given, "--output", str(tmp_path / "a"), "--json") == 2  # 2 rows against 16
    np.save(tmp_path / "mask.npy", np.ones((2, 3), np.int64))
    given = (*given[:2], "--input", f"attention_mask={tmp_path / 'mask.npy'}")
    capsys.readouterr()
    assert tundish_("run", str(bundle), *given, "--output", str(tmp_path / "a"), "--json") == 0
    assert out(capsys)[0]["shape"] == [2, 3, 128]
    assert np.load(tmp_path / "a" / "logits.npy").shape == (2, 3, 128)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("compile", "no-such-model", "-o", "x.tundish"), "is no model"),
        (("compile", "gpt2-tiny", "-o", "x.tundish", "--batch", "many"), "--batch takes"),
        (("compile", "gpt2-tiny", "-o", "x.tundish", "--seq", "1..4096"), "at most 64 positions"),
        (("compile", "gpt2-tiny", "-o", "x.tundish", "--precision", "fp12"), "there is no precision"),
        (("compile", "gpt2-tiny", "-o", "x.tundish", "--backend", "tpu"), "there is no backend"),
        (("compile", "gpt2-tiny", "-o", "x.tundish", "--target", "toaster"), "target"),
        (("verify", "."), "not a bundle"),
        (("run", ".", "--input", "x"), "--input takes"),
        (("export", "gpt2-tiny", "-o", "x.onnx", "--opset", "9"), "opset 9"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert tundish_(*arguments) == 2
    told = capsys.readouterr()
    assert said in told.err and "Traceback" not in told.err and not told.out
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_fault_of_ours_leaves_a_reproduction(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tundish.api.models", lambda: 1 / 0)
    assert tundish_("models") == 70
    folder = Path(capsys.readouterr().err.split("a reproduction is in ")[1].split(";")[0])
    assert (folder / "command.txt").read_text().startswith("tundish models")
    assert "ZeroDivisionError" in (folder / "traceback.txt").read_text()


def test_a_model_that_will_not_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tundish.compiler.hardware.machine.available_memory_bytes", lambda: 1 << 30)
    monkeypatch.setattr("tundish.models.open.open_model", lambda *a, **k: pytest.fail("it was loaded"))
    assert tundish_("compile", "bert-base", "-o", str(tmp_path / "x.tundish")) == 2
    told = capsys.readouterr().err
    assert "needs 1.6 GiB of memory, and 1.0 GiB are free" in told


def _compile(output: Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tundish", "compile", "bert-tiny", "-o", str(output)], text=True,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, **options,  # type: ignore[call-overload]
    )  # fmt: skip


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_compiling_twice_gives_identical_bytes(tmp_path: Path) -> None:
    made = [tmp_path / "a" / "m.tundish", tmp_path / "b" / "m.tundish"]
    for path in made:
        path.parent.mkdir()
        assert _compile(path).wait() == 0
    first, second = map(_files, made)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_compile_that_is_stopped_leaves_the_old_bundle(kind: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "m.tundish"
    tundish.compile("gpt2-tiny", path).close()
    before = _files(path)
    process = _compile(path, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stderr is not None
    for line in process.stderr:
        if "asking the original" in line or "writing" in line:
            break
    time.sleep(0.05)
    process.send_signal(kind)
    process.wait()
    if process.returncode != 0:  # it may have been done already
        assert _files(path) == before
    assert tundish.verify(path).passed
    tundish.compile("bert-tiny", path).close()
    assert [p.name for p in tmp_path.iterdir()] == ["m.tundish"], "the next compile clears what a killed one left"


def test_answers_of_our_own_prove_nothing(tmp_path: Path) -> None:
    tundish.capture("llama-tiny", output=tmp_path / "llama.tir")
    bundle = tundish.compile(tmp_path / "llama.tir", tmp_path / "m.tundish")
    with pytest.raises(LoadError, match="no answers of an original"):
        tundish.verify(bundle)
    from tundish.backends.cases import Cases, write_cases

    ids = {"input_ids": np.zeros((1, 2), np.int64), "attention_mask": np.ones((1, 2), np.int64)}
    from tundish.profiler.parity import record

    ours = record(bundle.run, [("one", ids)], bundle.program, "tundish numpy evaluator")
    assert isinstance(ours, Cases)
    write_cases(bundle.path, ours)
    with pytest.raises(LoadError, match="came from Tundish itself"):
        tundish.verify(bundle)


def test_bisect_names_the_first_node_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tundish.backends.onnxruntime import lower_fused

    sound = lower_fused.FUSED["linear", ("gelu",)]

    def wrong(to, graph, nodes):
        made = sound(to, graph, nodes)
        return {v: to("Mul", name, to.scalar(1.01, v.type.dtype)) for v, name in made.items()}

    monkeypatch.setitem(lower_fused.FUSED, ("linear", ("gelu",)), wrong)
    bundle = tundish.compile("bert-tiny", tmp_path / "m.tundish")
    report = tundish.verify(bundle, bisect=True)
    assert not report.passed
    found = report.first_difference
    assert found["stage"] == "backend" and found["op"] == "linear + gelu"
    assert found["module"].startswith("encoder.layer.0.") and "modeling_bert.py:" in found["source"]


@pytest.mark.parametrize("entry", ["forward", "step"])
def test_bisect_looks_into_the_entry_that_differs(entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tundish.backends.onnxruntime import lower

    op = {"forward": "attention", "step": "cached_attention"}[entry]
    sound = lower.table()[op]
    layer = next(t for t in (lower.FAST, *lower.SINCE.values(), lower.STANDARD) if t.get(op) is sound)

    def wrong(to, node):
        first, *rest = made if isinstance(made := sound(to, node), list) else [made]
        spoilt = to("Mul", first, to.scalar(1.01, node.outputs[0].type.dtype))
        return [spoilt, *rest] if rest else spoilt

    monkeypatch.setitem(layer, op, wrong)
    lower.table.cache_clear()
    try:
        bundle = tundish.compile("gpt2-tiny", tmp_path / "m.tundish")
        report = tundish.verify(bundle, bisect=True)
    finally:
        lower.table.cache_clear()
    assert {o.name for o in report.outputs} == {"logits", "step: logits", "step: caches"}
    assert {o.name.startswith("step") for o in report.outputs if not o.passed} == {entry == "step"}
    found = report.first_difference
    assert found["stage"] == "backend" and found["op"] == op and found["module"].startswith("transformer.h.0.attn")


def test_a_wrong_bundle_is_not_written_when_it_is_to_be_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tundish.backends.onnxruntime import lower_fused

    def wrong(to, graph, nodes):
        return {nodes[1].output: to("MatMul", *nodes[0].inputs[:2])}  # neither bias nor gelu

    path = tmp_path / "m.tundish"
    tundish.compile("bert-tiny", path).close()
    before = _files(path)
    monkeypatch.setitem(lower_fused.FUSED, ("linear", ("gelu",)), wrong)
    assert tundish_("compile", "bert-tiny", "-o", str(path), "--verify") == 1
    assert "the bundle differs from torch" in capsys.readouterr().err
    assert _files(path) == before


def test_bisect_names_the_pass_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from tundish.compiler import driver
    from tundish.compiler.rewriting import Rewritten
    from tundish.ir.build import Rebuilder

    sound = driver.PASSES

    def spoil(program, task):
        done = next(p for p in sound if p.name == "raise_activation")(program, task)
        name = done.program.entries[0]
        to = Rebuilder(done.program.functions[name])
        for node in to.graph.nodes:
            made = to.copy(node)
            if node.op.name == "tanh":
                with to.at(node.where):
                    to.map[made.output] = to.emit("neg", made.output)
        functions = {**done.program.functions, name: to.done()}
        return Rewritten(done.program.replace(functions=functions), done.notes)

    passes = tuple(replace(p, run=spoil) if p.name == "raise_activation" else p for p in sound)
    monkeypatch.setattr("tundish.profiler.bisect.PASSES", passes)
    defaults = {**driver.compile_program.__kwdefaults__, "passes": passes}
    monkeypatch.setattr(driver.compile_program, "__kwdefaults__", defaults)
    bundle = tundish.compile("bert-tiny", tmp_path / "m.tundish")
    report = tundish.verify(bundle, against="bert-tiny", bisect=True)
    assert not report.passed and report.first_difference["stage"] == "pass raise_activation"
