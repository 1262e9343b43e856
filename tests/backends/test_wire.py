"""Protobuf by hand: what onnx's own library reads of it, and what is read of what that writes."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tundish.backends.onnxruntime.clock import SHAPE, chain
from tundish.backends.onnxruntime.nodes import read_nodes
from tundish.backends.onnxruntime.wire import block, fields, number, varint
from tundish.ir.diagnostics import LoadError


@given(st.lists(st.tuples(st.integers(1, 2**28), st.binary(max_size=300)), max_size=5))
def test_fields_are_read_as_they_were_written(rows: list[tuple[int, bytes]]) -> None:
    data = b"".join(block(n, content) + number(n, len(content)) for n, content in rows)
    assert [(n, bytes(content)) for n, content in fields(memoryview(data))] == rows


@given(st.integers(0, 2**63 - 1))
def test_numbers_take_as_many_bytes_as_they_have_groups_of_seven_bits(value: int) -> None:
    assert len(varint(value)) == max(1, -(-value.bit_length() // 7))


def test_a_chain_is_a_model_and_its_nodes_are_read() -> None:
    model = onnx.load_from_string(chain(5))
    onnx.checker.check_model(model)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == list(SHAPE)
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    for nodes in (read_nodes(chain(5)), read_nodes(model.SerializeToString())):
        assert [(n.op_type, n.inputs, n.outputs) for n in nodes] == [
            (n.op_type, tuple(n.input), tuple(n.output)) for n in model.graph.node
        ]
    assert len(model.graph.node) == 5


@pytest.mark.parametrize("data", [b"\x3a\x05abc", b"\x3a", b"\xff", b"\x3b", block(7, block(1, b"\x0a\xff"))])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(LoadError, match="cannot be read as protobuf"):
        read_nodes(data)
