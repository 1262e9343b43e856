"""What a bundle says of one entry: which kernels run, in which order, on what. Read without TVM's compiler."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from ...compiler.plan import Guard
from ..signature import Signature

Natural = Annotated[int, msgspec.Meta(ge=0)]
Kind = Literal["arena", "input", "output", "weight", "constant", "size", "scratch", "report"]


class Arg(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One word of a kernel's table: the address of `name` of that kind and `value` bytes on, or the number `value`.

    name: of an input, output or weight; the place of a buffer of the arena or of a constant. value: a dim as text.
    """

    kind: Kind
    name: str = ""
    value: str = "0"


class Only(msgspec.Struct, frozen=True, array_like=True):
    """That a number, a dim as text, is neither less nor greater than these."""

    value: str
    low: Natural
    high: Natural


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """One kernel's run. keys: the plan's nodes that it computes, the one that anchors it first.

    waits: it must not start before all threads are done with what came before.
    grid: of a GPU's kernel, how many blocks run it, a dim as text. only: when it runs, and waits, at all; of a CPU's
    kernel that number is its last argument.
    """

    kernel: str
    keys: list[str]
    args: list[Arg]
    waits: bool
    grid: str = ""
    only: Only | None = None


class Launch(msgspec.Struct, frozen=True, array_like=True):
    """Of a GPU's kernel: threads of a block, and the bytes of shared memory that are asked for."""

    threads: Natural
    shared: Natural = 0


class Buffer(msgspec.Struct, frozen=True):
    """bytes: a dim as text. It is needed from stage `first` to stage `last`; a stage ends where a call waits."""

    bytes: str
    first: Natural
    last: Natural


class Constant(msgspec.Struct, frozen=True):
    """A number that a kernel reads from memory; a dim as text, of an element type."""

    value: str
    dtype: str


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one variant of an entry. function: its name in the library.

    scratch: bytes that each thread has to itself, a dim as text. launches: of a GPU's kernels, by name.
    """

    function: str
    calls: list[Call]
    buffers: list[Buffer]
    constants: list[Constant]
    scratch: str = "0"
    launches: dict[str, Launch] = {}

    @property
    def words(self) -> int:
        """The length of the table."""
        return sum(len(c.args) for c in self.calls)

    def seal(
        self, signature: Signature, guard: Guard, weights: Mapping[str, Any], features: Iterable[str]
    ) -> str:  # fmt: skip
        """The name of the function that runs this and nothing else: it is of all that the function's memory accesses
        rest on, so that a library has no function for a schedule, weights or inputs other than it was made with.

        weights: the header of their file, whose entries have `dtype` and `shape`.
        """
        read = sorted({a.name for c in self.calls for a in c.args if a.kind == "weight"})
        said = [
            msgspec.structs.replace(self, function=""), signature, guard,
            [[name, weights[name]["dtype"], weights[name]["shape"]] for name in read if name in weights],
            sorted(features),
        ]  # fmt: skip
        return f"run_{hashlib.sha256(msgspec.json.encode(said, order='deterministic')).hexdigest()[:32]}"
