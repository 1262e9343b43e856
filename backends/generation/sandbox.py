"""Where chat templates run: they come with a model, so they are foreign input.

jinja2's immutable sandbox keeps them from Python's insides and from changing what they are given. On top of it, one
budget pays for every step of a loop, every call of a macro and every text that is put together, so that a template
neither runs nor grows without end.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import do_indent, do_join
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace, pass_eval_context

BUDGET = 50_000_000  # characters
STEP = 250  # what a step of a loop costs of it
PART = 50  # and a part of a value that is written as a text
# They make much out of little, and no chat is written with them.
_LEFT_OUT_FILTERS = ("batch", "center", "filesizeformat", "format", "pprint", "slice", "urlize", "wordwrap", "xmlattr")
_LEFT_OUT_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill", "translate", "to_bytes"})
_DEEP_FILTERS = frozenset({"string", "sum", "urlencode", "escape", "e", "safe", "forceescape", "trim", "striptags"})
_WIDE = re.compile(r"\d{5}|\*|\{[^}]*\{")
_LONGEST_NUMBER = 4096  # bits


class TooLarge(SecurityError):
    """A template that makes too much."""


class _Generator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:
        """`a ~ b`, by way of the environment."""
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Counting(Extension):
    """Counts the steps of loops and macros."""

    def count(self) -> str:
        self.environment.spend(STEP)  # type: ignore[attr-defined]
        return ""


class _Marked(Extension):
    """`{% generation %}` marks what the assistant said, for training; here it says nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template. Raises in its templates: SecurityError, TemplateError."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        extensions = ["jinja2.ext.loopcontrols", _Counting, _Marked]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=self._shown)
        self.concat = self.joined  # type: ignore[assignment]
        kept = {name: f for name, f in self.filters.items() if name not in _LEFT_OUT_FILTERS}
        self.filters = {name: self._paid(name, f) for name, f in kept.items()}
        self.filters |= {"tojson": self._json, "replace": self._replaced, "indent": self._indented, "join": _joining}
        self.globals = {
            "range": self._range, "raise_exception": _raise, "strftime_now": _now, "dict": _new_dict,
            "namespace": _Names, "cycler": Cycler, "joiner": Joiner,
        }  # fmt: skip
        self.start()

    def start(self) -> None:
        """Gives a rendering its budget."""
        self._left = BUDGET

    def spend(self, units: int) -> None:
        self._left -= units
        if self._left < 0:
            raise TooLarge("it makes too much text, or takes too many steps")

    def template(self, source: str) -> Any:
        """A template in which loops and macros are counted."""
        tree = self.parse(source)
        for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)):
            call = self.extensions[_Counting.identifier].call_method("count", lineno=node.lineno)
            node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))  # type: ignore[attr-defined]
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))

    # -- what a template does goes through these

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "**" and not (numbers and abs(right) <= 64):
            raise TooLarge("it raises to a high power")
        if numbers:
            if sum(x.bit_length() for x in (left, right) if isinstance(x, int)) > _LONGEST_NUMBER:
                raise TooLarge("its numbers are too long")
        elif operator == "*":
            self.spend(max(_length(left) * right if isinstance(right, int) else _length(right) * left, 0))
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
            self.spend(self.weight((left, right)))
        else:
            self.spend(_length(left) + _length(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902  (jinja2's own form)
        method = getattr(__obj, "__wrapped__", __obj)
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, (str, bytes, int)):
            args = __self._checked_method(owner, name, args)
        return super().call(__context, __obj, *args, **kwargs)

    def _checked_method(self, owner: Any, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a text's or number's own method, after the budget paid for what it makes."""
        if name in _LEFT_OUT_METHODS:
            raise SecurityError(f"a chat template may not call {name!r}")
        self.spend(_length(owner))
        if isinstance(owner, str) and name.startswith("format"):
            _check_format(owner)
            self.spend(self.weight(args))
        if isinstance(owner, str) and name == "replace" and len(args) >= 2:
            self._pay_replace(owner, args[0], args[1])
        if isinstance(owner, str) and name == "join" and args:
            parts = list(args[0])
            self.spend(self.weight(parts) + len(owner) * len(parts))
            return (parts, *args[1:])
        return args

    def joined(self, parts: Iterable[Any]) -> str:
        """`~`, what a macro or block gives, and the whole text."""
        texts = []
        for part in parts:
            texts.append(str(self._shown(part)))
            self.spend(len(texts[-1]))
        return "".join(texts)

    def _shown(self, value: Any) -> Any:
        """A value that is put out; one of many parts is paid for before Python writes it as a text."""
        if not isinstance(value, (str, int, float, Undefined, type(None))):
            self.spend(self.weight(value))
        return value

    def weight(self, value: Any) -> int:
        """What a value costs that is written as a text: its characters, and PART for each of its parts."""
        total, left = 0, [value]
        while left:
            x = left.pop()
            total += PART + (len(x) if isinstance(x, (str, bytes)) else 0)
            if total > self._left:
                raise TooLarge("it makes a value of too many parts")
            if isinstance(x, Mapping):
                left += [*x.keys(), *x.values()]
            elif isinstance(x, (list, tuple, set, frozenset)):
                left += x
        return total

    def _paid(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that is paid for. What tells jinja2 how to call it is kept."""

        @functools.wraps(function)
        def filtered(*args: Any, **kwargs: Any) -> Any:
            self.spend(self.weight(args) if name in _DEEP_FILTERS else sum(map(_length, args)))
            return function(*args, **kwargs)

        return filtered

    def _json(self, x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
              sort_keys: bool = False) -> str:  # fmt: skip
        self.spend(self.weight(x) * (1 + (indent if isinstance(indent, int) else _length(indent))))
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def _pay_replace(self, text: str, old: Any, new: Any) -> None:
        self.spend(len(text) + text.count(str(old)) * len(str(new)))

    def _replaced(self, s: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = (str(self._shown(x)) for x in (s, old, new))
        self._pay_replace(text, old, new)
        return text.replace(old, new, -1 if count is None else count)

    def _indented(self, s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = str(self._shown(s))
        self.spend(len(text) + (text.count("\n") + 1) * (width if isinstance(width, int) else len(width)))
        return do_indent(text, width, first, blank)

    def _range(self, *args: int) -> range:
        made = range(*args)
        self.spend(len(made) * STEP)
        return made


@pass_eval_context
def _joining(context: Any, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    parts, environment = list(value), context.environment
    environment.spend(environment.weight(parts) + len(str(d)) * len(parts))
    return do_join(context, parts, d, attribute)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple, dict)) else 0


def _check_format(text: str) -> None:
    if _WIDE.search(text):
        raise TooLarge("it formats a text to a great width")


class _Names(Namespace):
    """`namespace(...)`, in which no name begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        given = dict(*args[1:], **kwargs)
        for name in given:
            _check_name(name)
        Namespace.__init__(args[0], given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a chat template may not set {name!r}")


def _raise(message: Any) -> None:
    raise TemplateError(str(message))


def _now(format: str) -> str:
    return datetime.now().strftime(format)


def _new_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)
