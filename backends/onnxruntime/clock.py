"""What ONNX Runtime's profiling adds to each kernel that it times.

A kernel's time ends after its statistics are gathered (memory, threads, shapes), which takes some microseconds. A chain
of kernels that do nothing tells how many: their times in a profile, less what they take without one.
"""

from __future__ import annotations

from collections.abc import Iterator

_NODES, _OP = 256, "Neg"
_FLOAT, _IR_VERSION, _OPSET = 1, 10, 17
SHAPE = (1,)


def chain(nodes: int = _NODES) -> bytes:
    """A model x -> y of so many kernels on one number, as an ONNX file.

    Field numbers and wire types as in onnx.proto: what has a length is wire type 2, a number 0.
    """
    names = ["x", *(f"v{i}" for i in range(1, nodes)), "y"]
    body = b"".join(
        _bytes(1, _bytes(1, a.encode()) + _bytes(2, b.encode()) + _bytes(3, b.encode()) + _bytes(4, _OP.encode()))
        for a, b in zip(names, names[1:], strict=False)
    )
    graph = body + _bytes(2, b"chain") + _bytes(11, _value("x")) + _bytes(12, _value("y"))
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _number(2, _OPSET))


def _value(name: str) -> bytes:
    shape = b"".join(_bytes(1, _number(1, size)) for size in SHAPE)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, shape)))


def _bytes(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2, *_varint(len(content))]) + content


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3, *_varint(value)])


def _varint(value: int) -> Iterator[int]:
    while value >= 0x80:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
