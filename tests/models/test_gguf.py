"""gguf files: blocks enter as plain arrays of the same bits, models answer as eager, broken files are refused."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_kit import LLAMA, WIDE, inputs, llama, random_blocks, write
from hypothesis import given, settings
from hypothesis import strategies as st

import tundish
from tundish.backends.base import WEIGHTS
from tundish.ir.capture.quantized import hold_quantized
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.save import load as load_program
from tundish.ir.weights import Held, TensorFile, Weight, materialize
from tundish.models import open as opening
from tundish.models.errors import ModelError
from tundish.models.gguf import estimate_bytes, load_gguf
from tundish.models.gguf_blocks import FORMS, blocks_of
from tundish.models.gguf_header import read_header
from tundish.work import Asked, Work


def work(path: Path) -> Work:
    return Work(str(path), Asked(), lambda *said: None)


def dequantized(program: Program) -> dict[str, Mapping[str, Any]]:
    """q's name -> attributes of its dequantize node, in a flat program."""
    made_by = {n.outputs[0]: n for n in program.entry.nodes if n.op.name == "weight"}
    found = [n for n in program.entry.nodes if n.op.name == "dequantize"]
    return {made_by[n.inputs[0]].attrs["name"]: n.attrs for n in found if n.inputs[0] is not None}


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("gguf") / "tied.gguf", "Q4_1", table="Q8_0")


# -- blocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(FORMS))
def test_every_block_type_is_the_library_s_own_to_the_bit(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(7)
    raw = random_blocks(rng, kind, (64, 512))
    path = tmp_path / "one.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    blocks = blocks_of(header, header.tensors["w"], lambda a: a)
    assert not isinstance(blocks, str)
    wanted = gguf.dequantize(raw, gguf.GGMLQuantizationType[kind])
    program, notes = hold_quantized(_one_weight(wanted), {"w": blocks})
    assert notes == () and dequantized(program).keys() == {"w"}
    found = evaluate(program, {})["output_0"]
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32), strict=True)
    q = materialize(program.weights["w"]).astype(np.int32)
    assert 2 ** (blocks.bits - 2) <= np.abs(q).max() < 2**blocks.bits


def _one_weight(array: np.ndarray) -> Program:
    from tundish.ir.build import Builder
    from tundish.ir.diagnostics import Where
    from tundish.ir.dtypes import f32
    from tundish.ir.tensor import TensorType

    b, type = Builder(Where("m.py", 1)), TensorType(f32, array.shape)
    value = b.emit_node("weight", (), {"name": "w"}, types=(type,)).output
    return Program({"main": b.finish([value])}, ("main",), {"w": Weight(type, Held(array))})


def test_blocks_that_are_other_numbers_stay_out(tied: Path) -> None:
    header = read_header(tied)
    blocks = blocks_of(header, header.tensors["token_embd.weight"], lambda a: a)
    assert not isinstance(blocks, str)
    right = gguf.dequantize(gguf.GGUFReader(tied).tensors[0].data, gguf.GGMLQuantizationType.Q8_0)
    assert hold_quantized(_one_weight(right), {"w": blocks})[1] == ()
    for wrong in (right[::-1].copy(), np.nextafter(right, 9, dtype=np.float32), right[:-1]):
        before = _one_weight(wrong)
        program, notes = hold_quantized(before, {"w": blocks})
        assert notes == ("w is held dequantised: its blocks are not the numbers that the model computes with",)
        assert program.weights["w"] is before.weights["w"]


