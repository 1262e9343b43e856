"""The bundle: whole or not at all, checked before anything is loaded, the same bytes twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tundish.backends import registry
from tundish.backends.bundle import Bundle, open_bundle, write_bundle
from tundish.backends.cases import Case, Cases
from tundish.backends.manifest import MANIFEST
from tundish.compiler.plan import Guard, Plan, Variant
from tundish.ir.diagnostics import BuildError, LoadError, RunError
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Graph
from tundish.ir.weights import materialize

Write = Callable[..., Bundle]
HERE = Path(__file__).parent


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
def test_runs_as_the_program_means(write: Write, plan: Plan, inputs: dict[str, Any], backend: str) -> None:
    meant = evaluate(plan.program, inputs)
    with write(backend=backend) as bundle:
        assert [s.name for s in bundle.inputs] == ["input_ids", "attention_mask"]
        assert str(bundle.outputs[1]) == "logits: f32[batch, seq, 50]"
        got = bundle.run(inputs, threads=1)
        assert bundle.run(inputs, outputs=[], threads=1) == {}
    assert list(got) == ["last_hidden_state", "logits"]
    for name, want in meant.items():
        np.testing.assert_allclose(got[name], want, atol=2e-6, rtol=2e-6)


def test_null_builds_and_refuses_to_run(write: Write, inputs: dict[str, Any]) -> None:
    bundle = write(backend="null")
    with pytest.raises(RunError, match="the null backend runs nothing"):
        bundle.run(inputs)


def test_the_program_comes_back(write: Write, plan: Plan, inputs: dict[str, Any]) -> None:
    from tundish.ir.evaluate import Evaluator

    bundle = write()
    got = Evaluator(bundle.program, folder=bundle.path).run(inputs)
    for name, want in evaluate(plan.program, inputs).items():
        np.testing.assert_array_equal(got[name], want)


def test_a_part_of_the_program_builds_on_stored_weights(
    write: Write, inputs: dict[str, Any], tmp_path: Path
) -> None:
    """Bisecting does this: one value of a bundle's program, from the bundle's own weights; here the tied head's."""
    bundle = write()
    program = bundle.program
    head = next(n for n in program.entry.nodes if n.op.name == "weight" and n.attrs["name"] == "head")
    cut = Graph(program.entry.inputs, (head,), head.outputs, ("head",))
    plan = Plan(program.replace(functions={"main": cut}), {"main": (Variant(Guard(), "main"),)}, "onnxruntime", "cpu")
    (tmp_path / "probe").mkdir()
    engine = registry.get("onnxruntime")
    got = engine.open(engine.build(plan, tmp_path / "probe", bundle.weights)).run("main", inputs)["head"]
    np.testing.assert_array_equal(got, materialize(program.weights["words"], bundle.path).T)


def test_manifest_says_what_is_in_it(write: Write) -> None:
    bundle = write(name="a.tundish", info={"model": "tiny"}, extra_files=[("tokenizer/vocab.txt", b"a\n")])
    m = json.loads((bundle.path / MANIFEST).read_text())
    ours = {"onnxruntime/main.onnx", "onnxruntime/main.nodes.json"}
    assert set(m["files"]) == {"plan.txt", "weights.safetensors", "tokenizer/vocab.txt", *ours}
    assert (m["schema"], m["name"], m["backend"], m["target"]) == (1, "a.tundish", "onnxruntime", "cpu")
    assert m["info"] == {"model": "tiny"} and set(m["versions"]) == {"tundish", "onnxruntime"}
    assert m["entries"]["main"]["symbols"] == {"batch": [1, 8], "seq": [1, 64]}
    text = "".join(v.decode("latin1") for k, v in tree(bundle.path).items() if not k.endswith(".safetensors"))
    assert str(bundle.path.parent) not in text, "an absolute path"


def test_compiling_twice_gives_the_same_bytes(write: Write) -> None:
    first, second = (tree(write(name=f"{n}/same.tundish").path) for n in "ab")
    assert first == second


def test_weights_open_in_the_usual_library(write: Write, plan: Plan) -> None:
    from safetensors.numpy import load_file

    from tundish.ir.weights import materialize

    stored = load_file(write().path / "weights.safetensors")
    assert set(stored) == set(plan.program.weights) - {"head"}, "the tied head is the embedding, stored once"
    for name, array in stored.items():
        np.testing.assert_array_equal(array, materialize(plan.program.weights[name]))


