"""What is wrong with a model that was asked for."""

from __future__ import annotations


class ModelError(Exception):
    """A model that cannot be loaded: what is wrong, what was found, what to do about it."""

    def __init__(self, problem: str, *, found: str = "", hint: str = "") -> None:
        self.problem, self.found, self.hint = problem, found, hint
        super().__init__(problem)

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.problem, self.found, self.hint)


def _restore(problem: str, found: str, hint: str) -> ModelError:
    return ModelError(problem, found=found, hint=hint)
