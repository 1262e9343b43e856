"""What a backend notes in a bundle to open it again, typed, so that a foreign bundle's is checked before use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Literal, TypeVar

import msgspec

from ..compiler.plan import Guard, Variant
from ..compiler.tuning import Choice
from ..ir.diagnostics import LoadError

TARGETS = ("cpu", "cuda")
MOST_THREADS = 4096
SWITCHES = ("spinning", "arena")  # what ONNX Runtime has on unless it is told otherwise
_T = TypeVar("_T")


class ModelFile(msgspec.Struct, frozen=True):
    """One variant of an entry: when it runs (symbol, comparison, value) and its file in the backend's folder."""

    guard: tuple[str, str, int]
    file: str

    @property
    def variant(self) -> Variant:
        return Variant(Guard(*self.guard), self.file)


class Body(msgspec.Struct, frozen=True):
    """One variant of an entry: when it runs and the function of the program that it is."""

    guard: tuple[str, str, int]
    function: str

    @property
    def variant(self) -> Variant:
        return Variant(Guard(*self.guard), self.function)


class OrtOptions(msgspec.Struct, frozen=True):
    """Of the ONNX Runtime backend. rowwise: by entry, the inputs on which it hangs whether rows can run together.

    Raises: ValueError on an unknown target or a file that is not a plain name."""

    models: dict[str, list[ModelFile]]
    target: str
    run: dict[str, str] = {}
    rowwise: dict[str, list[str]] = {}

    def __post_init__(self) -> None:
        for name, value in self.run.items():
            _check_run(name, value, SWITCHES)
        if self.target not in TARGETS:
            raise ValueError(f"there is no target {self.target!r}")
        for file in self.files():
            _check_file(file)

    @property
    def threads(self) -> int | None:
        """The threads that were measured to be best, of those that there are; None where the bundle says nothing."""
        return _threads(self.run)

    def files(self) -> Iterator[str]:
        return (m.file for variants in self.models.values() for m in variants)

    def variants(self) -> dict[str, list[Variant]]:
        return {entry: [m.variant for m in variants] for entry, variants in self.models.items()}


def runs(cores: int) -> tuple[Choice, ...]:
    """What can be set when ONNX Runtime opens a bundle: threads (all cores, and halves of that), the switches."""
    counts = [max(1, cores)]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    switches = (Choice(name, ("on", "off"), at_run=True) for name in SWITCHES)
    return Choice("threads", tuple(map(str, counts)), at_run=True), *switches


def _threads(run: Mapping[str, str]) -> int | None:
    said = run.get("threads")
    return None if said is None else min(int(said), len(os.sched_getaffinity(0)))


def _check_run(name: str, value: str, switches: tuple[str, ...]) -> None:
    if name == "threads":
        if not (value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= MOST_THREADS):
            raise ValueError(f"{value[:40]!r} is not a number of threads")
    elif name not in switches or value not in ("on", "off"):
        raise ValueError(f"there is no {name[:40]!r} that can be {value[:40]!r}")


class ReferenceOptions(msgspec.Struct, frozen=True):
    """Of the reference backend."""

    entries: dict[str, list[Body]]

    threads = None  # numpy decides

    def files(self) -> Iterator[str]:
        return iter(())

    def variants(self) -> dict[str, list[Variant]]:
        return {entry: [b.variant for b in bodies] for entry, bodies in self.entries.items()}


class TvmBody(msgspec.Struct, frozen=True):
    """What runs on CPUs with these features: a library, and of each variant of an entry the file that says how.

    functions: such a file -> the function of the program. Raises: ValueError on a file that is not a plain name, or
    has no function.
    """

    features: list[str]
    library: str
    models: dict[str, list[ModelFile]]
    functions: dict[str, str]

    def __post_init__(self) -> None:
        for file in self.files():
            _check_file(file)
        if not {m.file for variants in self.models.values() for m in variants} <= set(self.functions):
            raise ValueError("a file has no function")

    def files(self) -> Iterator[str]:
        yield self.library
        yield from (m.file for variants in self.models.values() for m in variants)

    def variants(self) -> dict[str, list[Variant]]:
        return {entry: [m.variant for m in models] for entry, models in self.models.items()}


class TvmOptions(msgspec.Struct, frozen=True):
    """Of the TVM backend: one body, or several, the most able first; of a GPU, `features` name its kind.

    Raises: ValueError on none, or another kind of device."""

    bodies: list[TvmBody]
    device: Literal["cpu", "cuda"] = "cpu"
    run: dict[str, str] = {}

    @property
    def threads(self) -> int | None:
        """As of `OrtOptions`."""
        return _threads(self.run)

    def __post_init__(self) -> None:
        for name, value in self.run.items():
            _check_run(name, value, ())
        if not self.bodies:
            raise ValueError("there is no library")

    def files(self) -> Iterator[str]:
        for body in self.bodies:
            yield from body.files()

    def variants(self) -> dict[str, list[Variant]]:
        return self.bodies[-1].variants()


def _check_file(file: str) -> None:
    if "/" in file or file in ("", ".", ".."):
        raise ValueError(f"{file!r} is not a plain file name")


OPTIONS: dict[str, type[OrtOptions] | type[ReferenceOptions] | type[TvmOptions]] = {
    "onnxruntime": OrtOptions,
    "tvm": TvmOptions,
    "reference": ReferenceOptions,
}


def typed(options: Mapping[str, object], kind: type[_T]) -> _T:
    """A backend's options as their type. Raises: LoadError where they are not."""
    try:
        return msgspec.convert(dict(options), kind)
    except msgspec.ValidationError as error:
        raise LoadError("the backend's options are broken", found=str(error)) from error
