"""The small words of the text form, both ways: names, types, attributes, places."""

from __future__ import annotations

import json
import re
from typing import Any

from . import dims
from .diagnostics import Where
from .dims import Dim
from .dtypes import DTYPES, DType
from .op import DIM, DIMS, INTS, STRINGS, Attr, Op
from .tensor import TensorType

PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/]*")
QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_PLACE = re.compile(r"(?P<file>[^\s\"]\S*?)(?::(?P<line>[1-9]\d*))?(?: (?P<module>\S+))?")
_QUOTED_PLACE = re.compile(rf"(?P<file>{QUOTED.pattern}):(?P<line>-?\d+) (?P<module>{QUOTED.pattern})")


def quote(text: str) -> str:
    """A JSON string in ASCII, so that any text survives any file."""
    return json.dumps(text)


def unquote(text: str) -> str:
    """The inverse of `quote`. Raises: ValueError."""
    value = json.loads(text)
    if not isinstance(value, str):
        raise ValueError(f"not a string: {text}")
    return value


def name_text(name: str) -> str:
    """A name as it is, or quoted where it holds odd characters."""
    return name if PLAIN.fullmatch(name) else quote(name)


# -- places ------------------------------------------------------------------------------------------


def where_text(where: Where) -> str:
    """`file:line module`, or its parts quoted where that would not read back as the same place."""
    text = str(where)
    if text.isprintable() and _plain_place(text) == where:
        return text
    return f"{quote(where.file)}:{where.line} {quote(where.module)}"


def read_where(text: str) -> Where:
    """The inverse of `where_text`. Raises: ValueError."""
    match = _QUOTED_PLACE.fullmatch(text)
    if match is not None:
        return Where(unquote(match["file"]), int(match["line"]), unquote(match["module"]))
    place = _plain_place(text)
    if place is None:
        raise ValueError(f"not a place: {text}")
    return place


def _plain_place(text: str) -> Where | None:
    match = _PLACE.fullmatch(text)
    return match and Where(match["file"], int(match["line"] or 0), match["module"] or "")


# -- attributes --------------------------------------------------------------------------------------


def _float_text(value: float) -> str:
    return float.__repr__(value)


def _list(words: Any) -> str:
    return f"[{', '.join(words)}]"


_WRITE: dict[type | str, Any] = {
    float: _float_text,
    int: str,
    bool: lambda v: "true" if v else "false",
    str: quote,
    DType: str,
    DIM: str,
    DIMS: lambda v: _list(map(str, v)),
    INTS: lambda v: _list(map(str, v)),
    STRINGS: lambda v: _list(map(quote, v)),
}


def spec_of(op: Op, name: str) -> Attr:
    """The schema of an attribute. Raises: KeyError."""
    spec = op.attrs[name]
    return spec if isinstance(spec, Attr) else Attr(spec)


def attr_text(op: Op, name: str, value: Any) -> str | None:
    """`name=value` by the op's schema, or None where it is the default."""
    spec = spec_of(op, name)
    text = _WRITE[spec.kind](value)
    if spec.default is not ... and text == _WRITE[spec.kind](spec.default):
        return None
    return f"{name}={text}"


def _read_float(text: str) -> float:
    if not re.fullmatch(r"-?(\d[\d.]*(e[+-]?\d+)?|inf|nan)", text):
        raise ValueError(f"not a number: {text}")
    return float(text)


def _read_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"neither true nor false: {text}")
    return text == "true"


def _read_int(text: str) -> int:
    if not re.fullmatch(r"-?\d+", text, re.ASCII):
        raise ValueError(f"not a whole number: {text}")
    return int(text)


def read_dtype(text: str) -> DType:
    """An element type by its name. Raises: ValueError."""
    if text not in DTYPES:
        raise ValueError(f"there is no element type {text!r}; there are {', '.join(DTYPES)}")
    return DTYPES[text]


def _items(text: str) -> list[str]:
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError(f"not a list: {text}")
    return split(text[1:-1])


_READ: dict[type | str, Any] = {
    float: _read_float,
    int: _read_int,
    bool: _read_bool,
    str: unquote,
    DType: read_dtype,
    DIM: lambda t: read_dim(t),
    DIMS: lambda t: tuple(read_dim(x) for x in _items(t)),
    INTS: lambda t: tuple(_read_int(x) for x in _items(t)),
    STRINGS: lambda t: tuple(unquote(x) for x in _items(t)),
}


def read_attr(op: Op, name: str, text: str) -> Any:
    """The value of an attribute by the op's schema. Raises: ValueError."""
    if name not in op.attrs:
        raise ValueError(f"{op.name} has no attribute {name!r}; it takes {', '.join(op.attrs) or 'none'}")
    try:
        return _READ[spec_of(op, name).kind](text)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"attribute {name!r}: {error}") from error


# -- types -------------------------------------------------------------------------------------------


def read_dim(text: str) -> Dim:
    """A size. Raises: ValueError."""
    try:
        return dims.parse(text)
    except (ZeroDivisionError, MemoryError) as error:
        raise ValueError(f"not a size: {text!r}") from error


def read_type(text: str) -> TensorType:
    """The inverse of `str(type)`. Raises: ValueError."""
    dtype, _, shape = text.partition("[")
    return TensorType(read_dtype(dtype), tuple(read_dim(d) for d in split(shape.removesuffix("]"))))


_PIECE = re.compile(rf"{QUOTED.pattern}|[()\[\],]|[^()\[\],\"]+|\"")


def split(text: str) -> list[str]:
    """The parts between commas that stand outside of brackets and strings."""
    parts, depth, current = [], 0, ""
    for match in _PIECE.finditer(text):
        piece = match[0]
        depth += (piece in "([") - (piece in ")]")
        if piece == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += piece
    last = current.strip()
    return [*parts, last] if parts or last else []
