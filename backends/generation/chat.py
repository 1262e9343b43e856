"""Chats as text: the tokenizer's own template, with what transformers gives templates besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...ir.diagnostics import LoadError, RunError, first_line
from .tokens import CONFIG, TextTokens

TEMPLATE = "chat_template.jinja"
_LONGEST_TEMPLATE = 1 << 20
_MARK = "tundish"  # what an assistant says when its turn's end is looked for
Message = Mapping[str, Any]


class ChatTemplate:
    """A template in a sandbox. Raises: LoadError where it is no template."""

    def __init__(self, source: str, special: Mapping[str, str] | None = None) -> None:
        self._sandbox, self._template = _compiled(source)
        self._special = dict(special or {})

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **more: Any) -> str:
        """The chat as one text; with `add_generation_prompt` it ends where the assistant's next turn begins.

        messages: objects with `role` and `content`. more: what else the template knows (`enable_thinking=False`).
        Raises: RunError where the template refuses these messages, or makes more than it may.
        """
        from .sandbox import TooLarge

        plain = [{k: v for k, v in m.items() if v is not None} for m in checked_messages(messages)]
        given = {**self._special, "tools": None, "documents": None, **more}
        self._sandbox.start()
        try:
            return str(self._template.render(messages=plain, add_generation_prompt=add_generation_prompt, **given))
        except TooLarge as error:
            raise RunError("the chat template goes on without end", found=first_line(error)) from error
        except Exception as error:  # a foreign template may fail in any way
            raise RunError("the chat template does not take these messages", found=first_line(error)) from error


@lru_cache(maxsize=16)
def _compiled(source: str) -> tuple[Any, Any]:
    from .sandbox import Sandbox

    if len(source) > _LONGEST_TEMPLATE:
        raise LoadError(f"the chat template is too long: {len(source)} characters")
    sandbox = Sandbox()
    try:
        return sandbox, sandbox.template(source)
    except Exception as error:  # jinja2's own errors, and what deep nesting does to Python's compiler
        raise LoadError("the chat template is broken", found=first_line(error)) from error


def checked_messages(messages: Any) -> list[Message]:
    """The messages of a chat. Raises: RunError where they are none."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RunError("a chat has at least one message", hint="[{'role': 'user', 'content': 'Hello'}]")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RunError("a message of a chat has a role and a content", found=repr(message)[:200])
    return list(messages)


def template_of(folder: Path, tokens: TextTokens) -> ChatTemplate | None:
    """The template of a folder, from its own file or the tokenizer's settings; None where it has none.

    Of several by name it is the one called `default`. Raises: LoadError where it is broken.
    """
    path = folder / TEMPLATE
    if path.is_file():
        if path.stat().st_size > 4 * _LONGEST_TEMPLATE:
            raise LoadError(f"{TEMPLATE} of {folder.name} is too long")
        return ChatTemplate(path.read_text(encoding="utf-8", errors="replace"), tokens.named)
    found = tokens.config.get("chat_template")
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, Mapping)}
        found = named.get("default")
    if found is None:
        return None
    if not isinstance(found, str):
        raise LoadError(f"{CONFIG} of {folder.name} is broken", found="its chat_template is no text")
    return ChatTemplate(found, tokens.named)


def end_of_turn(template: ChatTemplate, tokens: TextTokens) -> int | None:
    """The special token that the template writes behind what the assistant says, where it writes one.

    A model that was trained on the template ends its turn with it, also where its config does not say so.
    """
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
    try:
        _, mark, behind = template.render(turns, add_generation_prompt=False).rpartition(_MARK)
    except RunError:
        return None
    following = tokens.encode(behind, special=False)[:1] if mark and behind else []
    return following[0] if following and following[0] in tokens.special_ids else None
