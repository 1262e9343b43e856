"""What is refused, as the one who typed the command reads it: one clear line, exit 2, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_kit import INPUTS, Command, command, files, made, refused  # noqa: F401

IDS = np.ones((2, 8), np.int64)
COMPILE = ("compile", "-o", "out.tundish")
VERIFY = ("verify",)


@dataclass(frozen=True)
class Refusal:
    """verb: the command, the thing is its first argument. make: puts it into an empty folder and gives its name.

    parts: what the message must hold: what is wrong, where, what to do.
    """

    name: str
    verb: tuple[str, ...]
    make: Callable[[Path, Path], object]
    parts: tuple[str, ...]


# -- models ----------------------------------------------------------------------------------------------


@cache
def _gpt2() -> tuple[dict[str, Any], bytes]:
    """config.json and model.safetensors of a tiny model."""
    import tempfile

    from tundish.models.zoo import load_named

    with tempfile.TemporaryDirectory() as folder:
        load_named("gpt2-tiny").module.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
        return config, (Path(folder) / "model.safetensors").read_bytes()


def _folder(at: Path, config: Any = None, weights: bytes | None = None) -> str:
    """A transformers folder; `config` changes some keys, or is the whole text of config.json."""
    known, tensors = _gpt2()
    (at / "model").mkdir()
    text = config if isinstance(config, (str, bytes)) else json.dumps({**known, **(config or {})})
    (at / "model" / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (at / "model" / "model.safetensors").write_bytes(tensors if weights is None else weights)
    return "model"


def _header(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The weights with another header."""
    weights = _gpt2()[1]
    (length,) = struct.unpack_from("<Q", weights)
    header = json.loads(weights[8 : 8 + length])
    text = change(header)
    text = text if isinstance(text, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights[8 + length :]


def _twice(header: dict[str, Any]) -> bytes:
    name, entry = next((n, e) for n, e in header.items() if n != "__metadata__")
    return f'{{{json.dumps(name)}: {json.dumps(entry)}, {json.dumps(header)[1:]}'.encode()


def _moved(header: dict[str, Any], by: int) -> None:
    for entry in header.values():
        if "data_offsets" in entry:
            entry["data_offsets"] = [o + by for o in entry["data_offsets"]]


def _over(header: dict[str, Any]) -> None:
    entries = sorted((e for e in header.values() if "data_offsets" in e), key=lambda e: e["data_offsets"])
    pairs = list(zip(entries, entries[1:], strict=False))
    first, second = next(p for p in pairs if p[0]["shape"] == p[1]["shape"])
    second["data_offsets"] = first["data_offsets"]


def _only(at: Path, name: str, content: bytes | str) -> str:
    (at / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def _without_weights(at: Path, *others: str) -> str:
    _folder(at)
    (at / "model" / "model.safetensors").unlink()
    for name in others:
        (at / "model" / name).write_bytes(b"\x80\x04.")
    return "model"


def _index(at: Path, text: str) -> str:
    _without_weights(at)
    (at / "model" / "model.safetensors.index.json").write_text(text)
    return "model"


def _config_folder(at: Path) -> str:
    (at / "model" / "config.json").mkdir(parents=True)
    return "model"


def _huge_config(at: Path) -> str:
    _folder(at)
    os.truncate(at / "model" / "config.json", 1 << 30)
    return "model"


def _model(name: str, make: Callable[[Path], object], *parts: str) -> Refusal:
    return Refusal(name, COMPILE, lambda at, made: make(at), parts)


NOT_SAFETENSORS = ("model.safetensors is not a safetensors file", "try:   fetch it again")
MODELS = [
    _model("no such file", lambda at: "absent.gguf", "cannot open absent.gguf: No such file"),
    _model("no such folder", lambda at: "./absent", "'./absent' is no model", "give a transformers folder"),
    _model("no such onnx file", lambda at: "absent.onnx", "there is no file absent.onnx"),
    _model("a text file", lambda at: _only(at, "notes.txt", "hello"), "'notes.txt' is no model", "transformers folder"),
    _model("a text file named onnx", lambda at: _only(at, "m.onnx", "hello"), "m.onnx is not an ONNX file"),
    _model("a text file named gguf", lambda at: _only(at, "m.gguf", "hello"), "m.gguf is not a gguf file", "b'hell'"),
    _model("a text file named pt2", lambda at: _only(at, "m.pt2", "hello"), "m.pt2"),
    _model("a pickle", lambda at: _without_weights(at, "pytorch_model.bin"),
           "pickles, which can run any code", "pytorch_model.bin", "save_pretrained(NEW)"),
    _model("nothing but a config", _without_weights, "model has no model.safetensors"),
    _model("an unknown model type", lambda at: _folder(at, {"model_type": "gpt22"}),
           "no model type 'gpt22'", "nearest: ", "gpt2"),
    _model("a model type that is no text", lambda at: _folder(at, {"model_type": ["gpt2"]}), "names no model_type"),
    _model("an unknown class", lambda at: _folder(at, {"architectures": ["GPT2Head"]}), "no class 'GPT2Head'", "GPT2"),
    _model("a class that is none", lambda at: _folder(at, {"architectures": ["pipeline"]}), "no class 'pipeline'"),
    _model("classes that are no list", lambda at: _folder(at, {"architectures": {"a": 1}}), "are no list of names"),
    _model("code in the folder", lambda at: _folder(at, {"model_type": "mine", "auto_map": {"AutoModel": "x.Y"}}),
           "no model type 'mine'", "that is never run"),
    _model("a config of brackets", lambda at: _folder(at, "[" * 100_000), "config.json is not JSON"),
    _model("a config that is cut", lambda at: _folder(at, '{"model_type"'), "config.json is not JSON"),
    _model("a config in another coding", lambda at: _folder(at, b"\xff\xfe{}"), "config.json is not JSON"),
    _model("a config that is a folder", _config_folder, "model has no"),
    _model("a huge config", _huge_config, "config.json is too large"),
    _model("a billion layers", lambda at: _folder(at, {"n_layer": 10**9}), "config.json: n_layer is 1000000000"),
    _model("a billion labels", lambda at: _folder(at, {"num_labels": 10**9}), "num_labels is 1000000000"),
    _model("more layers than tensors", lambda at: _folder(at, {"n_layer": 9999}), "too few tensors for its config"),
    _model("a vocabulary beyond the file", lambda at: _folder(at, {"vocab_size": 1 << 40}), "lacks weights of GPT2"),
    _model("no weights", lambda at: _folder(at, weights=b""), *NOT_SAFETENSORS),
    _model("weights cut short", lambda at: _folder(at, weights=_gpt2()[1][:-1]), *NOT_SAFETENSORS),
    _model("weights that go on", lambda at: _folder(at, weights=_gpt2()[1] + b"\0"), *NOT_SAFETENSORS),
    _model("weights outside", lambda at: _folder(at, weights=_header(lambda h: _moved(h, 1 << 20))), *NOT_SAFETENSORS),
    _model("weights before", lambda at: _folder(at, weights=_header(lambda h: _moved(h, -8))), *NOT_SAFETENSORS),
    _model("weights over weights", lambda at: _folder(at, weights=_header(_over)), *NOT_SAFETENSORS),
    _model("a weight twice", lambda at: _folder(at, weights=_header(_twice)), *NOT_SAFETENSORS, "twice"),
    _model("a header of brackets", lambda at: _folder(at, weights=_header(lambda h: b"[" * 99_999)), *NOT_SAFETENSORS),
    _model("an index of nothing", lambda at: _index(at, "{}"), "is no index of weight files"),
    _model("an index that is cut", lambda at: _index(at, "{"), "model.safetensors.index.json is not JSON"),
    _model("an index that leaves the folder", lambda at: _index(at, '{"weight_map": {"w": "../w.safetensors"}}'),
           "names files that cannot lie in model", "../w.safetensors"),
    _model("an index of endless names", lambda at: _index(at, json.dumps({"weight_map": {"w": "w" * 300}})),
           "names files that cannot lie in model"),
    _model("an endless name", lambda at: "a" * 5000, "File name too long: aaa"),
    _model("an index of lost files", lambda at: _index(at, '{"weight_map": {"w": "w.safetensors"}}'),
           "lacks weight files", "w.safetensors", "fetch the folder again"),
]  # fmt: skip


def _onnx(at: Path, change: Callable[[Path], object] = lambda folder: None, **entries: Any) -> str:
    """An ONNX file whose one weight lies beside it in `w.bin`, as these entries say."""
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(4, 4), data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", **entries}.items():
        weight.external_data.add(key=key, value=str(value))
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    (at / "m").mkdir()
    (at / "m" / "w.bin").write_bytes(bytes(64))
    (at / "w.bin").write_bytes(bytes(64))
    change(at / "m")
    (at / "m" / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    return "m/m.onnx"


def _elsewhere(folder: Path) -> None:
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to("../w.bin")


OUTSIDE = ("the weight 'w' of m.onnx lies outside the model's folder", "put the data beside the model")
MODELS += [
    _model("data above the folder", lambda at: _onnx(at, location="../w.bin"), *OUTSIDE, "../w.bin"),
    _model("data anywhere", lambda at: _onnx(at, location="/etc/passwd"), *OUTSIDE, "/etc/passwd"),
    _model("data through a link", lambda at: _onnx(at, _elsewhere), *OUTSIDE, "w.bin"),
    _model("data before the file", lambda at: _onnx(at, offset=-8), "the weight 'w' of m.onnx is broken", "bytes -8.."),
    _model("data past the end", lambda at: _onnx(at, offset=4), "the weight 'w' of m.onnx is broken", "4..68"),
    _model("data of no end", lambda at: _onnx(at, length=1 << 62), "the weight 'w' of m.onnx is broken"),
    _model("data that is not there", lambda at: _onnx(at, location="v.bin"), "lacks its file of weights v.bin"),
]



def _linked_folder(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder / "w.bin").rename(folder.parent / "elsewhere" / "w.bin")
    (folder / "data").symlink_to("../elsewhere")


MODELS += [
    _model("data through a linked folder", lambda at: _onnx(at, _linked_folder, location="data/w.bin"), *OUTSIDE),
    _model("data there and back", lambda at: _onnx(at, location="../m/../w.bin"), *OUTSIDE),
    _model("data that is a folder", lambda at: _onnx(at, lambda m: (m / "d").mkdir(), location="d"), "m.onnx", "d"),
]

# -- gguf and pt2 files ----------------------------------------------------------------------------------


def _gguf(at: Path, keep: int) -> str:
    """A gguf file that stops after so many bytes."""
    text = b"general.architecture"
    entry = struct.pack("<Q", len(text)) + text + struct.pack("<IQ", 8, 5) + b"llama"
    return _only(at, "m.gguf", (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry)[:keep])


class _Opened:
    """Leaves a file behind where anyone unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("opened"),)


def _pt2(at: Path, pickled: bool) -> str:
    """What torch.export.save writes, cut short or with a weight that is a pickle of something else."""
    import io
    import pickle
    import zipfile

    import torch

    stream = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(4, 4), (torch.rand(2, 4),)), stream)
    if not pickled:
        return _only(at, "m.pt2", stream.getvalue()[:-400])
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(at / "m.pt2", "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
            new.writestr(info.filename, pickle.dumps(_Opened()) if "/weight_" in info.filename else content)
    return "m.pt2"


MODELS += [
    _model("a gguf cut in its header", lambda at: _gguf(at, 20), "m.gguf is a broken gguf file", "fetch it again"),
    _model("a gguf cut in a text", lambda at: _gguf(at, 40), "m.gguf is a broken gguf file", "fetch it again"),
    _model("a gguf of nothing", lambda at: _gguf(at, 99), "m.gguf"),
    _model("a pt2 cut short", lambda at: _pt2(at, False), "m.pt2 is not a .pt2 file of torch.export"),
    _model("a pt2 that is a pickle", lambda at: _pt2(at, True), "m.pt2", "which could run any code", "try:"),
]

# -- a hub cache -----------------------------------------------------------------------------------------

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _cached(at: Path, file: str, target: str, keep: bool = True) -> str:
    """A cache of two repositories; in the first one's snapshot this file is a link to `target`."""
    config, tensors = _gpt2()
    contents = {"config.json": json.dumps(config).encode(), "model.safetensors": tensors, "pytorch_model.bin": b"\x80"}
    for name in ("acme--tiny", "acme--other"):
        repository = at / "hub" / f"models--{name}"
        snapshot = repository / "snapshots" / _COMMIT
        for folder in (repository / "blobs", repository / "refs", snapshot):
            folder.mkdir(parents=True)
        (repository / "refs" / "main").write_text(_COMMIT)
        for held in ("config.json", "model.safetensors"):
            (repository / "blobs" / held).write_bytes(contents[held])
            (snapshot / held).symlink_to(f"../../blobs/{held}")
    snapshot = at / "hub" / "models--acme--tiny" / "snapshots" / _COMMIT
    if not keep:
        (snapshot / "model.safetensors").unlink()
    (snapshot / file).unlink(missing_ok=True)
    (snapshot / file).symlink_to(target)
    return "acme/tiny"


def _cached_onnx(at: Path) -> str:
    """An ONNX file of a cached repository whose data lies in another repository's cache."""
    _cached(at, "x", "../../refs/main")
    other = at / "hub" / "models--acme--other" / "blobs" / "w.bin"
    other.write_bytes(bytes(64))
    snapshot = at / "hub" / "models--acme--tiny" / "snapshots" / _COMMIT
    (at / _onnx(at)).rename(snapshot / "m.onnx")
    (snapshot / "w.bin").symlink_to("../../../models--acme--other/blobs/w.bin")
    return str(snapshot / "m.onnx")


HUB = [
    _model("a cached file that is anywhere", lambda at: _cached(at, "vocab.txt", "/etc/passwd"),
           "vocab.txt leads out of", "models--acme--tiny", "/etc/passwd"),
    _model("a cached file that is another repository's",
           lambda at: _cached(at, "model.safetensors", "../../../models--acme--other/blobs/model.safetensors"),
           "model.safetensors leads out of", "models--acme--other"),
    _model("a cached folder that is elsewhere", lambda at: _cached(at, "onnx", "../../../../.."),
           "onnx leads out of", "models--acme--tiny"),
    _model("cached data that is another repository's", _cached_onnx, *OUTSIDE),
    _model("a cached pickle", lambda at: _cached(at, "pytorch_model.bin", "../../blobs/config.json", keep=False),
           "pickles, which can run any code", "pytorch_model.bin", "save_pretrained(NEW)"),
    _model("nothing cached of that name", lambda at: _cached(at, "x", "../../refs/main") + "er",
           "nor in the hub cache", "nothing is fetched", "acme/tiny"),
    _model("no such revision", lambda at: _cached(at, "x", "../../refs/main") + "@v2", "no revision 'v2' of acme/tiny"),
]  # fmt: skip

# -- saved graphs ----------------------------------------------------------------------------------------


def _graph(change: Callable[[Path], object]) -> Callable[[Path, Path], str]:
    def make(at: Path, made: Path) -> str:
        shutil.copytree(made / "bert.tir", at / "graph")
        change(at / "graph")
        return "graph"

    return make


def _replaced(file: str, old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return change


def _cut(file: str, keep: float = 0.5) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / file, int((folder / file).stat().st_size * keep))


GRAPHS = [
    Refusal("a graph cut short", COMPILE, _graph(_cut("program.txt")), ("program.txt",)),
    Refusal("a graph that is no text", COMPILE, _graph(lambda f: (f / "program.txt").write_bytes(b"\xff\xfe")),
            ("cannot read program.txt of graph", "is it a saved program?")),
    Refusal("a graph of brackets", COMPILE, _graph(lambda f: (f / "program.txt").write_text("(" * 200_000)),
            ("program.txt:1", "expected one of symbol")),
    Refusal("an empty graph", COMPILE, _graph(lambda f: (f / "program.txt").write_text("")), ("no entry",)),
    Refusal("an op that there is not", COMPILE, _graph(_replaced("program.txt", " layer_norm(", " layer_norn(")),
            ("program.txt:", "layer_norn")),
    Refusal("a stored weight without its file", COMPILE,
            _graph(_replaced("program.txt", 'stored("weights.safetensors"', "stored(")),
            ("program.txt:", "expected a name")),
    Refusal("weights outside", COMPILE,
            _graph(_replaced("program.txt", '"weights.safetensors"', '"../weights.safetensors"')),
            ("lies outside of the program's folder", "../weights.safetensors")),
    Refusal("weights of a graph cut short", COMPILE, _graph(_cut("weights.safetensors")), ("weights.safetensors",)),
    Refusal("a graph without its weights", COMPILE, _graph(lambda f: (f / "weights.safetensors").unlink()),
            ("cannot open weights.safetensors", "No such file")),
]  # fmt: skip


# -- bundles ---------------------------------------------------------------------------------------------


def _bundle(change: Callable[[Path], object]) -> Callable[[Path, Path], str]:
    def make(at: Path, made: Path) -> str:
        shutil.copytree(made / "bert.tundish", at / "b.tundish")
        change(at / "b.tundish")
        return "b.tundish"

    return make


def _manifest(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def _flipped(file: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        data = bytearray((folder / file).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / file).write_bytes(data)

    return change


def _linked(file: str, link: Callable[[Path, Path], object]) -> Callable[[Path], object]:
    """The file, or folder, lies outside, and a link to it in its place."""

    def change(folder: Path) -> None:
        outside = folder.parent / "outside"
        shutil.move(folder / file, outside)
        link(folder / file, outside)

    return change


CHANGED = ("was changed: its sha256 is not the manifest's",)
LINK = ("is a link or a special file, which a bundle may not hold", "cp -rL")
HELD = ("weights.safetensors", "plan.txt", "cases.safetensors", "onnxruntime/forward.onnx")
BUNDLES = [
    *(Refusal(f"a flipped bit in {f}", VERIFY, _bundle(_flipped(f)), (f"b.tundish: {f}", *CHANGED)) for f in HELD),
    *(Refusal(f"{f} cut short", VERIFY, _bundle(_cut(f)), (f"b.tundish: {f} has the wrong size",)) for f in HELD),
    Refusal("a file is missing", VERIFY, _bundle(lambda b: (b / "plan.txt").unlink()), ("plan.txt is missing",)),
    Refusal("a file too many", VERIFY, _bundle(lambda b: (b / "x").touch()), ("x does not belong to it",)),
    Refusal("a manifest cut short", VERIFY, _bundle(_cut("manifest.json")), ("b.tundish: manifest.json is broken",)),
    Refusal("no manifest", VERIFY, _bundle(lambda b: (b / "manifest.json").unlink()), ("it has no manifest.json",)),
    Refusal("a newer schema", VERIFY, _bundle(_manifest(schema=99)),
            ("b.tundish was made by a newer tundish", "schema 99, this one reads up to", "update tundish")),
    Refusal("a CPU feature that is not here", VERIFY, _bundle(_manifest(features=["avx1024", "frob"])),
            ("b.tundish needs CPU features that this machine lacks: avx1024, frob", "compile it again")),
    Refusal("a link in a bundle", VERIFY, _bundle(_linked("plan.txt", Path.symlink_to)), ("plan.txt", *LINK)),
    Refusal("a hard link in a bundle", VERIFY, _bundle(_linked("plan.txt", Path.hardlink_to)),
            ("plan.txt", *LINK, "several names")),
    Refusal("a linked folder in a bundle", VERIFY, _bundle(_linked("onnxruntime", Path.symlink_to)),
            ("onnxruntime", *LINK)),
    Refusal("a linked manifest", VERIFY, _bundle(_linked("manifest.json", Path.symlink_to)), ("has no manifest.json",)),
    Refusal("a dangling link in a bundle", VERIFY, _bundle(lambda b: (b / "x").symlink_to("nowhere")), ("x", *LINK)),
    Refusal("a pipe in a bundle", VERIFY, _bundle(lambda b: os.mkfifo(b / "x")), ("x", *LINK)),
    Refusal("a text file as bundle", VERIFY, lambda at, made: _only(at, "notes.txt", "hello"),
            ("notes.txt is not a bundle", "a bundle is the folder that")),
    Refusal("no such bundle", VERIFY, lambda at, made: "absent", ("absent is not a bundle",)),
]  # fmt: skip


# -- inputs ----------------------------------------------------------------------------------------------


def _input(name: str, ids: np.ndarray, *parts: str, as_: str = "input_ids", rest: np.ndarray = IDS) -> Refusal:
    """Runs the bundle, writing its answers into `answers`, with this array as its first input."""
    words = [w for n in INPUTS[1:] for w in ("--input", f"{n}=rest.npy")]

    def make(at: Path, made: Path) -> str:
        np.save(at / "ids.npy", ids)
        np.save(at / "rest.npy", rest)
        return str(made / "bert.tundish")

    return Refusal(name, ("run", "--output", "answers", "--input", f"{as_}=ids.npy", *words), make, parts)


TYPE = "input 'input_ids' is i64[batch, seq]"
RUNS = [
    _input("a wrong name", IDS, "missing input input_ids, unknown input input_idz",
           "the inputs are input_ids: i64[batch, seq]", as_="input_idz"),
    _input("a wrong dtype", IDS.astype(np.int32), TYPE, "int32[2, 8]"),
    _input("a wrong rank", IDS[0], TYPE, "int64[8]"),
    _input("sizes that disagree", np.ones((2, 9), np.int64), "seq is 9 in one input and 8"),
    _input("a batch out of range", np.ones((5, 8), np.int64), "batch is 5, outside 1..4", "input 'input_ids'"),
    _input("a length out of range", np.ones((2, 33), np.int64), "seq is 33, outside 1..32", "input 'input_ids'"),
    _input("nothing at all", np.ones((0, 8), np.int64), "batch is 0, outside 1..4"),
    _input("an id beyond the table", np.full((2, 8), 1 << 40), "onnxruntime failed", "idx=1099511627776"),
]  # fmt: skip


RUN = ("run", *(w for n in INPUTS for w in ("--input", f"{n}=random")), "--output", "answers")
RUNS += [
    Refusal("a bundle for another CPU is not run", RUN, _bundle(_manifest(features=["avx1024"])),
            ("b.tundish needs CPU features that this machine lacks: avx1024", "compile it again")),
    Refusal("a changed bundle is not run", RUN, _bundle(_flipped("weights.safetensors")), ("weights", *CHANGED)),
]  # fmt: skip


CASES = [*MODELS, *HUB, *GRAPHS, *BUNDLES, *RUNS]


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_a_refusal_is_one_line_and_leaves_nothing(
    command: Command, made: Path, tmp_path: Path, case: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    thing = str(case.make(tmp_path, made))
    before = _tree(tmp_path)
    refused(command(case.verb[0], thing, *case.verb[1:]), *case.parts)
    assert _tree(tmp_path) == before


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, hidden things too, with size and time."""
    return {p.relative_to(folder).as_posix(): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*")}


def test_what_stood_there_before_stays(command: Command, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "bert.tundish", tmp_path / "out.tundish")
    before = files(tmp_path / "out.tundish")
    _folder(tmp_path, weights=b"")
    refused(command("compile", "model", "-o", "out.tundish"), "not a safetensors file")
    assert files(tmp_path / "out.tundish") == before
    assert command("verify", "out.tundish").code == 0


def test_ordinary_copies_of_a_bundle_are_bundles(command: Command, made: Path, tmp_path: Path) -> None:
    import subprocess

    bundle = made / "bert.tundish"
    subprocess.run(["cp", "-a", bundle, tmp_path / "archived"], check=True)
    subprocess.run(["cp", "-al", bundle, tmp_path / "hard"], check=True)
    subprocess.run(["cp", "-rL", tmp_path / "hard", tmp_path / "plain"], check=True)
    refused(command("verify", "hard"), *LINK)
    shutil.rmtree(tmp_path / "hard")
    assert command("verify", "archived").code == 0
    assert command("verify", "plain").code == 0


# -- what is only warned of ------------------------------------------------------------------------------


def _spoilt(at: Path, where: Callable[[np.ndarray], object], key: str = "transformer.wte.weight") -> str:
    from safetensors.numpy import load, save

    tensors = {k: v.copy() for k, v in load(_gpt2()[1]).items()}
    where(tensors[key])
    return _folder(at, weights=save(tensors, {"format": "pt"}))


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinities")])
def test_one_row_that_is_no_number_is_warned_of_by_name(
    command: Command, tmp_path: Path, value: float, word: str
) -> None:
    """A row of the table that the texts may or may not use: the rest is compared, and what depends on it is not."""
    _spoilt(tmp_path, lambda table: table.__setitem__((3, 0), value))
    told = command("compile", "model", "-o", "out.tundish", "--json", "--verify")
    assert told.code == 0, told.err
    (line,) = [x for x in told.err.splitlines() if "warning" in x]
    assert line.startswith(f"tundish: warning: model has weights with {word}: ") and "transformer.wte.weight" in line
    assert line.removeprefix("tundish: warning: ") in told.json["notes"]
    told = command("verify", "out.tundish")
    assert told.code == 0 and "NaN or infinite in the original was not compared" in told.err
    assert any(c.get("not_finite") for c in json.loads((tmp_path / "out.tundish/cases.json").read_text())["cases"])


def test_nothing_but_nan_proves_nothing(command: Command, tmp_path: Path) -> None:
    _spoilt(tmp_path, lambda bias: bias.__setitem__(0, np.nan), "transformer.ln_f.bias")
    refused(command("compile", "model", "-o", "out.tundish", "--verify"), "answered no finite number", "weights")
    assert not (tmp_path / "out.tundish").exists()
    assert command("compile", "model", "-o", "out.tundish").code == 0
    refused(command("verify", "out.tundish"), "answered no finite number")
