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
    taken = frozenset(inspect.signature(module.forward).parameters)
    for needed, describes in KINDS:
        if needed <= taken and module.main_input_name in needed:
            return describes(module, name=name, kind=kind, **fields)
    raise ModelError(
        f"{type(module).__name__} takes neither text nor images", found=f"its main input is {module.main_input_name}",
        hint="pass it as a torch module: FILE.py:FACTORY",
    )  # fmt: skip
