"""Where each value lies in the arena, and how much memory a run takes at most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...ir import dims
from ...ir.diagnostics import CompileError
from ...ir.dims import Range
from ...ir.graph import Node, Program, Value
from ...ir.walk import key_of
from ..plan import Note, Plan
from ..task import Task
from .cache_room import cache_room
from .registry import decision

ALIGN = 64  # bytes: a cache line, and what vector loads want
UNBOUNDED = 512  # the size stated for a symbol whose range has no end
RENAMED = ("reshape",)  # its output is its first input's buffer


@dataclass(frozen=True, slots=True)
class Slot:
    """A buffer: bytes [offset, offset + size_bytes) of the arena, from step `first` to step `last`, both included."""

    entry: str
    path: str
    value: str
    offset: int
    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """The slots of one entry, with calls expanded. `live_bytes` is the most that is alive at once: a lower bound."""

    bytes: int
    live_bytes: int
    slots: tuple[Slot, ...] = field(repr=False)

    def __str__(self) -> str:
        return f"{len(self.slots)} buffers in {self.bytes} bytes, {self.live_bytes} of them alive at once"


@decision("memory", needs=("legalize", "hoist"))
def plan_memory(plan: Plan, task: Task) -> Plan:
    """Offsets at the largest sizes in range. Raises: CompileError with the figure when it does not fit the machine.

    plan.decisions["memory"]: sizes (of the symbols), weights_bytes, inputs_bytes, arena_bytes, peak_bytes (their sum),
    arenas by entry, and caches (`CacheRoom`) by entry. An entry that writes into caches is left out of the sum where
    there are others: how large those are is decided when they are made.
    """
    sizes = largest(plan.program, task.ranges)
    entries = [name for name in plan.program.entries if name not in plan.aliases] or list(plan.program.entries)
    arenas = {name: arena(plan.program, name, sizes) for name in entries}
    weights = weights_bytes(plan.program)
    free = task.machine.memory_bytes - weights
    inputs = max(_inputs_bytes(plan.program, name, sizes) for name in arenas)
    biggest = max(a.bytes for a in arenas.values())
    peak = weights + inputs + biggest
    found: dict[str, Any] = {
        "sizes": sizes, "weights_bytes": weights, "inputs_bytes": inputs, "arena_bytes": biggest, "peak_bytes": peak,
        "arenas": arenas,
    }  # fmt: skip
    found["caches"] = {
        n: cache_room(plan.program, n, {*held.values(), *_of_others(plan.program, n)}, free)
        for n, held in plan.aliases.items()
    }
    graphs = [plan.program.functions[name] for name in entries]
    used = {s for graph in graphs for v in graph.inputs for d in v.type.shape for s in dims.symbols(d)}
    at = ", ".join(f"{k} {v}" for k, v in sizes.items() if k in used) or "fixed sizes"
    if not assumed(plan.program, task.ranges):
        check_fits(peak, task, f"a run at {at} takes")
    parts = f"{_spoken(weights)} weights, {_spoken(inputs)} inputs, {_spoken(biggest)} arena"
    notes = [Note("memory", f"{_spoken(peak)} at {at}: {parts}")]
    counted = {name: room for name, room in found["caches"].items() if room.place_bytes}
    notes += [Note("memory", f"caches of {name!r}: {room}") for name, room in counted.items()]
    for name in assumed(plan.program, task.ranges):
        notes.append(Note("memory", f"the range of {name} has no end: {sizes[name]} is assumed"))
    return plan.decide("memory", found, *notes)


def _of_others(program: Program, entry: str) -> set[str]:
    """What other entries give out: where this one takes it, it is kept from step to step, as an encoder's keys are."""
    return {made for other in program.entries if other != entry for made in program.functions[other].output_names}


