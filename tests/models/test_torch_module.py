"""Plain torch modules: names of inputs and outputs, which sizes vary, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tundish.models.cases import cases
from tundish.models.errors import ModelError
from tundish.models.open import open_model
from tundish.models.source import flatten
from tundish.models.torch_module import module_source


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(8, 4)

    def forward(self, x, ids, scale=None):
        return {"y": self.proj(x), "n": ids.sum(), "skipped": None, "pair": (x, x + 1)}


EXAMPLES = (torch.randn(2, 6, 8), torch.arange(10).reshape(2, 5))


def test_names_come_from_forward_and_from_the_result():
    source = module_source(Block(), EXAMPLES)
    assert [(s.name, s.dtype, s.dims) for s in source.inputs] == [
        ("x", "f32", ("batch", "seq", 8)),
        ("ids", "i64", ("batch", "ids_seq")),
    ]
    assert source.outputs == ("y", "n", "pair_0", "pair_1")
    assert (source.inputs[1].low, source.inputs[1].high) == (0, 9)
    assert source.parameter_bytes == (8 * 4 + 4) * 4


def test_call_is_the_module():
    module = Block()
    got = module_source(module, EXAMPLES).call({"x": EXAMPLES[0].numpy(), "ids": EXAMPLES[1].numpy()})
    np.testing.assert_array_equal(got["y"], module(*EXAMPLES)["y"].detach().numpy())
    assert got["n"] == 45


def test_dims_can_be_said():
    source = module_source(Block(), EXAMPLES, {"x": ("rows", 6, 8)})
    assert source.inputs[0].dims == ("rows", 6, 8)


@pytest.mark.parametrize(("dims", "match"), [
    ({"z": ("batch",)}, "unknown inputs z"),
    ({"x": ("batch",)}, "example has 3 axes"),
    ({"x": ("batch", 7, 8)}, "say 7 where its example has 6"),
])  # fmt: skip
def test_dims_that_do_not_fit(dims, match):
    with pytest.raises(ModelError, match=match):
        module_source(Block(), EXAMPLES, dims)


def test_features_and_images_keep_their_second_axis():
    class Sum(torch.nn.Module):
        def forward(self, *xs):
            return sum(x.sum() for x in xs)

    source = module_source(Sum(), (torch.ones(2, 9), torch.ones(2, 3, 8, 8)))
    assert [s.dims for s in source.inputs] == [("batch", 9), ("batch", 3, 8, 8)]
    assert [s.name for s in source.inputs] == ["input_0", "input_1"]
    assert source.outputs == ("output",)
    assert source.call({"input_0": np.ones((2, 9), np.float32), "input_1": np.ones((2, 3, 8, 8), np.float32)})


def test_a_module_is_put_in_eval_mode():
    drop = torch.nn.Sequential(torch.nn.Dropout(0.5))
    source = module_source(drop, torch.ones(4, 4))
    assert (source.call({"input": np.ones((4, 4), np.float32)})["output"] == 1).all()


@pytest.mark.parametrize(("module", "examples", "match"), [
    (torch.nn.Linear(3, 3), torch.ones(2, 4), "does not run: RuntimeError"),
    (torch.nn.Linear(3, 3), (), "no example inputs"),
    (torch.nn.Linear(3, 3), (3,), "is a int, not a tensor"),
    (torch.nn.Linear(3, 3), (torch.ones(2, 3), torch.ones(2, 3)), "takes 1 inputs, 2 examples"),
    (object(), torch.ones(2, 3), "not a torch module: object"),
])  # fmt: skip
def test_what_is_refused(module, examples, match):
    with pytest.raises(ModelError, match=match):
        module_source(module, examples)


def test_missing_inputs_are_named():
    with pytest.raises(ModelError, match="takes the inputs x, ids"):
        module_source(Block(), EXAMPLES).call({"x": EXAMPLES[0].numpy()})


def test_bf16_goes_in_and_out_unrounded():
    source = module_source(torch.nn.Identity(), torch.ones(2, 3, dtype=torch.bfloat16))
    import ml_dtypes

    array = np.array([[1.5, -2.25, 3e8]], ml_dtypes.bfloat16)
    out = source.call({"input": array})["output"]
    assert out.dtype == array.dtype
    np.testing.assert_array_equal(out.view(np.int16), array.view(np.int16))


def test_flatten_names_nested_tuples():
    t = torch.zeros(1)
    assert [n for n, _ in flatten((t, [t, (t,)], None))] == ["output_0", "output_1_0", "output_1_1_0"]


FACTORY = """
import torch
def tiny():
    return torch.nn.Linear(3, 2), torch.ones(2, 3)
def wrong():
    return 5
def broken():
    raise KeyError("x")
"""


def test_a_factory_in_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FACTORY)
    source = open_model(f"{path}:tiny")
    assert (source.name, source.kind, source.outputs) == ("tiny", "torch", ("output",))
    for function, match in {
        "wrong": "returned int",
        "broken": "raised KeyError",
        "none": "no function 'none'",
    }.items():
        with pytest.raises(ModelError, match=match):
            open_model(f"{path}:{function}")
    with pytest.raises(ModelError, match="there is no file"):
        open_model(f"{tmp_path}/other.py:tiny")
    path.write_text("import nothing_of_that_name")
    with pytest.raises(ModelError, match="cannot be imported: ModuleNotFoundError"):
        open_model(f"{path}:tiny")


def test_a_mask_of_any_name_is_drawn_as_a_mask() -> None:
    """An example mask of all ones must not hide what padding does."""
    import torch

    from tundish.models.cases import cases
    from tundish.models.torch_module import module_source

    class Masked(torch.nn.Module):
        def forward(self, x, mask, src_key_padding_mask):
            return x * mask[:, :, None] * (~src_key_padding_mask)[:, :, None]

    ones = torch.ones(2, 5, dtype=torch.long)
    source = module_source(Masked(), {"x": torch.rand(2, 5, 4), "mask": ones, "src_key_padding_mask": ones == 0})
    roles = {s.name: (s.role, s.inverted) for s in source.inputs}
    assert roles == {"x": ("data", False), "mask": ("mask", False), "src_key_padding_mask": ("mask", True)}
    left = next(c for c in cases(source) if c.name == "padding left").inputs
    assert 0 < left["mask"].sum() < left["mask"].size
    assert (left["src_key_padding_mask"] == (left["mask"] == 0)).all()


def test_a_name_that_is_also_a_folder_is_refused(tmp_path, monkeypatch) -> None:
    from tundish.models.errors import ModelError
    from tundish.models.open import open_model

    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        open_model("gpt2")
    assert caught.value.hint == "write ./gpt2 for the folder"


def test_both_axes_of_a_square_are_one_length():
    encoder = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1)
    source = module_source(encoder, {"src": torch.zeros(2, 7, 8), "mask": torch.zeros(7, 7, dtype=torch.bool)})
    assert [s.dims for s in source.inputs] == [("batch", "seq", 8), ("seq", "seq")]
    assert source.inputs[1].role == "data", "no padding mask"
    for case in cases(source, (1, 3), (1, 9)):
        source.call(case.inputs)
    square = module_source(torch.nn.Identity(), {"input": torch.zeros(7, 7, dtype=torch.int64)})
    assert square.inputs[0].dims == ("batch", "seq"), "the first input says what a row is"
