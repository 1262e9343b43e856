"""Our task files, and how generated answers are scored."""

from __future__ import annotations

import math
import re
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tundish.profiler.evaluation import answers as a
from tundish.profiler.evaluation.run import beyond_chance

FILES = ("questions", "sentiment", "arithmetic")
WORDS = st.lists(st.sampled_from(["river", "The", "a", "red", "house", "1911", "an"]), max_size=8).map(" ".join)


@pytest.mark.parametrize("name", FILES)
def test_every_task_has_twenty_items_and_none_twice(name):
    rows = a.items(name)
    tested = [r for r in rows if r["split"] == "test"]
    assert len(tested) >= 20
    texts = [str({k: v for k, v in r.items() if k != "split"}) for r in rows]
    assert len(set(texts)) == len(rows)


def test_labels_are_even_so_that_one_word_for_all_is_chance():
    labels = Counter(r["label"] for r in a.items("sentiment") if r["split"] == "test")
    assert labels[0] == labels[1]


def test_every_answer_stands_in_its_text_or_names_its_number():
    for row in a.items("questions"):
        assert any(" ".join(a.normal(x)) in " ".join(a.normal(row["context"])) for x in row["answers"]), row


def test_worked_steps_are_right_and_end_at_the_answer():
    for row in a.items("arithmetic"):
        sums = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", row["steps"])
        assert sums and sums[-1][3] == row["answer"], row
        for left, sign, right, result in sums:
            x, y = int(left), int(right)
            assert {"+": x + y, "-": x - y, "*": x * y, "/": x / y}[sign] == int(result), row
        assert a.solved(row, [f"{row['steps']}\n#### {row['answer']}"]) == {"exact_match": 1.0}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(WORDS, WORDS)
def test_f1_is_symmetric_bounded_and_one_for_the_same_words(x, y):
    score = a.f1(x, y)
    assert 0.0 <= score <= 1.0 and score == a.f1(y, x)
    assert (score == 1.0) == (Counter(a.normal(x)) == Counter(a.normal(y)))
    assert a.exact(x, y) <= score


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    got, wanted = "the red house by the river", "red house"
    precision, recall = 2 / 4, 2 / 2
    assert a.f1(got, wanted) == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_nearest_of_the_right_answers_counts():
    doc = {"answers": ["the engineer Ida Solberg", "Ida Solberg"]}
    assert a.compared(doc, [" ida solberg. "]) == {"exact_match": 1.0, "f1": 1.0}


@pytest.mark.parametrize(("text", "number"), [
    ("3 + 4 = 7\n#### 7", "7"), ("#### 1,200", "1200"), ("#### $5.00 more", "5"), ("#### 2.50", "2.5"),
    ("#### -3", "-3"), ("it is 7", None), ("#### seven", None), ("#### 7\n\nQuestion: #### 8", "7"),
])  # fmt: skip
def test_the_answer_is_the_number_behind_the_mark(text, number):
    assert a.final_number(text) == number


@pytest.mark.parametrize(("right", "items", "chance"), [(10, 20, 0.5), (44, 48, 0.5), (0, 5, 0.25), (7, 9, 1 / 3)])
def test_guessing_as_well_is_the_binomial_tail(right, items, chance):
    from scipy.stats import binom

    assert beyond_chance(right, items, chance) == pytest.approx(float(binom.sf(right - 1, items, chance)), rel=1e-9)
    assert math.isclose(beyond_chance(0, items, chance), 1.0)
