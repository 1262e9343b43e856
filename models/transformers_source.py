"""A loaded transformers model as a Source: which description fits is read off what its forward takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .encoder_decoder import encoder_decoder_source
from .errors import ModelError
from .source import Source
from .text import text_source
from .vision import image_source

# Inputs that tell a kind of model, the most telling first; the first row whose inputs are all taken describes it.
KINDS: tuple[tuple[frozenset[str], Callable[..., Source]], ...] = (
    (frozenset({"input_ids", "decoder_input_ids"}), encoder_decoder_source),
    (frozenset({"input_ids"}), text_source),
    (frozenset({"pixel_values"}), image_source),
)


def transformers_source(module: Any, *, name: str, kind: str, **fields: Any) -> Source:
    """Describes a loaded transformers model. Raises: ModelError for one whose inputs no kind has."""
    takes = inspect.signature(module.forward).parameters
    taken = frozenset(takes)
    _refuse_choosing(module)
    for needed, describes in KINDS:
        if needed <= taken and module.main_input_name in needed:
            return describes(module, name=name, kind=kind, **fields)
    raise ModelError(
        f"{type(module).__name__} takes neither text nor images but {module.main_input_name}",
        found=f"forward({', '.join(list(takes)[:4])}, ...)", hint=_FACTORY,
    )  # fmt: skip


def _refuse_choosing(module: Any) -> None:
    """Raises: ModelError for a model of several texts a row."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES as CHOOSING

    if type(module).__name__ in CHOOSING.values():
        raise ModelError(f"{type(module).__name__} takes several texts a row, to choose one", hint=_FACTORY,
                         found="input_ids[batch, choices, seq]")  # fmt: skip


_FACTORY = (
    "pass it as FILE.py:FACTORY, a function that returns the module, example inputs by name, and which of their sizes "
    'vary: {"NAME": ("batch", 80, "seq")}'
)
