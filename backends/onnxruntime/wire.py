"""Protobuf's wire format, as far as ONNX files need it: for what is read or written without their library.

Source: Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_NUMBER, _FIXED_64, _LENGTH, _FIXED_32 = 0, 1, 2, 5  # wire types
_FIXED_BYTES = {_FIXED_64: 8, _FIXED_32: 4}


def tag(field: int, kind: int = _LENGTH) -> bytes:
    """What stands before a field's value: one with a length, unless another wire type is given."""
    return varint(field << 3 | kind)


def number(field: int, value: int) -> bytes:
    """A field that is a number."""
    return tag(field, _NUMBER) + varint(value)


def block(field: int, content: bytes) -> bytes:
    """A field that is bytes, a text or a message."""
    return tag(field) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A number from 0 in base 128, the lowest digits first.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, value): bytes of fields with a length, None of others.

    Raises: ValueError or IndexError where it is no message.
    """
    at = 0
    while at < len(data):
        head, at = _read_varint(data, at)
        kind = head & 7
        if kind == _LENGTH:
            length, at = _read_varint(data, at)
            if at + length > len(data):
                raise ValueError("a field is longer than its message")
            yield head >> 3, data[at : at + length]
            at += length
        elif kind == _NUMBER:
            _, at = _read_varint(data, at)
        elif kind in _FIXED_BYTES:
            at += _FIXED_BYTES[kind]
        else:
            raise ValueError(f"there is no wire type {kind}")


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