def test_what_moves_whole_rows_is_taken_and_what_cuts_them_is_not(tied: Path) -> None:
    header = read_header(tied)
    tensor = header.tensors["blk.0.ffn_down.weight"]  # [64, 96]
    whole: list[tuple[Callable[[np.ndarray], np.ndarray], int]] = [
        (lambda a: a, 1), (lambda a: a.T, 0), (lambda a: a[::-1], 1), (lambda a: a[:, None], 2),
    ]  # fmt: skip
    for rearrange, axis in whole:
        blocks = blocks_of(header, tensor, rearrange)
        assert not isinstance(blocks, str) and blocks.axis == axis
        assert blocks.q.read().shape == blocks.q.shape and blocks.scale.read().shape == blocks.scale.shape
    assert blocks_of(header, tensor, lambda a: a.reshape(8, 12, 64)) == "its rows are cut into other shapes"
    assert blocks_of(header, tensor, lambda a: a[: a.shape[1] // 2]) == "its blocks do not stay along one axis"


# -- models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "head"), [("Q4_0", "Q8_0"), ("Q5_1", "F32"), ("Q6_K", ""), ("Q4_K", "Q6_K")])
def test_a_captured_model_holds_its_blocks_and_answers_as_eager(tmp_path: Path, kind: str, head: str) -> None:
    path = llama(tmp_path / "m.gguf", kind, head, WIDE if kind.endswith("K") else LLAMA)
    done = work(path)
    found = dequantized(done.program)
    named = {"model.embed_tokens.weight", *(["lm_head.weight"] if FORMS.get(head) else [])}
    assert len(found) == 14 + len(named) and named <= found.keys()
    assert {a["bits"] for n, a in found.items() if ".layers." in n} == {FORMS[kind].bits}
    plain = {n for n, w in done.program.weights.items() if w.type.dtype.name == "f32" and w.type.rank == 2}
    scales = {n for n in plain if n.endswith(("_scale", "_zero"))}
    assert plain - scales == ({"lm_head.weight"} if head == "F32" else set())
    given = inputs()
    got, want = evaluate(done.program, given)["logits"], done.call(given)["logits"]
    assert np.abs(got - want).max() <= 1e-5 * max(1, np.abs(want).max())


def test_a_tied_head_is_one_weight_and_one_dequantize(tied: Path) -> None:
    done = work(tied)
    assert "lm_head.weight" not in done.program.weights
    assert done.program.weights["model.embed_tokens.weight"].type.dtype.name == "u8"
    assert dequantized(done.program)["model.embed_tokens.weight"]["axis"] == 1
    assert "15 weights enter as the file's Q4_1 and Q8_0 blocks" in done.notes
    held = sum(int(str(w.type.bytes)) for w in done.program.weights.values())
    assert held < 1.2 * tied.stat().st_size  # and not 4 bytes for each number
    assert estimate_bytes(tied) == opening.estimate_bytes(tied) == 4 * read_header(tied).elements


def test_a_matrix_that_is_turned_keeps_its_blocks_along_the_first_axis(tmp_path: Path) -> None:
    tensors: dict[str, tuple[tuple[int, ...], str]] = {
        "token_embd.weight": ((40, 32), "Q8_0"), "position_embd.weight": ((1024, 32), "F32"),
        "output_norm.weight": ((32,), "F32"), "output_norm.bias": ((32,), "F32"),
    }  # fmt: skip
    matrices = {"attn_qkv": (96, 32), "attn_output": (32, 32), "ffn_up": (128, 32), "ffn_down": (32, 128)}
    for name, shape in matrices.items():
        tensors |= {f"blk.0.{name}.weight": (shape, "Q5_0"), f"blk.0.{name}.bias": (shape[:1], "F32")}
    for name in ("attn_norm", "ffn_norm"):
        tensors |= {f"blk.0.{name}.{part}": ((32,), "F32") for part in ("weight", "bias")}
    metadata = {"block_count": 1, "context_length": 1024, "embedding_length": 32, "feed_forward_length": 128,
                "attention.head_count": 4, "attention.layer_norm_epsilon": 1e-5}  # fmt: skip
    done = work(write(tmp_path / "g.gguf", "gpt2", metadata, tensors, tokens=40))
    axes = {name.split(".")[-2]: a["axis"] for name, a in dequantized(done.program).items()}
    assert axes == {"wte": 1, "c_attn": 0, "c_proj": 0, "c_fc": 0}
    given = inputs(vocabulary=40)
    got, want = evaluate(done.program, given)["logits"], done.call(given)["logits"]
    assert np.abs(got - want).max() <= 1e-5 * max(1, np.abs(want).max())


def test_other_types_stay_plain_and_are_named(tmp_path: Path) -> None:
    done = work(llama(tmp_path / "m.gguf", "Q4_K", config=WIDE, table="TQ2_0"))
    assert "held dequantised, for TQ2_0 blocks have no plain form: token_embd.weight" in done.notes
    assert done.program.weights["model.embed_tokens.weight"].type.dtype.name == "f32"
    assert len(dequantized(done.program)) == 14


def test_from_the_file_to_a_bundle_and_back(tied: Path, tmp_path: Path) -> None:
    program = tundish.capture(str(tied), output=tmp_path / "saved")
    assert set(program.functions) > {"forward"}  # the layers are alike, so they are folded
    saved = load_program(tmp_path / "saved", check=True)
    size = (tmp_path / "saved" / "weights.safetensors").stat().st_size
    assert size < 1.1 * tied.stat().st_size
    given = inputs()
    want = load_gguf(tied).call(given)["logits"]
    np.testing.assert_allclose(evaluate(saved, given)["logits"], want, atol=1e-5)
    for name, model in (("a", str(tied)), ("b", saved)):
        bundle = tundish.compile(model, tmp_path / name, batch="1..4", seq="1..16")
        np.testing.assert_allclose(bundle.run(given)["logits"], want, atol=1e-5)
        weights = {str(d["dtype"]) for d in _stored(bundle.path)}
        assert weights == {"F32"}  # this backend works on dequantised weights
    assert tundish.verify(tmp_path / "a").passed
    reference = tundish.compile(str(tied), tmp_path / "r", backend="reference", batch="1..4", seq="1..16")
    np.testing.assert_allclose(reference.run(given)["logits"], want, atol=1e-5)
    lies = {str(d["dtype"]) for d in _stored(reference.path) if len(d["shape"]) == 2}
    assert lies == {"U8", "F16"}  # u4 is packed, a flat row of bytes


def _stored(bundle: Path) -> Iterator[Mapping[str, Any]]:
    yield from TensorFile(bundle / WEIGHTS).header.values()


def test_the_account_counts_numbers_once_and_bytes_as_they_lie(tied: Path) -> None:
    counts = tundish.account(str(tied), batch=1, seq=2)
    header = read_header(tied)
    assert counts["parameters"] == header.elements
    (row,) = (r for r in counts["by_op"] if r["op"] == "quantized_matmul")
    matrices = [t for t in header.tensors.values() if len(t.shape) == 2]  # the table is the tied head too
    assert row["count"] == len(matrices) == 15
    assert row["read_bytes"] == sum(t.size_bytes + 2 * 4 * t.shape[1] for t in matrices)  # two tokens in f32 each
    (table,) = (r for r in counts["by_module"] if r["module"] == "model.embed_tokens")
    assert table["parameters"] == 50 * 64


@pytest.mark.slow
def test_smollm2_holds_its_blocks() -> None:
    done = work(Path("smollm2"))
    assert len(dequantized(done.program)) == 211
    assert sum(int(str(w.type.bytes)) for w in done.program.weights.values()) < 100e6
    given = inputs(1, 9, 49152)
    got, want = evaluate(done.program, given)["logits"], done.call(given)["logits"]
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    assert tundish.account("smollm2")["parameters"] == 134_515_008


# -- refusals --------------------------------------------------------------------------------------------


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str) -> bytes:
    return u64(len(value.encode())) + value.encode()


def pair(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + u32(kind) + value


def info(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + u32(len(shape)) + b"".join(map(u64, shape)) + u32(kind) + u64(offset)


ARCH = pair("general.architecture", 8, text("llama"))


def made(*pairs: bytes, infos: tuple[bytes, ...] = (), data: int = 0, version: int = 3, **counts: int) -> bytes:
    head = b"GGUF" + u32(version) + u64(counts.get("tensors", len(infos))) + u64(counts.get("pairs", len(pairs)))
    head += b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % 32) + bytes(data)


BROKEN = {
    "ends within the version": b"GGUF\x03",
    "is of version 9": made(ARCH, version=9),
    "big-endian": made(ARCH, version=3 << 24),
    "1,152,921,504,606,846,976 metadata entries, more than fit": made(ARCH, pairs=1 << 60),
    "1,152,921,504,606,846,976 tensors, more than fit": made(ARCH, tensors=1 << 60),
    "bytes in a metadata name, more than fit": made(u64(1 << 60) + b"abc", pairs=1, data=64),
    "a metadata name is not text": made(u64(2) + b"\xff\xff" + u32(0), ARCH, data=64),
    "elements of 'a', more than fit": made(ARCH, pair("a", 9, u32(4) + u64(1 << 60))),
    "bytes in 'a', more than fit": made(ARCH, pair("a", 9, u32(8) + u64(2) + u64(1 << 60)), data=64),
    "'a' is an array of arrays": made(ARCH, pair("a", 9, u32(9) + u64(1))),
    "'a' is of the unknown type 77": made(ARCH, pair("a", 77, b"")),
    "'b' is of the unknown type 13": made(ARCH, pair("b", 9, u32(13) + u64(0))),
    "'a' stands twice": made(ARCH, pair("a", 4, u32(1)), pair("a", 4, u32(1))),
    "names no general.architecture": made(pair("a", 4, u32(1))),
    "its alignment is 3": made(ARCH, pair("general.alignment", 4, u32(3))),
    "llama.block_count is 2147483648": made(ARCH, pair("llama.block_count", 4, u32(1 << 31))),
    "llama.expert_count is -1": made(ARCH, pair("llama.expert_count", 5, struct.pack("<i", -1))),
    "tensor 't' is of the unknown type 99": made(ARCH, infos=(info("t", (32,), 99),), data=64),
    "tensor 't' has 0 axes": made(ARCH, infos=(info("t", ()),), data=64),
    "tensor 't' has 4294967295 axes": made(ARCH, infos=(text("t") + u32(2**32 - 1) + bytes(64),)),
    "whose rows are no whole Q8_0 blocks": made(ARCH, infos=(info("t", (33,), 8),), data=64),
    "tensor 't' is [0], whose": made(ARCH, infos=(info("t", (0,)),), data=64),
    "tensor 't' ends at byte": made(ARCH, infos=(info("t", (1 << 40, 1 << 40)),), data=64),
    "tensor 'u' lies over another": made(ARCH, infos=(info("t", (16,)), info("u", (16,), offset=60)), data=256),
    "tensor 't' stands twice": made(ARCH, infos=(info("t", (8,)), info("t", (8,), offset=32)), data=256),
}


@pytest.mark.parametrize("says", BROKEN)
def test_a_broken_header_is_refused_before_anything_is_made_of_it(tmp_path: Path, says: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(BROKEN[says])
    for opens in (load_gguf, estimate_bytes):
        with pytest.raises(ModelError, match="is a broken gguf file") as caught:
            opens(path)
        assert says in caught.value.found


def test_arrays_beyond_any_vocabulary_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tundish.models.gguf_header.MOST_ELEMENTS", 100)
    path = tmp_path / "x.gguf"
    path.write_bytes(made(ARCH, *(pair(name, 9, u32(0) + u64(60) + bytes(60)) for name in "ab")))
    with pytest.raises(ModelError) as caught:
        read_header(path)
    assert "more than 100 elements" in caught.value.found


def test_something_else_named_gguf(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for opens in (load_gguf, estimate_bytes):
        with pytest.raises(ModelError, match="cannot open"):
            opens(path)
    for content in (b"PK\x03\x04", b"", b"GGU"):
        path.write_bytes(content)
        for opens in (load_gguf, estimate_bytes):
            with pytest.raises(ModelError, match="not a gguf file"):
                opens(path)


def test_a_file_cut_short_anywhere_is_refused(tied: Path, tmp_path: Path) -> None:
    whole, path = tied.read_bytes(), tmp_path / "cut.gguf"
    for length in (*range(4, 3000, 37), len(whole) - 40, len(whole) - 33):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="is a broken gguf file"):
            load_gguf(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(4, 2400), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_give_a_header_or_a_refusal(
    tied: Path, tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(tied.read_bytes())
    for at, byte in flips:
        data[at] = byte
    path = tmp_path_factory.mktemp("flip") / "x.gguf"
    path.write_bytes(data)
    try:
        header = read_header(path)
    except ModelError:
        return
    assert all(t.offset + t.size_bytes <= len(data) for t in header.tensors.values())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocab_size": 1 << 31}, "asks for"),
        ({"embedding_length": 1 << 20}, "asks for"),
        ({"embedding_length": 128}, "[96, 64] where LlamaForCausalLM has [96, 128]"),
        ({"attention.head_count": 0}, "zero"),
    ],
)
def test_metadata_that_the_tensors_do_not_bear_out_is_refused(
    tmp_path: Path, changes: Mapping[str, int], says: str
) -> None:
    path = tmp_path / "m.gguf"
    tensors = {f"blk.{i}.ffn_up.weight": ((96, 64), "Q4_0") for i in range(2)}
    write(path, "llama", {**LLAMA, **changes}, {"token_embd.weight": ((50, 64), "Q8_0"), **tensors})
    with pytest.raises(ModelError, match=r"lacks weights|cannot load|does not fit the metadata") as caught:
        load_gguf(path)
    assert says in caught.value.found and "\n" not in caught.value.found


def test_weights_that_are_not_there_are_named(tied: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tensors = {"token_embd.weight": ((50, 64), "Q8_0"), **{f"x{i}": ((32,), "F32") for i in range(2)}}
    write(path, "llama", LLAMA, tensors)
    with pytest.raises(ModelError, match="lacks weights of LlamaForCausalLM") as caught:
        load_gguf(path)
    assert "model.layers.0." in caught.value.found


def test_a_family_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "frobnicator", {"block_count": 1}, {"token_embd.weight": ((50, 64), "Q8_0")})
    with pytest.raises(ModelError, match="cannot load") as caught:
        load_gguf(path)
    assert "frobnicator" in caught.value.found
