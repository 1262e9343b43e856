"""A transformers image model as a Source: pixels in, the image's size fixed by its config, any number of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import ModelError
from .source import DTYPES, InputSpec, Source, describe

DEFAULT_SIDE = 224  # of models that take any size


def image_source(module: Any, *, name: str, kind: str, notes: tuple[str, ...] = (), **fields: Any) -> Source:
    """Describes a loaded transformers model whose main input is `pixel_values` [batch, channels, height, width].

    Raises: ModelError for one that needs more than pixels.
    """
    if module.main_input_name != "pixel_values":
        raise ModelError(
            f"{type(module).__name__} does not take images", found=f"its main input is {module.main_input_name}"
        )
    config = getattr(module.config, "vision_config", None) or module.config
    height, width, known = image_size(config)
    if not known:
        notes = (*notes, f"compiled for images of {height} x {width}: the config names no size")
    channels = next((n for n in (getattr(config, c, None) for c in ("num_channels", "in_channels")) if n), 3)
    floating = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    dtype = _SHORT.get(str(floating).removeprefix("torch."), "f32")
    source = Source(
        name=name, kind=kind, module=module.eval(),
        inputs=(InputSpec("pixel_values", dtype, ("batch", channels, height, width)),),
        constants={"return_dict": True}, config=module.config.to_dict(), notes=notes, **fields,
    )  # fmt: skip
    return describe(source, {"pixel_values": np.zeros((2, channels, height, width), DTYPES[dtype])})


_SHORT = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def image_size(config: Any) -> tuple[int, int, bool]:
    """(height, width, whether the config says so): one number is a square, a pair is height and width."""
    size = getattr(config, "image_size", None)
    if isinstance(size, dict):
        size = (size.get("height"), size.get("width"))
    if isinstance(size, int):
        size = (size, size)
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(n, int) for n in size):
        return int(size[0]), int(size[1]), True
    return DEFAULT_SIDE, DEFAULT_SIDE, False
