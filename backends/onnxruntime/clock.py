"""What ONNX Runtime's profiling adds to each kernel that it times.

A kernel's time ends after its statistics are gathered (memory, threads, shapes), which takes some microseconds. A chain
of kernels that do nothing tells how many: their times in a profile, less what they take without one.
"""

from __future__ import annotations

from .wire import block, number

_NODES, _OP = 256, "Neg"
_FLOAT, _IR_VERSION, _OPSET = 1, 10, 17
SHAPE = (1,)


def chain(nodes: int = _NODES) -> bytes:
    """A model x -> y of so many kernels on one number, as an ONNX file.

    Field numbers as in onnx.proto.
    """
    names = ["x", *(f"v{i}" for i in range(1, nodes)), "y"]
    body = b"".join(
        block(1, block(1, a.encode()) + block(2, b.encode()) + block(3, b.encode()) + block(4, _OP.encode()))
        for a, b in zip(names, names[1:], strict=False)
    )
    graph = body + block(2, b"chain") + block(11, _value("x")) + block(12, _value("y"))
    return number(1, _IR_VERSION) + block(7, graph) + block(8, number(2, _OPSET))


def _value(name: str) -> bytes:
    shape = b"".join(block(1, number(1, size)) for size in SHAPE)
    return block(1, name.encode()) + block(2, block(1, number(1, _FLOAT) + block(2, shape)))
