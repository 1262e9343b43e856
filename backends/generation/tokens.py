"""Text to tokens and back, from the tokenizer files of a bundle, on the base install."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ...ir.diagnostics import LoadError, RunError, first_line

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_BROKEN = "\ufffd"  # what a decoder gives for bytes that are no character, or not yet one
_CONTEXT = 8  # tokens before the new ones: what decides whether a word begins with a space
_LONGEST_CHARACTER = 16  # tokens; a character has 4 bytes at most, so more than this is no unfinished one


class TextTokens:
    """The tokenizer of a folder. Raises: LoadError where it has none, or one that cannot be read."""

    def __init__(self, folder: Path) -> None:
        import tokenizers

        path = folder / TOKENIZER
        if not path.is_file():
            raise LoadError(f"{folder.name} holds no tokenizer, so it reads and writes no text",
                            hint="give token ids in Python, or compile from a folder that has one")  # fmt: skip
        self._folder = folder
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exceptions
            raise LoadError(f"{TOKENIZER} of {folder.name} is broken", found=first_line(error)) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of a text; with `special` also those that the tokenizer puts around every text.

        Raises: RunError where it cannot.
        """
        try:
            text.encode()
            return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
        except UnicodeEncodeError as error:
            raise RunError("the text cannot be turned into tokens", found="bytes that are no UTF-8") from error
        except Exception as error:  # the library raises plain Exceptions
            raise RunError("the text cannot be turned into tokens", found=first_line(error)) from error

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return str(self._tokenizer.decode([int(t) for t in tokens], skip_special_tokens=True))

    def id_of(self, token: str | None) -> int | None:
        """The id of a token that is written like this."""
        return None if token is None else self._tokenizer.token_to_id(token)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The tokens that are no text."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The tokenizer's settings, empty where there is no file of them. Raises: LoadError where it is broken."""
        return json_object(self._folder / CONFIG)

    @cached_property
    def named(self) -> Mapping[str, str]:
        """The special tokens by their roles: `eos_token` and the like."""
        given = {**json_object(self._folder / "special_tokens_map.json"), **self.config}
        found = {name: _content(given.get(name)) for name in _NAMED}
        return {name: text for name, text in found.items() if text is not None}


class Detokenizer:
    """The text of a growing row of tokens, piece by piece, no character broken.

    A token is decoded with those before it, since many decoders treat the first token of a text in another way; what
    ends within a character waits for the next token.
    """

    def __init__(self, tokens: TextTokens, prompt: Sequence[int] = ()) -> None:
        self._tokens = tokens
        self._recent = self._context(prompt)
        self._told = len(self._recent)  # how many of the recent tokens' text was given out

    def feed(self, token: int) -> str:
        """What the token adds to the text."""
        self._recent.append(int(token))
        text = self._new()
        if text.endswith(_BROKEN) and len(self._recent) - self._told < _LONGEST_CHARACTER:
            return ""
        return self._taken(text)

    def flush(self) -> str:
        """What waited for a next token that does not come."""
        return self._taken(self._new())

    def _new(self) -> str:
        before = self._tokens.decode(self._recent[: self._told])
        return self._tokens.decode(self._recent)[len(before) :]

    def _taken(self, text: str) -> str:
        # What gave text last is the context: it begins where a character does. Tokens without text are none.
        self._recent = self._recent[self._told :] if text else self._recent[: self._told]
        self._told = len(self._recent)
        return text

    def _context(self, prompt: Sequence[int]) -> list[int]:
        """The last tokens of a prompt, from where a character begins."""
        ends = [[int(t) for t in prompt[-n:]] for n in range(_CONTEXT, _CONTEXT + 4)] if len(prompt) else [[]]
        return next((end for end in ends if _BROKEN not in self._tokens.decode(end)), ends[0])


def json_object(path: Path) -> Mapping[str, Any]:
    """A JSON object from a file, empty where there is none. Raises: LoadError."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path.name} of {path.parent.name} is broken", found=first_line(error)) from error
    if not isinstance(found, dict):
        raise LoadError(f"{path.name} of {path.parent.name} is broken", found="it holds no object")
    return found


def _content(token: Any) -> str | None:
    """A token as configs write it: a text, or an object that holds it."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None
