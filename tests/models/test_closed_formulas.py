"""Ten published models: FLOPs to the last digit by formulas from the papers' sizes, parameters to the printed digits.

The formulas share nothing with the code that counts: each is written out from its model's architecture. b rows of s
tokens are n = b·s tokens; a product of [n, i] and [i, o] is 2·n·i·o FLOPs, a bias n·o more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tundish.models.zoo import ZOO
from tundish.profiler.account import account
from tundish.profiler.report.progress import silent
from tundish.work import Asked, Work, after_passes

SIZES = ((1, 1), (2, 7), (3, 512))
SLOW = ("gpt2", "llama-3-8b", "qwen3-30b-a3b", "deepseek-v3", "t5-large")


def linear(n: int, i: int, o: int, bias: bool = False) -> int:
    return 2 * n * i * o + (n * o if bias else 0)


def attended(b: int, heads: int, s: int, t: int, d: int, e: int, causal: bool) -> int:
    """q·k and weights·v for each allowed pair, and 4 for the softmax of it."""
    pairs = b * heads * (s * (s + 1) // 2 if causal else s * t)
    return pairs * (2 * d + 2 * e + 4)


def experts(n: int, k: int, d: int, f: int) -> int:
    """k gated experts for each of n tokens: gate and value, silu (2) times value (1), down; weighed and added up."""
    return n * k * (2 * d * 2 * f + 3 * f + 2 * f * d + 2 * d)


def bert_base(b: int, s: int) -> dict[str, int]:
    n, d = b * s, 768
    layer = 4 * linear(n, d, d, True) + linear(n, d, 4 * d, True) + linear(n, 4 * d, d, True)
    return {"linear": 12 * layer + linear(b, d, d, True), "attention": 12 * attended(b, 12, s, s, 64, 64, False)}


def gpt2(b: int, s: int) -> dict[str, int]:
    n, d = b * s, 768
    layer = linear(n, d, 3 * d, True) + linear(n, d, d, True) + linear(n, d, 4 * d, True) + linear(n, 4 * d, d, True)
    return {"linear": 12 * layer + linear(n, d, 50257), "attention": 12 * attended(b, 12, s, s, 64, 64, True)}


def llama(b: int, s: int, layers: int, d: int, heads: int, f: int) -> dict[str, int]:
    n = b * s
    layer = 2 * linear(n, d, d) + 2 * linear(n, d, 8 * 128) + 2 * linear(n, d, f) + linear(n, f, d)
    return {
        "linear": layers * layer + linear(n, d, 128256),
        "attention": layers * attended(b, heads, s, s, 128, 128, True),
    }


def t5_large(b: int, s: int) -> dict[str, int]:
    """Both texts of length s."""
    n, d, f = b * s, 1024, 4096
    encoder = 4 * linear(n, d, d) + linear(n, d, f) + linear(n, f, d)
    decoder = 8 * linear(n, d, d) + linear(n, d, f) + linear(n, f, d)
    both = 2 * attended(b, 16, s, s, 64, 64, False) + attended(b, 16, s, s, 64, 64, True)
    return {"linear": 24 * (encoder + decoder) + linear(n, d, 32128), "attention": 24 * both}


def vit_base(b: int, s: int) -> dict[str, int]:
    """14 x 14 patches of 16 x 16 x 3 and one token for the class; s does not matter."""
    d, n = 768, b * 197
    layer = 4 * linear(n, d, d, True) + linear(n, d, 4 * d, True) + linear(n, 4 * d, d, True)
    return {
        "conv": linear(b * 196, 3 * 16 * 16, d, True),
        "linear": 12 * layer + linear(b, d, 1000, True),
        "attention": 12 * attended(b, 12, 197, 197, 64, 64, False),
    }


def mixtral(b: int, s: int) -> dict[str, int]:
    n, d = b * s, 4096
    layer = 2 * linear(n, d, d) + 2 * linear(n, d, 8 * 128) + linear(n, d, 8)
    return {
        "linear": 32 * layer + linear(n, d, 32000), "attention": 32 * attended(b, 32, s, s, 128, 128, True),
        "moe": 32 * experts(n, 2, d, 14336),
    }  # fmt: skip


def qwen3_moe(b: int, s: int) -> dict[str, int]:
    n, d = b * s, 2048
    layer = linear(n, d, 32 * 128) + linear(n, 32 * 128, d) + 2 * linear(n, d, 4 * 128) + linear(n, d, 128)
    return {
        "linear": 48 * layer + linear(n, d, 151936), "attention": 48 * attended(b, 32, s, s, 128, 128, True),
        "moe": 48 * experts(n, 8, d, 768),
    }  # fmt: skip


def deepseek_v3(b: int, s: int) -> dict[str, int]:
    """Keys of 128 and 64 rotated features for 128 heads, values of 128; 3 dense layers, 58 with experts."""
    n, d = b * s, 7168
    latent = linear(n, d, 1536) + linear(n, 1536, 128 * 192) + linear(n, d, 576) + linear(n, 512, 128 * 256)
    layer = latent + linear(n, 128 * 128, d)
    dense = 2 * linear(n, d, 18432) + linear(n, 18432, d)
    shared = linear(n, d, 256) + 2 * linear(n, d, 2048) + linear(n, 2048, d)
    return {
        "linear": 61 * layer + 3 * dense + 58 * shared + linear(n, d, 129280),
        "attention": 61 * attended(b, 128, s, s, 192, 128, True), "moe": 58 * experts(n, 8, d, 2048),
    }  # fmt: skip


def palm_540b(b: int, s: int) -> dict[str, int]:
    n, d, f = b * s, 18432, 4 * 18432
    layer = 2 * linear(n, d, 48 * 256) + 2 * linear(n, d, 256) + 2 * linear(n, d, f) + linear(n, f, d)
    return {"linear": 118 * layer + linear(n, d, 256000), "attention": 118 * attended(b, 48, s, s, 256, 256, True)}


FORMULAS: dict[str, Callable[[int, int], dict[str, int]]] = {
    "bert-base": bert_base, "gpt2": gpt2, "vit-base": vit_base, "t5-large": t5_large, "palm-540b": palm_540b,
    "llama-3-8b": lambda b, s: llama(b, s, 32, 4096, 32, 14336),
    "llama-3-405b": lambda b, s: llama(b, s, 126, 16384, 128, 53248),
    "mixtral-8x7b": mixtral, "qwen3-30b-a3b": qwen3_moe, "deepseek-v3": deepseek_v3,
}  # fmt: skip
_PRODUCTS = ("linear", "matmul", "conv", "attention", "moe", "quantized_matmul")
# Parameters by hand, where the closed sum is short.
ACTIVE = {
    "mixtral-8x7b": 46_702_792_704 - 32 * 6 * 3 * 4096 * 14336,
    "qwen3-30b-a3b": 30_532_122_624 - 48 * 120 * 3 * 2048 * 768,
    "deepseek-v3": 671_026_404_352 - 58 * 248 * 3 * 7168 * 2048,
}
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FORMULAS]


@cache
def counted(name: str) -> Callable[[int, int], Any]:
    work = Work(name, Asked(shapes=True), silent)
    raised, buffers = after_passes(work.program, "reference"), work.source.buffers()

    def at(b: int, s: int) -> Any:
        sizes = {n: b if n == "batch" else s for n in work.program.symbols}
        return account(raised, sizes, buffers=buffers, captured=work.program)

    return at


@pytest.mark.parametrize("name", NAMES)
def test_flops_of_products_attention_and_experts_to_the_last_digit(name: str) -> None:
    for b, s in SIZES:
        found = counted(name)(b, s)
        assert {r.name: r.work.flops for r in found.by_op if r.name in _PRODUCTS} == FORMULAS[name](b, s)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_entrys_and_the_published_ones(name: str) -> None:
    found, entry = counted(name)(1, 1), ZOO[name]
    assert found.parameters == entry.parameters
    assert entry.published is not None and entry.published.source and entry.published.includes
    assert printed_as(found.parameters, entry.published.total)
    assert found.active == ACTIVE.get(name, found.parameters)
    if entry.published.active:
        assert printed_as(found.active, entry.published.active)


def printed_as(count: int, text: str) -> bool:
    """Whether a count, rounded or cut to as many digits, is the one that was printed: `405.85 B`."""
    digits, unit = text.split()
    scale = {"M": 10**6, "B": 10**9}[unit]
    places = len(digits.partition(".")[2])
    step = scale // 10**places * (10 if digits.endswith("0") and not places else 1)
    wanted = round(float(digits) * scale)
    return wanted in ((count + step // 2) // step * step, count // step * step)


@pytest.mark.parametrize(("count", "text", "same"), [
    (109_482_240, "110 M", True), (46_702_792_704, "46.7 B", True), (12_879_925_248, "12.9 B", True),
    (405_853_388_800, "405.85 B", True), (405_853_388_800, "405.84 B", False), (671_026_404_352, "672 B", False),
    (94_000_000, "110 M", False),
])  # fmt: skip
def test_printed_digits(count: int, text: str, same: bool) -> None:
    assert printed_as(count, text) == same
