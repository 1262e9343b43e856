"""Errors that name the user's line first, and the one place where they are worded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Where:
    """A place in the user's model: file, line (0 when unknown) and module path ("" at the top).

    The file is relative to its package or folder, never absolute, so that artifacts hold no path of a machine.
    """

    file: str
    line: int = 0
    module: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place} {self.module}" if self.module else place

    @property
    def spoken(self) -> str:
        """As errors say it: `llama.py:88 (in layers.0.mlp.up)`."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place} (in {self.module})" if self.module else place


class TundishError(Exception):
    """An error of the user's input: what, where in their model, what was found, what to do. Exit code 2."""

    exit_code = 2

    def __init__(
        self, problem: str, *, where: Where | None = None, found: str = "", hint: str = ""
    ) -> None:
        self.problem, self.where, self.found, self.hint = problem, where, found, hint
        super().__init__(self.message)

    @property
    def message(self) -> str:
        lines = [f"{self.where.spoken}: {self.problem}" if self.where else self.problem]
        lines += [f"  found: {self.found}"] if self.found else []
        lines += [f"  try:   {self.hint}"] if self.hint else []
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        state = (self.problem, self.where, self.found, self.hint)
        return _restore, (type(self), *state)


def first_line(error: BaseException) -> str:
    """What a library's error says in its first line, or which kind it is where that is empty."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _restore(
    kind: type[TundishError], problem: str, where: Where | None, found: str, hint: str
) -> TundishError:
    return kind(problem, where=where, found=found, hint=hint)


class GraphError(TundishError):
    """A graph that cannot be: wrong types, shapes or attributes."""


class CaptureError(TundishError):
    """A model, or a part of it, that cannot be captured."""


class VerifyError(TundishError):
    """A program that breaks a rule of the IR."""


class CompileError(TundishError):
    """A program that cannot be compiled for this target."""


class BuildError(TundishError):
    """A backend that could not write its files."""


class LoadError(TundishError):
    """A file or bundle that cannot be opened."""


class RunError(TundishError):
    """Inputs that do not fit, or a run that failed."""


class CheckError(TundishError):
    """A check that did not hold. Exit code 1."""

    exit_code = 1


@contextmanager
def ours(program: Callable[[], str], *users: type[Exception]) -> Iterator[None]:
    """Marks what is raised inside as a fault of ours, with the program's text for its reproduction.

    The user's are CompileError, BuildError, LoadError, what the machine refuses, and the types in `users`.
    """
    theirs: tuple[type[Exception], ...] = (CompileError, BuildError, LoadError, OSError, MemoryError, *users)
    try:
        yield
    except theirs:
        raise
    except Exception as error:
        error.tundish_program = program()  # type: ignore[attr-defined]
        raise
