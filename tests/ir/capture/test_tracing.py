"""What stops tracing, named with the user's line; and sizes that a model keeps in tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tundish.ir.capture.from_torch import capture
from tundish.ir.diagnostics import CaptureError
from tundish.ir.evaluate import evaluate


def captured(f):
    class Module(nn.Module):
        def forward(self, x):
            return f(x)

    module = Module().eval()
    return module, capture(module, {"x": torch.rand(2, 7, 4)}, {"x": {0: "batch", 1: "seq"}})


def refusal(f) -> CaptureError:
    with pytest.raises(CaptureError) as caught:
        captured(f)
    return caught.value


@pytest.mark.parametrize("seq", [1, 3, 12])
@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * torch.arange(0, 8, 2.0)[None, None],
        lambda x: x * torch.arange(0, 8, 2.0, dtype=torch.int64)[None, None],
        lambda x: x * torch.arange(x.shape[1], 0, -1.0)[None, :, None],
        lambda x: x.multiply(2.0) + torch.eye(x.shape[1], 4),
        lambda x: x.unsqueeze(-1).reshape_as(x) + x.norm(dim=-1, keepdim=True) + x.norm(p=1, dim=-1, keepdim=True),
        lambda x: F.unfold(x.transpose(1, 2).unsqueeze(-1), [3, 1], padding=[1, 0]),
        lambda x: torch.fft.fftn(torch.fft.fft(x), dim=(1, 2)).real + torch.fft.fftn(x, dim=(1, 2)).imag,
        lambda x: F.unfold(x.unsqueeze(1), [1, 3], stride=[1, 2], dilation=[1, 1]),
    ],
)
def test_ops_mean_what_torch_means(f, seq: int) -> None:
    module, program = captured(f)
    x = np.random.default_rng(0).standard_normal((3, seq, 4), np.float32)
    (got,) = evaluate(program, {"x": x}).values()
    want = module(torch.from_numpy(x)).numpy()
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-5 * max(1.0, np.abs(want).max())


@pytest.mark.parametrize("seq", [1, 3, 5, 12])
def test_a_size_kept_in_a_tensor_stays_a_size(seq: int) -> None:
    table = torch.arange(10.0)

    def middle(x):
        """As DeBERTa cuts its table: at 5 - n and 5 + n, with n in a tensor."""
        n = torch.tensor(min(x.shape[1], 5))
        return x.sum((1, 2))[:, None] + table[5 - n : n + 5]

    module, program = captured(middle)
    assert "min" in str(program.entry.outputs[0].type)
    x = np.random.default_rng(0).standard_normal((2, seq, 4), np.float32)
    (got,) = evaluate(program, {"x": x}).values()
    np.testing.assert_allclose(got, module(torch.from_numpy(x)).numpy(), atol=1e-5)


def test_a_value_that_only_a_check_reads_is_no_obstacle() -> None:
    def checked(x):
        torch._check(x.argmax(-1).max().item() <= x.shape[1] + 4)
        return x + 1

    _, program = captured(checked)
    assert [n.op.name for n in program.entry.nodes] == ["constant", "add"]


def test_a_condition_on_values_names_its_line_and_what_to_do(capsys) -> None:
    error = refusal(lambda x: x + 1 if x.sum() > 0 else x)
    assert error.problem == "cannot be traced: a Python condition or size depends on the values of a tensor"
    assert error.where is not None and error.where.file.endswith("test_tracing.py") and error.where.line > 0
    assert "torch.where" in error.hint
    assert capsys.readouterr() == ("", ""), "torch prints the graph that it had"


def test_a_size_out_of_values_names_its_line() -> None:
    def picked(x):
        n = x.argmax(-1).max().item()
        return x * n

    error = refusal(picked)
    assert "test_tracing.py:" in error.problem and "item" in error.problem and "values of a tensor" in error.problem


def test_a_boolean_index_names_its_line() -> None:
    error = refusal(lambda x: x[x > 0])
    assert error.problem.startswith("indexing by a boolean mask")
    assert error.where is not None and error.where.file.endswith("test_tracing.py")


def test_numpy_in_the_middle_names_its_line() -> None:
    error = refusal(lambda x: torch.from_numpy(x.numpy() + 1))
    assert error.problem == "cannot be traced: it leaves torch for numpy"
    assert error.where is not None and error.where.file.endswith("test_tracing.py")


def test_an_exception_of_the_model_is_told_with_its_line() -> None:
    def raises(x):
        raise ValueError("needs a padding token")

    error = refusal(raises)
    assert error.problem == "cannot be traced: ValueError: needs a padding token"
    assert error.where is not None and "values" not in error.hint


def test_a_size_taken_for_a_number_names_its_line() -> None:
    def counted(x):
        for i in range(int(x.shape[1])):
            x = x + i
        return x

    error = refusal(counted)
    assert "seq of 'x' became 7" in error.found
    assert error.where is not None and error.where.file.endswith("test_tracing.py")


def test_the_line_is_told_with_what_stands_in_it() -> None:
    error = refusal(lambda x: x + 1 if x.sum() > 0 else x)
    assert error.where is not None and "lambda x: x + 1 if x.sum() > 0 else x" in error.found


def test_a_check_of_a_size_that_does_not_hold_at_every_size_says_which() -> None:
    def checked(x):
        torch._check(x.shape[1] % 2 == 0)
        return x + 1

    error = refusal(checked)
    assert error.problem == "cannot be traced: it says of a size what does not hold at every size"
    assert "Mod(" in error.found and error.hint == "fix that size in the dims that a factory returns"


def test_code_that_was_made_out_of_a_text_is_no_line_of_the_model() -> None:
    """transformers wraps forward in code that it writes itself."""

    class Made(nn.Module):
        def forward(self, x):
            raise ValueError("needs a padding token")

    exec(compile("def again(self, x): return self.before(x)", "<string>", "exec"), made := {})
    Made.before, Made.forward = Made.forward, made["again"]  # type: ignore[attr-defined]
    with pytest.raises(CaptureError) as caught:
        capture(Made().eval(), {"x": torch.rand(2, 7, 4)}, {"x": {0: "batch"}})
    assert caught.value.where is not None and caught.value.where.file.endswith("test_tracing.py")
    from tundish.ir.capture.places import model_frame

    inside = 'File "/lib/python/site-packages/transformers/modeling_layers.py", line 9, in forward'
    assert model_frame(f'  {inside}\n  File "<string>", line 1, in forward\n')[1] == 9
