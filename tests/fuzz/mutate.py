"""Mutations of bytes, of JSON, of safetensors and of text. Each takes the content and a seeded Random."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1,
           2**63, 2**64 - 1, 2**64, -(2**31), -(2**63), 10**9, 10**30)  # fmt: skip
FLOATS = (0.0, -0.0, 1e-300, 1e300, 1.5, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", " ", "a", "\0", "\n", "é\u202e\ud800", "..", "../x", "/etc/passwd", "a/b", "a" * 70_000, "%s%n", "None",
         "0", "-1", "1" * 400, "f32", "i4", "batch", "seq", "batch*seq", "batch**9", "[]", "{}", "\\", '"',
         "nan")  # fmt: skip


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """One to four small changes anywhere, more often near the beginning, where headers are."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if content:
            rng.choice(_BYTES)(content, rng)
    return bytes(content)


def _at(content: bytearray, rng: Random) -> int:
    return rng.randrange(min(len(content), rng.choice((64, 512, len(content)))))


def _flip(content: bytearray, rng: Random) -> None:
    for _ in range(rng.choice((1, 1, 3, 9))):
        content[_at(content, rng)] ^= 1 << rng.randrange(8)


def _set(content: bytearray, rng: Random) -> None:
    content[_at(content, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut(content: bytearray, rng: Random) -> None:
    del content[_at(content, rng) :]


def _remove(content: bytearray, rng: Random) -> None:
    at = _at(content, rng)
    del content[at : at + rng.choice((1, 4, 8, 64))]


def _splice(content: bytearray, rng: Random) -> None:
    at, source, length = _at(content, rng), _at(content, rng), rng.choice((1, 8, 64, 512))
    content[at : at + rng.choice((0, length))] = content[source : source + length]


def _number(content: bytearray, rng: Random) -> None:
    """An extreme as a fixed-width integer, or as a varint of the greatest length."""
    at, form = _at(content, rng), rng.choice(("<I", "<Q", ">I", ">Q", "v"))
    if form == "v":
        content[at : at + 1] = b"\xff" * 9 + b"\x01"
        return
    size = struct.calcsize(form)
    content[at : at + size] = struct.pack(form, rng.choice(NUMBERS) % (1 << (8 * size)))


_BYTES: tuple[Callable[[bytearray, Random], None], ...] = (_flip, _flip, _set, _cut, _remove, _splice, _number, _number)


# -- JSON ------------------------------------------------------------------------------------------------


def mutate_json(data: bytes, rng: Random) -> bytes:
    """Some values replaced, removed, doubled or renamed; now and then the text itself."""
    if rng.random() < 0.1:
        return _mutate_json_text(data, rng)
    root = [json.loads(data)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if places := list(_places(root)):
            _change(*(rng.choice(places) if rng.random() < 0.5 else _walked(root, rng)), rng, places)
    return json.dumps(root[0] if root else None).encode()


def _places(value: Any) -> Any:
    """(container, key) of everything within."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _change(container: Any, key: Any, rng: Random, places: Any) -> None:
    kind = rng.randrange(8)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[rng.choice(TEXTS)] = container.pop(key)
    elif kind == 1:
        container.insert(key, container[key])
    elif kind == 2:
        other, name = rng.choice(places)
        container[key] = json.loads(json.dumps(other[name])) if _there(other, name) else None
    else:
        container[key] = _odd(container[key], rng)


def _walked(root: Any, rng: Random) -> tuple[Any, Any]:
    """A place at the end of a walk from the top, so that what is large is not chosen more often for that."""
    container: Any = root
    while True:
        key = rng.choice(list(container) if isinstance(container, dict) else range(len(container)))
        inner = container[key]
        if not (isinstance(inner, (dict, list)) and inner) or rng.random() < 0.1:
            return container, key
        container = inner


def _there(container: Any, key: Any) -> bool:
    return key in container if isinstance(container, dict) else key < len(container)


def _odd(value: Any, rng: Random) -> Any:
    """Most often of the same kind."""
    if rng.random() < 0.3:
        return rng.choice((None, True, False, [], {}, rng.choice(TEXTS), rng.choice(NUMBERS), rng.choice(FLOATS)))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((*NUMBERS, value + 1, value - 1, value * 2, -value, float(value)))
    if isinstance(value, float):
        return rng.choice((*FLOATS, -value))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice((rng.choice(TEXTS), value[:at], value[:at] + rng.choice(TEXTS) + value[at:]))
    if isinstance(value, list):
        return rng.choice(([], value * 2, value[::-1], value[:1], [value], value + [None]))
    return rng.choice((None, {}, [], list(value or ()), [value]))


def _mutate_json_text(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    deep = rng.choice((b"[", b'{"a":')) * 100_000
    doubled = data.replace(b"{", b"{" + data.strip()[1:].split(b",")[0] + b",", 1)
    return rng.choice((deep, data[:at] + deep, b"\xff\xfe" + data, data[:at], doubled, mutate_bytes(data, rng)))


# -- safetensors -----------------------------------------------------------------------------------------


def mutate_safetensors(data: bytes, rng: Random) -> bytes:
    """A mutated header with its right length before the same tensors, or other bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    (length,) = struct.unpack_from("<Q", data)
    header = mutate_json(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


# -- text of programs ------------------------------------------------------------------------------------

_WORD = re.compile(r"[A-Za-z0-9_.]+|[^\sA-Za-z0-9_.]")
_ALONE = ("(", ")", "[", "]", "{", "}", "%", ",", ":", "=", "#", '"', "_", "..")


def mutate_text(data: bytes, rng: Random) -> bytes:
    """Words replaced by others of the text or by odd ones; lines removed, doubled and moved."""
    if rng.random() < 0.1:
        return mutate_bytes(data, rng)
    text = data.decode()
    for _ in range(rng.choice((1, 1, 2, 3))):
        text = _lines(text, rng) if rng.random() < 0.25 else _words(text, rng)
    return text.encode("utf-8", "surrogatepass")


def _words(text: str, rng: Random) -> str:
    words = list(_WORD.finditer(text))
    if not words:
        return rng.choice(TEXTS)
    found, other = rng.choice(words), rng.choice(words)[0]
    odd: tuple[str, ...] = (other, rng.choice(_ALONE), rng.choice(TEXTS), found[0] * 2, "")
    if found[0].lstrip("-").isdigit():
        odd = (*(str(n) for n in NUMBERS), str(int(found[0][:20]) + 1), other, "batch")
    return text[: found.start()] + rng.choice(odd) + text[found.end() :]


def _lines(text: str, rng: Random) -> str:
    lines = text.split("\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = "(" * rng.choice((10, 100_000))
    return "\n".join(lines)
