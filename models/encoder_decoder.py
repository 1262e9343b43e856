"""A transformers encoder-decoder as a Source: two texts, each with a length and a mask of its own."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from .cases import make
from .source import InputSpec, Source, describe

_SOURCE: tuple[int | str, ...] = ("batch", "seq")
_TARGET: tuple[int | str, ...] = ("batch", "target_seq")
_VOCABULARY = {
    _SOURCE: ("src_vocab_size", "vocab_size"),
    _TARGET: ("decoder_vocab_size", "tgt_vocab_size", "vocab_size"),
}


def encoder_decoder_source(module: Any, *, name: str, kind: str, **fields: Any) -> Source:
    """Describes a model that reads one text and continues another. Raises: ModelError where it does not run.

    A head that judges the source (a classifier, a question answerer) makes the decoder's text from it, so that text
    is no input; where it looks for the source's end, each row must have one.
    """
    judges = _judges(module)
    specs = _text(module, "", _SOURCE, ends=judges)
    if not judges:
        specs += _text(module, "decoder_", _TARGET)
    source = Source(
        name=name,
        kind=kind,
        module=module.eval(),
        inputs=specs,
        constants=_constants(module),
        max_seq=_max_positions(module.config),
        vocab_size=min(s.high + 1 for s in specs if s.role == "ids"),
        config=module.config.to_dict(),
        **fields,
    )
    return describe(source, make(source, 1, 4, np.random.default_rng(0)))


def plain_source(module: Any, *, name: str, kind: str, vocab_size: int, max_seq: int) -> Source:
    """Describes a module in plain torch that takes one text or two under transformers' names."""
    taken = inspect.signature(module.forward).parameters
    specs = tuple(
        InputSpec(f"{prefix}{text}", "i64", dims, role=role, high=vocab_size - 1 if role == "ids" else 1)
        for prefix, dims in (("", _SOURCE), ("decoder_", _TARGET))
        for text, role in (("input_ids", "ids"), ("attention_mask", "mask"))
        if f"{prefix}{text}" in taken
    )
    source = Source(name=name, kind=kind, module=module.eval(), inputs=specs, max_seq=max_seq, vocab_size=vocab_size)
    return describe(source, make(source, 1, 4, np.random.default_rng(0)))


def _constants(module: Any) -> dict[str, Any]:
    takes_cache = "use_cache" in inspect.signature(module.forward).parameters
    return {"return_dict": True, "use_cache": False} if takes_cache else {"return_dict": True}


def _judges(module: Any) -> bool:
    """Whether the model's answers are about the source: it neither continues a text nor stops at hidden states."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return not module.can_generate() and type(module).__name__ not in MODEL_MAPPING_NAMES.values()


def _text(module: Any, prefix: str, dims: tuple[int | str, ...], ends: bool = False) -> tuple[InputSpec, ...]:
    """The ids of one text, and the mask of its padding where forward takes one.

    ends: each text must end with the config's end of a sentence.
    """
    config = module.config.get_text_config()
    size = next(getattr(config, key) for key in _VOCABULARY[dims] if isinstance(getattr(config, key, None), int))
    end = getattr(config, "eos_token_id", None) if ends else None
    ids = InputSpec(f"{prefix}input_ids", "i64", dims, role="ids", high=size - 1,
                    end=end if isinstance(end, int) and end < size else None)  # fmt: skip
    mask = InputSpec(f"{prefix}attention_mask", "i64", dims, role="mask")
    return (ids, mask) if mask.name in inspect.signature(module.forward).parameters else (ids,)


def _max_positions(config: Any) -> int | None:
    """The longest text that both sides allow; None where nothing limits it."""
    limits = (
        "max_position_embeddings", "max_source_positions", "max_target_positions", "max_encoder_position_embeddings",
        "max_decoder_position_embeddings",
    )  # fmt: skip
    found = (getattr(part, key, None) for part in (config, config.get_text_config()) for key in limits)
    return min((n for n in found if isinstance(n, int) and n > 0), default=None)
