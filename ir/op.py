"""What an op is: one class block that holds everything true of it, and the registry of them all.

FLOPs, by one rule: a matrix product counts 2 per multiply-add; each arithmetic or transcendental result of an
element-wise op counts 1; compares, selections, casts and moves count 0. What a mask forbids by an attribute (causal,
a window) counts 0 in `flops`, and as if it were allowed in `hardware_flops`; what a tensor forbids counts in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .diagnostics import GraphError
from .dims import Dim, Expr
from .dtypes import DType
from .tensor import TensorType, Work

OPS: dict[str, Op] = {}


class Attrs(Mapping[str, Any]):
    """A node's attributes: an immutable, hashable, picklable mapping in a fixed order."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any] | Sequence[tuple[str, Any]] = ()) -> None:
        self._items = tuple(sorted(dict(items).items()))

    def __getitem__(self, key: str) -> Any:
        for name, value in self._items:
            if name == key:
                return value
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Attrs) and _typed(self._items) == _typed(other._items)

    def __hash__(self) -> int:
        return hash(_typed(self._items))

    def __repr__(self) -> str:
        return f"Attrs({dict(self._items)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Attrs, (self._items,)


def _typed(items: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, str, Any], ...]:
    """With the type beside each value, so that 1, 1.0 and True differ; nan equals nan."""
    return tuple(
        (k, type(v).__name__, repr(v) if isinstance(v, float) else v) for k, v in items
    )


@dataclass(frozen=True, slots=True)
class Attr:
    """The schema of one attribute: its kind, and its default (`...` where it must be given)."""

    kind: type | str
    default: Any = ...


# Kinds of attributes that Python has no type for.
DIM, DIMS, INTS, STRINGS = "dim", "dims", "ints", "strings"


def _is_dim(value: Any) -> bool:
    return isinstance(value, (int, Expr)) and not isinstance(value, bool)


_KINDS: dict[type | str, Any] = {
    float: lambda v: isinstance(v, float),
    int: lambda v: isinstance(v, int) and not isinstance(v, bool),
    bool: lambda v: isinstance(v, bool),
    str: lambda v: isinstance(v, str),
    DType: lambda v: isinstance(v, DType),
    DIM: _is_dim,
    DIMS: lambda v: isinstance(v, tuple) and all(_is_dim(d) for d in v),
    INTS: lambda v: isinstance(v, tuple) and all(_is_dim(d) and isinstance(d, int) for d in v),
    STRINGS: lambda v: isinstance(v, tuple) and all(isinstance(s, str) for s in v),
}


