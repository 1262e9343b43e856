"""Spelling the `axes` of an op whose rank or attributes decide them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import dims
from ..dims import Dim

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def letters(rank: int, whole: Iterable[int] = (), first: int = 0) -> list[str]:
    """One letter an axis, beginning with the alphabet's `first`; those in `whole` must not be split."""
    keep = set(whole)
    return [_letter(first + i) + ("!" if i in keep else "") for i in range(rank)]


def _letter(index: int) -> str:
    turn, at = divmod(index, len(_ALPHABET))
    return _ALPHABET[at] + (str(turn) if turn else "")


def spell(inputs: Sequence[Sequence[str]], outputs: Sequence[Sequence[str]]) -> str:
    """`a b, b c -> a c`."""
    left, right = (", ".join(" ".join(group) for group in side) for side in (inputs, outputs))
    return f"{left} -> {right}".strip()


def regroup(before: Sequence[Dim], after: Sequence[Dim]) -> str:
    """How a reshape splits and merges axes: `b s (c d) -> b s c d`; what does neither must stay whole."""
    left: list[str] = []
    right: list[str] = []
    used = 0
    for old, new in _groups(list(before), list(after)):
        names = [_letter(used + i) for i in range(max(len(old), len(new)))]
        if len(old) == 1 or len(new) == 1:
            used += len(names)
            left += names if len(new) == 1 else [f"({' '.join(names)})"]
            right += names if len(old) == 1 else [f"({' '.join(names)})"]
        else:
            left += [_letter(used + i) + "!" for i in range(len(old))]
            used += len(old)
            right += [_letter(used + i) + "!" for i in range(len(new))]
            used += len(new)
    return spell([_with_ones(before, left)], [_with_ones(after, right)])


def _with_ones(shape: Sequence[Dim], names: list[str]) -> list[str]:
    """Puts the axes of one, which the groups leave out, back in their places."""
    rest = iter(names)
    return ["1" if d == 1 else next(rest) for d in shape]


def _groups(before: list[Dim], after: list[Dim]) -> list[tuple[list[Dim], list[Dim]]]:
    """The shortest runs of axes, from the left, whose products are equal."""
    olds, news = [d for d in before if d != 1], [d for d in after if d != 1]
    found = []
    while olds and news:
        old, new = [olds.pop(0)], [news.pop(0)]
        while (a := dims.product(old)) != (b := dims.product(new)) and (olds or news):
            grow_new = news and (not olds or (b != 0 and dims.mod(a, b) == 0))
            (new if grow_new else old).append((news if grow_new else olds).pop(0))
        found.append((old, new))
    if olds or news:  # sizes of zero
        found.append((olds, news))
    return found
