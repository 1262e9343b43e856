"""What is wrong with a model that was asked for."""

from __future__ import annotations

import os
import traceback


class ModelError(Exception):
    """A model that cannot be loaded: what is wrong, what was found, what to do about it."""

    def __init__(self, problem: str, *, found: str = "", hint: str = "") -> None:
        self.problem, self.found, self.hint = problem, found, hint
        super().__init__(problem)

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.problem, self.found, self.hint)


def _restore(problem: str, found: str, hint: str) -> ModelError:
    return ModelError(problem, found=found, hint=hint)


class ModelWarning(UserWarning):
    """Something odd about a model that can be compiled all the same."""


def raised_at(error: BaseException) -> str:
    """`modeling_x.py:88`, the innermost line of the model that an error came through; "" where there is none.

    A line of transformers' shared machinery counts only where no model's own line is to be had.
    """
    ours = os.path.dirname(__file__)
    told = (f for f in traceback.extract_tb(error.__traceback__) if "site-packages/torch/" not in f.filename)
    frames = [f for f in told if os.path.dirname(f.filename) != ours]
    models = [f for f in frames if "/transformers/" not in f.filename or "/transformers/models/" in f.filename]
    frames = models or frames
    return f"{frames[-1].filename.split('site-packages/')[-1]}:{frames[-1].lineno}" if frames else ""
