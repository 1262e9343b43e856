"""torch's own Transformer layers, made to trace: their fused inference kernels off, their looks at mask values too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def plain_layers() -> Iterator[None]:
    """Inside, `nn.TransformerEncoderLayer` and its like run op by op, without nested tensors.

    What they find out about causality from a mask's values is only a hint to kernels: the mask still counts.
    """
    import torch
    from torch.nn.modules import transformer

    enabled, detect = torch.backends.mha.get_fastpath_enabled(), transformer._detect_is_causal_mask
    torch.backends.mha.set_fastpath_enabled(False)
    transformer._detect_is_causal_mask = _told
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
        transformer._detect_is_causal_mask = detect


def _told(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
    return bool(is_causal)
