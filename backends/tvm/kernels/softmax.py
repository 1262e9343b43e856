"""Softmax of rows: the greatest, the exponentials and their sum, the quotients. A row stays in the first cache."""

from __future__ import annotations

from typing import Any

from .. import vector_math as vm
from ..script import Body, Registers, bind, div, kernel, loop, most, number, splat
from .norm import across


def softmax(name: str, *, dtype: str, lanes: int) -> Any:
    """Slots: x, y, rows, n."""

    def write(b: Body) -> None:
        x, y = b.numbers(0, dtype), b.numbers(1, dtype)
        rows, n = b.size(2), b.size(3)
        whole = bind(div(n, lanes))
        low, high = b.share(rows)
        with loop(low, high) as row:
            base = bind(row * n)
            top, one = Registers(1, lanes, x.wide), Registers(1, 1, x.wide)
            top.fill(number(float("-inf"), lanes, x.wide))
            one.fill(number(float("-inf"), 1, x.wide))
            with loop(0, whole) as i:
                top[0] = most(top[0], x.load(base + i * lanes, lanes))
            with loop(whole * lanes, n) as i:
                one[0] = most(one[0], x.load(base + i))
            greatest = bind(most(across(top, lanes, most), one[0]))
            top.fill(number(0.0, lanes, x.wide))
            one.fill(number(0.0, 1, x.wide))
            with loop(0, whole) as i:
                e = bind(vm.exp(x.load(base + i * lanes, lanes) - splat(greatest, lanes)))
                y.store(base + i * lanes, e, lanes)
                top[0] = top[0] + e
            with loop(whole * lanes, n) as i:
                e = bind(vm.exp(x.load(base + i) - greatest))
                y.store(base + i, e)
                one[0] = one[0] + e
            scale = bind(number(1.0, 1, x.wide) / (across(top, lanes, lambda a, b: a + b) + one[0]))
            with loop(0, whole) as i:
                y.store(base + i * lanes, y.load(base + i * lanes, lanes) * splat(scale, lanes), lanes)
            with loop(whole * lanes, n) as i:
                y.store(base + i, y.load(base + i) * scale)

    return kernel(name, 4, write)
