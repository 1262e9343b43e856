"""A compile that is stopped, killed or out of space leaves what was there; two compiles give the same bytes."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cli_kit import INPUTS, Command, Told, command, environment, files, made, refused  # noqa: F401

import tundish


def test_where_a_bundle_may_be_written(command: Command, made: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"name": "mine"}')
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    before = files(tmp_path)
    for output, said in (
        ("text.txt", "is there and is not a folder"), ("link", "is there and is not a folder"),
        ("full", "is there and is not a bundle"), ("site", "its manifest.json is not a bundle's"),
        (".", "is there and is not a bundle"), ("text.txt/x.tundish", "text.txt is not a folder"),
    ):  # fmt: skip
        told = command("compile", made / "bert.tir", "-o", output)
        refused(told, said)
        assert "optimising" not in told.err, "it is said before work starts"
    assert files(tmp_path) == before
    for output in ("empty", "new/deep/x.tundish", "slash.tundish/", tmp_path / "absolute.tundish"):
        assert command("compile", made / "bert.tir", "-o", output, "--json").code == 0
        assert tundish.load(tmp_path / output).entries
        assert command("compile", made / "bert.tir", "-o", output, "--json").code == 0, "a bundle may be replaced"


STOPPED = """
import sys, time, importlib, tundish.cli
module, function = sys.argv[1].rsplit(".", 1)

def waiting(*args, **kwargs):
    print("here", flush=True)
    time.sleep(60)

setattr(importlib.import_module(module), function, waiting)
tundish.cli.main(["compile", *sys.argv[2:]])
"""
STAGES = {
    "optimising": "tundish.compiler.driver._run",
    "writing weights": "tundish.ir.weight_file._bytes",
    "building": "tundish.backends.onnxruntime.model.emit",
    "compiling kernels": "tundish.backends.tvm.objects.keep",
    "linking": "tundish.backends.tvm.library.object_code",
    "before the swap": "tundish.backends.publish._swap",
    "after the swap": "tundish.backends.publish._sync_folder",
}


@pytest.fixture
def old(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A bundle that stands where the next compile writes."""
    shutil.copytree(made / "bert.tundish", tmp_path / "m.tundish")
    yield tmp_path / "m.tundish"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_compile_leaves_the_old_bundle(
    command: Command, old: Path, made: Path, stage: str, number: signal.Signals
) -> None:
    before, backend = files(old), "tvm" if ".tvm." in STAGES[stage] else "onnxruntime"
    kernels = {"TUNDISH_KERNELS": str(made / "kernels")}
    line = [sys.executable, "-c", STOPPED, STAGES[stage], str(made / "bert.tir"), "-o", str(old), "--backend", backend]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**environment(), **kernels}
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "here\n", process.stderr.read()
        process.send_signal(number)
        said = process.stderr.read()
        code = process.wait(60)
    assert "Traceback" not in said
    if number == signal.SIGINT:
        assert code == 130 and said.endswith("tundish: stopped; nothing half-written was left\n")
        assert [p.name for p in old.parent.iterdir()] == ["m.tundish"]
    if stage != "after the swap":
        assert files(old) == before
        assert tundish.verify(old).passed
    assert tundish.load(old).run({n: np.ones((1, 4), np.int64) for n in INPUTS})
    assert command("compile", made / "bert.tir", "-o", old, "--json").code == 0
    assert [p.name for p in old.parent.iterdir()] == ["m.tundish"], "the next compile clears what was left"


def _limited() -> None:
    """A file-size limit fails a write as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize("verb", ["compile", "export", "capture"])
def test_a_full_disk_leaves_the_old_output(made: Path, tmp_path: Path, verb: str) -> None:
    out = tmp_path / "out"
    if verb == "export":
        out.write_bytes(b"the old file")
    else:
        shutil.copytree(made / ("bert.tundish" if verb == "compile" else "bert.tir"), out)
    before = files(tmp_path)
    line = [sys.executable, "-m", "tundish", verb, str(made / "bert.tir"), "-o", str(out)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), preexec_fn=_limited)
    refused(Told(done.returncode, done.stdout, done.stderr), "the disk is full")
    assert files(tmp_path) == before and list(tmp_path.iterdir()) == [out]


def test_two_processes_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    for name in "ab":
        line = [sys.executable, "-m", "tundish", "compile", str(made / "bert.tir"), "-o", f"{name}/m.tundish"]
        seeded = {**environment(), "PYTHONHASHSEED": str(ord(name))}
        subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, env=seeded)
    first, second = (files(tmp_path / name) for name in "ab")
    assert len(first) >= 5 and first == second