class Op:
    """Base of all ops. A subclass under `@op` is its definition; there is one instance of each, in `OPS`.

    inputs: names in order; `x?` may be absent (None), `*xs` takes any number and stands last.
    attrs:  name -> kind, or Attr(kind, default).
    axes:   what may be split over devices, einops-like: `*r d, d -> *r d`. A letter on both sides may be split
            freely, one only on the left needs a reduction, one followed by `!` must stay whole. `*r` is any number
            of axes (aligned from the right where they broadcast), `1` an axis of one, `(a b)` one axis that is
            a · b long. A group stands for each input and output, in order.
    aliases: output -> input that it overwrites in place.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ()
    attrs: ClassVar[Mapping[str, Any]] = {}
    axes: ClassVar[str] = ""
    aliases: ClassVar[Mapping[int, int]] = {}
    commutes: ClassVar[bool] = False
    keeps_f32: ClassVar[bool] = False  # its statistics must stay in f32 whatever the compute dtype
    pure_move: ClassVar[bool] = False  # moves or renames elements, computes none

    def infer(self, *types: Any, **attrs: Any) -> TensorType | tuple[TensorType, ...]:
        """Output type(s) from input types (None for an absent input). Raises: GraphError."""
        raise GraphError(f"{self.name}: its output types are given, not inferred")

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        """FLOPs of one run that the model asks for; `out` is the first output's type."""
        raise GraphError(f"{self.name}: no FLOPs are defined")

    def hardware_flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        """FLOPs that a dense kernel does, where those are more."""
        return self.flops(out, *types, **attrs)

    def work(
        self, outs: Sequence[TensorType], types: Sequence[TensorType | None], attrs: Attrs
    ) -> Work:
        """FLOPs by hand, bytes from the types: every input is read once, every output written once."""
        read = sum((t.bytes for t in types if t is not None), start=0)
        written = sum((t.bytes for t in outs), start=0)
        done = self.hardware_flops(outs[0], *types, **attrs)
        return Work(self.flops(outs[0], *types, **attrs), read, written, done)

    def reference(self, *arrays: Any, **attrs: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """Its meaning, in numpy; absent inputs are None and dims in attrs arrive as ints."""
        raise GraphError(f"{self.name}: has no numpy reference")

    def axes_for(self, *types: Any, **attrs: Any) -> str:
        """`axes` for these very inputs, where their rank or number decides."""
        return self.axes

    # `decompose(self, b, *values, **attrs) -> Value | tuple` emits simpler ops through the builder `b`;
    # ops without one leave it None.
    decompose: ClassVar[Any] = None

    # -- what the schema says ---------------------------------------------------------------------

    @property
    def variadic(self) -> bool:
        return bool(self.inputs) and self.inputs[-1].startswith("*")

    @property
    def required(self) -> int:
        """How many inputs must be present at least."""
        return sum(1 for name in self.inputs if not name.endswith("?") and name[0] != "*")

    def check_arity(self, given: Sequence[object | None]) -> None:
        """Raises: GraphError when inputs are missing, or there are too many."""
        most = None if self.variadic else len(self.inputs)
        if len(given) < self.required or (most is not None and len(given) > most):
            raise GraphError(
                f"{self.name}: takes inputs ({', '.join(self.inputs)}), got {len(given)}"
            )
        for name, value in zip(self.inputs, given, strict=False):
            if value is None and not name.endswith("?"):
                raise GraphError(f"{self.name}: input {name!r} must be given")

    def complete_attrs(self, given: Mapping[str, Any]) -> Attrs:
        """The attributes with defaults filled in. Raises: GraphError on an unknown or ill-typed one."""
        unknown = sorted(set(given) - set(self.attrs))
        if unknown:
            raise GraphError(f"{self.name}: has no attribute {', '.join(unknown)}")
        full: dict[str, Any] = {}
        for name, spec in self.attrs.items():
            spec = spec if isinstance(spec, Attr) else Attr(spec)
            value = given.get(name, spec.default)
            if value is ...:
                raise GraphError(f"{self.name}: attribute {name!r} must be given")
            if spec.kind is float and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if not _KINDS[spec.kind](value):
                kind = spec.kind if isinstance(spec.kind, str) else spec.kind.__name__
                raise GraphError(f"{self.name}: attribute {name!r} is a {kind}, got {value!r}")
            full[name] = value
        return Attrs(full)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return get, (self.name,)


def op(cls: type[Op]) -> type[Op]:
    """Registers an op under its class name (less a trailing underscore, as in `and_`)."""
    cls.name = cls.__name__.removesuffix("_")
    if cls.name in OPS:
        raise AssertionError(f"op {cls.name} is defined twice")
    if not cls.__doc__:
        raise AssertionError(f"op {cls.name} has no docstring")
    OPS[cls.name] = cls()
    return cls


def get(name: str) -> Op:
    """The op of that name. Raises: GraphError with the nearest names."""
    from . import ops  # noqa: F401  (fills OPS; imported here because ops import this module)

    if name not in OPS:
        import difflib

        near = ", ".join(difflib.get_close_matches(name, OPS))
        raise GraphError(f"there is no op {name!r}", hint=f"nearest: {near}" if near else "")
    return OPS[name]
