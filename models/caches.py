"""transformers' caches: one that is written in place while a step is traced, and its own, filled with a text.

Names of keys and values end with what they are and the layer: `..._key_3`, `..._value_3`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def written_cache(layers: Mapping[int, tuple[Any, Any, Any, bool]]) -> Any:
    """A cache whose update writes into tensors in place, through an op, and gives the whole of them.

    layers: index -> (keys [b, g, t, d], values, position [b], whether a window slides over it).
    """
    import torch
    from transformers import Cache
    from transformers.cache_utils import DynamicLayer

    write = torch.ops.tundish.cache_write

    class Written(DynamicLayer):
        def __init__(self, keys: Any, values: Any, position: Any, sliding: bool) -> None:
            super().__init__()
            self.keys, self.values, self.position, self.is_sliding = keys, values, position, sliding
            self.room = keys.shape[2]
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            self.keys = write(self.keys, key_states, self.position)
            self.values = write(self.values, value_states, self.position)
            return self.keys, self.values

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            return self.room, 0

        def get_seq_length(self) -> Any:  # a token's position is given; who asks for a number has no use for this
            return self.position

    last = max(layers, default=-1)
    return Cache(layers=[Written(*layers[i]) if i in layers else DynamicLayer() for i in range(last + 1)])


def filled_cache(config: Any, held: Mapping[int, tuple[Any, Any]], past: int) -> Any:
    """The model's own kind of cache after `past` tokens of one text, whose keys and values [1, g, t, d] are held.

    A layer with a window takes the last of what is held; it drops nothing when it is updated.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=config)
    for index, (keys, values) in held.items():
        while len(cache.layers) <= index:
            cache.layers.append(DynamicLayer())
        layer: Any = cache.layers[index]
        window = getattr(layer, "sliding_window", None)
        if window is not None:
            start = max(0, keys.shape[2] - (int(window) - 1))
            keys, values = keys[:, :, start:], values[:, :, start:]
            layer.cumulative_length, layer.record_past = past, True
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
        layer.keys, layer.values = keys, values
    return cache


def plain_cache(held: Mapping[str, Any]) -> Any:
    """A DynamicCache without a config, whose layers have no windows, that holds these tensors as they are."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache()
    for name, tensor in held.items():
        kind, index = _place(name)
        while len(cache.layers) <= index:
            cache.layers.append(DynamicLayer())
        layer: Any = cache.layers[index]
        layer.dtype, layer.device, layer.is_initialized = tensor.dtype, tensor.device, True
        setattr(layer, f"{kind}s", tensor)
    return cache


def tensors_of(cache: Any, names: Iterable[str]) -> dict[str, Any]:
    """The keys and values of a cache, under such names."""
    return {name: getattr(cache.layers[index], f"{kind}s") for name in names for kind, index in [_place(name)]}


def _place(name: str) -> tuple[str, int]:
    *_, kind, index = name.split("_")
    return kind, int(index)
