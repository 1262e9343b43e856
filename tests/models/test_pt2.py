"""`.pt2` files: read and compiled like the module they came from, and never run while being read."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tundish
from tundish.models.errors import ModelError
from tundish.models.open import open_model


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(11, 4)
        self.head = torch.nn.Linear(4, 11)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.arange(4.0))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        x = self.embed(ids) + self.shift
        if mask is not None:
            x = x * mask[:, :, None]
        return {"logits": self.head(x), "flat": x.view(x.shape[0] * x.shape[1], 4)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    rows, length = torch.export.Dim("rows", max=16), torch.export.Dim("length")
    exported = torch.export.export(
        Tiny().eval(), (torch.randint(0, 11, (2, 5)),), {"mask": torch.ones(2, 5)},
        dynamic_shapes={"ids": {0: rows, 1: length}, "mask": {0: rows, 1: length}},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("pt2") / "tiny.pt2"
    torch.export.save(exported, path)
    return path


def test_it_is_compiled_like_its_module(saved: Path, tmp_path: Path) -> None:
    source = open_model(str(saved))
    assert [(s.name, s.dims) for s in source.inputs] == [("ids", ("batch", "seq")), ("mask", ("batch", "seq"))]
    assert source.inputs[0].high == 10, "as many ids as the table has rows"
    bundle = tundish.compile(saved, tmp_path / "tiny.tundish")
    assert tundish.verify(bundle).passed
    assert bundle.entries["forward"].symbols["batch"] == (1, 8)
    inputs = {"ids": np.array([[1, 2, 3], [4, 5, 10]]), "mask": np.ones((2, 3), np.float32)}
    torch.manual_seed(0)
    with torch.no_grad():
        wanted = Tiny().eval()(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    got = bundle.run(inputs)
    for name, tensor in wanted.items():
        np.testing.assert_allclose(got[name], tensor.numpy(), atol=1e-5)


def test_a_tied_weight_stays_one(saved: Path) -> None:
    weights = tundish.capture(saved).weights
    assert sorted(w.type.shape for w in weights.values()) == [(4,), (11,), (11, 4)]


def rewritten(path: Path, out: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy of an archive with files changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename), change(info.filename, old.read(info)))
    return out


def in_model(edit: Callable[[Any], None]) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        described = json.loads(data)
        edit(described)
        return json.dumps(described).encode()

    return change


def sizes(described: Any) -> list[dict[str, Any]]:
    found, todo = [], [described]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            found += [item] if "expr_str" in item else []
            todo += item.values()
        elif isinstance(item, list):
            todo += item
    return found


def run_code(ran: Path) -> str:
    return f"__import__('pathlib').Path({str(ran)!r}).touch()"


def test_text_in_place_of_a_size_is_not_run(saved: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    def edit(described: Any) -> None:
        for size in sizes(described):
            size["expr_str"] = run_code(ran)

    with pytest.raises(ModelError, match="holds what is not run: expr_str"):
        open_model(str(rewritten(saved, tmp_path / "a.pt2", in_model(edit))))
    assert not ran.exists()


@pytest.mark.parametrize("text", ["9**9**9", "Pow(Integer(9), Integer(999999999))", "exec(s0)", "s0.__class__",
                                  "Symbol('os')", "1 << 99999999", "(" * 3000, "lambda: 1", "eval"])  # fmt: skip
def test_only_arithmetic_stands_in_a_size(saved: Path, tmp_path: Path, text: str) -> None:
    def edit(described: Any) -> None:
        sizes(described)[0]["expr_str"] = text

    with pytest.raises(ModelError, match="holds what is not run"):
        open_model(str(rewritten(saved, tmp_path / "a.pt2", in_model(edit))))


@pytest.mark.parametrize("target", ["torch.load", "torch.ops.load_library", "torch.hub.load", "_operator.attrgetter",
                                    "os.system", "#mine.op"])  # fmt: skip
def test_only_aten_ops_are_called(saved: Path, tmp_path: Path, target: str) -> None:
    def edit(described: Any) -> None:
        described["graph_module"]["graph"]["nodes"][-1]["target"] = target

    with pytest.raises(ModelError, match="holds what is not run: target"):
        open_model(str(rewritten(saved, tmp_path / "a.pt2", in_model(edit))))


def test_guards_are_not_run(saved: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    def edit(described: Any) -> None:
        described["guards_code"] = [run_code(ran) + " or True"]

    source = open_model(str(rewritten(saved, tmp_path / "a.pt2", in_model(edit))))
    source.call({"ids": np.zeros((2, 3), np.int64), "mask": np.ones((2, 3), np.float32)})
    assert not ran.exists()


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "plain"])
def test_a_pickle_of_more_than_tensors_is_refused(saved: Path, tmp_path: Path, how: str) -> None:
    ran, stream = tmp_path / "ran", io.BytesIO()
    torch.save(Touch(ran), stream)
    payload = stream.getvalue() if how == "torch" else pickle.dumps(Touch(ran))

    def change(name: str, data: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            return data.replace(b'"use_pickle": false', b'"use_pickle": true')
        return payload if "/weight_" in name else data

    with pytest.raises(ModelError, match="which could run any code"):
        open_model(str(rewritten(saved, tmp_path / "a.pt2", change)))
    assert not ran.exists()


def test_sample_inputs_are_not_opened(saved: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    change = lambda name, data: pickle.dumps(Touch(ran)) if "sample_inputs" in name else data  # noqa: E731
    open_model(str(rewritten(saved, tmp_path / "a.pt2", change)))
    assert not ran.exists()


def test_weights_shorter_than_they_say_are_refused(saved: Path, tmp_path: Path) -> None:
    change = lambda name, data: data[:-4] if "/weight_" in name else data  # noqa: E731
    with pytest.raises(ModelError, match=r"broken one"):
        open_model(str(rewritten(saved, tmp_path / "a.pt2", change)))


@pytest.mark.parametrize("keep", [0, 10, 400, -30])
def test_a_truncated_file_is_refused(saved: Path, tmp_path: Path, keep: int) -> None:
    (tmp_path / "a.pt2").write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ModelError, match="not a .pt2 file"):
        open_model(str(tmp_path / "a.pt2"))


def test_a_compressed_file_is_refused(saved: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(tmp_path / "a.pt2", "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with pytest.raises(ModelError, match="compressed"):
        open_model(str(tmp_path / "a.pt2"))


class Long(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[1] > 60 else x + 1


def exported(path: Path, *dims: Any) -> Path:
    sizes = (dict(enumerate(dims)),)
    torch.export.save(torch.export.export(Long(), (torch.rand(2, 8, 4),), dynamic_shapes=sizes), path)
    return path


def test_the_sizes_that_a_file_allows_are_those_of_its_bundle(tmp_path: Path) -> None:
    file = exported(tmp_path / "a.pt2", torch.export.Dim("rows", max=4), torch.export.Dim("length", min=4, max=60))
    assert open_model(str(file)).spans == {"batch": (1, 4), "seq": (4, 60)}
    bundle = tundish.compile(file, tmp_path / "out")
    assert bundle.entries["forward"].symbols == {"batch": (1, 4), "seq": (4, 60)}
    assert tundish.verify(bundle).passed
    with pytest.raises(tundish.TundishError, match=r"a takes seq 4\.\.60") as error:
        tundish.compile(file, tmp_path / "other", seq="3..9")
    assert error.value.found == "seq 3..9" and not (tmp_path / "other").exists()


def test_a_bound_that_tracing_found_holds_too(tmp_path: Path) -> None:
    file = exported(tmp_path / "a.pt2", torch.export.Dim.AUTO, torch.export.Dim.AUTO)
    assert open_model(str(file)).spans["seq"] == (1, 60)


def test_a_size_worked_out_from_another_is_refused(tmp_path: Path) -> None:
    file = exported(tmp_path / "a.pt2", torch.export.Dim("rows"), 2 * torch.export.Dim("half", max=30))
    with pytest.raises(ModelError, match="axis 1 of the input 'x' is tied to another size") as error:
        open_model(str(file))
    assert error.value.found.startswith("it is 2*")
