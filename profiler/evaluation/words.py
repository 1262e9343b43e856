"""A bundle's tokenizer as the harness asks for it: ids with and without special tokens, chat turns as one text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import LoadError

if TYPE_CHECKING:
    from ...backends.bundle import Bundle


class Words:
    """Raises: LoadError where the bundle holds no tokenizer, or does not say which token ends a text."""

    def __init__(self, bundle: Bundle) -> None:
        import tokenizers

        path = bundle.path / "tokenizer.json"
        if not path.is_file():
            raise LoadError(
                f"{bundle.path.name} holds no tokenizer, and the harness asks with texts",
                hint="compile from a folder that has one",
            )
        self.bundle = bundle
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        told, config = bundle.manifest.info.get("generation") or {}, read_file(bundle.path / "config.json")
        ends = told.get("eos") or config.get("eos_token_id")
        self.ends: tuple[int, ...] = tuple(ends) if isinstance(ends, list) else () if ends is None else (int(ends),)
        begin = told.get("bos", config.get("bos_token_id"))
        if begin is None and not self.ends:
            raise LoadError(f"{bundle.path.name} does not say which token ends a text", hint="compile it again")
        self.begin: int = int(begin) if begin is not None else self.ends[0]
        self.begin_text = self.text([self.begin], special=True)

    def ids(self, text: str, special: bool | None = None) -> list[int]:
        """special: whether the tokenizer adds its own tokens; None where the text does not begin with one already."""
        if special is None:
            special = not (self.begin_text and text.startswith(self.begin_text))
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def text(self, ids: Sequence[int], special: bool = False) -> str:
        """special: whether special tokens show."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))


def read_file(path: Path) -> Mapping[str, Any]:
    """A JSON object of a bundle, empty where there is none. Raises: LoadError where it is broken."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path.name} of {path.parent.name} is broken", found=str(error)[:200]) from error
    if not isinstance(found, dict):
        raise LoadError(f"{path.name} of {path.parent.name} is no JSON object")
    return found


__all__ = ["Words", "read_file"]
