"""Reading the text form back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from .diagnostics import GraphError, LoadError, Where
from .dims import Range
from .graph import Graph, Node, Program, Value
from .op import Attrs, Op, get
from .tensor import TensorType
from .text_words import PLAIN, QUOTED, read_attr, read_type, read_where, unquote
from .weights import Held, Recipe, Source, Stored, Weight

_NAME = re.compile(rf"{QUOTED.pattern}|{PLAIN.pattern}")
_TYPE = re.compile(r"[a-z0-9]+\[[^\[\]\n]*\]")
_RANGE = re.compile(r"(-?[0-9]+)\.\.(-?[0-9]+)?")
_SPACE = re.compile(r"[ \t]*")
_ATTR = re.compile(r"([a-z_0-9]+)=")
_OPEN, _CLOSE = "([", ")]"


def from_text(text: str, weights: Mapping[str, Weight] | None = None, origin: str = "text") -> Program:
    """The program that `to_text` wrote.

    weights: where the arrays of `held` weights are, by name; without it they have a shape and no bytes.
    origin:  the file's name, for messages.

    Raises: LoadError naming the line, for a text that is not a program. Types and structure are for `verify`.
    """
    try:
        return _Parser(text, weights or {}, origin).program()
    except RecursionError:
        raise LoadError("the text is nested too deeply", where=Where(origin)) from None


class _Line:
    """One line, read from left to right."""

    def __init__(self, text: str, number: int, origin: str) -> None:
        self.text, self.number, self.origin, self.at = text, number, origin, 0

    def fail(self, problem: str, hint: str = "") -> NoReturn:
        found = self.text.strip()
        found = found if len(found) <= 120 else found[:117] + "..."
        raise LoadError(problem, where=Where(self.origin, self.number), found=found, hint=hint)

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        start = _SPACE.match(self.text, self.at)
        found = pattern.match(self.text, start.end() if start else self.at)
        if found is not None:
            self.at = found.end()
        return found

    def take(self, word: str) -> bool:
        """Whether the word comes next; if so it is passed."""
        start = _SPACE.match(self.text, self.at)
        at = start.end() if start else self.at
        if not self.text.startswith(word, at):
            return False
        self.at = at + len(word)
        return True

    def expect(self, word: str) -> None:
        if not self.take(word):
            self.fail(f"expected {word!r} at column {self.at + 1}")

    def name(self) -> str:
        found = self.match(_NAME)
        if found is None:
            self.fail(f"expected a name at column {self.at + 1}")
        return self.string(found[0]) if found[0].startswith('"') else found[0]

    def string(self, text: str) -> str:
        try:
            return unquote(text)
        except ValueError:
            self.fail(f"not a string: {text}")

    def until_end(self) -> str:
        rest, self.at = self.text[self.at :], len(self.text)
        return rest.strip()

    def ends(self) -> None:
        rest = self.until_end()
        if rest and not rest.startswith("#"):
            self.fail(f"unexpected {rest[:40]!r}")

    def comes(self, word: str) -> bool:
        """Whether the word comes next."""
        before = self.at
        found, self.at = self.take(word), before
        return found

    def balanced(self) -> str:
        """The text up to the next comma or closing bracket that stands outside of brackets and strings."""
        start = self.at
        depth = 0
        while self.at < len(self.text):
            char = self.text[self.at]
            if depth == 0 and (char == "," or char in _CLOSE):
                break
            depth += (char in _OPEN) - (char in _CLOSE)
            found = QUOTED.match(self.text, self.at) if char == '"' else None
            self.at = found.end() if found else self.at + 1
        return self.text[start : self.at].strip()


class _Parser:
    def __init__(self, text: str, weights: Mapping[str, Weight], origin: str) -> None:
        self.lines = _lines(text, origin)
        self.origin, self.held = origin, weights
        self.types: dict[str, TensorType] = {}
        self.functions: dict[str, Graph] = {}
        self.marked: list[str] = []
        self.entries: tuple[str, ...] | None = None
        self.weights: dict[str, Weight] = {}
        self.symbols: dict[str, Range] = {}

    def program(self) -> Program:
        for line in self.lines:
            keyword = line.match(PLAIN)
            read = _KEYWORDS.get(keyword[0]) if keyword else None
            if read is None:
                line.fail(f"expected one of {', '.join(_KEYWORDS)}")
            read(self, line)
        entries = tuple(self.marked) if self.entries is None else self.entries
        if set(entries) != set(self.marked) or len(entries) != len(self.marked):
            problem = "the line `entries` names others than those marked `entry`"
            raise LoadError(problem, where=Where(self.origin))
        return Program(self.functions, entries, self.weights, self.symbols)

    # -- the head ---------------------------------------------------------------------------------

    def symbol(self, line: _Line) -> None:
        name = self._new(line, "symbol", self.symbols)
        line.expect(":")
        found = line.match(_RANGE)
        if found is None:
            line.fail("expected a range, as `1..` or `1..512`")
        try:
            self.symbols[name] = Range(int(found[1]), None if found[2] is None else int(found[2]))
        except ValueError as error:
            line.fail(f"not a range: {error}")
        line.ends()

    def entry_order(self, line: _Line) -> None:
        names = [line.name()]
        while line.take(","):
            names.append(line.name())
        line.ends()
        self.entries = tuple(names)

    def weight(self, line: _Line) -> None:
        name = self._new(line, "weight", self.weights)
        line.expect(":")
        type = self._type(line)
        line.expect("=")
        source = self._source(line)
        line.ends()
        given = self.held.get(name)
        if given is not None and _is_held(source):
            if given.type != type:
                line.fail(f"weight {name!r} is {type} here and {given.type} in what was given for it")
            source = given.source
        self.weights[name] = Weight(type, source)

    def _source(self, line: _Line) -> Source:
        name = line.name()
        if name == "held":
            return Held()
        line.expect("(")
        if name == "stored":
            words = [line.name()]
            while line.take(","):
                words.append(line.name())
            line.expect(")")
            if len(words) != 3:
                line.fail("a stored weight has a file, a key and a sha256")
            return Stored(*words)
        op = self._op(line, name)
        inputs, attrs = self._arguments(line, op, self._source_of)
        return Recipe(op, attrs, tuple(w for w in inputs if w is not None))

    def _source_of(self, line: _Line) -> Weight:
        source = self._source(line)
        line.expect(":")
        return Weight(self._type(line), source)

    # -- graphs -----------------------------------------------------------------------------------

    def entry(self, line: _Line) -> None:
        self.marked.append(self.function(line))

    def function(self, line: _Line) -> str:
        name = self._new(line, "function", self.functions)
        env: dict[str, Value] = {}
        line.expect("(")
        inputs: list[Value] = []
        while not line.take(")"):
            if inputs:
                line.expect(",")
            inputs.append(self._made(line, env))
        line.expect("{")
        line.ends()
        nodes, last = [], line
        for line in self.lines:
            last = line
            if not line.comes("%"):
                break
            nodes.append(self._node(line, env))
        keyword = last.match(PLAIN)
        if keyword is None or keyword[0] != "return":
            last.fail(f"function {name!r} ends without `return`")
        outputs, names = self._returned(last, env)
        closing = next(self.lines, None)
        if closing is None or not closing.take("}"):
            (closing or last).fail(f"function {name!r} is not closed with `}}`")
        closing.ends()
        self.functions[name] = Graph(tuple(inputs), tuple(nodes), outputs, names)
        return name

    def _node(self, line: _Line, env: dict[str, Value]) -> Node:
        made: dict[str, Value] = {}
        outputs = [self._made(line, env, made)]
        while line.take(","):
            outputs.append(self._made(line, env, made))
        line.expect("=")
        op = self._op(line, line.name())
        line.expect("(")
        inputs, attrs = self._arguments(line, op, lambda at: self._used(at, env))
        env.update(made)
        return Node(op, inputs, attrs, tuple(outputs), self._where(line))

    def _where(self, line: _Line) -> Where:
        line.expect("#")
        try:
            return read_where(line.until_end())
        except ValueError as error:
            line.fail(str(error), hint="a node ends with `# file:line module`")

    def _returned(self, line: _Line, env: dict[str, Value]) -> tuple[tuple[Value, ...], tuple[str, ...]]:
        outputs: list[Value] = []
        names: list[str] = []
        while not line.comes("#") and line.at < len(line.text.rstrip()):
            if outputs:
                line.expect(",")
            if not line.comes("%"):
                names.append(line.name())
                line.expect("=")
            outputs.append(self._value(line, env))
        if names and len(names) != len(outputs):
            line.fail("either all outputs are named, or none")
        return tuple(outputs), tuple(names)

    # -- parts of a line --------------------------------------------------------------------------

    def _arguments(self, line: _Line, op: Op, read: Any) -> tuple[tuple[Any, ...], Attrs]:
        """Inputs, then `name=value`, up to the closing bracket."""
        inputs: list[Any] = []
        attrs: dict[str, Any] = {}
        first = True
        while not line.take(")"):
            if not first:
                line.expect(",")
            first = False
            named = line.match(_ATTR)
            if named is None and not attrs:
                inputs.append(read(line))
            elif named is None:
                line.fail("an input stands after an attribute")
            elif named[1] in attrs:
                line.fail(f"attribute {named[1]!r} is given twice")
            else:
                attrs[named[1]] = self._attr(line, op, named[1])
        try:
            return tuple(inputs), op.complete_attrs(attrs)
        except GraphError as error:
            line.fail(error.problem)

    def _attr(self, line: _Line, op: Op, name: str) -> Any:
        try:
            return read_attr(op, name, line.balanced())
        except (ValueError, MemoryError) as error:
            line.fail(f"{op.name}: {error}")

    def _op(self, line: _Line, name: str) -> Op:
        try:
            return get(name)
        except GraphError as error:
            line.fail(error.problem, hint=error.hint)

    def _used(self, line: _Line, env: dict[str, Value]) -> Value | None:
        return None if not line.comes("%") and line.take("_") else self._value(line, env)

    def _value(self, line: _Line, env: dict[str, Value]) -> Value:
        line.expect("%")
        name = line.name()
        if name not in env:
            line.fail(f"%{name} is used before it is made")
        return env[name]

    def _made(self, line: _Line, env: dict[str, Value], made: dict[str, Value] | None = None) -> Value:
        line.expect("%")
        name = line.name()
        made = env if made is None else made
        if name in env or name in made:
            line.fail(f"%{name} is made twice")
        line.expect(":")
        value = made[name] = Value(name, self._type(line))
        return value

    def _type(self, line: _Line) -> TensorType:
        found = line.match(_TYPE)
        if found is None:
            line.fail("expected a type, as `f32[batch, 768]`")
        if found[0] not in self.types:
            try:
                self.types[found[0]] = read_type(found[0])
            except ValueError as error:
                line.fail(str(error))
        return self.types[found[0]]

    def _new(self, line: _Line, what: str, table: Mapping[str, object]) -> str:
        name = line.name()
        if name in table:
            line.fail(f"{what} {name!r} stands twice")
        return name


_KEYWORDS: dict[str, Any] = {
    "symbol": _Parser.symbol,
    "weight": _Parser.weight,
    "entries": _Parser.entry_order,
    "entry": _Parser.entry,
    "function": _Parser.function,
}


def _lines(text: str, origin: str) -> Iterator[_Line]:
    """Lines that are neither empty nor comments."""
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if bare and not bare.startswith("#"):
            yield _Line(line, number, origin)


def _is_held(source: Source) -> bool:
    """Whether some of its bytes are in memory only."""
    if isinstance(source, Recipe):
        return any(_is_held(w.source) for w in source.inputs)
    return isinstance(source, Held)
