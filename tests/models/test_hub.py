"""`org/name` from a hub cache on disk: revisions, links that stay inside, and nothing that is fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tundish.models import hub, zoo
from tundish.models.errors import ModelError
from tundish.models.open import estimate_bytes, open_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the hub's library lays it out: blobs by hash, and a snapshot of links to them."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    plain = tmp_path / "plain"
    zoo.load_named("bert-tiny").module.save_pretrained(plain)
    repository = tmp_path / "models--acme--tiny-bert"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for file in plain.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return repository


@pytest.mark.parametrize("name", ["acme/tiny-bert", "acme/tiny-bert@main", f"acme/tiny-bert@{COMMIT[:8]}"])
def test_it_is_opened_by_name(cache: Path, name: str) -> None:
    source = open_model(name)
    assert source.name == "tiny-bert" and source.kind == "huggingface"
    assert estimate_bytes(name) == zoo.ZOO["bert-tiny"].parameters * 4


def test_what_is_not_there_is_not_fetched(cache: Path) -> None:
    with pytest.raises(ModelError, match="nothing is fetched") as error:
        open_model("acme/tinybert")
    assert "acme/tiny-bert" in error.value.hint
    with pytest.raises(ModelError, match="no revision 'v2'"):
        open_model("acme/tiny-bert@v2")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../outside.json"])
def test_a_link_out_of_the_repository_is_refused(cache: Path, target: str) -> None:
    (cache.parent / "outside.json").write_text("{}")
    link = cache / "snapshots" / COMMIT / "tokenizer.json"
    link.symlink_to(target)
    with pytest.raises(ModelError, match="tokenizer.json leads out of"):
        open_model("acme/tiny-bert")


@pytest.mark.parametrize("reference", ["../../../../etc", "/etc", ""])
def test_a_reference_names_a_snapshot_only(cache: Path, reference: str) -> None:
    (cache / "refs" / "main").write_text(reference)
    with pytest.raises(ModelError, match="no revision"):
        hub.snapshot("acme/tiny-bert")


def test_pickles_of_the_hub_are_refused_too(cache: Path) -> None:
    weights = cache / "snapshots" / COMMIT / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ModelError, match="pickles"):
        open_model("acme/tiny-bert")


def test_an_onnx_file_of_the_cache_reads_its_data_through_the_cache(cache: Path) -> None:
    import numpy as np
    from onnx import TensorProto, helper

    from tundish.models.onnx_file import load

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="model.onnx_data")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [weight],
    )  # fmt: skip
    snapshot = cache / "snapshots" / COMMIT / "onnx"
    snapshot.mkdir()
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for name, content in (("model.onnx", proto.SerializeToString()), ("model.onnx_data", np.ones(3, "f4").tobytes())):
        (cache / "blobs" / name.replace(".", "-")).write_bytes(content)
        (snapshot / name).symlink_to(Path("../../../blobs") / name.replace(".", "-"))
    source = open_model(str(snapshot / "model.onnx"))
    np.testing.assert_array_equal(source.call({"x": np.zeros((2, 3), np.float32)})["y"], np.ones((2, 3)))
    (snapshot / "model.onnx_data").unlink()
    (snapshot / "model.onnx_data").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(snapshot / "model.onnx", cache)
