"""The loop: reads prompts into a session, chooses a token for each row, and reads those, until every row has ended."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from ...ir.diagnostics import RunError
from .constraints import FREE, Constraints
from .options import DEFAULT_NEW_TOKENS, GenerationOptions
from .prefixes import SHORTEST, Match, PrefixStore, common_length
from .sampling import Sampler
from .stops import StopStrings
from .tokens import Detokenizer, TextTokens


class Reads(Protocol):
    """What the loop needs of a session; `session.Session` is one."""

    rows: int
    capacity: int

    @property
    def lengths(self) -> Any: ...
    def read(self, tokens: Sequence[Sequence[int]]) -> np.ndarray: ...
    def save(self, row: int, length: int | None = None) -> Any: ...
    def restore(self, row: int, prefix: Any) -> None: ...
    def rewind(self, row: int, length: int = 0) -> None: ...


OpenSession = Callable[[int, int], Reads]  # rows, capacity


@dataclass(frozen=True, slots=True)
class Piece:
    """One new token of a row, and the text that became certain with it."""

    row: int
    token: int | None
    text: str


@dataclass(frozen=True)
class Generated:
    """What was generated after one prompt.

    text:          None where there is no tokenizer.
    tokens:        the new ones, one that ended the text included.
    finish_reason: `eos` (the model ended it), `stop` (a stop string or token), `length`, or `interrupted`.
    reused_tokens: of the prompt, taken from a stored prefix.
    time_to_first_token_s: from the start of reading the prompts; opening the session is not in it.
    tokens_per_s:  of those after the first, of this row; None where there are none.
    sampled:       whether random numbers chose them. kv_bytes_per_token: what a row's caches keep of a token.
    """

    text: str | None
    tokens: list[int]
    finish_reason: str
    prompt_tokens: int
    reused_tokens: int
    time_to_first_token_s: float | None
    tokens_per_s: float | None
    seed: int
    sampled: bool
    capacity: int
    kv_bytes_per_token: int | None

    def to_json(self) -> dict[str, Any]:
        """A row of plain values."""
        return asdict(self)


def room(longest: int, options: GenerationOptions, context: int | None) -> tuple[int, int]:
    """(new tokens, capacity) for prompts of at most `longest` tokens.

    context: the longest text that the model takes; None where nothing limits it.
    Raises: RunError where they do not fit, with both figures.
    """
    asked = options.capacity
    if asked is not None and context is not None and asked > context:
        raise RunError(f"a context of {asked} tokens was asked for, and the model takes at most {context}")
    limit, owner = (asked, "the context asked for") if asked is not None else (context, "the model's context")
    if limit is None:
        new = options.max_new_tokens or DEFAULT_NEW_TOKENS
        return new, longest + new
    if longest >= limit:
        more = ", or ask for a longer context" if asked is not None else ""
        raise RunError(f"the prompt has {longest} tokens, and {owner} holds {limit}, new ones included",
                       hint=f"shorten the prompt{more}")  # fmt: skip
    new = options.max_new_tokens or min(DEFAULT_NEW_TOKENS, limit - longest)
    if longest + new > limit:
        total = longest + new
        raise RunError(f"a prompt of {longest} tokens and {new} new ones are {total}, and {owner} holds {limit}",
                       hint=f"ask for at most {limit - longest} new tokens")  # fmt: skip
    return new, asked or longest + new


class _Row:
    """One prompt and what follows it."""

    def __init__(self, number: int, prompt: Sequence[int], new: int, sampler: Sampler, text: TextTokens | None,
                 stops: Sequence[str]) -> None:  # fmt: skip
        self.number, self.prompt, self.sampler, self._new = number, list(prompt), sampler, new
        self.tokens = np.zeros(len(prompt) + new, np.int64)
        self.tokens[: len(prompt)] = prompt
        self.length, self.reused, self.reason = len(prompt), 0, ""
        self.read = len(prompt)
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.text: str | None = None if text is None else ""
        self._detokenizer = None if text is None else Detokenizer(text, prompt)
        self._stops = StopStrings(stops)

    @property
    def new(self) -> list[int]:
        return [int(t) for t in self.tokens[len(self.prompt) : self.length]]

    def take(self, logits: np.ndarray, eos: frozenset[int], stops: frozenset[int], rules: Constraints) -> Piece:
        """Chooses the next token, where its place does not force one. logits: [vocab]."""
        place, so_far = self.length - len(self.prompt), self.tokens[: self.length]
        forced = rules.forced.get(place)
        token = self.sampler.choose(rules.allowed(logits, so_far, place), so_far) if forced is None else forced
        self.tokens[self.length] = token
        self.length += 1
        self.last_at = perf_counter()
        self.first_at = self.first_at or self.last_at
        if token in eos or token in stops:
            self.reason = "eos" if token in eos else "stop"
            return Piece(self.number, token, self._said("", last=True))
        text = self._said(self._detokenizer.feed(token) if self._detokenizer else "")
        if not self.reason and self.length - len(self.prompt) == self._new:
            self.reason = "length"
            text += self._said("", last=True)
        return Piece(self.number, token, text)

    def interrupt(self) -> Piece | None:
        if self.reason:
            return None
        self.reason = "interrupted"
        return Piece(self.number, None, self._said("", last=True))

    def _said(self, text: str, last: bool = False) -> str:
        """The text that is certain with these characters more."""
        if self._detokenizer is None:
            return ""
        certain = self._stops.feed(text + (self._detokenizer.flush() if last else ""))
        if self._stops.found is not None:
            self.reason = "stop"
        elif last:
            certain += self._stops.flush()
        self.text = (self.text or "") + certain
        return certain


class Generation:
    """An iterator over the pieces of several rows as they come; `results` are what there is so far, row by row.

    prompts:   tokens of each row. first_row: the number of the first, for its random numbers.
    eos:       the tokens with which the model ends a text.
    text:      the tokenizer; without one there is no text, and no stop strings can be found.
    store:     where to look for, and keep, prefixes.
    read:      how many tokens each row's prompt has, where an encoder has read it and the rows are what follows.
    rules:     what may stand where among the new tokens, given how many there will be at most.
    session:   one whose row 0 holds `held` already, in place of a new one; for a single prompt.
    Raises: RunError where prompts and new tokens do not fit.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions, open_session: OpenSession, *,
        seed: int = 0, first_row: int = 0, eos: frozenset[int] = frozenset(), text: TextTokens | None = None,
        context: int | None = None, store: PrefixStore | None = None, session: Reads | None = None,
        held: Sequence[int] = (), kv_bytes_per_token: int | None = None, read: Sequence[int] = (),
        rules: Callable[[int], Constraints] = lambda new: FREE,
    ) -> None:  # fmt: skip
        self._new, self.capacity = room(max(map(len, prompts)), options, context)
        if options.stop and text is None:
            raise RunError("stop strings need a tokenizer, and the bundle holds none", hint="give stop_tokens")
        self._options, self._open, self._store, self.seed = options, open_session, store, seed
        self._kv_bytes = kv_bytes_per_token
        self._eos = frozenset() if options.ignore_eos else eos
        self._stop_tokens = frozenset(int(t) for t in options.stop_tokens)
        self._rows = [
            _Row(first_row + i, p, self._new, Sampler(options, seed, first_row + i), text, options.stop)
            for i, p in enumerate(prompts)
        ]
        for row, count in zip(self._rows, read, strict=False):
            row.read = count
        self._rules = rules(self._new)
        self._session, self._held, self._began = session, np.asarray(held, np.int64), 0.0
        self._pieces = self._run()

    def __iter__(self) -> Iterator[Piece]:
        return self._pieces

    def __next__(self) -> Piece:
        return next(self._pieces)

    @property
    def results(self) -> list[Generated]:
        """One for each prompt; a row that has not ended is `interrupted`."""
        return [self._result(row) for row in self._rows]

    def interrupt(self) -> list[Piece]:
        """Ends all rows now, with what they have; the pieces of text that were held back."""
        self._pieces.close()
        return [piece for row in self._rows if (piece := row.interrupt()) is not None]

    @property
    def held(self) -> tuple[Reads | None, list[int]]:
        """The session and the tokens that its row 0 holds, where there is a single row."""
        if self._session is None or self._session.rows != 1:
            return None, []
        if not self._began:
            return self._session, [int(t) for t in self._held]
        (row,) = self._rows
        return self._session, [int(t) for t in row.tokens[: int(self._session.lengths[0])]]

    def _result(self, row: _Row) -> Generated:
        new, first, last = row.new, row.first_at, row.last_at
        spent = last - first if first is not None and last is not None else 0.0
        return Generated(
            text=row.text, tokens=new, finish_reason=row.reason or "interrupted", prompt_tokens=row.read,
            reused_tokens=row.reused, time_to_first_token_s=None if first is None else first - self._began,
            tokens_per_s=(len(new) - 1) / spent if len(new) > 1 and spent > 0 else None, seed=self.seed,
            sampled=self._options.chosen_temperature > 0, kv_bytes_per_token=self._kv_bytes,
            capacity=self.capacity if self._session is None else self._session.capacity,
        )  # fmt: skip

    def _run(self) -> Generator[Piece, None, None]:
        session = self._session = self._session or self._open(len(self._rows), self._room())
        self._began = perf_counter()
        busy = list(self._rows)  # busy[i] is row i of the session; an ended one stays in its place
        logits = self._read_prompts(session, busy)
        while True:
            for i, row in enumerate(busy):
                if not row.reason:
                    yield row.take(logits[i], self._eos, self._stop_tokens, self._rules)
            left = [row for row in busy if not row.reason]
            if not left:
                return
            if 1 < len(left) <= session.rows // 2:
                session = self._session = self._fewer(session, busy)
                busy = left
            logits = session.read([[] if row.reason else [int(row.tokens[row.length - 1])] for row in busy])

    def _room(self) -> int:
        """Tokens to have room for: also for a stored prefix that is longer than a row, of which a part is used."""
        if self._options.capacity is not None:
            return self.capacity
        found = (self._stored(row) for row in self._rows)
        return max(self.capacity, *(m.saved.length for m in found if m is not None), 0)

    def _fewer(self, session: Reads, busy: list[_Row]) -> Reads:
        """A session of the rows that go on, once they are half or less: an ended row would be computed along."""
        places = [i for i, row in enumerate(busy) if not row.reason]
        smaller = self._open(len(places), session.capacity)
        for i, place in enumerate(places):
            smaller.restore(i, session.save(place))
        return smaller

    # -- prompts ------------------------------------------------------------------------------------------

    def _read_prompts(self, session: Reads, rows: list[_Row]) -> np.ndarray:
        """Reads all prompts, from what is held or stored of them on; the logits after each, [rows, vocab]."""
        for i, row in enumerate(rows):
            self._start(session, i, row)
        if len(rows) > 1 and self._options.reuse:
            self._share(session, rows)
        logits = session.read([row.prompt[int(session.lengths[i]) :] for i, row in enumerate(rows)])
        if self._store is not None and self._options.reuse:
            for i, row in enumerate(rows):
                if row.reused < len(row.prompt) - 1:
                    self._store.add(row.prompt, session.save(i))
        return logits

    def _start(self, session: Reads, i: int, row: _Row) -> None:
        """Brings a row of the session to the longest beginning of its prompt that is known."""
        known = row.prompt[:-1]  # the last token is read, for its logits
        if int(session.lengths[i]):
            row.reused = rewound(session, i, common_length(self._held, np.asarray(known)))
        found = self._stored(row)
        if found is None or self._store is None or found.common <= row.reused:
            return
        if found.saved.length > session.capacity:
            return
        session.restore(i, found.saved)
        row.reused = rewound(session, i, found.common)
        if row.reused:
            return
        # A window has slid past what is common: it is read, and kept apart for the next one.
        shorter = self._store.longest(known, whole=True)
        if shorter is not None:
            session.restore(i, shorter.saved)
            row.reused = shorter.common
        self._read_one(session, i, known[row.reused : found.common])
        self._store.add(known[: found.common], session.save(i))

    def _stored(self, row: _Row) -> Match | None:
        return self._store.longest(row.prompt[:-1]) if self._store is not None and self._options.reuse else None

    def _share(self, session: Reads, rows: list[_Row]) -> None:
        """Reads once what all prompts begin with, where that is half of them or more."""
        first = np.asarray(rows[0].prompt)
        common = min(common_length(first, np.asarray(row.prompt)) for row in rows[1:])
        common = min(common, *(len(row.prompt) - 1 for row in rows))
        if common < SHORTEST or 2 * common < max(len(row.prompt) for row in rows) or any(session.lengths):
            return
        self._read_one(session, 0, rows[0].prompt[:common])
        saved = session.save(0)
        for i, row in enumerate(rows[1:], 1):
            session.restore(i, saved)
            row.reused = common

    @staticmethod
    def _read_one(session: Reads, i: int, tokens: Sequence[int]) -> None:
        session.read([tokens if k == i else () for k in range(session.rows)])


def rewound(session: Reads, row: int, length: int) -> int:
    """Brings a row back to its first `length` tokens, or to none where a window has slid past them."""
    try:
        session.rewind(row, length)
    except RunError:
        session.rewind(row, 0)
        return 0
    return length
