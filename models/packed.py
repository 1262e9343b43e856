"""Rows that hold several texts end to end: a source that takes `position_ids` and no mask."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np

from .errors import ModelError
from .source import DTYPES, InputSpec, Source, describe

_FIRST, _SECOND = 3, 4  # tokens of the two texts by which a model is tried
_SHARE = 1e-4  # of the largest answer: far above rounding, far below what a look at the other text changes


def packed(source: Source) -> Source:
    """The same model for packed rows: `position_ids` start again at 0 where a row's next text starts.

    Raises: ModelError for a model that takes no positions, or that lets a text see the one before it.
    """
    if source.form != "torch" or "position_ids" not in inspect.signature(source.module.forward).parameters:
        raise ModelError(f"{source.name} takes no position_ids, so its rows cannot hold several texts",
                         hint="compile it without packing, for one text a row")  # fmt: skip
    kept = [dataclasses.replace(s, pad=None) for s in source.inputs if s.role in ("ids", "data")]
    ids = next((s for s in kept if s.role == "ids"), None)
    if ids is None or any(s.dims != ids.dims for s in kept):
        raise ModelError(f"{source.name} is no model of one text a row", found=", ".join(s.name for s in source.inputs))
    places = InputSpec("position_ids", "i64", ids.dims, role="positions")
    changed = source.replace(inputs=(*kept, places))
    if not source.on_meta:
        _check_apart(changed)
    return describe(changed, _probe(changed, (_FIRST, _SECOND)))


def _probe(source: Source, lengths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """One row of texts of those lengths; the ids of each text are the same however many stand before it."""
    places = np.concatenate([np.arange(n) for n in lengths])[None]
    drawn = np.concatenate([np.random.default_rng(n).random(n) for n in lengths])[None]
    values = {"positions": places}
    return {
        s.name: values.get(s.role, s.low + drawn * (s.high + 1 - s.low)).astype(DTYPES[s.dtype]) for s in source.inputs
    }


def _check_apart(source: Source) -> None:
    """Raises: ModelError where the second text of a row is answered otherwise than alone."""
    both, alone = (source.call(_probe(source, n)) for n in ((_FIRST, _SECOND), (_SECOND,)))
    rows = [k for k, v in both.items() if v.shape[:2] == (1, _FIRST + _SECOND)]
    if not rows:
        raise ModelError(f"{source.name} gives one answer a row, so a row cannot hold several texts",
                         hint="choose a head that answers for each token, with --task")  # fmt: skip
    for key in rows:
        error = np.abs(both[key][:, _FIRST:] - alone[key]).max()
        if not error <= _SHARE * max(1.0, np.abs(alone[key]).max()):
            raise ModelError(
                f"{source.name} lets a text see those before it in its row", hint="compile it without packing",
                found=f"{key} of the second of two texts is off by {error:.2g} from that text alone",
            )  # fmt: skip