def test_cases_come_back(write: Write, inputs: dict[str, Any]) -> None:
    outputs = {"logits": np.float32([[1.5]]), "scalar": np.array(3, np.int64)}
    bundle = write(cases=Cases("torch 2.13.0", (Case("left padding", "main", inputs, outputs),)))
    got = bundle.cases()
    (case,) = got.cases
    assert (got.origin, case.name, case.entry) == ("torch 2.13.0", "left padding", "main")
    for want, have in ((inputs, case.inputs), (outputs, case.outputs)):
        assert list(want) == list(have)
        assert all(np.array_equal(want[n], have[n]) and want[n].shape == have[n].shape for n in want)


def test_no_cases_is_none(write: Write) -> None:
    assert write().cases().cases == ()


# -- what a damaged or foreign bundle says ------------------------------------------------------------


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _link(path: Path) -> None:
    shutil.move(path, path.parent.parent.parent / "elsewhere")
    path.symlink_to("../../elsewhere")


def _edit(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        manifest = path / MANIFEST
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))

    return change


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("bit flip in the weights", lambda b: _flip(b / "weights.safetensors"), r"weights.safetensors was changed"),
    ("bit flip in the model", lambda b: _flip(b / "onnxruntime/main.onnx"), r"onnxruntime/main.onnx was changed"),
    ("truncation", lambda b: _truncate(b / "plan.txt"), r"plan.txt has the wrong size"),
    ("a missing file", lambda b: (b / "plan.txt").unlink(), r"plan.txt is missing"),
    ("one file more", lambda b: (b / "onnxruntime/x.bin").write_bytes(b""), r"onnxruntime/x.bin does not belong"),
    ("a link", lambda b: _link(b / "onnxruntime/main.onnx"), r"onnxruntime/main.onnx is a link"),
    ("no manifest", lambda b: (b / MANIFEST).unlink(), r"it has no manifest.json"),
    ("broken manifest", lambda b: (b / MANIFEST).write_text('{"schema": 1'), r"manifest.json is broken"),
    ("incomplete manifest", lambda b: (b / MANIFEST).write_text('{"schema": 1}'), r"manifest.json is broken"),
    ("a newer schema", _edit(schema=2, surprise=True), r"made by a newer tundish"),
    ("a feature that is not here", _edit(features=["avx1024"]), r"CPU features that this machine lacks: avx1024"),
]


