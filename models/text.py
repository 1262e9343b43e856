"""A transformers text model as a Source: which inputs its forward takes, how long it may be."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from .errors import ModelError
from .source import DTYPES, InputSpec, Source, describe

_BATCH_SEQ: tuple[int | str, ...] = ("batch", "seq")
_PROBE = 7  # tokens of the one run that names the outputs; models that pool their tokens need a few


def text_source(module: Any, *, name: str, kind: str, **fields: Any) -> Source:
    """Describes a loaded transformers model. Raises: ModelError for one that does not take `input_ids` alone."""
    config = module.config
    if module.main_input_name != "input_ids":
        raise ModelError(
            f"{type(module).__name__} does not take text", found=f"its main input is {module.main_input_name}",
            hint="pass it as a torch module: FILE.py:FACTORY",
        )  # fmt: skip
    text = config.get_text_config()
    source = Source(
        name=name,
        kind=kind,
        module=module.eval(),
        inputs=_inputs(module, text),
        constants=_constants(module),
        max_seq=max_positions(module, text),
        vocab_size=_vocabulary(module, text),
        config=config.to_dict(),
        **fields,
    )
    probe = {s.name: np.ones((1, min(_PROBE, source.max_seq or _PROBE)), DTYPES[s.dtype]) for s in source.inputs}
    probe["input_ids"] *= 0  # the one id that every vocabulary has
    return describe(source, probe)


def max_positions(module: Any, config: Any) -> int | None:
    """The longest sequence that the position embeddings allow; None where nothing limits it.

    A table of positions with a padding row is read from behind that row on: position 0 is row `padding_idx + 1`.
    """
    length = getattr(config, "max_position_embeddings", None)
    if not isinstance(length, int) or length <= 0:
        return None
    try:
        words = module.get_input_embeddings()
    except NotImplementedError:  # transformers does not know which of its tables they are
        words = None
    padded = [m for m in module.modules() if getattr(m, "padding_idx", None) is not None and m is not words]
    skipped = [m.padding_idx + 1 for m in padded if hasattr(m, "weight") and m.weight.shape[0] == length]
    return length - max(skipped, default=0)


def _vocabulary(module: Any, config: Any) -> int:
    """How many ids there are. Raises: ModelError for a model that does not look its ids up in a table."""
    size = getattr(config, "vocab_size", None)
    if not isinstance(size, int):
        raise ModelError(
            f"{type(module).__name__} does not say how many ids it knows", found="its config has no vocab_size",
            hint="pass it as a torch module: FILE.py:FACTORY",
        )  # fmt: skip
    return size


def _inputs(module: Any, config: Any) -> tuple[InputSpec, ...]:
    taken = _takes(module)
    segments = getattr(config, "type_vocab_size", 0) or 0
    high = _vocabulary(module, config) - 1
    pad = getattr(config, "pad_token_id", None)
    pad = pad if isinstance(pad, int) and 0 <= pad <= high and high > 0 else None
    specs = [InputSpec("input_ids", "i64", _BATCH_SEQ, role="ids", high=high, pad=pad)]
    if "attention_mask" in taken:
        specs.append(InputSpec("attention_mask", "i64", _BATCH_SEQ, role="mask"))
    if "token_type_ids" in taken and segments > 1:
        specs.append(InputSpec("token_type_ids", "i64", _BATCH_SEQ, role="data", high=segments - 1))
    return tuple(specs)


def _constants(module: Any) -> dict[str, Any]:
    constants: dict[str, Any] = {"return_dict": True}
    if "use_cache" in _takes(module):
        constants["use_cache"] = False
    return constants


def _takes(module: Any) -> frozenset[str]:
    return frozenset(inspect.signature(module.forward).parameters)
