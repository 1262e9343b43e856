"""Which nodes of the plan the nodes of a built model compute, also after ONNX Runtime has rewritten it.

Read with numpy and msgspec alone: a bundle is profiled where `onnx` is not installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...ir.diagnostics import LoadError
from .wire import fields

SCHEMA = 1
Keys = tuple[str, ...]
# Field numbers of onnx.proto: ModelProto.graph, GraphProto.node, and those of NodeProto.
_GRAPH, _NODE, _INPUT, _OUTPUT, _NAME, _OP_TYPE = 7, 1, 1, 2, 3, 4


class NodeMap(msgspec.Struct, frozen=True):
    """function: of the program. keys: name of a node in the model -> the nodes of the plan, the anchor first."""

    schema: int
    function: str
    keys: dict[str, tuple[str, ...]]


def map_file(model: str) -> str:
    """Where the map of a model's file lies, beside it."""
    return f"{model.removesuffix('.onnx')}.nodes.json"


def write_map(path: Path, function: str, keys: Mapping[str, Keys]) -> None:
    text = msgspec.json.encode(NodeMap(SCHEMA, function, dict(keys)))
    path.write_bytes(msgspec.json.format(text, indent=1) + b"\n")


def read_map(path: Path) -> NodeMap:
    """Raises: LoadError where there is none, as in bundles of older versions, or it is broken."""
    again = "compile it again"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=NodeMap)
    except FileNotFoundError as error:
        raise LoadError("the bundle does not say which kernel computes which node: it was made by an older tundish",
                        found=f"no {path.name}", hint=again) from error  # fmt: skip
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path.name} is broken", found=str(error), hint=again) from error
    if found.schema != SCHEMA:
        raise LoadError(f"{path.name} has the schema {found.schema}, this version reads {SCHEMA}", hint=again)
    return found


# -- what ONNX Runtime made of the model ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """A node in a model's file."""

    name: str
    op_type: str
    inputs: Keys
    outputs: Keys


def attribute(source: Sequence[OnnxNode], keys: Mapping[str, Keys], optimized: Sequence[OnnxNode]) -> dict[str, Keys]:
    """Name of a node in the optimized model -> the nodes of the plan that it computes, the anchor first.

    A node stands for those of the source that made its outputs, back to values that are still there. What has no
    output of the source's (a reordered copy) goes by the name it was made from, else to whoever reads it.
    """
    known = _Source(source, keys, {e for n in optimized for e in (*n.inputs, *n.outputs)})
    found = {node.name: known.covered(node) for node in optimized}
    _follow(found, [(n, n.outputs, {i: n for n in optimized for i in n.inputs}) for n in reversed(optimized)])
    _follow(found, [(n, n.inputs, {o: n for n in optimized for o in n.outputs}) for n in optimized])
    return found


class _Source:
    """The model as it was built. edges: the values that are still there."""

    def __init__(self, nodes: Sequence[OnnxNode], keys: Mapping[str, Keys], edges: set[str]) -> None:
        self.nodes = {n.name: n for n in nodes}
        self.keys, self.edges = keys, edges
        self.made_by = {o: n for n in nodes for o in n.outputs}
        self._gone: set[str] = set()  # nodes whose value is gone, and which an earlier node computes

    def covered(self, node: OnnxNode) -> Keys:
        within = list(self._made(node))
        named = self._named(node.name)
        if named is not None:
            within.insert(0, named)
        return tuple(dict.fromkeys(k for n in within for k in self.keys.get(n.name, ())))

    def _made(self, node: OnnxNode) -> Iterator[OnnxNode]:
        open_edges = [o for o in node.outputs if o in self.made_by]
        while open_edges:
            made = self.made_by[open_edges.pop(0)]
            if made.name in self._gone:
                continue
            yield made
            before = [i for i in made.inputs if i in self.made_by and i not in self.edges]
            open_edges += before
            if not self.edges.intersection(made.outputs):
                self._gone.add(made.name)

    def _named(self, name: str) -> OnnxNode | None:
        """The node of the source whose name a fusion's name bears, the longest one."""
        if name in self.nodes:
            return self.nodes[name]
        within = [n for n in self.nodes if n in name]
        return self.nodes[max(within, key=len)] if within else None


def _follow(found: dict[str, Keys], order: Iterable[tuple[OnnxNode, Keys, Mapping[str, OnnxNode]]]) -> None:
    """Gives a node without keys the anchor of the first neighbour that has some."""
    for node, edges, neighbours in order:
        if not found[node.name]:
            near = (found[neighbours[e].name] for e in edges if e in neighbours)
            found[node.name] = next((k[:1] for k in near if k), ())


# -- the file, without its library ------------------------------------------------------------------------


def read_nodes(data: bytes) -> list[OnnxNode]:
    """The nodes of a model's file. Raises: LoadError where it is not one."""
    try:
        graphs = [v for field, v in fields(memoryview(data)) if field == _GRAPH]
        return [_node(v) for graph in graphs for field, v in fields(graph) if field == _NODE]
    except (IndexError, ValueError, TypeError) as error:
        raise LoadError("the model's file cannot be read as protobuf", found=str(error)) from error


def _node(data: memoryview) -> OnnxNode:
    texts: dict[int, list[str]] = {_INPUT: [], _OUTPUT: [], _NAME: [], _OP_TYPE: []}
    for field, value in fields(data):
        if field in texts:
            texts[field].append(bytes(value).decode())
    inputs, outputs = (tuple(t for t in texts[f] if t) for f in (_INPUT, _OUTPUT))
    return OnnxNode("".join(texts[_NAME]), "".join(texts[_OP_TYPE]), inputs, outputs)
