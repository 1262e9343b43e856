"""The command line as a person and a script meet it: exit codes, one clear line, JSON, and nothing half-written."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_kit import INPUTS, RANDOM, Command, Told, command, environment, files, made, refused  # noqa: F401

import tundish
from tundish import cli
from tundish.ir.diagnostics import GraphError
from tundish.ir.text import from_text

# -- what the user must change ---------------------------------------------------------------------------


def _folders(at: Path) -> None:
    from safetensors.numpy import save_file

    (at / "text.txt").write_text("hello")
    for name, config in (("odd", '{"model_type": "frobnicate", "architectures": ["X"]}'), ("pickled", "{}")):
        (at / name).mkdir()
        (at / name / "config.json").write_text(config)
    save_file({"w": np.zeros(2, np.float32)}, at / "odd" / "model.safetensors")
    (at / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    (at / "empty").mkdir()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("no-such-model", "'no-such-model' is no model"),
        ("", "no model is named"),
        ("text.txt", "'text.txt' is no model"),
        ("./missing", "is no model"),
        ("missing.gguf", "cannot open missing.gguf"),
        ("empty", "no model.safetensors"),
        ("odd", "frobnicate"),
        ("pickled", "pickles, which can run any code"),
        ("nothing.py:make", "there is no file nothing.py"),
    ],
)
@pytest.mark.parametrize("verb", [("compile", "-o", "x.tundish"), ("show",), ("account",)], ids=lambda v: v[0])
def test_a_model_that_is_none(command: Command, tmp_path: Path, verb: tuple[str, ...], model: str, said: str) -> None:
    _folders(tmp_path)
    if verb == ("account",):  # it reads no weights
        said = {"empty": "has no config.json", "pickled": "names no model_type"}.get(model, said)
    refused(command(verb[0], model, *verb[1:]), said)
    assert not (tmp_path / "x.tundish").exists()


def test_a_bundle_is_no_model(command: Command, made: Path) -> None:
    refused(command("show", made / "bert.tundish"), "is a bundle, which is compiled already")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--batch 1..x", "--batch takes a size or a range such as 1..8, got '1..x'"),
        ("--batch 8..1", "--batch takes"),
        ("--batch 0", "--batch takes"),
        ("--seq=-1", "--seq takes"),
        ("--seq ..8", "--seq takes"),
        ("--seq 1..65", "the captured graph allows seq 1..64"),
        ("--seq 65..", "the captured graph allows seq 1..64"),
        ("--task causal-lm", "has its head already"),
        ("--backend frob", "there is no backend 'frob'"),
        ("--target frob", "there is no target 'frob'"),
        ("--target frob --backend null", "there is no target 'frob'"),
        ("--target cuda --backend reference", "there is no target 'cuda'"),
        ("--precision fp8", "there is no precision 'fp8'"),
        ("--print-after frob", "there is no pass 'frob'"),
    ],
)
def test_an_option_that_cannot_be(command: Command, made: Path, tmp_path: Path, options: str, said: str) -> None:
    refused(command("compile", made / "bert.tir", "-o", "x.tundish", *options.split()), said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seq", ["1..65", "65", "65.."])
def test_more_positions_than_the_model_has(command: Command, seq: str) -> None:
    refused(command("compile", "bert-tiny", "-o", "x.tundish", "--seq", seq), "bert-tiny takes at most 64 positions")


@pytest.mark.parametrize(("name", "task"), [("bert-tiny", "frob"), ("gpt2-tiny", "masked-lm")])
def test_a_task_that_there_is_not(command: Command, name: str, task: str) -> None:
    refused(command("compile", name, "-o", "x.tundish", "--task", task), task)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_an_error_and_no_fallback(command: Command, made: Path, tmp_path: Path) -> None:
    refused(command("compile", made / "bert.tir", "-o", "x.tundish", "--target", "cuda"), "'cuda' is not usable here")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    ["", "frob", "--frob", "compile bert-tiny", "compile bert-tiny -o x --frob", "run b --threads 0",
     "run b --threads x", "account bert-tiny --batch 0", "account bert-tiny --seq x",
     "bench bert-tiny --rounds 0", "export gpt2-tiny"],
)  # fmt: skip
def test_a_line_that_cannot_be_parsed_exits_2(command: Command, line: str) -> None:
    told = command(*line.split())
    assert told.code == 2 and "Traceback" not in told.err and "\x1b" not in told.out + told.err


def test_help_and_version(command: Command) -> None:
    told = command("--help")
    assert told.code == 0 and "Exit codes" in told.out and "--debug" in told.out
    assert command("--version") == Told(0, f"tundish {tundish.__version__}\n", "")


# -- run -------------------------------------------------------------------------------------------------


def _arrays(at: Path) -> None:
    np.save(at / "ids.npy", np.ones((2, 8), np.int64))
    np.save(at / "narrow.npy", np.ones((2, 8), np.int32))
    np.save(at / "float.npy", np.ones((2, 8), np.float32))
    np.save(at / "deep.npy", np.ones((2, 8, 1), np.int64))
    np.save(at / "nine.npy", np.ones((2, 9), np.int64))
    np.save(at / "large.npy", np.full((2, 8), 5000))
    np.save(at / "object.npy", np.array([{}], dtype=object))
    np.savez(at / "several.npz", a=np.ones(2))
    (at / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00not one")
    (at / "text.npy").write_text("hello")
    (at / "empty.npy").write_bytes(b"")
    (at / "folder.npy").mkdir()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("narrow.npy", "input 'input_ids' is i64[batch, seq]"),
        ("float.npy", "input 'input_ids' is i64[batch, seq]"),
        ("deep.npy", "input 'input_ids' is i64[batch, seq]"),
        ("nine.npy", "seq is 9 in one input and 8"),
        ("large.npy", "idx=5000"),
        ("object.npy", "is not a .npy file of plain numbers"),
        ("text.npy", "is not a .npy file of plain numbers"),
        ("broken.npy", "is not a .npy file of plain numbers"),
        ("empty.npy", "is not a .npy file of plain numbers"),
        ("several.npz", "holds several arrays"),
        ("folder.npy", "Is a directory"),
        ("missing.npy", "No such file"),
    ],
)
def test_an_input_that_does_not_fit(command: Command, made: Path, tmp_path: Path, value: str, said: str) -> None:
    _arrays(tmp_path)
    rest = [word for name in INPUTS[1:] for word in ("--input", f"{name}=ids.npy")]
    told = command("run", made / "bert.tundish", "--input", f"input_ids={value}", *rest)
    refused(told, said)
    assert "allow_pickle" not in told.err, "no advice to open it unsafely"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "missing input attention_mask, input_ids, token_type_ids"),
        (RANDOM[:4], "missing input token_type_ids"),
        ((*RANDOM, "--input", "x=random"), "no input 'x'"),
        (("--input", "input_ids"), "--input takes name=file.npy"),
        (("--input", "=random"), "--input takes name=file.npy"),
        (("--input", "input_ids="), "--input takes name=file.npy"),
        ((*RANDOM, *RANDOM[:2]), "--input input_ids is given twice"),
        ((*RANDOM, "--entry", "frob"), "there is no entry 'frob'"),
    ],
)
def test_a_run_that_cannot_be(command: Command, made: Path, options: tuple[str, ...], said: str) -> None:
    refused(command("run", made / "bert.tundish", *options), said)


@pytest.mark.parametrize("output", ["file.txt", "file.txt/answers", "/proc/answers"])
def test_answers_that_cannot_be_written(command: Command, made: Path, tmp_path: Path, output: str) -> None:
    (tmp_path / "file.txt").write_text("mine")
    refused(command("run", made / "bert.tundish", *RANDOM, "--output", output), f"cannot write {output}")
    assert (tmp_path / "file.txt").read_text() == "mine"


def test_random_inputs_are_seeded(command: Command, made: Path, tmp_path: Path) -> None:
    for name in ("a", "deep/b"):
        assert command("run", made / "bert.tundish", *RANDOM, "--output", name, "--threads", "1").code == 0
    first, second = files(tmp_path / "a"), files(tmp_path / "deep" / "b")
    assert first == second and set(first) == {"last_hidden_state.npy", "pooler_output.npy"}


# -- verify ----------------------------------------------------------------------------------------------


def test_what_is_no_bundle_is_not_verified(command: Command, tmp_path: Path, made: Path) -> None:
    _folders(tmp_path)
    for path in ("text.txt", "empty", "missing", made / "bert.tir"):
        refused(command("verify", path), "is not a bundle")


def test_a_flipped_bit_is_named(command: Command, made: Path, tmp_path: Path) -> None:
    for name in files(made / "bert.tundish"):
        copy = tmp_path / "copy.tundish"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made / "bert.tundish", copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        told = command("verify", copy)
        if name == "manifest.json":  # it holds the others' hashes, and free text too, such as a note
            assert told.code == 0 or refused(told) is None
        else:
            refused(told, name)


def test_a_bundle_from_a_graph_proves_nothing_by_itself(command: Command, made: Path) -> None:
    assert command("compile", made / "bert.tir", "-o", "own.tundish").code == 0
    refused(command("verify", "own.tundish"), "no answers of an original model")
    refused(command("verify", "own.tundish", "--against", made / "bert.tir"), "a captured graph is no original")
    told = command("verify", "own.tundish", "--against", "bert-tiny", "--json")
    assert told.code == 0 and told.json["passed"] and told.json["cases"] >= 8
    refused(command("verify", "own.tundish", "--against", "no-such-model"), "is no model")


def test_against_another_model(command: Command, made: Path) -> None:
    refused(command("verify", made / "bert.tundish", "--against", "gpt2-tiny"), "does not answer")


# -- output ----------------------------------------------------------------------------------------------


def test_json_and_nothing_else_on_stdout(command: Command, made: Path) -> None:
    """The shapes that scripts rely on, to the key."""
    graph, bundle = made / "bert.tir", made / "bert.tundish"
    told = command("compile", graph, "-o", "x.tundish", "--json", "--explain")
    assert not told.err and set(told.json) == {
        "bundle", "bytes", "model", "target", "backend", "precision", "weights", "phase", "entries", "sizes",
        "generation", "memory", "notes", "tuning", "passes"}  # fmt: skip
    assert {"pass", "what", "where", "times"} == set(told.json["passes"][0])
    told = command("verify", bundle, "--json")
    assert not told.err and set(told.json) == {
        "passed", "outputs", "cases", "origin", "by_case", "first_difference", "notes", "perplexity"}  # fmt: skip
    assert {"name", "max_abs_error", "max_rel_error", "tolerance"} <= set(told.json["outputs"][0])
    told = command("run", bundle, *RANDOM, "--json", "--output", "answers")
    assert not told.err and [r["output"] for r in told.json] == ["last_hidden_state", "pooler_output"]
    assert set(told.json[0]) == {"output", "dtype", "shape", "file"}
    told = command("show", graph, "--json")
    assert not told.err and set(told.json) == {
        "model", "inputs", "outputs", "symbols", "functions", "nodes", "op_counts", "text"}  # fmt: skip
    assert told.json["op_counts"]["attention"] == 3 and sum(told.json["op_counts"].values()) == told.json["nodes"]
    told = command("account", graph, "--batch", 2, "--seq", 16, "--json")
    assert not told.err and set(told.json) == {
        "model", "phase", "sizes", "parameters", "active_parameters", "weights_bytes", "flops", "hardware_flops",
        "read_bytes", "written_bytes", "intensity", "kv_cache", "activation_peak_bytes", "activation_peak_at",
        "by_phase", "by_module", "by_op", "notes"}  # fmt: skip
    told = command("export", graph, "-o", "x.onnx", "--json")
    assert not told.err and set(told.json) == {
        "file", "external_data", "bytes", "opset", "portable", "nodes", "inputs", "outputs"}  # fmt: skip


@pytest.mark.parametrize("verb", ["models", "targets", "ops", "doctor"])
def test_lists_are_tables_and_json(command: Command, verb: str) -> None:
    plain, rows = command(verb), command(verb, "--json").json
    assert plain.code == 0 and not plain.err and "\x1b" not in plain.out
    assert len(plain.out.splitlines()) == len(rows) + 1
    assert all(str(next(iter(row.values()))) in plain.out for row in rows)


def test_plain_text_in_a_pipe_and_talk_on_stderr(command: Command, made: Path) -> None:
    told = command("compile", made / "bert.tir", "-o", "x.tundish", "--explain")
    assert told.code == 0 and "\x1b" not in told.out + told.err
    assert "writing the bundle" in told.err and "writing the bundle" not in told.out
    assert re.search(r"^memory +arena [\d.]+ KiB, inputs [\d.]+ KiB, peak", told.out, re.M), "numbers bear units"
    told = command("verify", made / "bert.tundish")
    assert "passed" in told.err and told.out.startswith("name ")
    told = command("compile", made / "bert.tir", "-o", "x.tundish", "--print-after", "memory", "--json")
    assert told.json["model"] == "bert" and "# after memory" in told.err


def test_what_is_not_finite_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    cli.print_json({"error": float("nan"), "rows": [float("inf"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"error": None, "rows": [None, 1.5]}


# -- faults of ours and of the machine ---------------------------------------------------------------------


def reproduction(told: Told) -> dict[str, str]:
    assert told.code == 70 and not told.out and "Traceback" not in told.err
    folder = Path(told.err.split("a reproduction is in ")[1].split(";")[0])
    found = {name: content.decode() for name, content in files(folder).items()}
    shutil.rmtree(folder)
    return found


def test_a_fault_in_a_pass_names_a_reproduction_with_the_program(
    command: Command, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tundish.compiler import driver

    real = driver._run
    for fault in (ZeroDivisionError("by zero\nand more"), GraphError("a wrong graph of ours")):

        def broken(step, *rest, fault=fault):
            if step.name == "hoist":
                raise fault
            return real(step, *rest)

        monkeypatch.setattr(driver, "_run", broken)
        told = command("compile", made / "bert.tir", "-o", "a name.tundish")
        said = [line for line in told.err.splitlines() if not line.startswith("[")]
        assert said[0] == f"tundish: a fault of ours: {type(fault).__name__}: {str(fault).partition(chr(10))[0]}"
        found = reproduction(told)
        assert found["command.txt"] == f"tundish compile {made / 'bert.tir'} -o 'a name.tundish'\n"
        assert type(fault).__name__ in found["traceback.txt"]
        assert f"tundish {tundish.__version__}" in found["versions.txt"]
        assert from_text(found["program.txt"]).entries == ("forward",)


@pytest.mark.parametrize("verb", ["compile", "export"])
def test_a_fault_in_a_build_names_a_reproduction_with_the_program(
    command: Command, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("tundish.backends.onnxruntime.walk.Walk.graph", lambda *a: {}["gone"])
    found = reproduction(command(verb, made / "bert.tir", "-o", "x"))
    assert "KeyError" in found["traceback.txt"]
    assert "attention(" in found["program.txt"] and from_text(found["program.txt"])
    assert not list(tmp_path.iterdir())


def test_a_fault_without_a_program(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tundish.api.ops", lambda: [][1])
    assert set(reproduction(command("ops"))) == {"command.txt", "traceback.txt", "versions.txt"}


def test_debug_shows_the_traceback_and_keeps_the_exit_code(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    told = command("show", "no-such-model", "--debug")
    assert told.code == 2 and "Traceback" in told.err and told.err.count("\ntundish: ") == 1
    monkeypatch.setattr("tundish.api.ops", lambda: [][1])
    told = command("--debug", "ops")
    assert told.code == 70 and "IndexError" in told.err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "No space left on device: /tmp/x"),
        (PermissionError(errno.EACCES, "Permission denied", "weights"), "Permission denied: weights"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_what_the_machine_refuses_is_no_fault_of_ours(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def refusing() -> None:
        raise error

    monkeypatch.setattr("tundish.api.ops", refusing)
    refused(command("ops"), said)


def test_ctrl_c_is_130(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tundish.api.ops", stopped)
    assert command("ops") == Told(130, "", "tundish: stopped; nothing half-written was left\n")


def test_a_closed_pipe_is_quiet(made: Path) -> None:
    line = [sys.executable, "-m", "tundish", "show", str(made / "bert.tir"), "--text"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141
