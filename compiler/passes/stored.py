"""Which weights that a program holds quantised stay so."""

from __future__ import annotations

from ...ir.graph import Node
from ..capabilities import Blocks
from ..task import Task

BITS = {"int8": 8, "int4": 4}  # --weights -> bits of a number
STORED = "stored"


def stays(node: Node, task: Task) -> bool:
    """Whether a `dequantize` node is left for kernels that work on its numbers as they are.

    Where they are asked for as stored, or in so many bits as they have; of a backend that takes all, without asking.
    """
    able, asked = task.capabilities, task.precision.blocks
    if "quantized_matmul" not in able.ops:
        return False
    if not asked:
        return able.blocks is None
    wanted = asked == STORED or BITS[asked] == node.attrs["bits"]
    return wanted and node.output.type.rank == 2 and takes(task, *_form(node)) is not None


def _form(node: Node) -> tuple[int, int, str]:
    a = node.attrs
    return a["bits"], a["group"], a["scheme"]


def takes(task: Task, bits: int, group: int, scheme: str) -> str | None:
    """The scheme under which the backend works on such a form: an offset may be added apart. None where it does not."""
    blocks = task.capabilities.blocks
    tried = (scheme, "centred") if scheme == "offset" else (scheme,)
    return next((s for s in tried if blocks is None or Blocks(bits, group, s) in blocks), None)
