"""ATen ops of image models against torch: convolution, pooling, resizing, norms over channels, rolling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tundish.ir.capture.from_torch import capture
from tundish.ir.diagnostics import CaptureError
from tundish.ir.evaluate import evaluate


class Call(nn.Module):
    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.w, self.c = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Parameter(torch.randn(4))
            self.g = nn.Parameter(torch.randn(8, 2, 3, 3))
            self.register_buffer("mean", torch.randn(4))
            self.register_buffer("var", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def resized(**options: object) -> Callable:
    return lambda m, x: F.interpolate(x, **options)  # type: ignore[arg-type]


CASES: dict[str, Callable] = {
    "conv": lambda m, x: F.conv2d(x, m.w),
    "conv strided": lambda m, x: F.conv2d(x, m.w, stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "conv grouped": lambda m, x: F.conv2d(x, m.g, groups=2, padding="same"),
    "conv same, even": lambda m, x: F.conv2d(x, m.w[:, :, :2], padding="same"),
    "conv valid": lambda m, x: F.conv2d(x, m.w, padding="valid"),
    "conv of one image": lambda m, x: F.conv2d(x[0], m.w),
    "conv1d": lambda m, x: F.conv1d(x[:, :, 0], m.w[:, :, 0], stride=2),
    "conv3d": lambda m, x: F.conv3d(x[:, :, None], m.w[:, :, None], padding=(0, 1, 1)),
    "max_pool": lambda m, x: F.max_pool2d(x, 3, stride=2, padding=1),
    "max_pool dilated": lambda m, x: F.max_pool2d(x, 2, stride=1, dilation=2),
    "avg_pool": lambda m, x: F.avg_pool2d(x, 2),
    "avg_pool padded": lambda m, x: F.avg_pool2d(x, 3, stride=1, padding=1),
    "avg_pool uncounted": lambda m, x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    "avg_pool divisor": lambda m, x: F.avg_pool2d(x, 2, divisor_override=3),
    "avg_pool1d": lambda m, x: F.avg_pool1d(x[:, :, 0], 3, 2, 1),
    "adaptive to 1": lambda m, x: F.adaptive_avg_pool2d(x, 1),
    "adaptive to half": lambda m, x: F.adaptive_avg_pool2d(x, (4, 3)),
    "adaptive 1d": lambda m, x: F.adaptive_avg_pool1d(x[:, :, 0], 1),
    "bilinear": resized(size=(5, 13), mode="bilinear"),
    "bilinear aligned": resized(size=(16, 12), mode="bilinear", align_corners=True),
    "bilinear by scale": resized(scale_factor=2.5, mode="bilinear"),
    "bicubic": resized(size=(5, 13), mode="bicubic"),
    "antialiased": resized(size=(4, 5), mode="bilinear", antialias=True),
    "nearest": resized(scale_factor=2, mode="nearest"),
    "unchanged": resized(size=(8, 9), mode="bicubic"),
    "batch_norm": lambda m, x: F.batch_norm(x, m.mean, m.var, m.c, m.c, False, 0.1, 1e-3),
    "batch_norm plain": lambda m, x: F.batch_norm(x, m.mean, m.var),
    "group_norm": lambda m, x: F.group_norm(x, 2, m.c, m.c, 1e-3),
    "group_norm plain": lambda m, x: F.group_norm(x, 4),
    "roll": lambda m, x: torch.roll(x, (2, -3), (2, 3)),
    "roll back": lambda m, x: torch.roll(x, shifts=1, dims=-1),
    "meshgrid": lambda m, x: sum(torch.meshgrid(x[0, 0, 0], x[0, 0, :, 0], indexing="ij")),
    "meshgrid xy": lambda m, x: sum(torch.meshgrid(x[0, 0, 0], x[0, 0, :, 0], indexing="xy")),
    "hardswish": lambda m, x: F.hardswish(x * 3) + F.hardsigmoid(x * 3),
    "norm": lambda m, x: torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + x.norm(dim=-1, keepdim=True, p=1),
    "normalize": lambda m, x: F.normalize(x, dim=1),
    "tile": lambda m, x: x[0, 0].tile(2, 1, 3),
    "einsum": lambda m, x: torch.einsum("bchw,ochw->bo", x[:, :, :3, :3], m.w),
}


@pytest.mark.parametrize("name", CASES)
def test_means_what_torch_says(name: str):
    module = Call(CASES[name]).eval()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 8, 9)).astype(np.float32)
    program = capture(module, {"x": torch.from_numpy(x[:2])}, {"x": {0: "batch"}})
    for given in (x, x[:1]):
        want = module(torch.from_numpy(given)).detach().numpy()
        got = evaluate(program, {"x": given})["output"]
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("function", "said"), [
    (lambda m, x: F.conv_transpose2d(x, m.w.transpose(0, 1)), "conv_transpose2d"),
    (lambda m, x: F.max_pool2d(x, 3, 2, ceil_mode=True), "ceil_mode"),
    (lambda m, x: F.adaptive_avg_pool2d(x, (3, 4)), "adaptive pooling of 8 to 3"),
    (lambda m, x: torch.roll(x, 1), "roll over all axes"),
    (lambda m, x: x.norm(dim=1, p=3), "norm of order 3"),
    (lambda m, x: F.batch_norm(x, None, None, training=True), "running statistics"),
])  # fmt: skip
def test_refuses(function: Callable, said: str):
    with pytest.raises(CaptureError, match=said):
        capture(Call(function).eval(), {"x": torch.randn(2, 4, 8, 9)}, {"x": {0: "batch"}})
