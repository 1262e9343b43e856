"""What can be done in several ways with the same answers, and which way was measured to be the fastest.

A pass, or the pass `choose` for what a backend offers, asks the task's table with `pick`: one call, and the choice is
measured by `tundish tune`, kept in the table's file and shown by `--explain`. Nothing else needs to know of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..ir.graph import Node, Program
from ..ir.op import Attrs
from ..ir.tensor import TensorType

WHOLE = "whole model"  # the pattern of a choice that is made once for a model


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen (`fuse`, `threads`), and among what; the first option is taken where nothing was measured.

    at_run: it changes how a bundle is run, not what is in it, so that it needs no build.
    alone: the options are too many to build a model with each: kernels are timed by themselves first. An option is
    then one or several changes of the first one, with commas between.
    """

    name: str
    options: tuple[str, ...]
    at_run: bool = False
    alone: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """Where a choice stands: all places that look alike are chosen for together.

    pattern: the op or ops (`linear + gelu`), or WHOLE. shape: `shape_class` of it, or `model_key` of a whole model.
    """

    choice: str
    pattern: str
    shape: str
    dtype: str

    def __str__(self) -> str:
        """As a reader tells it from others."""
        return f"{self.choice} {self.pattern} [{self.shape}] {self.dtype}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The option that was measured to be the fastest. ratio: its time over that of the default, 1 for the default."""

    option: str
    ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class Pick:
    """A choice that was made while compiling, and what a tuner could choose instead."""

    choice: Choice
    site: Site
    option: str
    answer: Answer | None = None

    @property
    def usual(self) -> bool:
        """Whether it is what is taken where nothing was measured."""
        return self.option == self.choice.options[0]

    @property
    def why(self) -> str:
        """What a note adds about it: nothing where the table says nothing."""
        if self.answer is None:
            return ""
        if self.usual:
            names = [o for o in self.choice.options if o != self.option]
            others = "others" if self.choice.alone else ", ".join(names)
            return f" (tuned: {others} measured no faster)"
        return f" (tuned: {1 - self.answer.ratio:.1%} less time than {self.choice.options[0]} in the whole model)"


@dataclass(frozen=True, slots=True)
class Table:
    """Answers for one chip and one version of a backend; empty, it leaves every default."""

    answers: Mapping[Site, Answer] = field(default_factory=dict)

    def pick(self, choice: Choice, pattern: str, shape: str, dtype: str) -> Pick:
        """The answer for a place, or the default; an option that is no longer offered is no answer."""
        site = Site(choice.name, pattern, shape, dtype)
        answer = self.answers.get(site)
        if answer is None or answer.option not in choice.options:
            return Pick(choice, site, choice.options[0])
        return Pick(choice, site, answer.option, answer)

    def with_options(self, options: Mapping[Site, str]) -> Table:
        """A copy in which these options stand, whatever was measured."""
        return Table({**self.answers, **{site: Answer(option) for site, option in options.items()}})

    @property
    def digest(self) -> str:
        """sha256 of what is answered, in hex; times and dates do not change it."""
        rows = sorted((s.choice, s.pattern, s.shape, s.dtype, a.option) for s, a in self.answers.items())
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


# -- keys ----------------------------------------------------------------------------------------------


def shape_class(node: Node) -> str:
    """What a kernel's speed depends on besides batch and length: the sizes that the model fixes.

    `768x3072` for a product with a weight, heads and their size for attention, otherwise the last axis.
    """
    return _CLASSES.get(node.op.name, _last)(node)


def node_dtype(node: Node) -> str:
    """The element type that a node computes."""
    return node.outputs[0].type.dtype.name


def _last(node: Node) -> str:
    return _sizes(node.outputs[0].type.shape[-1:]) or "scalar"


def _linear(node: Node) -> str:
    return _sizes(_type(node, 1).shape)


def _matmul(node: Node) -> str:
    return f"{_sizes(_type(node, 0).shape[-2:])} @ {_sizes(_type(node, 1).shape[-2:])}"


def _panels(node: Node) -> str:
    """Of weights that are not f32, their type too."""
    panels, columns = _type(node, 1), node.attrs["columns"]
    held = panels.dtype.name
    return f"{_sizes((panels.shape[1], columns))}{'' if held == 'f32' else f' {held}'}"


def _attention(node: Node) -> str:
    (_, s, heads, size), (_, t, groups, _) = _type(node, 0).shape, _type(node, 1).shape
    names = ("mask", "bias", "sinks")
    given = [n for n, v in zip(names, node.inputs[3:], strict=False) if v is not None]
    given += [n for n in ("causal", "window", "softcap") if node.attrs[n]]
    return " ".join([_sizes((heads, groups, size)), "self" if s == t else "cross", *given])


def _sizes(shape: Sequence[object]) -> str:
    """`?` stands for a size that changes between runs."""
    return "x".join(str(d) if isinstance(d, int) else "?" for d in shape)


def _type(node: Node, index: int) -> TensorType:
    value = node.inputs[index]
    assert value is not None
    return value.type


_CLASSES: Mapping[str, Callable[[Node], str]] = {
    "linear": _linear, "panel_linear": _panels, "matmul": _matmul, "attention": _attention,
}  # fmt: skip


def model_key(program: Program) -> str:
    """12 hex digits that are equal for programs of the same nodes and types; weights, lines and names do not count."""
    digest = hashlib.sha256()
    for graph in program.functions.values():
        number = {v: i for i, v in enumerate(graph.values())}
        for value in graph.inputs:
            digest.update(f"in {value.type}\n".encode())
        for node in graph.nodes:
            inputs = [None if v is None else number[v] for v in node.inputs]
            types = [str(v.type) for v in node.outputs]
            digest.update(f"{node.op.name} {inputs} {_said(node.attrs)} {types}\n".encode())
        digest.update(f"out {[number[v] for v in graph.outputs]}\n".encode())
    return digest.hexdigest()[:12]


def _said(attrs: Attrs) -> list[str]:
    """Attributes without the names that capture made up."""
    return [f"{key}={value}" for key, value in sorted(attrs.items()) if key not in ("name", "elsewhere")]
