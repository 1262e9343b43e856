"""What a backend notes in a bundle to open it again, typed, so that a foreign bundle's is checked before use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from ..compiler.plan import Guard, Variant
from ..ir.diagnostics import LoadError

TARGETS = ("cpu", "cuda")
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
    """Of the ONNX Runtime backend. Raises: ValueError on an unknown target or a file that is not a plain name."""

    models: dict[str, list[ModelFile]]
    target: str

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"there is no target {self.target!r}")
        for file in self.files():
            if "/" in file or file in ("", ".", ".."):
                raise ValueError(f"{file!r} is not a plain file name")

    def files(self) -> Iterator[str]:
        return (m.file for variants in self.models.values() for m in variants)

    def variants(self) -> dict[str, list[Variant]]:
        return {entry: [m.variant for m in variants] for entry, variants in self.models.items()}


class ReferenceOptions(msgspec.Struct, frozen=True):
    """Of the reference backend."""

    entries: dict[str, list[Body]]

    def files(self) -> Iterator[str]:
        return iter(())

    def variants(self) -> dict[str, list[Variant]]:
        return {entry: [b.variant for b in bodies] for entry, bodies in self.entries.items()}


OPTIONS: dict[str, type[OrtOptions] | type[ReferenceOptions]] = {
    "onnxruntime": OrtOptions,
    "reference": ReferenceOptions,
}


def typed(options: Mapping[str, object], kind: type[_T]) -> _T:
    """A backend's options as their type. Raises: LoadError where they are not."""
    try:
        return msgspec.convert(dict(options), kind)
    except msgspec.ValidationError as error:
        raise LoadError("the backend's options are broken", found=str(error)) from error
