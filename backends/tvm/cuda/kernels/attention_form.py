"""What kernels of attention share: their slots, which keys a query sees, what becomes of a score.

Scores are scaled by log2(e) more, so that their exponentials are powers of 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...script import Expr, bind, cast, differ, i64, least, load, most, number, pure_external, select
from ...vector_math import LOG2E, tanh
from ..block import Block, guarded, i32, i64_of

LOWEST = -1e30  # what the largest score of a row is at least, so that a row of -inf alone has powers of 0
NEVER = float("-inf")


@dataclass(frozen=True)
class Form:
    """What a model fixes of an attention.

    d, e: size of a key and of a value. heads: key heads; group: queries' heads for each. scale, causal, window,
    softcap: as of the op. given: the type of q, k, v and y. mask: "", "keys" [b, t] or "full" [b, h, s, t]. bias,
    sinks, position: their types, or "".
    """

    d: int
    e: int
    heads: int
    group: int
    scale: float
    causal: bool
    window: int
    softcap: float
    given: str
    mask: str
    bias: str
    sinks: str
    position: str

    @property
    def factor(self) -> float:
        """What products of queries and keys are multiplied by, before the cap where there is one."""
        return self.scale / self.softcap if self.softcap else self.scale * LOG2E

    @property
    def optional(self) -> tuple[str, ...]:
        """The arrays that it takes beside q, k and v, in their order."""
        given = {"mask": self.mask, "bias": self.bias, "sinks": self.sinks, "position": self.position}
        return tuple(n for n, kind in given.items() if kind)

    def slots(self, *more: str) -> dict[str, int]:
        """Arrays, of which more come last, sizes, and distances in elements between steps along axes."""
        names = ["q", "k", "v", "y", *self.optional, *more, "b", "s", "t"]
        for array, axes in (("q", "bsh"), ("k", "btg"), ("v", "btg"), ("y", "bsh"), ("mask", "bsh"), ("bias", "bsh")):
            if array in names:
                names += [f"{array}.{axis}" for axis in axes]
        return {n: i for i, n in enumerate(names)}


class Given:
    """The parameters, read."""

    def __init__(self, form: Form, b: Block, *more: str) -> None:
        self.form, slots = form, form.slots(*more)
        kinds = {"mask": "uint8", "position": form.position, "bias": form.bias, "sinks": form.sinks}
        kinds |= dict.fromkeys("qkvy", form.given)
        held = ("q", "k", "v", "y", *form.optional, *more)
        self.arrays = {n: b.numbers(slots[n], kinds.get(n, "float32")) for n in held}
        self._apart = {n: b.size(i) for n, i in slots.items() if "." in n}
        self.b, self.s, self.t = (b.whole(slots[n]) for n in "bst")

    def at(self, array: str, **places: Expr) -> Expr:
        """An array's element at these places of its axes."""
        total: Expr = i64(0)
        for axis, place in places.items():
            total = total + i64_of(place) * self._apart[f"{array}.{axis}"]
        return bind(total)

    def place(self, batch: Expr) -> Expr:
        """Of a row's first query among the keys."""
        if not self.form.position:
            return bind(self.t - self.s)
        return bind(cast("int32", load(self.arrays["position"].array, i64_of(batch))))

    def seen(self, place: Expr, query: Expr) -> tuple[Expr, Expr]:
        """The keys that a query sees by causality and window: from the first, before the second."""
        f, at = self.form, bind(place + query)
        low = bind(least(most(at - (f.window - 1), i32(0)), self.t)) if f.window else i32(0)
        high = self.t
        if f.causal:
            high = bind(most(least(at + 1, high), i32(0)))
        elif f.window:
            high = bind(most(least(at + f.window, high), i32(0)))
        return low, high


class Row:
    """One query of one head: what becomes of its products with keys."""

    def __init__(self, of: Given, batch: Expr, head: Expr, query: Expr, place: Expr) -> None:
        self._of, self._form = of, of.form
        self.low, self.high = of.seen(place, query)
        places = {"b": batch, "s": query, "h": head}
        self._beside = {n: of.at(n, **places) for n in of.form.optional if n in ("mask", "bias")}

    def score(self, product: Expr, key: Expr) -> Expr:
        """The score of a key, given its product with the query times `Form.factor`; it may be beyond the last."""
        f, of = self._form, self._of
        if f.softcap:
            product = tanh(product) * number(f.softcap * LOG2E)
        inside = bind(cast("int32", key < self.high) * cast("int32", key >= self.low))
        score = bind(product)
        if f.bias:
            bias = of.arrays["bias"].load(self._beside["bias"] + i64_of(key)) * number(LOG2E)
            score = score + guarded(differ(inside, i32(0)), bias, number(0.0))
        if f.mask:
            masked = cast("int32", of.arrays["mask"].load(self._beside["mask"] + i64_of(key)))
            inside = bind(guarded(differ(inside, i32(0)), masked, i32(0)))
        return select(differ(inside, i32(0)), score, number(NEVER))


def sink_of(of: Given, head: Expr) -> Expr:
    """The score beside those of the keys."""
    return bind(of.arrays["sinks"].load(i64_of(head)) * number(LOG2E))


def exp2(x: Expr) -> Any:
    """2^x, within two units in the last place of f32."""
    return pure_external("float32", "tundish_exp2", x)
