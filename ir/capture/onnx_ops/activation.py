"""ONNX's activation functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...diagnostics import CaptureError
from .table import enters, number, scalar

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}


@enters(TABLE, "Gelu")
def _(to: Importer) -> Value:
    kind = to.attr("approximate", "none")
    if kind not in ("none", "tanh"):
        raise CaptureError(f"Gelu: approximate is none or tanh, got {kind!r}")
    return to.emit("gelu", to.value(0), approximate=kind)


@enters(TABLE, "Swish")
def _(to: Importer) -> Value:
    x, alpha = to.value(0), to.attr("alpha", 1.0)
    return to.emit("silu", x) if alpha == 1 else to.emit("mul", x, to.emit("sigmoid", _scaled(to, x, alpha)))


@enters(TABLE, "HardSwish")
def _(to: Importer) -> Value:
    x = to.value(0)
    return to.emit("mul", x, _hard_sigmoid(to, x, 1 / 6, 0.5))


@enters(TABLE, "HardSigmoid")
def _(to: Importer) -> Value:
    return _hard_sigmoid(to, to.value(0), to.attr("alpha", 0.2), to.attr("beta", 0.5))


def _hard_sigmoid(to: Importer, x: Value, alpha: float, beta: float) -> Value:
    line = to.emit("add", _scaled(to, x, alpha), scalar(to, beta, x))
    return to.emit("minimum", to.emit("maximum", line, scalar(to, 0, x)), scalar(to, 1, x))


@enters(TABLE, "LeakyRelu")
def _(to: Importer) -> Value:
    x = to.value(0)
    return _bent(to, x, _scaled(to, x, to.attr("alpha", 0.01)))


@enters(TABLE, "PRelu")
def _(to: Importer) -> Value:
    x = to.value(0)
    return _bent(to, x, to.emit("mul", x, to.value(1)))


@enters(TABLE, "ThresholdedRelu")
def _(to: Importer) -> Value:
    x = to.value(0)
    return to.emit("where", to.emit("gt", x, scalar(to, to.attr("alpha", 1.0), x)), x, scalar(to, 0, x))


@enters(TABLE, "Elu")
def _(to: Importer) -> Value:
    x = to.value(0)
    return _bent(to, x, _scaled(to, _below(to, x), to.attr("alpha", 1.0)))


@enters(TABLE, "Celu")
def _(to: Importer) -> Value:
    x, alpha = to.value(0), to.attr("alpha", 1.0)
    if alpha == 0:
        raise CaptureError("Celu: alpha is 0")
    return _bent(to, x, _scaled(to, _below(to, _scaled(to, x, 1 / alpha)), alpha))


@enters(TABLE, "Selu")
def _(to: Importer) -> Value:
    x = to.value(0)
    alpha, gamma = to.attr("alpha", 1.6732632423543772), to.attr("gamma", 1.0507009873554805)
    return _scaled(to, _bent(to, x, _scaled(to, _below(to, x), alpha)), gamma)


def _below(to: Importer, x: Value) -> Value:
    """exp(x) - 1, of what is above 0 anything finite."""
    return to.emit("sub", to.emit("exp", to.emit("minimum", x, scalar(to, 0, x))), scalar(to, 1, x))


def _bent(to: Importer, x: Value, below: Value) -> Value:
    """x, but `below` where x is negative."""
    return to.emit("where", to.emit("lt", x, scalar(to, 0, x)), below, x)


def _scaled(to: Importer, x: Value, factor: float) -> Value:
    return to.emit("mul", x, scalar(to, factor, x))


@enters(TABLE, "Softplus")
def _(to: Importer) -> Value:
    return _softplus(to, to.value(0))


@enters(TABLE, "Mish")
def _(to: Importer) -> Value:
    x = to.value(0)
    return to.emit("mul", x, to.emit("tanh", _softplus(to, x)))


def _softplus(to: Importer, x: Value) -> Value:
    """log(1 + exp(x)) without overflow."""
    small = to.emit("exp", to.emit("neg", to.emit("abs", x)))
    return to.emit("add", to.emit("relu", x), to.emit("log", to.emit("add", small, scalar(to, 1, x))))


@enters(TABLE, "Softsign")
def _(to: Importer) -> Value:
    x = to.value(0)
    return to.emit("div", x, to.emit("add", to.emit("abs", x), scalar(to, 1, x)))


@enters(TABLE, "Shrink")
def _(to: Importer) -> Value:
    """Towards 0 by `bias`, and 0 within `lambd` of it."""
    x, far, by = to.value(0), to.attr("lambd", 0.5), to.attr("bias", 0.0)
    inner = to.emit("where", to.emit("gt", x, scalar(to, far, x)), to.emit("sub", x, scalar(to, by, x)),
                    scalar(to, 0, x))  # fmt: skip
    return to.emit("where", to.emit("lt", x, scalar(to, -far, x)), to.emit("add", x, scalar(to, by, x)), inner)


@enters(TABLE, "Dropout")
def _(to: Importer) -> tuple[Value, ...]:
    """What inference does: x itself and a mask of all true. Opset 12 made ratio and training_mode inputs."""
    x = to.value(0)
    training = to.has(2) and bool(number(to, 2, "training_mode"))
    ratio = number(to, 1, "ratio") if training and to.has(1) else 0.5
    if training and ratio != 0:
        raise CaptureError("Dropout in training mode drops at random", hint="export the model for inference")
    if not to.wants(1):
        return (x,)
    return x, to.emit("expand", scalar(to, 1, x, "bool"), shape=x.type.shape)
