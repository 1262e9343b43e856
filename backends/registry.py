"""The backends by name, each opened on first use."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache

from ..ir.diagnostics import LoadError
from .base import Backend

BACKENDS = {
    "reference": "reference.backend:Reference",
    "null": "null.backend:Null",
    "onnxruntime": "onnxruntime.backend:OnnxRuntime",
    "tvm": "tvm.backend:Tvm",
}
_EXTRA = {"onnxruntime": "tundish"}  # backend -> what to install; everything else is in the `compile` extra


@dataclass(frozen=True, slots=True)
class Availability:
    """One line of `tundish doctor`: the libraries' versions where it is usable, the reason where not."""

    name: str
    usable: bool
    versions: dict[str, str]
    reason: str = ""


@cache
def get(name: str) -> Backend:
    """The backend of that name. Raises: LoadError on an unknown one, or one whose library is missing."""
    if name not in BACKENDS:
        raise LoadError(f"there is no backend {name!r}", hint=f"the backends are {', '.join(BACKENDS)}")
    module, cls = BACKENDS[name].split(":")
    try:
        backend: Backend = getattr(importlib.import_module(f".{module}", __package__), cls)()
        backend.versions()
    except ImportError as error:
        if (error.name or "").split(".")[0] == __package__.split(".")[0]:
            raise  # a module of ours: our own mistake
        extra = _EXTRA.get(name, "tundish[compile]")
        raise LoadError(f"backend {name!r} is not usable here: {error}", hint=f"pip install '{extra}'") from error
    return backend


def available() -> list[Availability]:
    """Every backend and whether it can be used here, and if not, why."""
    rows = []
    for name in BACKENDS:
        try:
            rows.append(Availability(name, True, get(name).versions()))
        except LoadError as error:
            rows.append(Availability(name, False, {}, error.problem))
    return rows
