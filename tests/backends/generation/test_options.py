"""What may be asked of a generation."""

from __future__ import annotations

import math

import pytest

from tundish.backends.generation.generator import options_of
from tundish.backends.generation.options import GenerationOptions
from tundish.ir.diagnostics import RunError

WRONG = [
    ("max_new_tokens", 0), ("max_new_tokens", -1), ("max_new_tokens", 1.5), ("max_new_tokens", True),
    ("max_new_tokens", "9"), ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf),
    ("temperature", "hot"), ("top_k", -1), ("top_k", 1.0), ("top_p", 0), ("top_p", 1.01), ("top_p", -1),
    ("top_p", math.nan), ("top_p", None), ("min_p", -0.1), ("min_p", 1.1), ("repetition_penalty", 0),
    ("repetition_penalty", -1), ("seed", -1), ("seed", 0.5), ("seed", 2**64), ("capacity", 0), ("stop", [""]),
    ("stop", ""), ("stop", [1]), ("stop", 1), ("stop_tokens", [-1]), ("stop_tokens", 2), ("stop_tokens", ["a"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_what_is_out_of_range_is_named_in_one_line(name: str, value: object) -> None:
    with pytest.raises(RunError) as caught:
        GenerationOptions(**{name: value})  # type: ignore[arg-type]
    assert caught.value.problem.startswith(name) and "\n" not in caught.value.problem


def test_a_word_that_is_no_option() -> None:
    with pytest.raises(RunError, match="no option 'temprature'"):
        options_of({"temprature": 1})


@pytest.mark.parametrize(
    ("asked", "temperature"),
    [({}, 0), ({"temperature": 0.5}, 0.5), ({"top_k": 5}, 1), ({"top_p": 0.5}, 1), ({"min_p": 0.5}, 1),
     ({"top_k": 5, "temperature": 0}, 0), ({"repetition_penalty": 2.0}, 0)],
)  # fmt: skip
def test_sampling_begins_where_it_is_asked_for(asked: dict[str, float], temperature: float) -> None:
    assert options_of(asked).chosen_temperature == temperature


def test_one_stop_string_is_a_list_of_one() -> None:
    assert options_of({"stop": "ab"}).stop == ("ab",)
