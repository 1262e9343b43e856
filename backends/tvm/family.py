"""What differs between kinds of device: lowerings, and which numbers are computed within one kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...ir.dtypes import DType
from ...ir.graph import Node

Lowering = Callable[[Any, Node], object]


@dataclass(frozen=True)
class Family:
    """table: op -> its lowering. kinds: of the numbers that chains of element-wise ops hand on in registers; stored: of
    the results of those that follow a product.

    anchors: whether a node is a product that such a chain may follow, and product: calls its kernel, as
    `lower_product.product`. attend: calls those of attention, as `lower_attention.attend`.
    """

    table: Mapping[str, Lowering]
    kinds: frozenset[DType]
    stored: frozenset[DType]
    anchors: Callable[[Node], bool]
    product: Callable[..., None]
    attend: Callable[..., None]
