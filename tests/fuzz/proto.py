"""Mutations of a protobuf message by its own description: any field of any message in it may change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from random import Random
from typing import Any

from .mutate import FLOATS, NUMBERS, TEXTS, mutate_bytes

OPS = ("Add", "MatMul", "Reshape", "Gather", "Concat", "Slice", "If", "Loop", "Scan", "Expand", "Range", "Tile", "Pad",
       "ConstantOfShape", "Split", "Transpose", "Cast", "Shape", "Where", "Softmax", "Attention", "TopK", "NonZero",
       "Einsum", "Resize", "Conv", "ReduceSum", "Squeeze", "Unsqueeze", "DequantizeLinear", "Frob")  # fmt: skip
_INT, _FLOAT, _TEXT, _BYTES, _MESSAGE = "int", "float", "text", "bytes", "message"
# Source: google.protobuf.descriptor.FieldDescriptor.CPPTYPE_*.
_KINDS = {1: _INT, 2: _INT, 3: _INT, 4: _INT, 5: _FLOAT, 6: _FLOAT, 7: _INT, 8: _INT, 9: _TEXT, 10: _MESSAGE}
_WIDTH = {1: (-(2**31), 2**31 - 1), 2: (-(2**63), 2**63 - 1), 3: (0, 2**32 - 1), 4: (0, 2**64 - 1), 7: (0, 1)}


def mutate_onnx(data: bytes, rng: Random) -> bytes:
    """A mutated ONNX file: its fields in most cases, otherwise its bytes."""
    if rng.random() < 0.15:
        return mutate_bytes(data, rng)
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        if places := list(_places(model)):
            with contextlib.suppress(ValueError):  # a number that an enumeration of the format does not have
                change(*rng.choice(places), rng, places)
    return bytes(model.SerializeToString())


def change(message: Any, field: Any, rng: Random, places: Any) -> None:
    """Changes one field: a number to an extreme, a name to another name, a list in its order, a message to another."""
    if _repeated(field):
        _change_list(getattr(message, field.name), field, rng, places)
    elif _kind(field) == _MESSAGE:
        if rng.random() < 0.5:
            message.ClearField(field.name)
        else:
            getattr(message, field.name).CopyFrom(_another(field, rng, places, getattr(message, field.name)))
    elif rng.random() < 0.1:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _value(field, getattr(message, field.name), rng, places))


def _places(message: Any) -> Iterator[tuple[Any, Any]]:
    """(message, field) of everything that is set within."""
    for field, value in message.ListFields():
        yield message, field
        if _kind(field) == _MESSAGE:
            for inner in value if _repeated(field) else (value,):
                yield from _places(inner)


def _change_list(items: Any, field: Any, rng: Random, places: Any) -> None:
    at, other = rng.randrange(len(items)), rng.randrange(len(items))
    kind = rng.randrange(4)
    if kind == 0:
        del items[at]
    elif kind == 1 and _kind(field) == _MESSAGE:
        items.add().CopyFrom(items[at])
    elif kind == 2 and _kind(field) == _MESSAGE:
        items[at].CopyFrom(_another(field, rng, places, items[other]))
    elif _kind(field) == _MESSAGE:
        moved = type(items[at])()
        moved.CopyFrom(items[at])
        del items[at]
        items.insert(other, moved)
    elif kind == 1:
        items.append(_value(field, items[at], rng, places))
    else:
        items[at] = items[other] if kind == 2 else _value(field, items[at], rng, places)


def _value(field: Any, old: Any, rng: Random, places: Any) -> Any:
    kind = _kind(field)
    if kind == _INT:
        low, high = _WIDTH.get(field.cpp_type, (0, 40))
        return max(low, min(high, rng.choice((*NUMBERS, *range(12), int(old) + 1, int(old) - 1))))
    if kind == _FLOAT:
        return rng.choice(FLOATS)
    if kind == _BYTES:
        return mutate_bytes(old, rng) if rng.random() < 0.7 else rng.choice((b"", b"\xff" * 8, old * 2))
    if field.name == "op_type":
        return rng.choice(OPS)
    names = [n for m, f in places if _kind(f) == _TEXT for n in _strings(m, f)]
    return rng.choice((rng.choice(names), rng.choice(names), rng.choice(TEXTS))).encode("utf-8", "replace").decode()


def _strings(message: Any, field: Any) -> list[str]:
    value = getattr(message, field.name)
    return list(value) if _repeated(field) else [value]


def _another(field: Any, rng: Random, places: Any, default: Any) -> Any:
    """A message of the same type from somewhere else."""
    found = [getattr(m, f.name) for m, f in places if f.message_type is field.message_type]
    flat = [x for value in found for x in (value if hasattr(value, "__len__") else (value,))]
    chosen = rng.choice(flat) if flat else default
    copy = type(chosen)()
    copy.CopyFrom(chosen)
    return copy


def _kind(field: Any) -> str:
    kind = _KINDS[field.cpp_type]
    return _BYTES if kind == _TEXT and field.type == field.TYPE_BYTES else kind


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)