def _spoken(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def check_fits(needed_bytes: int, task: Task, what: str) -> None:
    """Raises: CompileError when the machine has less memory than that."""
    have = task.machine.memory_bytes
    if needed_bytes > have:
        raise CompileError(
            f"{what} {_spoken(needed_bytes)}, and {task.machine.name} has {_spoken(have)}",
            hint="make the ranges of --batch and --seq smaller, hold weights in fewer bits, or take a larger machine",
        )


def weights_bytes(program: Program) -> int:
    """The weights as the program holds them."""
    return sum(dims.evaluate(w.type.bytes, {}) for w in program.weights.values())


def largest(program: Program, ranges: Mapping[str, Range]) -> dict[str, int]:
    """The top of each symbol's range; where there is none, UNBOUNDED or the range's low end."""
    found = {}
    for name, own in program.symbols.items():
        high = _high(own, ranges.get(name))
        found[name] = max(own.low, UNBOUNDED) if high is None else high
    return found


def assumed(program: Program, ranges: Mapping[str, Range]) -> list[str]:
    """The symbols whose range has no end, so that a size had to be assumed."""
    return [name for name, own in program.symbols.items() if _high(own, ranges.get(name)) is None]


def _high(own: Range, asked: Range | None) -> int | None:
    ends = [r.high for r in (own, asked) if r is not None and r.high is not None]
    return min(ends, default=None)


def _inputs_bytes(program: Program, entry: str, sizes: dims.Bindings) -> int:
    return sum(dims.evaluate(v.type.bytes, sizes) for v in program.functions[entry].inputs)


@dataclass(slots=True)
class _Buffer:
    """A buffer while lives are counted; values that alias share one."""

    path: str
    value: str
    size_bytes: int
    first: int
    last: int


class _Lives:
    """Walks an entry with its calls expanded and notes from when to when each buffer is needed."""

    def __init__(self, program: Program, sizes: dims.Bindings) -> None:
        self.program, self.sizes = program, sizes
        self.buffers: list[_Buffer] = []
        self.step = 0

    def run(self, name: str, given: list[_Buffer | None], path: str) -> list[_Buffer | None]:
        graph = self.program.functions[name]
        held: dict[Value, _Buffer | None] = dict(zip(graph.inputs, given, strict=True))
        for node in graph.nodes:
            inputs = [None if v is None else held[v] for v in node.inputs]
            if node.op.name == "call":
                inner = key_of(path, node)
                outputs = self.run(node.attrs["function"], inputs, inner)
            else:
                outputs = self._node(node, inputs, path)
            held.update(zip(node.outputs, outputs, strict=True))
        return [held[v] for v in graph.outputs]

    def _node(self, node: Node, inputs: list[_Buffer | None], path: str) -> list[_Buffer | None]:
        self.step += 1
        for buffer in inputs:
            if buffer is not None:
                buffer.last = self.step
        if node.op.name == "weight":
            return [None]
        same = {0: 0} if node.op.name in RENAMED else node.op.aliases
        outputs: list[_Buffer | None] = []
        for i, value in enumerate(node.outputs):
            if i in same:
                outputs.append(inputs[same[i]])
                continue
            self.buffers.append(_Buffer(path, value.name, self._bytes(value), self.step, self.step))
            outputs.append(self.buffers[-1])
        return outputs

    def _bytes(self, value: Value) -> int:
        size = dims.evaluate(value.type.bytes, self.sizes)
        return -(-size // ALIGN) * ALIGN


def arena(program: Program, entry: str, sizes: dims.Bindings) -> Arena:
    """Lives of all values, and an offset for each: the smallest gap that is large enough, in order of time.

    Weights and the user's inputs lie elsewhere. What an entry gives back lives to the end.
    """
    buffers = _buffers(program, entry, sizes)
    offsets, total = placed([(b.size_bytes, b.first, b.last) for b in buffers])
    slots = tuple(
        Slot(entry, b.path, b.value, offset, b.size_bytes, b.first, b.last)
        for b, offset in zip(buffers, offsets, strict=True)
    )
    return Arena(total, _most_alive(buffers), slots)


def most_alive(program: Program, entry: str, sizes: dims.Bindings) -> int:
    """The most bytes alive at once in an entry, without placing anything: `Arena.live_bytes`."""
    return _most_alive(_buffers(program, entry, sizes))


def _buffers(program: Program, entry: str, sizes: dims.Bindings) -> list[_Buffer]:
    lives = _Lives(program, sizes)
    outputs = lives.run(entry, [None] * len(program.functions[entry].inputs), "")
    for buffer in outputs:
        if buffer is not None:
            buffer.last = lives.step
    return lives.buffers


def _most_alive(buffers: list[_Buffer]) -> int:
    change: dict[int, int] = {}
    for b in buffers:
        change[b.first] = change.get(b.first, 0) + b.size_bytes
        change[b.last + 1] = change.get(b.last + 1, 0) - b.size_bytes
    alive = most = 0
    for step in sorted(change):
        alive += change[step]
        most = max(most, alive)
    return most


def placed(buffers: Sequence[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Offsets, and the end of the arena. buffers: (bytes, first step, last step), in order of their first step."""
    offsets: list[int] = []
    alive: list[tuple[int, int, int]] = []  # (offset, end, last), by offset
    total = 0
    for size, first, last in buffers:
        alive = [a for a in alive if a[2] >= first]
        offset = _best_gap(alive, size, total)
        offsets.append(offset)
        total = max(total, offset + size)
        alive.append((offset, offset + size, last))
        alive.sort()
    return offsets, total


def _best_gap(alive: list[tuple[int, int, int]], size: int, total: int) -> int:
    """The start of the smallest gap that holds `size`; else of the last gap, which may grow."""
    fits = [(end - start, start) for start, end in _gaps(alive, total) if end - start >= size]
    return min(fits)[1] if fits else max((a[1] for a in alive), default=0)


def _gaps(alive: list[tuple[int, int, int]], total: int) -> Iterator[tuple[int, int]]:
    start = 0
    for offset, end, _ in alive:
        if offset > start:
            yield start, offset
        start = max(start, end)
    if start < total:
        yield start, total