@pytest.mark.parametrize(("damage", "message"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
def test_damage_is_named(write: Write, damage: Callable[[Path], object], message: str) -> None:
    path = write().path
    open_bundle(path)
    damage(path)
    with pytest.raises(LoadError, match=message):
        open_bundle(path)


def test_a_linked_bundle_and_a_file_are_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(write().path)
    (tmp_path / "file").write_text("")
    for name in ("linked", "file", "nothing"):
        with pytest.raises(LoadError, match=f"{name} is not a bundle"):
            open_bundle(tmp_path / name)


def python(code: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args], capture_output=True, text=True, timeout=120, **options
    )


def test_opens_and_runs_without_torch_transformers_and_onnx(write: Write) -> None:
    result = python(
        """
        import sys
        for name in ("torch", "transformers", "onnx", "safetensors"):
            sys.modules[name] = None
        import numpy as np
        from tundish.backends.bundle import open_bundle
        bundle = open_bundle(sys.argv[1])
        assert "onnxruntime" not in sys.modules, "loaded before it was needed"
        ids = np.ones((1, 4), np.int64)
        print(bundle.run({"input_ids": ids, "attention_mask": ids})["logits"].shape)
        """,
        str(write().path),
    )
    assert result.stdout == "(1, 4, 50)\n", result.stderr


def test_features_are_checked_before_a_library_is_loaded(write: Write) -> None:
    path = write().path
    _edit(features=["avx1024"])(path)
    result = python(
        """
        import sys
        from tundish.backends.bundle import open_bundle
        try:
            open_bundle(sys.argv[1])
        except Exception as error:
            print(type(error).__name__, "onnxruntime" in sys.modules)
        """,
        str(path),
    )
    assert result.stdout == "LoadError False\n", result.stderr


# -- writing: whole or not at all ---------------------------------------------------------------------


def left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_old_one_stays_when_a_check_fails(write: Write, tmp_path: Path) -> None:
    old = tree(write().path)
    seen = []

    def check(bundle: Bundle) -> None:
        seen.append(bundle.manifest.name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(seed=1, check=check)
    assert seen == ["tiny.tundish"]
    assert tree(tmp_path / "tiny.tundish") == old and left_behind(tmp_path) == ["tiny.tundish"]


def test_a_new_one_takes_the_place_of_the_old(write: Write, tmp_path: Path) -> None:
    old = tree(write().path)
    new = write(seed=1)
    assert tree(new.path) != old and left_behind(tmp_path) == ["tiny.tundish"]


def test_without_exchange_it_is_two_renames(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tundish.backends import publish

    old = tree(write().path)
    monkeypatch.setattr(publish, "_exchange", lambda left, right: False)
    assert tree(write(seed=1).path) != old and left_behind(tmp_path) == ["tiny.tundish"]


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_something_else_is_not_overwritten(write: Write, tmp_path: Path, what: str) -> None:
    out = tmp_path / "mine"
    if what == "file":
        out.write_text("precious")
    elif what == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("precious")
    else:
        (tmp_path / "real").mkdir()
        out.symlink_to("real")
    before = left_behind(tmp_path)
    with pytest.raises(BuildError, match="mine is there and is not a"):
        write(name="mine")
    assert left_behind(tmp_path) == before


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "manifest.json", "plan.txt"])
def test_extra_files_stay_inside(write: Write, tmp_path: Path, name: str) -> None:
    with pytest.raises(BuildError, match="cannot be a file of the bundle"):
        write(extra_files=[(name, b"")])
    assert left_behind(tmp_path) == []


SLOW_WRITER = """
import resource, signal, sys, time
sys.path.insert(0, sys.argv[2])
from conftest import tiny_plan
from tundish.backends import registry
from tundish.backends.bundle import write_bundle
from tundish.ir.diagnostics import TundishError

def slowly(stage, done, total):
    print("writing", flush=True)
    time.sleep(float(sys.argv[3]))

if len(sys.argv) > 4:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
try:
    write_bundle(sys.argv[1], tiny_plan(seed=1), registry.get("onnxruntime"), progress=slowly)
except TundishError as error:
    print(error)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_killed_writer_leaves_the_old_one(write: Write, tmp_path: Path, number: int) -> None:
    old = tree(write().path)
    args = [sys.executable, "-c", SLOW_WRITER, str(tmp_path / "tiny.tundish"), str(HERE), "30"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        stale = [n for n in left_behind(tmp_path) if n.startswith(".tiny.tundish.partial-")]
        assert len(stale) == 1
        write(name="other.tundish")  # a neighbour's compile leaves it alone
        assert stale[0] in left_behind(tmp_path)
        process.send_signal(number)
        process.wait(60)
    assert tree(tmp_path / "tiny.tundish") == old
    if number == signal.SIGINT:
        assert left_behind(tmp_path) == ["other.tundish", "tiny.tundish"]
    write(seed=2)
    assert left_behind(tmp_path) == ["other.tundish", "tiny.tundish"], "what the dead one left is gone"


def test_a_living_writer_is_left_alone(write: Write, tmp_path: Path) -> None:
    args = [sys.executable, "-c", SLOW_WRITER, str(tmp_path / "tiny.tundish"), str(HERE), "30"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        write()
        assert len(left_behind(tmp_path)) == 2
        process.kill()


def test_a_full_disk_is_said_and_leaves_the_old_one(write: Write, tmp_path: Path) -> None:
    """A file-size limit fails the write as a full disk does, without needing one."""
    old = tree(write().path)
    result = python(SLOW_WRITER, str(tmp_path / "tiny.tundish"), str(HERE), "0", "20000")
    assert "cannot write weights.safetensors: the disk is full" in result.stdout, result.stderr
    assert tree(tmp_path / "tiny.tundish") == old and left_behind(tmp_path) == ["tiny.tundish"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        result = python(SLOW_WRITER, str(small / "tiny.tundish"), str(HERE), "0")
        assert "cannot write weights.safetensors: the disk is full" in result.stdout, result.stderr
        assert left_behind(small) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_weights_are_streamed_one_at_a_time(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    from tundish.backends import weight_out

    made: list[weakref.ref[np.ndarray]] = []
    real = weight_out.materialize

    def counted(weight: Any) -> np.ndarray:
        assert sum(r() is not None for r in made) <= 1, "more than the last weight is still in memory"
        array = np.array(real(weight))
        made.append(weakref.ref(array))
        return array

    monkeypatch.setattr(weight_out, "materialize", counted)
    write_bundle(tmp_path / "m", plan, registry.get("null"))
    assert len(made) > 10
