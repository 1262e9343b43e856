"""The text form: it reads back as the same program, and what is no program is refused with its line."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tundish.ir.build import Builder
from tundish.ir.diagnostics import LoadError, TundishError, Where
from tundish.ir.dims import Range, maximum, symbol
from tundish.ir.dtypes import bf16, boolean, f16, f32, i64
from tundish.ir.graph import Graph, Node, Program, Value
from tundish.ir.op import Attrs, get
from tundish.ir.tensor import TensorType
from tundish.ir.text import from_text, same, to_text
from tundish.ir.text_words import read_where, where_text
from tundish.ir.weights import Held, Recipe, Stored, Weight

TEXT = """\
symbol batch: 1..8
symbol seq: 1..

weight norm.weight: f32[16] = stored("model.safetensors", "norm.weight", "abc")
weight qkv: f32[16, 48] = concat(transpose(held: f32[16, 16], perm=[1, 0]): f32[16, 16], \
held: f32[16, 32], axis=1)

function layer(%x: f32[batch, seq, 16], %w: f32[16]) {
  %0: f32[batch, seq, 16] = rms_norm(%x, %w, eps=1e-06)   # llama.py:88 layers.{i}.input_norm
  return %0
}

entry main(%x: f32[batch, seq, 16]) {
  %norm.weight: f32[16] = weight(name="norm.weight")   # llama.py:88 layers.0.input_norm
  %qkv: f32[16, 48] = weight(name="qkv")   # llama.py:90
  %0: f32[batch, seq, 16] = call(%x, %norm.weight, function="layer", index=0)   # llama.py:80 layers.0
  %1: f32[batch, seq, 48] = linear(%0, %qkv, _)   # llama.py:90 layers.0
  %2: f32[batch, seq, 1], %3: i64[batch, seq, 1] = topk(%1, k=1)   # llama.py:91
  return last_hidden_state=%1, best=%3
}
"""


def test_text_is_as_written() -> None:
    program = from_text(TEXT)
    assert to_text(program) == TEXT
    assert program.entries == ("main",)
    assert program.symbols == {"batch": Range(1, 8), "seq": Range(1, None)}
    assert program.entry.output_names == ("last_hidden_state", "best")
    assert program.entry.nodes[3].inputs[2] is None
    assert program.entry.nodes[4].attrs["largest"] is True  # a default that is left out
    assert program.functions["layer"].nodes[0].where == Where("llama.py", 88, "layers.{i}.input_norm")


def test_held_weights_are_found_again_by_name() -> None:
    array = np.ones((16, 48), np.float32)
    given_weight = Weight(TensorType(f32, (16, 48)), Held(array))
    assert from_text(TEXT).weights["qkv"].source.inputs[1].source.array is None
    assert from_text(TEXT, weights={"qkv": given_weight}).weights["qkv"].source.array is array
    with pytest.raises(LoadError, match=r"text:5: weight 'qkv' is f32\[16, 48\] here and f32\[3\]"):
        from_text(TEXT, weights={"qkv": Weight(TensorType(f32, (3,)), Held(array))})


def test_a_stored_weight_is_not_replaced() -> None:
    other = Weight(TensorType(f32, (16,)), Held(np.ones(16, np.float32)))
    assert isinstance(from_text(TEXT, weights={"norm.weight": other}).weights["norm.weight"].source, Stored)


def program_of(*nodes: Node, inputs: tuple[Value, ...] = (), **fields: object) -> Program:
    graph = Graph(inputs, nodes, nodes[-1].outputs)
    return Program({"main": graph}, ("main",), **fields)  # type: ignore[arg-type]


HERE = Where("m.py", 1)


def constant(value: float, where: Where = HERE) -> Node:
    attrs = Attrs({"value": value, "dtype": f32})
    return Node(get("constant"), (), attrs, (Value("0", TensorType(f32)),), where)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-06, math.inf, -math.inf, math.nan, 1.7976931348623157e308, 0.1])
def test_floats_are_exact(value: float) -> None:
    program = program_of(constant(value))
    again = from_text(to_text(program))
    assert again.entry.nodes[0].attrs == program.entry.nodes[0].attrs


@pytest.mark.parametrize(
    "where",
    [
        Where("a.py"), Where("a.py", 3), Where("a.py", 3, "x.{i+1}"), Where("a.py", 0, "x"), Where("a b/a.py", 3),
        Where("a:5"), Where("a:5", 6), Where('say"so".py', 2, "m"), Where("a.py", 1, "two words"), Where("a#b", 1, "#"),
        Where("a\nb.py", 1, "x\r\u2028y"), Where("", 0, "m"), Where("a.py", -1), Where("é.py", 7, "層.0"), Where("<o>"),
        Where(" a.py", 1), Where("a.py ", 1), Where("a", 0, "b c"), Where("\ud800", 1), Where("\x1fa.py", 1, "\x1f"),
    ],
)  # fmt: skip
def test_places_come_back(where: Where) -> None:
    assert read_where(where_text(where)) == where
    assert from_text(to_text(program_of(constant(1.0, where=where)))).entry.nodes[0].where == where


@given(st.builds(Where, st.text(), st.integers(0, 10**6), st.text()))
def test_every_place_comes_back(where: Where) -> None:
    assert read_where(where_text(where)) == where


@given(st.lists(st.text(), min_size=4, max_size=4, unique=True))
def test_every_name_comes_back(names: list[str]) -> None:
    one, two, entry, out = names
    scalar = TensorType(f32)
    x = Value(one, scalar)
    neg = Node(get("neg"), (x,), Attrs(), (Value(two, scalar),), Where("m.py", 1))
    weights = {one: Weight(scalar, Stored(two, entry, out))}
    program = Program({entry: Graph((x,), (neg,), neg.outputs, (out,))}, (entry,), weights)
    again = from_text(to_text(program))
    assert to_text(again) == to_text(program)
    assert (list(again.functions), again.entry.output_names) == ([entry], (out,))
    assert [v.name for v in again.entry.values()] == [one, two]
    assert again.weights[one].source == Stored(two, entry, out)


def test_all_kinds_of_attributes_come_back() -> None:
    b, s = symbol("batch"), symbol("seq")
    x = Value("x", TensorType(bf16, (b, s * 2 + 1, maximum(s, 4))))
    where = Where("m.py", 1)
    pad = Node(get("pad"), (x,), Attrs({"before": (0, 0, 1), "after": (0, 0, 0), "value": -1.5}),
               (Value("0", x.type.with_shape(*x.type.shape[:2], maximum(s, 4) + 1)),), where)  # fmt: skip
    cast = Node(get("cast"), pad.outputs, Attrs({"dtype": f16}), (Value("1", pad.output.type.with_dtype(f16)),), where)
    cut = Node(get("slice"), cast.outputs, Attrs({"axis": 1, "start": s, "stop": s + 1, "step": 1}),
               (Value("2", cast.output.type.with_shape(b, 1, maximum(s, 4) + 1)),), where)  # fmt: skip
    gelu = Node(get("gelu"), cut.outputs, Attrs({"approximate": "tanh"}), (Value("3", cut.output.type),), where)
    fused = Node(
        get("fused"), gelu.outputs,
        Attrs({"function": "f, (x", "index": -1, "elsewhere": ("a,b]", 'c"d'), "anchor": "n", "epilogue": ()}),
        (Value("4", TensorType(boolean, ())), Value("5", TensorType(i64, (0,)))), where,
    )  # fmt: skip
    program = program_of(pad, cast, cut, gelu, fused, inputs=(x,), symbols={"batch": Range(0, 3), "seq": Range()})
    again = from_text(to_text(program))
    assert same(again, program)
    assert [n.attrs for n in again.entry.nodes] == [n.attrs for n in program.entry.nodes]
    assert [v.type for v in again.entry.values()] == [v.type for v in program.entry.values()]


def test_a_graph_without_outputs_and_entries_in_any_order() -> None:
    empty = Graph((), (), ())
    program = Program({"a": empty, "b": empty, "c": empty}, ("c", "a"))
    again = from_text(to_text(program))
    assert (again.entries, list(again.functions)) == (("c", "a"), ["a", "b", "c"])
    assert same(again, program)


def test_comments_and_blank_lines_are_passed_over() -> None:
    assert same(from_text("# head\n\n" + TEXT + "\n  # tail: decision 3\n"), from_text(TEXT))


def test_recipes_keep_their_tree() -> None:
    leaf = Weight(TensorType(f32, (2, 3)), Stored("w.safetensors", "a"))
    turned = Weight(TensorType(f32, (3, 2)), Recipe(get("transpose"), Attrs({"perm": (1, 0)}), (leaf,)))
    program = Program({"main": Graph((), (), ())}, ("main",), {"w": turned})
    source = from_text(to_text(program)).weights["w"].source
    assert isinstance(source, Recipe)
    assert (source.op.name, source.attrs, source.inputs[0].type) == ("transpose", turned.source.attrs, leaf.type)


LINE = "  %0: f32[batch, seq, 16] = rms_norm(%x, %w, eps=1e-06)   # llama.py:88 layers.{i}.input_norm\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (LINE, LINE.replace("rms_norm", "rms_nrm"), r"text:8: there is no op 'rms_nrm'(.|\n)*nearest: .*rms_norm"),
        (LINE, LINE.replace("%w,", "%y,"), r"text:8: %y is used before it is made"),
        (LINE, LINE + LINE, r"text:9: %0 is made twice"),
        (LINE, LINE.replace("eps=1e-06", "eps=big"), r"text:8: rms_norm: attribute 'eps': not a number: big"),
        (LINE, LINE.replace("eps=1e-06", "epsilon=1.0"), r"text:8: .*has no attribute 'epsilon'; it takes eps"),
        (LINE, LINE.replace(", eps=1e-06", ""), r"text:8: rms_norm: attribute 'eps' must be given"),
        (LINE, LINE.replace("eps=1e-06", "eps=1.0, eps=2.0"), r"text:8: attribute 'eps' is given twice"),
        (LINE, LINE.replace("%w, eps=1e-06", "eps=1e-06, %w"), r"text:8: an input stands after an attribute"),
        (LINE, LINE.replace("f32[batch", "f33[batch"), r"text:8: there is no element type 'f33'"),
        (LINE, LINE.replace("seq, 16]", "seq +, 16]"), r"text:8: not a size"),
        (LINE, LINE.replace("seq, 16]", "seq // 0, 16]"), r"text:8: not a size"),
        (LINE, LINE.split("   #")[0] + "\n", r"text:8: expected '#'"),
        (LINE, LINE.split(" llama")[0] + "\n", r"text:8: not a place"),
        ("  return %0\n}", "  return %0\n", r"text:12: function 'layer' is not closed with `}`"),
        ("  return %0\n", "", r"text:9: function 'layer' ends without `return`"),
        ("symbol batch: 1..8", "symbol batch: 1-8", r"text:1: expected a range"),
        ("symbol batch", "sambol batch", r"text:1: expected one of symbol, weight, entries, entry, function"),
        ("symbol seq", "symbol batch", r"text:2: symbol 'batch' stands twice"),
        ("function layer", "function main", r"text:12: function 'main' stands twice"),
        (', "abc")', ")", r"text:4: a stored weight has a file, a key and a sha256"),
        ("best=%3", "%3", r"text:18: either all outputs are named, or none"),
        ("entry main", "entries layer\nentry main", r"names others than those marked"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(LoadError, match=message):
        from_text(TEXT.replace(old, new, 1))


FAULTS = [
    '"', "%", "[", "]", "(", ")", ",", "\n", "=", "held", "9" * 5000, "min(", "((" * 500, "a*" * 50, "\\u", "0x1",
    "1if 2else 3",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_text_with_faults_gives_our_error_or_a_program(data: st.DataObject) -> None:
    """Cut, doubled, swapped and foreign characters anywhere in a good text."""
    text = TEXT
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        to = min(len(text), at + data.draw(st.integers(0, 12)))
        put = data.draw(st.one_of(st.text(max_size=4), st.sampled_from(FAULTS)))
        text = text[:at] + put + text[to:]
    try:
        program = from_text(text)
    except TundishError as error:
        assert isinstance(error, LoadError)
        assert error.where is not None
        return
    assert same(from_text(to_text(program)), program)


@given(st.text())
def test_arbitrary_text_gives_our_error_or_a_program(text: str) -> None:
    try:
        from_text(text)
    except LoadError as error:
        assert error.where is not None


def test_deep_nesting_is_refused() -> None:
    deep = "transpose(" * 5000 + "held"
    with pytest.raises(LoadError, match="nested too deeply"):
        from_text(f"weight w: f32[2, 2] = {deep}")


def test_ten_thousand_nodes_come_back() -> None:
    b = Builder(Where("m.py", 1))
    x = b.input("x", TensorType(f32, (symbol("batch"), 8)))
    for _ in range(10_000):
        x = b.emit("tanh", x)
    program = Program({"main": b.finish([x])}, ("main",), {}, {"batch": Range()})
    text = to_text(program)
    again = from_text(text)
    assert len(again.entry.nodes) == 10_000
    assert to_text(again) == text
