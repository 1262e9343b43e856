"""Walking a program with its calls expanded: every node as often as it runs, at the user's own place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .diagnostics import Where
from .graph import Node, Program, callee
from .text_words import read_where, where_text

_INDEX = re.compile(r"\{i(?:\+(\d+))?\}")


@dataclass(frozen=True, slots=True)
class Step:
    """One run of one node. key: unique in the entry: the call path and the node's first output.

    calls: the `call` and `fused` nodes it stands in, innermost first; the key's path names each by its first output.
    """

    key: str
    where: Where
    node: Node
    calls: tuple[Node, ...] = ()


def steps(program: Program, entry: str | None = None) -> Iterator[Step]:
    """All that an entry runs, in order; `call` and `fused` nodes are replaced by their bodies.

    The place is the node's own, with `{i}` resolved for each call. A node of a layer called 12 times comes 12 times.
    """
    yield from _steps(program, entry or program.entries[0], "", ())


def walk(program: Program, entry: str | None = None) -> Iterator[tuple[Where, Node]]:
    """(place, node) of all that an entry runs, in order; see `steps`."""
    return ((step.where, step.node) for step in steps(program, entry))


def key_of(path: str, node: Node) -> str:
    """The key of a node, or of a call, that stands under the calls of `path`."""
    return f"{path}/{node.outputs[0].name}" if path else node.outputs[0].name


def op_counts(program: Program, entry: str | None = None) -> dict[str, int]:
    """How often each op runs, calls expanded, the most frequent first."""
    counts: dict[str, Counter[str]] = {}
    for name in program.functions:  # callees come before callers
        total: Counter[str] = Counter()
        for node in program.functions[name].nodes:
            inner = callee(node)
            total.update(counts[inner] if inner is not None else (node.op.name,))
        counts[name] = total
    found = counts[entry or program.entries[0]]
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def resolve(where: Where, call: Node) -> Where:
    """The place that a place in a called body stands for, in that call.

    The call's `elsewhere` goes before its `index`; a call without an index changes nothing.
    """
    pairs = call.attrs["elsewhere"]
    told = dict(zip(pairs[::2], pairs[1::2], strict=True)).get(where_text(where)) if pairs else None
    return at_index(where, call.attrs["index"]) if told is None else read_where(told)


parse_where = read_where  # the inverse of `str(where)` for places without odd characters


def at_index(where: Where, index: int) -> Where:
    """The place with `{i}` as `index` and `{i+n}` as `index + n`; no index (-1) changes nothing."""
    if index < 0 or "{" not in where.module:
        return where
    return Where(where.file, where.line, _INDEX.sub(lambda m: str(index + int(m[1] or 0)), where.module))


def _steps(program: Program, name: str, path: str, calls: tuple[Node, ...]) -> Iterator[Step]:
    for node in program.functions[name].nodes:
        key, inner = key_of(path, node), callee(node)
        if inner is not None:
            yield from _steps(program, inner, key, (node, *calls))
            continue
        where = node.where
        for call in calls:  # innermost first
            where = resolve(where, call)
        yield Step(key, where, node, calls)
