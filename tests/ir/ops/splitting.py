"""Reading `axes`, and cutting arrays along them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from tundish.ir import dims
from tundish.ir.tensor import TensorType

from .cases import Case, Sizes

Names = list[tuple[str, ...]]  # for each axis the letters it is made of; a `!` stays with its letter
_SHAPED = ("shape", "sizes", "length", "dim")  # attributes that hold sizes of the whole


def read(group: str) -> list[str]:
    """The words of one group: `b (g r) *m 1`."""
    words = re.findall(r"\([^()]*\)|\S+", group)
    assert all(re.fullmatch(r"\*?[a-z]+\d*!?|1|\([a-z0-9 !]+\)", w) for w in words), group
    return words


def spelled(word: str) -> tuple[str, ...]:
    return tuple(word.strip("()").split())


def named_axes(case: Case) -> list[tuple[TensorType, Names]]:
    """Each present input and each output with the letters of its axes, `*r` written out."""
    ins, outs = case.types, list(case.outs())
    left, right = case.op.axes_for(*ins, **case.full).split("->")
    groups = [g.strip() for g in left.split(",")] if ins else []
    assert len(groups) >= len(ins), "a group for each input"
    results = [g.strip() for g in right.split(",")]
    assert len(results) == len(outs), "a group for each output"
    paired = [*zip(ins, groups[: len(ins)], strict=True), *zip(outs, results, strict=True)]
    present = [(t, read(g)) for t, g in paired if t is not None]
    stars: dict[str, list[dims.Dim]] = {}
    for type, words in present:
        for star, shape in _star(type, words):
            known = stars.setdefault(star, [])
            known[:0] = [1] * (len(shape) - len(known))
            for i, d in enumerate(reversed(shape), 1):
                known[-i] = d if known[-i] == 1 else known[-i]
    return [(type, _written(type, words, stars)) for type, words in present]


def _star(type: TensorType, words: Sequence[str]) -> Iterator[tuple[str, tuple[dims.Dim, ...]]]:
    for i, word in enumerate(words):
        if word.startswith("*"):
            yield word, type.shape[i : type.rank - (len(words) - i - 1)]


def _written(type: TensorType, words: Sequence[str], stars: dict[str, list[dims.Dim]]) -> Names:
    names: Names = []
    for word in words:
        if not word.startswith("*"):
            names.append(spelled(word))
            continue
        count, longest = type.rank - (len(words) - 1), stars[word]
        for i in range(count, 0, -1):
            one = type.shape[len(names)] == 1 and longest[-i] != 1
            names.append(("1",) if one else (f"{word[1:].rstrip('!')}{i}" + ("!" if word.endswith("!") else ""),))
    return names


def pieces(
    case: Case, arrays: list[np.ndarray | None], sizes: Sizes
) -> Iterator[tuple[list[list[np.ndarray | None]], list[int]]]:
    """For every free axis: the inputs of two halves, and the axis of each output where the halves join."""
    if any(isinstance(case.full.get(a), (tuple, dims.Expr)) for a in _SHAPED):
        return
    groups = named_axes(case)
    count = sum(t is not None for t in case.types)
    ins, outs = [n for _, n in groups[:count]], [n for _, n in groups[count:]]
    letters = {w[0] for n in ins for w in n} & {w[0] for n in outs for w in n}
    for letter in sorted(letters - {"1"}):
        if letter.endswith("!") or any(letter in w[1:] for n in (*ins, *outs) for w in n):
            continue
        if not _halvable(letter, [a for a in arrays if a is not None], ins):
            continue
        given = iter(ins)
        halves: list[list[np.ndarray | None]] = [[], []]
        for array in arrays:
            names = None if array is None else next(given)
            at = None if names is None else _place(letter, names)
            cut = [array, array] if array is None or at is None else np.array_split(array, 2, at)
            halves[0].append(cut[0])
            halves[1].append(cut[1])
        places = [_place(letter, n) for n in outs]
        if None not in places:
            yield halves, [p for p in places if p is not None]


def _halvable(letter: str, arrays: list[np.ndarray], names: list[Names]) -> bool:
    places = [(a, _place(letter, n)) for a, n in zip(arrays, names, strict=True)]
    return all(a.shape[at] % 2 == 0 for a, at in places if at is not None)


def _place(letter: str, names: Names) -> int | None:
    """The axis whose outermost letter it is."""
    return next((i for i, w in enumerate(names) if w[0] == letter), None)
