"""A module with another forward: what is captured of a model in place of what it does by itself."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def with_forward(
    module: Any, ending: str, forward: Callable[..., Any], takes: Iterable[str], **methods: Callable[..., Any]
) -> Any:
    """The same parts, weights and names under a class of its own.

    ending: of the class's name. takes: the names of forward's parameters. methods: that it has besides.
    """
    base, kind = type(module), inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in ("self", *takes)]
    )
    made = copy.copy(module)
    fields = {"forward": forward, "__module__": base.__module__, **methods}
    made.__class__ = type(f"{base.__name__}{ending}", (base,), fields)
    return made
