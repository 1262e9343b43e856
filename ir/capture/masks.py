"""Turns attention over a band mask into attention with attributes and the 2-D padding mask."""

from __future__ import annotations

from typing import Any

# ops that leave a mask's values as they are
_SAME = ("aten.contiguous.default", "aten.alias.default", "aten.detach.default", "aten.clone.default", "aten.to.dtype")


def fold_masks(exported: Any) -> None:
    """Rewrites, in place, every `tundish::attention` whose mask is a `tundish::band_mask` or `cached_mask`.

    Only where torch proves that the band is aligned to the last key and the padding covers all keys; elsewhere the
    exact 4-D mask stays. A mask that a model adds to scores of its own is made the number that it stands for.
    """
    for node in list(exported.graph.nodes):
        if str(node.target) == "tundish.attention.default":
            _fold(node)
        elif str(node.target) in ("aten.add.Tensor", "aten.add_.Tensor"):
            _make_numbers(exported.graph, node)
    exported.graph.eliminate_dead_code()


def _make_numbers(graph: Any, node: Any) -> None:
    """Where scores and a mask of transformers' interface are added up, the mask becomes 0 and the least number."""
    import torch

    out = node.meta["val"]
    if not isinstance(out, torch.Tensor):
        return
    for operand in node.args[:2]:
        mask = operand.meta["val"] if hasattr(operand, "meta") else None
        if not isinstance(mask, torch.Tensor) or mask.dtype is not torch.bool:
            continue
        if not out.is_floating_point() or not _is_drawn(operand):
            continue
        with graph.inserting_before(node):
            bias = graph.call_function(torch.ops.aten.where.Scalar, (operand, 0.0, torch.finfo(out.dtype).min))
        bias.meta = {**node.meta, "val": mask.new_empty(mask.shape, dtype=out.dtype)}
        node.replace_input_with(operand, bias)


def _is_drawn(node: Any) -> bool:
    """Whether a mask comes from transformers' mask interface, where eager attention would have got numbers."""
    while hasattr(node, "target") and node.op == "call_function":
        if str(node.target) == "tundish.band_mask.default" or "masking_utils" in (node.meta.get("stack_trace") or ""):
            return True
        node = node.args[0] if node.args else None
    return False


def _fold(node: Any) -> None:
    mask: Any = node.args[3] if len(node.args) > 3 else None
    while hasattr(mask, "target") and str(mask.target) in _SAME:
        mask = mask.args[0]
    if str(getattr(mask, "target", "")) == "tundish.cached_mask.default":
        own = dict(position=mask.args[0], causal=mask.kwargs["causal"], window=mask.kwargs["window"])
        node.args, node.kwargs = (*node.args[:3], None, *node.args[4:]), {**node.kwargs, **own}
        return
    if not hasattr(mask, "target") or str(mask.target) != "tundish.band_mask.default":
        return
    padding, _, q_len, kv_len, q_offset, kv_offset, texts, positions = (*mask.args, None, None)[:8]
    causal, window = mask.kwargs["causal"], mask.kwargs["window"]
    if not (_counts_up(positions) and _is_made_of_counting(texts)):
        return
    aligned = _equal(_size(q_offset) - _size(kv_offset), _size(kv_len) - _size(q_len))
    whole = padding is None or _equal(padding.meta["val"].shape[1], _size(kv_len))
    if not whole or not _equal(_size(kv_offset), 0) or ((causal or window) and not aligned):
        return
    node.args = (*node.args[:3], padding, *node.args[4:])
    node.kwargs = {**node.kwargs, "causal": bool(causal), "window": int(window)}


# ops that leave the order of a row of positions as it is
_MOVED = (*_SAME, "aten.unsqueeze.default", "aten.expand.default", "aten.view.default", "aten.reshape.default")


def _counts_up(positions: Any) -> bool:
    """Whether positions are known to be 0, 1, 2 and so on in each row, so that no text starts within it."""
    node = positions
    while node is not None and str(node.target) in _MOVED:
        node = node.args[0]
    if node is not None and str(node.target) == "aten.add.Tensor" and node.args[1] == 0:
        node = node.args[0]
    return node is None or str(node.target) in ("aten.arange.default", "aten.arange.start")


def _is_made_of_counting(texts: Any) -> bool:
    """Whether where texts start was worked out from counted positions alone: then a row holds one."""
    seen, waiting = set(), [texts] if texts is not None else []
    while waiting:
        node = waiting.pop()
        if node in seen or str(node.target).startswith(("aten.arange", "aten.sym_size")):
            continue
        if node.op != "call_function":
            return False
        seen.add(node)
        waiting.extend(node.all_input_nodes)
    return True


def _size(arg: Any) -> Any:
    return arg.meta["val"] if hasattr(arg, "meta") else arg


def _equal(left: Any, right: Any) -> bool:
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return bool(statically_known_true(left == right))
