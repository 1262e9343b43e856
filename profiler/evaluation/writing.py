"""Texts that a bundle goes on with, as the harness asks for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.diagnostics import RunError
from .score import Seen
from .words import Words

if TYPE_CHECKING:
    from ...backends.bundle import Bundle

_SAMPLING = ("min_p", "repetition_penalty", "top_k", "top_p")
_KNOWN = frozenset({"do_sample", "max_gen_toks", "temperature", "until", *_SAMPLING})
# What models of other libraries are told and what makes no difference here.
_NO_MATTER = frozenset({"use_cache", "num_beams"})


class Writer:
    """rows: prompts at once, None for as many as the bundle takes. usual: new tokens where a task does not say.

    Raises: RunError where the bundle has no entry to generate with.
    """

    def __init__(self, bundle: Bundle, words: Words, rows: int | None, usual: int) -> None:
        self._generator = bundle.generator
        self._words, self._rows, self._usual = words, rows, usual

    def write(self, asked: Sequence[tuple[str, Mapping[str, Any]]], seen: Seen = lambda n: None) -> list[str]:
        """asked: contexts with the harness's generation arguments; those with the same ones are read together."""
        groups: dict[str, list[int]] = {}
        for place, (_, how) in enumerate(asked):
            groups.setdefault(json.dumps(how, sort_keys=True, default=str), []).append(place)
        texts = [""] * len(asked)
        for places in groups.values():
            rows = {place: self._words.ids(asked[place][0]) for place in places}
            order = sorted(places, key=lambda place: (-len(rows[place]), place))
            for place, text in zip(order, self._group([rows[p] for p in order], asked[order[0]][1], seen), strict=True):
                texts[place] = text
        return texts

    def _group(self, rows: list[list[int]], how: Mapping[str, Any], seen: Seen) -> list[str]:
        options, until = self._options(how)
        context = self._generator.context
        if context is not None:
            room = context - options["max_new_tokens"]
            if room < 1:
                raise RunError(f"{options['max_new_tokens']} new tokens leave no room for a prompt",
                               found=f"the model takes {context} tokens", hint="give max_gen_toks")  # fmt: skip
            rows = [row[-room:] for row in rows]
        most = self._rows or self._generator.most_rows or len(rows)
        texts: list[str] = []
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            texts += [cut(self._words.text(g.tokens), until) for g in self._generator.generate(part, **options)]
            seen(len(part))
        return texts

    def _options(self, how: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """In the words of our loop, and the stop texts. Raises: RunError on what the loop does not do."""
        from lm_eval.models.utils import normalize_gen_kwargs

        told: Mapping[str, Any] = normalize_gen_kwargs(dict(how), self._usual)  # type: ignore[assignment]
        other = sorted(set(told) - _KNOWN - _NO_MATTER)
        if other or told.get("num_beams", 1) != 1:
            raise RunError(f"a bundle does not generate with {(other or ['num_beams'])[0]}",
                           hint=f"of generation_kwargs it takes {', '.join(sorted(_KNOWN))}")  # fmt: skip
        until = [text for text in told["until"] if text]
        options: dict[str, Any] = {"max_new_tokens": int(told["max_gen_toks"]), "stop": until, "temperature": 0.0}
        if told["do_sample"]:
            options |= {name: told[name] for name in _SAMPLING if told.get(name) is not None}
            seed = int(np.random.randint(2**31))  # the harness seeds numpy for all that a task may draw
            options |= {"temperature": float(told.get("temperature", 1.0)), "seed": seed}
        return options, until


def cut(text: str, until: Sequence[str]) -> str:
    """What stands before the first of the stop texts."""
    return text[: min((at for stop in until if (at := text.find(stop)) >= 0), default=len(text))]


__all__ = ["Writer", "cut"]
