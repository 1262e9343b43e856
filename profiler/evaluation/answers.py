"""What our task files call: their items, and the scores of generated answers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TASKS = Path(__file__).with_name("tasks")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
MARK = "####"


def local(file: str, **_: Any) -> dict[str, Any]:
    """The items of one of our files by split. The harness passes also whatever a user told it about tasks."""
    import datasets

    splits: dict[str, list[dict[str, Any]]] = {}
    for row in items(file):
        splits.setdefault(row["split"], []).append({k: v for k, v in row.items() if k != "split"})
    return {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}


def items(file: str) -> list[dict[str, Any]]:
    """All items of one of our files, in its order."""
    import json

    return [json.loads(line) for line in (TASKS / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()]


def normal(text: str) -> list[str]:
    """The words of an answer: in small letters, without punctuation and articles.

    Source: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1.
    """
    small = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLES.sub(" ", small).split()


def exact(answer: str, truth: str) -> float:
    """1 where the normalised answers are the same words, else 0."""
    return float(normal(answer) == normal(truth))


def f1(answer: str, truth: str) -> float:
    """Harmonic mean of precision and recall of the words, each counted as often as it stands there, in [0, 1].

    Source: Rajpurkar et al. 2016, section 6.1. Two empty answers are equal.
    """
    got, wanted = normal(answer), normal(truth)
    if not got or not wanted:
        return float(got == wanted)
    shared = (Counter(got) & Counter(wanted)).total()
    return 2 * shared / (len(got) + len(wanted))


def compared(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Against whichever of the right answers is nearest."""
    answer = results[0].strip()
    return {
        "exact_match": max(exact(answer, truth) for truth in doc["answers"]),
        "f1": max(f1(answer, truth) for truth in doc["answers"]),
    }


def final_number(text: str) -> str | None:
    """The number behind the mark that ends worked steps, without thousands' commas and a fraction of zero."""
    _, mark, rest = text.partition(MARK)
    found = _NUMBER.match(rest.strip().lstrip("$")) if mark else None
    if found is None:
        return None
    whole, _, fraction = found.group().replace(",", "").partition(".")
    return f"{whole}.{fraction.rstrip('0')}" if fraction.strip("0") else whole


def solved(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the number behind the mark is the right one; an answer without the mark is wrong."""
    return {"exact_match": float(final_number(results[0]) == doc["answer"])}


def mean(values: Sequence[float]) -> float:
    """The harness has no mean of its own under the name f1."""
    return sum(values) / len(values)
