"""What holds for every program: the text form, verification, folding, pickling."""

from __future__ import annotations

import pickle

import numpy as np
from hypothesis import HealthCheck, given, settings
from properties.programs import inputs_for, programs

from tundish.ir.canonical import canonical
from tundish.ir.evaluate import evaluate
from tundish.ir.fold import fold, unfold
from tundish.ir.graph import Program, callee
from tundish.ir.text import from_text, same, to_text
from tundish.ir.verify import verify

SIZES = {"batch": 2, "seq": 3}
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


def answers(program: Program) -> dict[str, np.ndarray]:
    return evaluate(program, inputs_for(program, SIZES))


@settings(max_examples=80, **COMMON)
@given(programs())
def test_text_and_pickle_give_the_program_back(program: Program) -> None:
    verify(program)
    again = from_text(to_text(program), weights=program.weights)
    assert same(again, program)
    verify(again)
    sent = pickle.loads(pickle.dumps(program))
    assert same(sent, program)
    assert all(np.array_equal(a, b) for a, b in zip(answers(program).values(), answers(sent).values(), strict=True))


@settings(max_examples=60, **COMMON)
@given(programs(calls=False))
def test_unfold_undoes_fold(program: Program) -> None:
    folded = verify(fold(program))
    assert same(unfold(folded), canonical(program))
    assert same(fold(unfold(folded)), folded)


@settings(max_examples=60, **COMMON)
@given(programs())
def test_folding_changes_no_number(program: Program) -> None:
    expected = answers(program)
    for other in (fold(program), unfold(program), unfold(fold(program)), canonical(program)):
        found = answers(verify(other))
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert np.isfinite(array).all()
            assert array.tobytes() == found[name].tobytes()
    assert all(callee(n) is None for n in unfold(program).entry.nodes)
