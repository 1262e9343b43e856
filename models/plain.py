"""A Source's model as a module that any exporter or compiler takes: tensors by position in, a tuple of tensors out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .source import Source, flatten

if TYPE_CHECKING:
    import torch


def plain_module(source: Source) -> torch.nn.Module:
    """The source's module, called with its inputs in their order and returning the tensors of `source.outputs`.

    Its `inputs` and `outputs` are the names of both.
    """
    import torch

    class Plain(torch.nn.Module):
        """What every peer is given, so that all compute the same."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = source.module
            self.inputs = [spec.name for spec in source.inputs]
            self.outputs = list(source.outputs)

        def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
            named = {} if source.by_position else dict(zip(self.inputs, given, strict=True))
            found = self.inner(*(given if source.by_position else ()), **named, **source.constants)
            tensors = dict(flatten(found))
            return tuple(tensors[name] for name in self.outputs)

    return Plain().eval()
