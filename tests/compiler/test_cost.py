"""Predicted seconds: never below the roof, more work never takes less, and what is not known widens the interval."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tundish.compiler.cost.estimate import Costs
from tundish.compiler.cost.kernels import Kernel, kernels
from tundish.compiler.cost.roofline import Roofline, correction, kernel_s
from tundish.compiler.hardware.calibration import Point
from tundish.ir.build import Builder
from tundish.ir.dims import Dim, symbol
from tundish.ir.dtypes import boolean, f32
from tundish.ir.graph import Node
from tundish.ir.tensor import TensorType

from .calibration_kit import LEVELS, MACHINE, calibration, family

ROWS = symbol("rows")
FULL = calibration(
    family("linear"), family("add"), family("layer_norm"), family("attention"), family("+bias", compute_share=0.1),
    family("+bias+gelu", compute_share=0.1),
)  # fmt: skip


def costs(**changes: object) -> Costs:
    given = {"calibration": FULL, "machine": MACHINE, "backend": "onnxruntime", "threads": 2, **changes}
    return Costs(**given)  # type: ignore[arg-type]


def linear(k: int = 256, n: int = 512, *, bias: bool = False, gelu: bool = False) -> list[Node]:
    b = Builder()
    x = b.input("x", TensorType(f32, (1, ROWS, k)))
    w, added = b.input("w", TensorType(f32, (k, n))), b.input("b", TensorType(f32, (n,)))
    y = b.emit("linear", x, w, added if bias else None)
    if gelu:
        b.emit("gelu", y)
    return b.nodes


def test_a_linear_is_its_rows_inner_size_and_columns() -> None:
    (kernel,) = kernels(linear(), {"rows": 32})
    assert kernel.family == "linear" and kernel.at == (32, 256, 512)
    assert kernel.flops == 2 * 32 * 256 * 512
    assert kernel.weight_bytes == 4 * 256 * 512
    assert kernel.activation_bytes == 4 * 32 * (256 + 512)


def test_a_bias_and_what_follows_is_an_epilogue() -> None:
    product, epilogue = kernels(linear(bias=True, gelu=True), {"rows": 32})
    assert product == kernels(linear(), {"rows": 32})[0]
    assert epilogue.family == "+bias+gelu" and epilogue.at == (32 * 512,)
    assert epilogue.activation_bytes == 2 * 4 * 32 * 512 + 4 * 512  # the product read, the result written, the bias


def test_attention_goes_by_its_kind() -> None:
    b = Builder()
    q = b.input("q", TensorType(f32, (2, ROWS, 12, 64)))
    b.emit("attention", q, q, q, b.input("m", TensorType(boolean, (2, ROWS))), scale=0.125, causal=True)
    (kernel,) = kernels(b.nodes, {"rows": 7})
    assert kernel.family == "attention_causal_mask" and kernel.at == (24, 7, 7, 64)


@pytest.mark.parametrize(
    ("perm", "family"),
    [((0, 2, 1, 3), "transpose"), ((0, 1, 3, 2), "transpose_last"), ((3, 0, 1, 2), "transpose_last")],
)
def test_moving_elements_is_another_kind_than_moving_rows(perm: tuple[int, ...], family: str) -> None:
    b = Builder()
    b.emit("transpose", b.input("x", TensorType(f32, (2, ROWS, 12, 64))), perm=perm)
    assert kernels(b.nodes, {"rows": 7})[0].family == family


@pytest.mark.parametrize(
    ("shape", "family"), [((ROWS, 64), "mul"), ((64,), "mul_broadcast"), ((), "mul"), ((1, 1), "mul")]
)
def test_an_operand_that_is_repeated_is_a_kind_of_its_own(shape: tuple[Dim, ...], family: str) -> None:
    b = Builder()
    b.emit("mul", b.input("x", TensorType(f32, (ROWS, 64))), b.input("y", TensorType(f32, shape)))
    assert kernels(b.nodes, {"rows": 5})[0].family == family


def test_structure_costs_nothing() -> None:
    b = Builder()
    b.constant(1.0, f32)
    assert kernels(b.nodes, {}) == () and costs().nodes(b.nodes, {}).seconds == 0


sizes = st.integers(1, 4096)


@given(sizes, st.integers(0, 2000), st.booleans())
def test_more_rows_never_take_less(rows: int, more: int, calibrated: bool) -> None:
    found = costs() if calibrated else costs(calibration=None)
    less, greater = (found.nodes(linear(bias=True), {"rows": n}) for n in (rows, rows + more))
    assert less.seconds <= greater.seconds and less.roof_s <= greater.roof_s


@given(st.floats(0, 1e12), st.floats(0, 1e10), st.floats(0, 1e10), st.floats(0, 1e11))
def test_more_work_never_takes_less(flops: float, weights: float, activations: float, more: float) -> None:
    def kernel(f: float, w: float, a: float) -> Kernel:
        return Kernel("linear", "f32", (1.0, 1.0, 1.0), int(f), int(w), int(a))

    found = costs()
    least = found.kernel(kernel(flops, weights, activations))
    work = (flops, weights, activations)
    for i in range(3):
        other = kernel(*(w + more * (i == j) for j, w in enumerate(work)))
        assert found.kernel(other).seconds >= least.seconds
    assert least.low_s <= least.seconds <= least.high_s
    assert least.seconds >= least.roof_s


def test_the_roof_that_binds_has_its_level() -> None:
    found = costs()
    wide = found.nodes(linear(4096, 4096), {"rows": 1})
    assert wide.roof == "memory" and math.isclose(wide.roof_s, (4 * 4096 * 4096) / LEVELS["memory"], rel_tol=0.01)
    tall = found.nodes(linear(1024, 1024), {"rows": 512})
    assert tall.roof == "compute" and math.isclose(tall.roof_s, 2 * 512 * 1024 * 1024 / 200e9)
    b = Builder()
    x = b.input("x", TensorType(f32, (ROWS, 1024)))
    b.emit("add", x, x)
    assert found.nodes(b.nodes, {"rows": 256}).roof == "L3"
    assert found.nodes(b.nodes, {"rows": 150}).roof == "L2"
    assert found.nodes(b.nodes, {"rows": 1}).roof == "launch"


def test_weights_that_all_fit_in_the_last_cache_are_read_from_it() -> None:
    cold, warm = (costs(weights_bytes=n).nodes(linear(1024, 1024), {"rows": 1}) for n in (1 << 30, 16 << 20))
    assert warm.roof == "L3" and cold.roof == "memory" and warm.seconds < cold.seconds


@pytest.mark.parametrize("at", [(1.0, 10.0), (64.0, 4000.0)])
def test_measured_sizes_correct_the_fit_near_them_alone(at: tuple[float, float]) -> None:
    points = [((64.0, 4000.0), 0.3), ((1.0, 10.0), -0.2)]
    assert math.isclose(correction(at, points), dict(points)[at], rel_tol=0.01)
    assert abs(correction((1e9, 1e9), points)) < 0.02


def test_a_measured_point_is_predicted_as_it_was_measured() -> None:
    (kernel,) = kernels(linear(), {"rows": 32})
    point = Point(at=kernel.at, seconds=1.0, residual=math.log(1.5))
    plain, corrected = (costs(calibration=calibration(family("linear", *p))) for p in ((), (point,)))
    ratio = corrected.kernel(kernel).seconds / plain.kernel(kernel).seconds
    assert math.isclose(ratio, 1.5, rel_tol=0.01)


def test_what_was_not_measured_says_so_and_is_wider() -> None:
    nodes, at = linear(), {"rows": 64}
    known = costs().nodes(nodes, at)
    assert costs().calibrated and "2026-11-25" in costs().notes[0]
    for other in (costs(calibration=None), costs(backend="another"), costs(threads=8)):
        found = other.nodes(nodes, at)
        assert found.high_s / found.low_s > known.high_s / known.low_s
        assert any("not" in note for note in other.notes)
    assert not costs(calibration=None).calibrated


def test_a_calibration_that_others_disturbed_says_so() -> None:
    quiet, busy = (costs(calibration=calibration(family("linear"), disturbed=share)).notes for share in (0.05, 0.9))
    assert any("disturbed" in note for note in busy) and not any("disturbed" in note for note in quiet)


def test_an_op_that_was_not_measured_is_predicted_by_its_kin_with_a_wider_interval() -> None:
    b = Builder()
    x = b.input("x", TensorType(f32, (ROWS, 1024)))
    b.emit("sub", x, x)
    sub = costs().nodes(b.nodes, {"rows": 64})
    b.emit("add", x, x)
    add = costs().nodes(b.nodes[1:], {"rows": 64})
    assert sub.seconds == add.seconds and sub.high_s > add.high_s


def test_an_epilogue_that_was_not_measured_is_the_sum_of_its_parts() -> None:
    b = Builder()
    x = b.input("x", TensorType(f32, (1, ROWS, 64)))
    y = b.emit("linear", x, b.input("w", TensorType(f32, (64, 64))))
    z = b.emit("add", y, x)
    b.emit("layer_norm", z, b.input("g", TensorType(f32, (64,))), b.input("h", TensorType(f32, (64,))), eps=1e-5)
    at, found = {"rows": 10}, costs()
    alone = [found.nodes([n], at).seconds for n in b.nodes]
    assert math.isclose(found.nodes(b.nodes, at).seconds, sum(alone))


@given(st.floats(1e-9, 1), st.floats(1e-9, 1), st.floats(0, 1e-3), st.floats(0.05, 1), st.floats(0.05, 1))
def test_a_kernel_is_never_faster_than_the_plain_roofline(
    compute: float, memory: float, overhead: float, compute_share: float, memory_share: float
) -> None:
    found = kernel_s(compute, memory, overhead, compute_share, memory_share)
    assert found >= max(compute, memory) * 0.999999
    assert found <= overhead + compute / compute_share + memory / memory_share + 1e-12


def test_roofs_are_those_of_the_threads() -> None:
    assert costs(threads=1).roofs() == Roofline(100e9, {k: v / 2 for k, v in LEVELS.items()})
    assert costs(threads=2).roofs().peak_flops_per_s == 200e9


def test_a_family_measured_at_other_threads_alone_speaks_with_a_wider_interval() -> None:
    (kernel,) = kernels(linear(), {"rows": 64})
    both = calibration(family("linear", threads=1, compute_share=0.4), family("linear", threads=2))
    one = calibration(family("linear", threads=1, compute_share=0.4))
    found = {name: costs(calibration=c).kernel(kernel) for name, c in (("both", both), ("one", one))}
    assert found["both"].seconds < found["one"].seconds
    ratios = {name: e.high_s / e.seconds for name, e in found.items()}
    assert math.isclose(ratios["one"], 2 * ratios["both"])
    assert any("1 threads, not 2" in note for note in costs(calibration=one).notes)


def test_the_roof_of_a_level_is_the_faster_of_reading_and_copying() -> None:
    given = calibration()
    copying = [b.copy_bytes_per_s for b in given.bandwidths if b.level == "L2"][-1]
    faster = msgspec.structs.replace(
        given, bandwidths=tuple(msgspec.structs.replace(b, copy_bytes_per_s=9e12) for b in given.bandwidths)
    )
    assert costs(calibration=given).roofs().bandwidths["L2"] == max(copying, LEVELS["L2"])
    assert costs(calibration=faster).roofs().bandwidths["L2"] == 9e12
