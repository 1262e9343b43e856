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
BOTH_WAYS = ("bert-base", "vit-base")  # every pair is allowed
V, W = 4096, 14336  # Mixtral's width and an expert's


def dense_llama(layers: int, d: int, f: int) -> int:
    """8 key heads of 128."""
    return 2 * 128256 * d + d + layers * (2 * d * d + 2 * d * 1024 + 3 * d * f + 2 * d)


# Parameters by hand: embeddings, then layers, then what stands behind them; a norm is d, or 2·d where it has a bias.
PARAMETERS = {
    "bert-base": (30522 + 512 + 2 + 2) * 768 + 12 * (12 * 768**2 + 13 * 768) + 768**2 + 768,
    "gpt2": (50257 + 1024 + 2) * 768 + 12 * (12 * 768**2 + 13 * 768),
    "llama-3-8b": dense_llama(32, 4096, 14336),
    "llama-3-405b": dense_llama(126, 16384, 53248),
    # a bias for each of 32 distances and 16 heads, once in each stack
    "t5-large": 32128 * 1024 + 24 * (20 * 1024**2 + 8 * 1024**2 + 5 * 1024) + 2 * (1024 + 32 * 16),
    "vit-base": (3 * 256 + 1 + 1 + 197) * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768 + 1000 * 769,
    "mixtral-8x7b": 2 * 32000 * V + V + 32 * (2 * V * V + 2 * V * 1024 + 8 * V + 8 * 3 * V * W + 2 * V),
    "qwen3-30b-a3b": 2 * 151936 * 2048 + 2048
    + 48 * (2048 * (2 * 4096 + 2 * 512 + 128 + 128 * 3 * 768 + 2) + 2 * 128),
    "deepseek-v3": 2 * 129280 * 7168 + 7168 + 61 * (7168 * (1536 + 576 + 128 * 128 + 2) + 1536 + 512)
    + 61 * (1536 * 128 * 192 + 512 * 128 * 256) + 3 * 3 * 7168 * 18432 + 58 * 7168 * (256 + 257 * 3 * 2048),
    "palm-540b": 256000 * 18432 + 18432 + 118 * 18432 * (2 * 48 * 256 + 2 * 256 + 3 * 4 * 18432 + 1),
}  # fmt: skip
IDLE = {  # parameters of the experts that a token does not go to
    "mixtral-8x7b": 32 * 6 * 3 * V * W, "qwen3-30b-a3b": 48 * 120 * 3 * 2048 * 768,
    "deepseek-v3": 58 * 248 * 3 * 7168 * 2048,
}  # fmt: skip
CUT = ("qwen3-30b-a3b",)  # whose count of active parameters is printed with the digits behind cut off
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FORMULAS]


def of_step(name: str, b: int, t: int) -> dict[str, int]:
    """One token a row against t - 1 before it; DeepSeek-V3 widens the latents of all t anew, as transformers has it."""
    found = FORMULAS[name](b, 1)
    layers, heads, d, e = {"gpt2": (12, 12, 64, 64), "mixtral-8x7b": (32, 32, 128, 128),
                           "deepseek-v3": (61, 128, 192, 128)}[name]  # fmt: skip
    again = 61 * linear(b * (t - 1), 512, 128 * 256) if name == "deepseek-v3" else 0
    return {**found, "linear": found["linear"] + again, "attention": layers * attended(b, heads, 1, t, d, e, False)}


@cache
def counted(name: str, phase: str = "prefill") -> Callable[[int, int], Any]:
    work = Work(name, Asked(shapes=True, phase=phase), silent)
    raised, buffers = after_passes(work.program, "reference"), work.source.buffers()

    def at(b: int, s: int) -> Any:
        sizes = {n: b if n == "batch" else s for n in work.program.symbols}
        return account(raised, sizes, buffers=buffers, captured=work.program)

    return at


def of_products(found: Any, column: str = "flops") -> dict[str, int]:
    return {r.name: getattr(r.work, column) for r in found.by_op if r.name in _PRODUCTS}


@pytest.mark.parametrize("name", NAMES)
def test_flops_of_products_attention_and_experts_to_the_last_digit(name: str) -> None:
    for b, s in SIZES:
        assert of_products(counted(name)(b, s)) == FORMULAS[name](b, s)


@pytest.mark.parametrize("name", NAMES)
def test_a_dense_kernel_does_all_pairs_and_nothing_else_more(name: str) -> None:
    for b, s in SIZES:
        asked, done = FORMULAS[name](b, s), of_products(counted(name)(b, s), "hardware_flops")
        assert {k: v for k, v in done.items() if k != "attention"} == {
            k: v for k, v in asked.items() if k != "attention"
        }
        if name == "t5-large":
            assert done["attention"] == 24 * 3 * attended(b, 16, s, s, 64, 64, False)
        else:
            pairs = (1, 1) if name in BOTH_WAYS else (2 * s, s + 1)
            assert done["attention"] * pairs[1] == asked["attention"] * pairs[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "mixtral-8x7b", "deepseek-v3"])
def test_a_decode_step_to_the_last_digit(name: str) -> None:
    for b, past in ((1, 1), (2, 7), (3, 500)):
        assert of_products(counted(name, "decode")(b, past)) == of_step(name, b, past + 1)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_entrys_and_the_published_ones(name: str) -> None:
    found, entry = counted(name)(1, 1), ZOO[name]
    assert found.parameters == entry.parameters == PARAMETERS[name]
    told = entry.published
    assert told is not None and told.source and told.includes
    assert printed_as(found.parameters - told.apart, told.total)
    assert found.active == PARAMETERS[name] - IDLE.get(name, 0)
    assert bool(told.active) == (name in IDLE)
    if told.active:
        assert printed_as(found.active - told.active_apart, told.active, cut=name in CUT)


def printed_as(count: int, text: str, cut: bool = False) -> bool:
    """Whether a count, rounded to as many digits, is the one that was printed: `405.85 B`. cut: not rounded, but cut.

    Of `110 M` the nought is no digit.
    """
    digits, unit = text.split()
    scale = {"M": 10**6, "B": 10**9}[unit]
    places = len(digits.partition(".")[2])
    step = scale // 10**places * (10 if digits.endswith("0") and not places else 1)
    return round(float(digits) * scale) == (count + (0 if cut else step // 2)) // step * step


@pytest.mark.parametrize(("count", "text", "same"), [
    (109_482_240, "110 M", True), (46_702_792_704, "46.7 B", True), (12_879_925_248, "12.9 B", True),
    (405_853_388_800, "405.85 B", True), (405_853_388_800, "405.84 B", False), (671_026_404_352, "672 B", False),
    (94_000_000, "110 M", False), (86_567_656, "86 M", False), (3_353_032_704, "3.3 B", False),
])  # fmt: skip
def test_printed_digits(count: int, text: str, same: bool) -> None:
    assert printed_as(count, text) == same
