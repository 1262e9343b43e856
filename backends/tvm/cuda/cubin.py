"""What a compiled kernel takes of a multiprocessor, read from its ELF file.

Source: the System V ABI's ELF-64 headers; the attributes of `.nv.info` as `cuobjdump -elf` names them (EIATTR_REGCOUNT,
EIATTR_FRAME_SIZE).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ....ir.diagnostics import LoadError

_REGISTERS, _FRAME = 0x2F, 0x11
_SIZED = 4  # the form of an attribute that has so many bytes behind it


@dataclass(frozen=True)
class Resources:
    """registers: of a thread. shared_bytes: of a block, beside what its launch asks for. stack_bytes: of a thread, in
    memory far away: what does not fit into registers, or is indexed by what is not known."""

    registers: int
    shared_bytes: int
    stack_bytes: int


def resources(cubin: bytes) -> Resources:
    """Of the one kernel in it. Raises: LoadError where it is no such file."""
    try:
        sections = dict(_sections(cubin))
        values = dict(_attributes(sections[".nv.info"]))
        shared = next((len(data) for name, data in sections.items() if name.startswith(".nv.shared.")), 0)
        return Resources(values[_REGISTERS], shared, values[_FRAME])
    except (KeyError, IndexError, struct.error, ValueError) as error:
        raise LoadError("this is not device code of one kernel", found=str(error)[:200]) from error


def _sections(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents; of a section without contents, as many zeros as it is long."""
    if data[:4] != b"\x7fELF":
        raise ValueError("no ELF file")
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]
    text = data[headers[names][4] :]
    for name, kind, _, _, offset, length, *_ in headers:
        label = text[name : text.index(b"\0", name)].decode()
        yield label, bytes(length) if kind == 8 else data[offset : offset + length]


def _attributes(info: bytes) -> Iterator[tuple[int, int]]:
    """(attribute, number) of those that hold a symbol and a number."""
    at = 0
    while at + 4 <= len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == _SIZED:
            if value == 8:
                yield attribute, struct.unpack_from("<II", info, at)[1]
            at += value
