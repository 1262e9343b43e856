"""Generation with one bundle: its tokenizer, its chat template, the tokens that end a text, its stored prefixes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ...ir.diagnostics import LoadError, RunError
from .chat import ChatTemplate, Message, checked_messages, end_of_turn, template_of
from .constraints import constraints_of
from .loop import Generated, Generation, OpenSession, Piece, room
from .options import GenerationOptions
from .prefixes import PrefixStore
from .prompts import as_rows
from .seq2seq import Seq2SeqOpener, is_seq2seq
from .session import STEP, Session
from .tokens import TOKENIZER, TextTokens

if TYPE_CHECKING:
    from ..bundle import Bundle

WHY_NOT = "it will not generate"  # how a note of a bundle begins that says so
_FIRST_ROOM = 2048  # tokens of a conversation; it grows
_OPTIONS = frozenset(f.name for f in fields(GenerationOptions))
Heard = Callable[[Piece], None]


class Window(msgspec.Struct, frozen=True):
    """What layers with a sliding window keep of a token."""

    window: Annotated[int, msgspec.Meta(ge=1)]
    bytes_per_token: Annotated[int, msgspec.Meta(ge=0)] = 0


class Info(msgspec.Struct, frozen=True):
    """`info.generation` of a manifest, which may be foreign; what else it says is not for here."""

    bytes_per_token: int | None = None
    context: Annotated[int, msgspec.Meta(ge=1)] | None = None
    windows: list[Window] = []
    eos: list[int] = []
    decoder_start: int | None = None
    forced_bos: int | None = None
    forced_eos: int | None = None
    suppressed: list[int] = []
    min_new_tokens: int = 0
    max_new_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    no_repeat_ngram: Annotated[int, msgspec.Meta(ge=0)] = 0


class Generator:
    """What a bundle keeps between generations.

    open_session: opens a session of so many rows and tokens, by default one of the bundle's own.
    Raises: RunError where the bundle cannot generate.
    """

    def __init__(self, bundle: Bundle, open_session: OpenSession | None = None, threads: int | None = None) -> None:
        self.bundle, self.threads = bundle, threads
        if open_session is None and STEP not in bundle.entries:
            said = [str(note) for note in bundle.manifest.info.get("notes") or () if str(note).startswith(WHY_NOT)]
            raise RunError(f"this bundle cannot generate: {bundle.manifest.name} has no entry {STEP!r}",
                           found=said[0] if said else "",
                           hint="compile a model that writes text, without --phase and --packed")  # fmt: skip
        self._open_session = open_session
        self.prefixes = PrefixStore()

    def open_session(self, rows: int, capacity: int) -> Any:
        """A new session. Raises: RunError where the sizes do not fit."""
        if self._open_session is not None:
            return self._open_session(rows, capacity)
        return Session(self.bundle, rows, capacity, self.threads)

    # -- what the bundle says -------------------------------------------------------------------------------

    @cached_property
    def info(self) -> Mapping[str, Any]:
        """What `compile` noted of generation. Raises: LoadError where it is broken."""
        found = self.bundle.manifest.info.get("generation") or {}
        try:
            return msgspec.to_builtins(msgspec.convert(found, Info))
        except msgspec.ValidationError as error:
            raise LoadError("the manifest's words on generation are broken", found=str(error)) from error

    @cached_property
    def text(self) -> TextTokens:
        """The tokenizer. Raises: LoadError where the bundle holds none."""
        return TextTokens(self.bundle.path)

    @property
    def has_text(self) -> bool:
        """Whether the bundle holds a tokenizer."""
        return (self.bundle.path / TOKENIZER).is_file()

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template. Raises: LoadError where the bundle holds none."""
        found = template_of(self.bundle.path, self.text)
        if found is None:
            raise LoadError(f"the tokenizer of {self.bundle.path.name} has no chat template",
                            hint="leave out --chat and --system, and write the prompt in full")  # fmt: skip
        return found

    @property
    def context(self) -> int | None:
        """The longest text that the model, or its step, takes; None where nothing limits it."""
        entry = self.bundle.entries.get(STEP)
        built = None if entry is None else entry.symbols.get("capacity", (1, None))[1]
        return min((x for x in (self.info["context"], built) if x is not None), default=None)

    @property
    def kv_bytes_per_token(self) -> int | None:
        """What a row's caches keep of a token, in layers with a sliding window as long as it is inside that."""
        whole = self.info["bytes_per_token"]
        return None if whole is None else whole + sum(w["bytes_per_token"] for w in self.info["windows"])

    @property
    def most_rows(self) -> int | None:
        """How many prompts go into one batch; None for any number."""
        entry = self.bundle.entries.get(STEP) or next(iter(self.bundle.entries.values()))
        return entry.symbols.get("batch", (1, None))[1]

    @cached_property
    def vocab(self) -> int:
        """How many ids there are."""
        entry = self.bundle.entries.get(STEP) or next(iter(self.bundle.entries.values()))
        logits = next((s for s in entry.outputs if s.name == "logits"), entry.outputs[0])
        return int(logits.shape[-1])

    @cached_property
    def eos(self) -> frozenset[int]:
        """The tokens with which the model ends a text: its own settings' or, where they name none, its tokenizer's."""
        own = frozenset(self.info["eos"])
        if own or not self.has_text:
            return own
        end = self.text.id_of(self.text.named.get("eos_token"))
        return frozenset() if end is None else frozenset({end})

    @cached_property
    def eos_of_chat(self) -> frozenset[int]:
        """Those, and the token with which the template ends a turn."""
        end = end_of_turn(self.template, self.text)
        return self.eos if end is None else self.eos | {end}

    # -- generating -----------------------------------------------------------------------------------------

    def stream(
        self, prompt: Any, *, chat: bool = False, system: str | None = None, first_row: int = 0, **asked: Any
    ) -> Generation:
        """An iterator over the pieces of text as they come, for as many prompts as fit into one batch.

        prompt: see `prompts.as_rows`. chat: texts are what a user says, in the tokenizer's template.
        system: what the chat begins with, and that it is one. first_row: the number of the first prompt.
        asked: the fields of `GenerationOptions`.
        """
        options = options_of(asked)
        rows, _, chats = self._rows(prompt, chat, system)
        self._check_rows(len(rows))
        return self._generation(rows, options, chats, _seed(options), first_row)

    def generate(
        self, prompt: Any, *, chat: bool = False, system: str | None = None, on_piece: Heard | None = None,
        batch: int | None = None, partial: bool = False, **asked: Any,
    ) -> Any:  # fmt: skip
        """A `Generated` for one prompt, a list of them for several, which are read `batch` at a time.

        Everything else as for `stream`; on_piece hears the pieces as they come. partial: Ctrl-C gives what there is.
        """
        options = options_of(asked)
        if batch is not None and batch < 1:
            raise RunError(f"batch must be at least 1, got {batch}")
        rows, single, chats = self._rows(prompt, chat, system)
        most = batch or self.most_rows or len(rows)
        self._check_rows(min(most, len(rows)))
        seed, found = _seed(options), []
        for start in range(0, len(rows), most):
            generation = self._generation(rows[start : start + most], options, chats, seed, start)
            ended = _heard(generation, on_piece, partial)
            found += generation.results
            if not ended:
                break
        return found[0] if single else found

    def chat(self, system: str | None = None, **asked: Any) -> Chat:
        """A conversation that begins with `system`."""
        self._check_chats()
        return Chat(self, system, asked)

    def tokens_of(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a chat, up to where the assistant's next turn begins."""
        return self.text.encode(self.template.render(messages), special=False)

    def _rows(self, prompt: Any, chat: bool, system: str | None) -> tuple[list[list[int]], bool, bool]:
        """The prompts' tokens, whether there is a single one, and whether they are chats."""
        opening = [] if system is None else [{"role": "system", "content": system}]
        asked, found = chat or system is not None, []

        def of_text(text: str) -> list[int]:
            if not asked:
                return self.text.encode(text)
            return of_chat([{"role": "user", "content": text}])

        def of_chat(messages: Sequence[Message]) -> list[int]:
            self._check_chats()
            found.append(True)
            return self.tokens_of([*opening, *checked_messages(messages)])

        rows, single = as_rows(prompt, of_text, of_chat)
        for i, row in enumerate(rows):
            if min(row) < 0 or max(row) >= self.vocab:
                raise RunError(f"prompt {i} holds an id that is none of the model's {self.vocab}")
        if asked and not found:
            raise RunError("token ids are no chat", hint="give a text or messages, or leave out chat and system")
        return rows, single, bool(found)

    def _check_chats(self) -> None:
        if is_seq2seq(self.bundle):
            raise RunError(f"{self.bundle.manifest.name} reads one text and writes another; it does not chat",
                           hint="leave out --chat and --system, and write the prompt in full")  # fmt: skip

    def _generation(
        self, rows: list[list[int]], options: GenerationOptions, chats: bool, seed: int, first_row: int,
        **more: Any,
    ) -> Generation:  # fmt: skip
        if is_seq2seq(self.bundle):
            return self._written(rows, options, seed, first_row)
        return Generation(
            rows, options, self.open_session, eos=self.eos_of_chat if chats else self.eos, store=self.prefixes,
            **self._common(seed, first_row), **more,
        )  # fmt: skip

    def _written(self, rows: list[list[int]], options: GenerationOptions, seed: int, first_row: int) -> Generation:
        """As an encoder-decoder does it: it reads the rows, and what follows a first token is written anew."""
        start, longest = self.info["decoder_start"], self.info["max_new_tokens"]
        if start is None:
            raise RunError(f"nothing says how the decoder of {self.bundle.manifest.name} begins",
                           hint="its generation_config.json names a decoder_start_token_id")  # fmt: skip
        if options.max_new_tokens is None and longest is not None:
            fit = (options.capacity or self.context or longest + 1) - 1
            options = replace(options, max_new_tokens=max(1, min(longest, fit)))
        return Generation(
            [[start] for _ in rows], options, self._open_session or Seq2SeqOpener(self.bundle, rows, self.threads),
            eos=self.eos, read=[len(row) for row in rows],
            rules=lambda new: constraints_of(self.info, self.eos, new), **self._common(seed, first_row),
        )  # fmt: skip

    def _common(self, seed: int, first_row: int) -> dict[str, Any]:
        return {
            "seed": seed, "first_row": first_row, "text": self.text if self.has_text else None,
            "context": self.context, "kv_bytes_per_token": self.kv_bytes_per_token,
        }  # fmt: skip

    def _check_rows(self, rows: int) -> None:
        if self.most_rows is not None and rows > self.most_rows:
            raise RunError(f"{rows} prompts at once, and the bundle was compiled for at most {self.most_rows}",
                           hint="compile it with a larger --batch")  # fmt: skip


class Chat:
    """A conversation. What was computed of its turns stays, so that only new ones are read.

    messages: all turns so far, which may be changed between them.
    """

    def __init__(self, generator: Generator, system: str | None, asked: Mapping[str, Any]) -> None:
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._generator, self._asked = generator, dict(asked)
        self._session: Any = None
        self._held: list[int] = []
        self._turns: list[Message] = []
        self._begun: Generation | None = None

    def say(self, text: str, on_piece: Heard | None = None, **asked: Any) -> Generated:
        """The assistant's answer. Raises: RunError where the conversation has grown too long for the model."""
        generation = self.stream(text, **asked)
        _heard(generation, on_piece, False)
        return self.end(generation)

    def stream(self, text: str, **asked: Any) -> Generation:
        """The answer as it comes; it joins the conversation with `end`."""
        if not text:
            raise RunError("the prompt is empty")
        options = options_of({**self._asked, **asked})
        if self._begun is not None:  # perhaps left before its end, and never taken
            self._session, self._held = self._begun.held
        self._turns = [*self.messages, {"role": "user", "content": text}]
        tokens, owner = self._generator.tokens_of(self._turns), self._generator
        self._make_room(room(len(tokens), options, owner.context)[1])
        given = {"session": self._session, "held": self._held}
        self._begun = owner._generation([tokens], options, True, _seed(options), 0, **given)
        return self._begun

    def _make_room(self, needed: int) -> None:
        """A session for `needed` tokens and, as far as the model takes them, for turns to come."""
        if self._session is not None and needed <= self._session.capacity:
            return
        more = max(_FIRST_ROOM, 2 * needed)
        context = self._generator.context
        larger = self._generator.open_session(1, more if context is None else max(needed, min(more, context)))
        if self._session is not None:
            larger.restore(0, self._session.save(0))
        self._session = larger

    def end(self, generation: Generation) -> Generated:
        """Takes an answer, as far as it came, into the conversation."""
        (result,) = generation.results
        self.messages = [*self._turns, {"role": "assistant", "content": result.text}]
        return result


def _heard(generation: Generation, on_piece: Heard | None, partial: bool) -> bool:
    """Runs a generation to its end; False where Ctrl-C came before, which `partial` allows."""
    hear = on_piece or (lambda piece: None)
    try:
        for piece in generation:
            hear(piece)
    except KeyboardInterrupt:
        if not partial:
            raise
        for piece in generation.interrupt():
            hear(piece)
        return False
    return True


def options_of(asked: Mapping[str, Any]) -> GenerationOptions:
    """Raises: RunError on a word that is none of the options, or a value out of range."""
    unknown = sorted(set(asked) - _OPTIONS)
    if unknown:
        raise RunError(f"there is no option {unknown[0]!r}", hint=f"the options are {', '.join(sorted(_OPTIONS))}")
    return GenerationOptions(**asked)


def _seed(options: GenerationOptions) -> int:
    return secrets.randbits(32) if options.seed is None else int(options.seed)


__all__ = ["Chat", "Generated", "Generation", "Generator", "Piece"]
