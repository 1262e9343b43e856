"""What the kernels take of a multiprocessor: in the configurations that models use, nothing is spilled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tundish.backends.tvm.cuda.block import Block, block_kernel
from tundish.backends.tvm.cuda.cubin import Resources, resources
from tundish.backends.tvm.cuda.kernels import (
    attention,
    attention_few,
    attention_mma,
    elementwise,
    gemm,
    gemm_mma,
    gemv,
    matmul,
    norm,
    rows,
)  # fmt: skip
from tundish.backends.tvm.cuda.kernels.attention_form import Form
from tundish.backends.tvm.cuda.kernels.product import Product
from tundish.backends.tvm.cuda.library import source
from tundish.backends.tvm.cuda.lower_product import MANY
from tundish.backends.tvm.cuda.nvrtc import need, nvrtc
from tundish.backends.tvm.epilogue import COLUMN, FULL, Epilogue
from tundish.backends.tvm.kernels.matmul import Tile
from tundish.backends.tvm.script import Registers, i64, load, loop, number, store
from tundish.backends.tvm.steps import Chain, Step
from tundish.compiler.hardware.gpus import GPUS, Gpu
from tundish.ir.diagnostics import LoadError

pytestmark = pytest.mark.skipif(nvrtc() is None, reason="device code is made by NVRTC: pip install 'tundish[cuda]'")
slow = pytest.mark.slow


def product(given: str = "float32", held: str = "float32", k: int = 768, n: int = 3072) -> Product:
    """With a bias, GELU and a residual."""
    steps = (Step("add", (0, 1)), Step("gelu", (3,)), Step("add", (4, 2)))
    kinds = ("float32", "float32", "float32")
    return Product(k, n, 64, given, held, given, (given, given), Epilogue((COLUMN, FULL), Chain(kinds, (), steps)))


def form(d: int = 64, given: str = "float32", **more: Any) -> Form:
    usual = {"mask": "keys", "bias": "", "sinks": "", "position": "", "causal": True, "window": 0, "softcap": 0.0}
    return Form(**{"d": d, "e": d, "heads": 4, "group": 3, "scale": 0.125, "given": given, **usual, **more})


SWIGLU = Chain(("float32", "float32"), (), (Step("silu", (0,)), Step("mul", (2, 1))))
KERNELS: dict[str, Callable[[], Any]] = {
    "elementwise": lambda: elementwise.elementwise("", chain=SWIGLU, out="float32", rank=3, last=(1, 1, 1), lanes=1),
    "layer norm": lambda: norm.norm("", d=768, eps=1e-5, lanes=1, centred=True, biased=True),
    "long rms norm": lambda: norm.norm("", d=8192, eps=1e-5, lanes=1, centred=False, biased=False),
    "softmax": lambda: norm.softmax("", dtype="float32", lanes=1),
    "rotary": lambda: rows.rotary("", d=64, turned=64, interleaved=False, lanes=1),
    "cache write": lambda: rows.cache_write("", dtype="float32", lanes=1, position="int64"),
    "gather": lambda: rows.gather("", dtype="int32", ids="int64", single=False, lanes=1),
    "panel gather": lambda: rows.panel_gather("", dtype="int32", ids="int64", width=64),
    "matmul": lambda: matmul.matmul("", tile=Tile(1), rank=2, contiguous=True),
    "gemv of 1": lambda: gemv.gemv("", form=product(), rows=1),
    "gemv of 8": lambda: gemv.gemv("", form=product(), rows=8),
    "gemv of bf16": lambda: gemv.gemv("", form=product("bfloat16", "bfloat16"), rows=8),
    "gemm": lambda: gemm.gemm("", form=product()),
    "small tiles of bf16": lambda: gemm_mma.gemm_mma("", form=product("bfloat16", "bfloat16"), cut=MANY[0][2]),
    "large tiles of bf16": lambda: gemm_mma.gemm_mma("", form=product("bfloat16", "bfloat16"), cut=MANY[1][2]),
    "large tiles of fp16": lambda: gemm_mma.gemm_mma("", form=product("float16", "float16"), cut=MANY[1][2]),
    "attention": lambda: attention.attention("", form=form()),
    "attention of bf16": lambda: attention_mma.attention_mma("", form=form(given="bfloat16")),
    "attention of bf16, 128": lambda: attention_mma.attention_mma("", form=form(128, "bfloat16", position="int64")),
    "attention of one query": lambda: attention_few.attention_few("", form=form(position="int64", mask="")),
    "attention of one query, bf16": lambda: attention_few.attention_few("", form=form(128, "bfloat16", group=8)),
    "joining parts": lambda: attention_few.attention_join("", form=form(position="int64", mask="")),
    "attention of 128": lambda: attention.attention("", form=form(128, position="int64", mask="", window=100)),
    "attention of 256": lambda: attention.attention("", form=form(256, softcap=50.0)),
}  # fmt: skip


@cache
def compiled(make: Callable[[], Any], gpu: Gpu) -> tuple[Resources, int]:
    """What it takes, and the shared memory that its launch asks for."""
    found = source(make(), gpu)
    return resources(need().cubin(found.whole, gpu.arch)), found.launch.shared


@pytest.mark.parametrize("gpu", [pytest.param(g, id=n, marks=() if n == "sm90" else slow) for n, g in GPUS.items()])
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_fits_and_spills_nothing(name: str, gpu: Gpu) -> None:
    taken, asked = compiled(KERNELS[name], gpu)
    assert taken.stack_bytes == 0
    assert taken.registers <= gpu.registers
    assert taken.shared_bytes + asked <= gpu.shared_bytes
    assert taken.shared_bytes <= 48 << 10


def test_registers_that_are_indexed_are_told() -> None:
    """A kernel whose threads index their registers by what is not known: those lie in memory."""

    def write(b: Block) -> None:
        kept = Registers(64, 1)
        kept.fill(number(1.0))
        x, places = b.array(0), b.array(1, "int64")
        with loop(i64(0), b.size(2)) as i:
            store(kept._buffer, load(places, i), load(x, i))
        with loop(i64(0), b.size(2)) as i:
            store(x, i, load(kept._buffer, load(places, i + i64(1))))

    found = source(block_kernel(3, write), GPUS["sm90"])
    assert resources(need().cubin(found.whole, "sm_90")).stack_bytes >= 256


def test_what_is_no_device_code_is_refused() -> None:
    with pytest.raises(LoadError, match="device code"):
        resources(b"\x7fELF" + bytes(100))
