"""Saved programs: what is written comes back, in the same bytes every time, and broken folders are refused."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tundish.ir.build import Builder
from tundish.ir.diagnostics import BuildError, LoadError, VerifyError, Where
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import DType, bf16, boolean, f16, f32, from_numpy, i4, i64, u4
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Graph, Program
from tundish.ir.op import Attrs, get
from tundish.ir.save import load, save
from tundish.ir.tensor import TensorType
from tundish.ir.text import same
from tundish.ir.weight_file import write_weights
from tundish.ir.weights import Held, Read, Recipe, Stored, Weight, materialize, open_safetensors

RNG = np.random.default_rng(0)
W = RNG.standard_normal((3, 4)).astype(np.float32)


def held(array: np.ndarray) -> Weight:
    return Weight(TensorType(from_numpy(array.dtype), array.shape), Held(array))


def small() -> Program:
    turned = Weight(TensorType(f32, (4, 3)), Recipe(get("transpose"), Attrs({"perm": (1, 0)}), (held(W),)))
    weights = {"w": turned, "b": held(np.array([1, 2, 3], np.float32))}
    b = Builder(Where("m.py", 1, "head"))
    x = b.input("x", TensorType(f32, (symbol("batch"), 4)))
    made = [b.emit_node("weight", (), {"name": n}, types=[w.type], names=(n,)).output for n, w in weights.items()]
    return Program({"main": b.finish([b.emit("linear", x, *made)], ["y"])}, ("main",), weights, {"batch": Range()})


def test_a_program_comes_back_with_its_weights_computed(tmp_path: Path) -> None:
    program = small()
    save(program, tmp_path / "model")
    again = load(tmp_path / "model", check=True)
    assert again.entry.output_names == ("y",)
    np.testing.assert_array_equal(materialize(again.weights["w"]), W.T)
    x = {"x": RNG.standard_normal((2, 4)).astype(np.float32)}
    np.testing.assert_allclose(evaluate(again, x)["y"], evaluate(program, x)["y"], rtol=1e-6)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["model", "program.txt", "weights.safetensors"]


def test_the_file_is_read_by_the_safetensors_library(tmp_path: Path) -> None:
    save(small(), tmp_path / "model")
    tensors = safetensors.numpy.load_file(tmp_path / "model" / "weights.safetensors")
    np.testing.assert_array_equal(tensors["w"], W.T)
    np.testing.assert_array_equal(tensors["b"], np.array([1, 2, 3], np.float32))


def test_the_text_holds_the_hash_of_each_weight(tmp_path: Path) -> None:
    save(small(), tmp_path / "model")
    text = (tmp_path / "model" / "program.txt").read_text()
    digest = hashlib.sha256(np.ascontiguousarray(W.T).tobytes()).hexdigest()
    assert f'weight w: f32[4, 3] = stored("weights.safetensors", "w", "{digest}")' in text


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(small(), tmp_path / name)
    for file in ("program.txt", "weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_loaded_program_may_be_saved_over_itself(tmp_path: Path) -> None:
    save(small(), tmp_path / "model")
    before = load(tmp_path / "model")
    save(before, tmp_path / "model")
    assert same(load(tmp_path / "model", check=True), before)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_program_of_shapes_only_is_saved_without_a_weight_file(tmp_path: Path) -> None:
    program = small().replace(weights={"w": Weight(TensorType(f32, (4, 3))), "b": Weight(TensorType(f32, (3,)))})
    save(program, tmp_path / "model")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["program.txt"]
    assert same(load(tmp_path / "model"), program)


def test_relative_weights_are_looked_up_under_base(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    stored = write_weights(source / "w.safetensors", [("w", TensorType(f32, (4, 3)), lambda: W.T)])
    program = small()
    program = program.replace(weights={**program.weights, "w": Weight(TensorType(f32, (4, 3)), stored["w"])})
    save(program, tmp_path / "model", base=source)
    np.testing.assert_array_equal(materialize(load(tmp_path / "model", check=True).weights["w"]), W.T)


# -- the weight file ---------------------------------------------------------------------------------

ARRAYS = {
    "odd": np.arange(7, dtype=np.int8),
    "aligned": RNG.standard_normal((4, 16)).astype(np.float32),
    "half": RNG.standard_normal(3).astype(ml_dtypes.bfloat16),
    "scalar": np.float64(2.5).reshape(()),
    "empty": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False, True]),
    "other": RNG.standard_normal((2, 64)).astype(np.float32),
}


def items(asked: list[str]) -> Iterator[tuple]:
    def make(name: str) -> np.ndarray:
        asked.append(name)
        return ARRAYS[name]

    for name, array in ARRAYS.items():
        yield name, TensorType(from_numpy(array.dtype), array.shape), lambda name=name: make(name)


def test_tensors_are_aligned_hashed_and_asked_for_once(tmp_path: Path) -> None:
    asked: list[str] = []
    path = tmp_path / "w.safetensors"
    stored = write_weights(path, items(asked))
    assert sorted(asked) == sorted(ARRAYS)
    file = open_safetensors(path)
    for name, array in ARRAYS.items():
        offset, size = file.span(name)
        assert offset % (64 if size % 64 == 0 else array.itemsize) == 0
        assert file[name].tobytes() == array.tobytes()
        assert stored[name] == Stored("w.safetensors", name, hashlib.sha256(array.tobytes()).hexdigest())
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_arrays_that_are_not_contiguous_are_written_in_order(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", [("t", TensorType(f32, (4, 3)), lambda: W.T)])
    np.testing.assert_array_equal(open_safetensors(tmp_path / "w.safetensors")["t"], W.T)


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")

    def broken() -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_weights(path, [("a", TensorType(f32, (3, 4)), lambda: W), ("b", TensorType(f32, (1,)), broken)])
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize(("dtype", "low"), [(i4, -8), (u4, 0)])
@pytest.mark.parametrize("shape", [(3, 5), (4, 4), (), (0, 3), (1,)])
def test_numbers_of_four_bits_are_packed_and_come_back(
    tmp_path: Path, dtype: DType, low: int, shape: tuple[int, ...]
) -> None:
    type = TensorType(dtype, shape)
    numbers = np.resize(np.arange(low, low + 16), shape).astype(dtype.numpy)
    stored = write_weights(tmp_path / "w.safetensors", [("w", type, lambda: numbers)])
    raw = open_safetensors(tmp_path / "w.safetensors")["w"]
    assert raw.dtype == np.uint8 and raw.shape == ((numbers.size + 1) // 2,)
    back = materialize(Weight(type, stored["w"]), tmp_path)
    assert back.dtype == dtype.numpy
    np.testing.assert_array_equal(back.astype(np.int32), numbers.astype(np.int32), strict=True)


def test_a_program_with_packed_weights_loads_and_refuses_another_size(tmp_path: Path) -> None:
    numbers = np.arange(-8, 7).reshape(3, 5).astype(i4.numpy)
    b = Builder(Where("m.py", 1))
    q = b.emit_node("weight", (), {"name": "q"}, types=(TensorType(i4, (3, 5)),)).output
    scale = b.emit_node("weight", (), {"name": "s"}, types=(TensorType(f16, (3, 1)),)).output
    graph = b.finish([b.emit("dequantize", q, scale, bits=4, axis=1)])
    weights = {"q": Weight(TensorType(i4, (3, 5)), Read(lambda: numbers)),
               "s": Weight(TensorType(f16, (3, 1)), Held(np.full((3, 1), 0.5, np.float16)))}  # fmt: skip
    save(Program({"main": graph}, ("main",), weights), tmp_path / "p")
    back = load(tmp_path / "p", check=True)
    np.testing.assert_array_equal(evaluate(back, {})["output_0"], numbers.astype(np.float32) / 2, strict=True)
    text = (tmp_path / "p" / "program.txt").read_text()
    (tmp_path / "p" / "program.txt").write_text(text.replace("[3, 5]", "[3, 7]"))
    with pytest.raises(LoadError, match="weight 'q' is i4"):
        load(tmp_path / "p")


@pytest.mark.parametrize(
    ("name", "type", "array", "message"),
    [
        ("w", TensorType(bf16, (3, 4)), W, r"weight 'w' is bf16\[3, 4\]"),
        ("w", TensorType(f32, (3, 4)), W.T, r"weight 'w' is f32\[3, 4\]"),
        ("w", TensorType(f32, (symbol("n"),)), W, "has numbers for sizes"),
        ("__metadata__", TensorType(f32, (3, 4)), W, "cannot both be named"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    tmp_path: Path, name: str, type: TensorType, array: np.ndarray, message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        write_weights(tmp_path / "w.safetensors", [(name, type, lambda: array)])
    assert list(tmp_path.iterdir()) == []


def test_what_the_disk_refuses_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = ("t", TensorType(f32, (3, 4)), lambda: W)
    with pytest.raises(BuildError, match="cannot write w.safetensors: No such file or directory"):
        write_weights(tmp_path / "missing" / "w.safetensors", [tensor])

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BuildError, match="cannot write w.safetensors: the disk is full(.|\n)*free some space"):
        write_weights(tmp_path / "w.safetensors", [tensor])
    with pytest.raises(BuildError, match="the disk is full"):
        save(small(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# -- folders that are not as they should be -----------------------------------------------------------


def test_other_folders_and_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, message in (("notes", "is not a saved program"), ("file", "is not a folder")):
        with pytest.raises(BuildError, match=message):
            save(small(), tmp_path / name)
    assert (tmp_path / "notes" / "diary.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_an_interrupted_save_leaves_the_old_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(small(), tmp_path / "model")
    before = (tmp_path / "model" / "program.txt").read_bytes()
    monkeypatch.setattr("tundish.ir.save.to_text", lambda program: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(small(), tmp_path / "model")
    assert (tmp_path / "model" / "program.txt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_missing_bytes_are_named(tmp_path: Path) -> None:
    lost = Weight(TensorType(f32, (4, 3)), Stored("nowhere.safetensors", "w"))
    with pytest.raises(LoadError, match=r"nowhere.safetensors"):
        save(small().replace(weights={**small().weights, "w": lost}), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def edited(folder: Path, old: str, new: str) -> Path:
    save(small(), folder)
    text = (folder / "program.txt").read_text()
    assert old in text
    (folder / "program.txt").write_text(text.replace(old, new))
    return folder


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ('"weights.safetensors"', '"/etc/weights.safetensors"', LoadError, "outside of the program's folder"),
        ('"weights.safetensors"', '"../weights.safetensors"', LoadError, "outside of the program's folder"),
        ('"weights.safetensors"', '"others.safetensors"', LoadError, "cannot open others.safetensors"),
        (', "w", ', ', "v", ', LoadError, "holds no tensor 'v'"),
        ("weight w: f32[4, 3]", "weight w: f32[12]", LoadError, r"weight 'w' is f32\[12\]"),
        ("linear(", "lunear(", LoadError, r"program.txt:\d+ *: there is no op 'lunear'"),
        ("f32[batch, 3] =", "f32[batch, 4] =", VerifyError, r"m.py:1 \(in head\): main: .*inputs give f32\[batch, 3\]"),
    ],
)
def test_a_folder_that_was_changed_is_refused(tmp_path: Path, old: str, new: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        load(edited(tmp_path / "model", old, new))


def test_changed_weights_are_found_by_their_hash(tmp_path: Path) -> None:
    save(small(), tmp_path / "model")
    file = tmp_path / "model" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    load(tmp_path / "model")
    with pytest.raises(LoadError, match="its sha256 differs"):
        load(tmp_path / "model", check=True)


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"cannot read .*program.txt|cannot read nothing"):
        load(tmp_path / "nothing")
    (tmp_path / "program.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(LoadError, match="cannot read program.txt"):
        load(tmp_path)


def test_flags_and_ids_are_stored_too(tmp_path: Path) -> None:
    weights = {"f": held(np.array([True, False])), "i": held(np.arange(3))}
    save(Program({"main": Graph((), (), ())}, ("main",), weights), tmp_path / "m")
    again = load(tmp_path / "m", check=True)
    assert [again.weights[n].type.dtype for n in ("f", "i")] == [boolean, i64]


def test_a_recipe_that_comes_to_one_number_is_an_array_of_rank_0() -> None:
    """numpy gives a bare number for the sum of a vector."""
    vector = held(np.array([1, 2, 3], np.float32))
    total = Weight(TensorType(f32, ()), Recipe(get("sum"), Attrs({"axes": (0,), "keepdims": False}), (vector,)))
    array = materialize(total)
    assert array.shape == () and array.dtype == np.float32 and array == 6


def test_a_weight_in_another_form_than_the_program_says_is_refused(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", [("w", TensorType(f32, (3, 4)), lambda: W)])
    for type in (TensorType(f32, (4, 3)), TensorType(i64, (3, 4))):
        with pytest.raises(LoadError, match="holds 'w' in another form than the program says"):
            materialize(Weight(type, Stored("w.safetensors", "w")), tmp_path)
