"""A bundle's tokenizer as the harness asks for it: ids with and without special tokens, chat turns as one text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...backends.generation.chat import TEMPLATE, ChatTemplate, template_of
from ...backends.generation.tokens import TOKENIZER, TextTokens, json_object
from ...ir.diagnostics import LoadError, RunError

if TYPE_CHECKING:
    from ...backends.bundle import Bundle

Message = Mapping[str, Any]


class Words:
    """Raises: LoadError where the bundle holds no tokenizer, or does not say which token ends or begins a text."""

    def __init__(self, bundle: Bundle) -> None:
        self._folder, self.tokens = bundle.path, TextTokens(bundle.path)
        told, config = bundle.manifest.info.get("generation") or {}, json_object(bundle.path / "config.json")
        named = self.tokens.named
        self.ends = _ids(self.tokens.id_of(named.get("eos_token")), told.get("eos"), config.get("eos_token_id"))
        begins = _ids(self.tokens.id_of(named.get("bos_token")), told.get("bos"), config.get("bos_token_id"))
        if not self.ends and not begins:
            raise LoadError(f"{bundle.path.name} does not say which token ends a text", hint="compile it again")
        self._begin_text = named.get("bos_token") or named.get("eos_token")
        self.begin: int = (begins or self.ends)[0]
        self.end: int = (self.ends or begins)[0]

    def ids(self, text: str, special: bool | None = None) -> list[int]:
        """special: whether the tokenizer adds its own tokens; None where the text does not begin with one already."""
        if special is None:
            special = not (self._begin_text and text.startswith(self._begin_text))
        return self.tokens.encode(text, special=special)

    def text(self, ids: Sequence[int]) -> str:
        """Without special tokens."""
        return self.tokens.decode(ids)

    @cached_property
    def fingerprint(self) -> str:
        """Of the tokenizer and its template: the harness keeps the requests that it made under it."""
        made = hashlib.sha256((self._folder / TOKENIZER).read_bytes())
        made.update((self.template_text or "").encode())
        return f"{self._folder.name}-{made.hexdigest()[:16]}"

    @cached_property
    def template_text(self) -> str | None:
        """The chat template as it is written; None where there is none."""
        path = self._folder / TEMPLATE
        found = path.read_text(encoding="utf-8") if path.is_file() else self.tokens.config.get("chat_template")
        return found if isinstance(found, str) else None if found is None else json.dumps(found)

    @cached_property
    def _template(self) -> ChatTemplate:
        found = template_of(self._folder, self.tokens)
        if found is None:
            raise LoadError(f"the tokenizer of {self._folder.name} has no chat template", hint="leave out --chat")
        return found

    def chat(self, messages: Sequence[Message], ask: bool = True) -> str:
        """The turns as one text; with `ask` up to where the assistant's answer begins, else its last turn goes on.

        A template that knows no system turn is asked without it. Raises: RunError where it takes no such messages.
        """
        try:
            text = self._template.render(messages, add_generation_prompt=ask)
        except RunError:
            plain = [m for m in messages if m["role"] != "system"]
            if len(plain) == len(messages) or not plain:
                raise
            text = self._template.render(plain, add_generation_prompt=ask)
        if ask:
            return text
        last = str(messages[-1]["content"])
        found = last if last in text else last.strip()
        return text[: text.rindex(found) + len(found)] if found in text else text


def _ids(*candidates: Any) -> tuple[int, ...]:
    """The first that names a token, or several."""
    for found in candidates:
        if found is not None and found != []:
            return tuple(int(t) for t in found) if isinstance(found, (list, tuple)) else (int(found),)
    return ()


__all__ = ["Words"]
