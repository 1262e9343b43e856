"""Turns `x[marked].view(batch, -1, size)[:, -1]`, whose sizes hang on values, into one op: the last marked position."""

from __future__ import annotations

from typing import Any

# ops between the pick and the choice of its last that may leave everything in place
_SAME = ("aten.slice.Tensor", "aten.alias.default", "aten.clone.default", "aten.contiguous.default")
_VIEWS = ("aten.view.default", "aten.reshape.default")
_CHECKS = ("aten._assert", "aten.sym_constrain_range")


def fold_picks(exported: Any) -> None:
    """Rewrites, in place, every choice of the last marked position of each row as `tundish::last_marked`.

    What the model checks at run time goes first: a graph has no place for it, and its sizes need not be known.
    """
    graph = exported.graph
    for node in [n for n in graph.nodes if str(n.target).startswith(_CHECKS)]:
        graph.erase_node(node)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        found = _last_marked(node)
        if found is not None:
            _replace(graph, node, *found)
    graph.eliminate_dead_code()


def _last_marked(node: Any) -> tuple[Any, Any] | None:
    """(x [b, s, ...], marked [b, s]) where the node is the last marked position of each row, else None."""
    import torch

    if str(node.target) != "aten.select.int" or tuple(node.args[1:]) != (1, -1):
        return None
    view = _before(node.args[0])
    index = _before(view.args[0]) if str(view.target) in _VIEWS else view
    if str(index.target) != "aten.index.Tensor" or len(index.args[1]) != 1:
        return None
    x, (marked,) = index.args
    size, shape, mask = _shape(x), _shape(view), marked.meta["val"]
    rows = len(shape) == len(size) and (shape[0], *shape[2:]) == (size[0], *size[2:])
    return (x, marked) if rows and mask.dtype is torch.bool and mask.dim() == 2 else None


def _before(node: Any) -> Any:
    """The first node, from this one backwards, that does more than keep what it is given."""
    while str(node.target) in _SAME and _shape(node.args[0]) == _shape(node):
        node = node.args[0]
    return node


def _shape(node: Any) -> tuple[str, ...]:
    return tuple(str(size) for size in node.meta["val"].shape)  # as text: equal sizes are spelt alike


def _replace(graph: Any, node: Any, x: Any, marked: Any) -> None:
    import torch

    with graph.inserting_before(node):
        made = graph.call_function(torch.ops.tundish.last_marked.default, (x, marked))
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
