"""What an ONNX function is made of: its nodes with the call's attributes put in, and ONNX's own definitions of ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .onnx_terms import Term
from .onnx_types import STANDARD, attribute, type_proto


class Body:
    """A function's nodes with its attributes put in, in the form of a graph."""

    def __init__(self, function: Any, attrs: Mapping[str, Any]) -> None:
        self.initializer: tuple[Any, ...] = ()
        self.node = [_filled(n, attrs) for n in function.node]


def _filled(node: Any, attrs: Mapping[str, Any]) -> Any:
    """The node with references to the function's attributes replaced by what the call gives."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    from onnx import NodeProto, helper

    new = NodeProto()
    new.CopyFrom(node)
    del new.attribute[:]
    for a in node.attribute:
        if not a.ref_attr_name:
            new.attribute.append(a)
        elif attrs.get(a.ref_attr_name) is not None:
            new.attribute.append(helper.make_attribute(a.name, attrs[a.ref_attr_name], attr_type=a.type or None))
    return new


def definition(node: Any, version: int, terms: Sequence[Term | None]) -> Any:
    """The FunctionProto by which ONNX itself defines an op, for these inputs; None where it does not."""
    from onnx import FunctionProto

    schema: Any = _schema(node, version)
    if schema is None:
        return None
    if schema.has_function:
        return schema.function_body
    if not schema.has_context_dependent_function:
        return None
    types = [type_proto(t).SerializeToString() for t in terms if t is not None]
    try:
        made = schema.get_context_dependent_function(node.SerializeToString(), types)
    except Exception:  # the library raises several kinds where the node does not fit its own definition
        return None
    function = FunctionProto()
    function.ParseFromString(made)
    return function if function.node else None


def defaults(node: Any, version: int) -> dict[str, Any]:
    """The default attributes of an op that ONNX defines."""
    schema = _schema(node, version)
    return {n: attribute(a.default_value) for n, a in schema.attributes.items() if a.default_value.name}


def unchanged(node: Any, version: int, since: int) -> bool:
    """Whether an op is the same in two versions of its domain."""
    old, new = _schema(node, version), _schema(node, since)
    return old is not None and new is not None and bool(old.since_version == new.since_version)


def _schema(node: Any, version: int) -> Any:
    from onnx import defs

    domain = "" if node.domain in STANDARD else node.domain
    return defs.get_schema(node.op_type, version or 1, domain) if defs.has(node.op_type, version or 1, domain) else None
