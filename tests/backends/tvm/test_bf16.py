"""Models whose products multiply in bf16: every named one, by its own tolerance, and the text that decoders write.

And what is rounded by the kernel that computes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import tundish
from tundish.backends.tvm.group import groups
from tundish.backends.tvm.lower import cpus
from tundish.backends.tvm.schedule import Schedule
from tundish.backends.tvm.steps import Chain, Step
from tundish.backends.tvm.tiles import WIDTH
from tundish.backends.tvm.walk import roundings
from tundish.compiler.hardware.machine import this_machine
from tundish.ir.diagnostics import CompileError
from tundish.ir.dtypes import bf16
from tundish.ir.op import get
from tundish.models.zoo import ZOO
from tundish.profiler.parity import TOLERANCE

from .kit import case, check

slow = pytest.mark.slow
pairs = pytest.mark.skipif("avx512_bf16" not in this_machine().features, reason="needs avx512_bf16")
TINY = [name for name in ZOO if name.endswith("-tiny")]
QUICK = ("bert-tiny", "gpt2-tiny")


@pairs
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else slow) for n in TINY])
def test_a_named_model_verifies_by_the_tolerance_of_bf16(name: str, tmp_path: Path) -> None:
    """And errs by more than fp32 may: a bundle that computed in fp32 would not."""
    report = tundish.verify(tundish.compile(name, tmp_path / "b.tundish", backend="tvm", precision="bf16"))
    assert report.passed and report.origin.startswith("torch")
    assert max(o.max_abs_error for o in report.outputs) > TOLERANCE["f32"]
    assert max(o.tolerance for o in report.outputs) >= TOLERANCE["bf16"]


@pairs
@slow
@pytest.mark.parametrize("name", ["gpt2-tiny", "llama-tiny", "gemma3-tiny", "mixtral-tiny"])
def test_texts_are_written_on_caches_in_f32(name: str, tmp_path: Path) -> None:
    """Each next token is the best, within rounding, by what a run of the whole text so far says of it."""
    bundle = tundish.compile(name, tmp_path / "b.tundish", backend="tvm", precision="bf16")
    step = bundle.entries["step"]
    assert {s.type.dtype.name for s in step.inputs if s.name in step.aliases.values()} == {"f32"}
    text = [3, 1, 4, 1, 5]
    written = bundle.generate([text], max_new_tokens=12, ignore_eos=True)[0].tokens
    assert len(written) == 12
    for token in written:
        ids = np.array([text])
        logits = bundle.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})["logits"][0, -1]
        assert logits.max() - logits[token] <= TOLERANCE["bf16"] * max(1.0, np.abs(logits).max())
        text.append(int(token))


@pytest.mark.parametrize(("options", "says"), [
    ({"precision": "fp16"}, "tvm does not compute in f16"),
    ({"precision": "bf16", "target": "cpu-x86-64-v4"}, "need avx512_bf16"),
    ({"precision": "bf16", "weights": "int8", "target": "cpu-x86-64-v4-bf16"}, "int8 weights in fp32 only"),
    ({"precision": "bf16", "weights": "fp32", "target": "cpu-x86-64-v4-bf16"}, "by weights in bf16"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_a_model_is_opened(options: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=says):
        tundish.compile("no such model", tmp_path / "b.tundish", backend="tvm", **options)


@pairs
def test_a_gate_in_f32_is_read_where_it_was_written(tmp_path: Path) -> None:
    """By the thread that wrote it, without waiting: what is stored in fewer bits is shared out alike."""
    rng, n = np.random.default_rng(0), 320
    arrays = {"x": rng.standard_normal((70, 8)).astype(bf16.numpy)}
    for name in ("gate", "up"):
        weight = rng.standard_normal((8, n)).astype(bf16.numpy)
        arrays[name] = get("to_panels").reference(weight, width=WIDTH, depth=2)

    def write(b: Any, x: Any, gate: Any, up: Any) -> Any:
        gate, up = (b.emit("panel_linear", x, w, columns=n) for w in (gate, up))
        return b.emit("cast", b.emit("mul", b.emit("silu", gate), up), dtype=bf16)

    gated = {"gated": case(write, arrays)}
    check(gated, tmp_path, atol=2e-5, rtol=2**-7, threads=2)
    (file,) = tmp_path.rglob("gated.0.json")
    assert [c.waits for c in msgspec.json.decode(file.read_bytes(), type=Schedule).calls] == [False, False]


def norms(b: Any, x: Any, w: Any) -> Any:
    """One that is read as it is and rounded, and one that is only rounded."""
    both, only = (b.emit("rms_norm", v, w, eps=1e-6) for v in (x, b.emit("neg", x)))
    return b.emit("add", both, x), b.emit("cast", both, dtype=bf16), b.emit("cast", only, dtype=bf16)


@pytest.mark.parametrize("features", [7, 64])
def test_a_norm_is_rounded_by_its_own_kernel(tmp_path: Path, features: int) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((3, features), (features,)))
    one = case(norms, {"x": x, "w": w}, {"x": ("m", None)})
    found = roundings(one.graph, groups(one.graph, cpus()))
    assert sorted(r.alone for r in found.values()) == [False, True]
    check({"norms": one}, tmp_path, rtol=2**-7)


def test_a_value_that_is_given_back_is_kept_as_it_is() -> None:
    def write(b: Any, x: Any) -> Any:
        y = b.emit("softmax", x, axis=-1)
        return y, b.emit("cast", y, dtype=bf16)

    graph = case(write, {"x": np.zeros((2, 4), np.float32)}).graph
    assert [r.alone for r in roundings(graph, groups(graph, cpus())).values()] == [False]


def test_storing_is_the_last_rounding() -> None:
    """Where the last step rounds another value than the one before it gives, it must stay."""
    rounds = (("dtype", "bfloat16"),)
    gelu, last, other = Step("gelu", (0,)), Step("cast", (1,), rounds), Step("cast", (0,), rounds)
    chain = Chain(("float32",), (), (gelu, last))
    assert chain.stored("bfloat16").steps == (gelu,)
    for kept, dtype in ((chain, "float32"), (Chain(("float32",), (), (gelu, other)), "bfloat16")):
        assert kept.stored(dtype) == kept
    assert Chain(("float32",), (), (other,)).stored("bfloat16").steps == ()
    assert Chain((), (), ()).stored("bfloat16") == Chain((), (), ())
