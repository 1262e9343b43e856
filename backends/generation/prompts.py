"""The forms in which prompts are given, as rows of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from ...ir.diagnostics import RunError

Rows = list[list[int]]
_FORMS = "a text, a list of token ids, a chat's messages, or a list of such"


def as_rows(prompt: Any, of_text: Callable[[str], list[int]], of_chat: Callable[[Any], list[int]]) -> tuple[Rows, bool]:
    """The tokens of each prompt, and whether a single one was given.

    prompt: a text; token ids; messages of a chat; a list of any of these; an array [rows, tokens]; or a mapping with
    `input_ids` [rows, tokens] and an `attention_mask` that is 0 at padding, which may lie on either side.
    Raises: RunError for anything else, and for a prompt without a token.
    """
    if isinstance(prompt, Mapping):
        return _padded(prompt), False
    if isinstance(prompt, np.ndarray):
        if prompt.ndim == 2:
            return _padded({"input_ids": prompt}), False
        prompt = prompt.tolist()
    if isinstance(prompt, str) or _is_tokens(prompt) or _is_chat(prompt):
        return [_row(prompt, of_text, of_chat)], True
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise RunError(f"a prompt is {_FORMS}", found=type(prompt).__name__)
    if not prompt:
        raise RunError("the prompt is empty")
    return [_row(p, of_text, of_chat) for p in prompt], False


def _row(prompt: Any, of_text: Callable[[str], list[int]], of_chat: Callable[[Any], list[int]]) -> list[int]:
    if isinstance(prompt, str):
        tokens = of_text(prompt) if prompt else []
    elif _is_chat(prompt):
        tokens = of_chat(prompt)
    elif isinstance(prompt, np.ndarray) and prompt.ndim == 1 and prompt.dtype.kind in "iu":
        tokens = [int(t) for t in prompt]
    elif _is_tokens(prompt) or (isinstance(prompt, Sequence) and not len(prompt)):
        tokens = [int(t) for t in prompt]
    else:
        raise RunError(f"a prompt is {_FORMS}", found=repr(prompt)[:100])
    if not tokens:
        raise RunError("the prompt is empty", hint="give it at least one token to go on from")
    return tokens


def _is_tokens(prompt: Any) -> bool:
    whole = isinstance(prompt, Sequence) and not isinstance(prompt, (str, bytes)) and len(prompt) > 0
    return whole and all(isinstance(t, Integral) and not isinstance(t, bool) for t in prompt)


def _is_chat(prompt: Any) -> bool:
    return isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def _padded(given: Mapping[str, Any]) -> Rows:
    """Rows of an array without their padding. Raises: RunError."""
    if "input_ids" not in given:
        raise RunError("a mapping of arrays holds input_ids", found=", ".join(map(str, given)))
    ids = np.asarray(given["input_ids"])
    mask = np.asarray(given["attention_mask"]) if given.get("attention_mask") is not None else np.ones(ids.shape, int)
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or mask.shape != ids.shape:
        raise RunError("input_ids and attention_mask are whole numbers [rows, tokens]",
                       found=f"{ids.dtype}{list(ids.shape)} and {mask.dtype}{list(mask.shape)}")  # fmt: skip
    rows = [_real(row, mask[i] != 0, i) for i, row in enumerate(ids)]
    if not rows:
        raise RunError("the prompt is empty")
    return rows


def _real(row: np.ndarray, kept: np.ndarray, index: int) -> list[int]:
    places = np.flatnonzero(kept)
    if not len(places):
        raise RunError(f"the prompt of row {index} is empty")
    if len(places) != places[-1] - places[0] + 1:
        raise RunError(f"the attention_mask of row {index} hides tokens between others",
                       hint="padding lies before or behind a row's tokens")  # fmt: skip
    return [int(t) for t in row[places]]
