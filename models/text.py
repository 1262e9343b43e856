"""A transformers text model as a Source: which inputs its forward takes, how long it may be."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from .errors import ModelError
from .source import DTYPES, InputSpec, Source, describe

_BATCH_SEQ: tuple[int | str, ...] = ("batch", "seq")
# Families whose positions start after the padding token, so that many embeddings are never used as positions.
_OFFSET_POSITIONS = frozenset(
    "camembert esm ibert longformer mpnet roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod".split()
)


def text_source(module: Any, *, name: str, kind: str, **fields: Any) -> Source:
    """Describes a loaded transformers model. Raises: ModelError for one that does not take `input_ids` alone."""
    config = module.config
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(module).__name__} is an encoder-decoder model, which cannot be compiled yet",
            hint="pass its encoder as a torch module",
        )
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
        max_seq=max_positions(text),
        vocab_size=text.vocab_size,
        config=config.to_dict(),
        **fields,
    )
    probe = {s.name: np.ones((1, 2), DTYPES[s.dtype]) for s in source.inputs}
    probe["input_ids"] *= 0  # the one id that every vocabulary has
    return describe(source, probe)


def max_positions(config: Any) -> int | None:
    """The longest sequence that the position embeddings allow; None where nothing limits it."""
    length = getattr(config, "max_position_embeddings", None)
    if not isinstance(length, int) or length <= 0:
        return None
    if config.model_type in _OFFSET_POSITIONS:
        return length - (config.pad_token_id or 0) - 1
    return length


def _inputs(module: Any, config: Any) -> tuple[InputSpec, ...]:
    taken = _takes(module)
    segments = getattr(config, "type_vocab_size", 0) or 0
    specs = [InputSpec("input_ids", "i64", _BATCH_SEQ, role="ids", high=config.vocab_size - 1)]
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
