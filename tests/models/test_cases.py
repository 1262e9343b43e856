"""The inputs that a bundle is judged by: they hold what their names say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tundish.models import zoo
from tundish.models.cases import BUDGET_TOKENS, cases, samples
from tundish.models.source import InputSpec


@pytest.fixture(scope="module")
def source():
    return zoo.load_named("bert-tiny")


def made(source, **ranges):
    return {c.name: c.inputs for c in cases(source, **ranges)}


def test_each_case_is_what_its_name_says(source):
    by_name = made(source, batch=(1, 8), seq=(1, 64))
    assert len(by_name) >= 8
    mask = {name: inputs["attention_mask"] for name, inputs in by_name.items()}
    assert mask["no padding"].all()
    right, left = mask["padding right"], mask["padding left"]
    assert (np.diff(right, axis=1) <= 0).all() and not right.all()
    assert (np.diff(left, axis=1) >= 0).all() and not left.all()
    assert len(set(mask["ragged"].sum(1))) == len(mask["ragged"])
    assert mask["shortest"].shape == (1, 1)
    assert mask["longest"].shape == (1, 64)
    assert (mask["one real token"].sum(1) == 1).all()
    assert len(mask["largest batch"]) == 8
    assert set(by_name["extreme values"]["input_ids"].ravel()) == {0, 127}


@pytest.mark.parametrize("ranges", [
    {"batch": (1, 1), "seq": (1, 1)}, {"batch": (2, 2), "seq": (7, 7)}, {"batch": (3, 9), "seq": (5, 50)},
])  # fmt: skip
def test_every_row_attends_to_something_and_every_size_is_in_range(source, ranges):
    for name, inputs in made(source, **ranges).items():
        for array in inputs.values():
            assert ranges["batch"][0] <= array.shape[0] <= ranges["batch"][1], name
            assert ranges["seq"][0] <= array.shape[1] <= ranges["seq"][1], name
        assert (inputs["attention_mask"].sum(1) >= 1).all(), name
        assert inputs["input_ids"].max() < 128 and inputs["input_ids"].min() >= 0
        assert inputs["token_type_ids"].max() <= 1


def test_the_same_seed_gives_the_same_arrays_and_another_does_not(source):
    first, again, other = (cases(source, seed=s) for s in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        for key in a.inputs:
            np.testing.assert_array_equal(a.inputs[key], b.inputs[key])
    assert any((a.inputs["input_ids"] != b.inputs["input_ids"]).any() for a, b in zip(first, other, strict=True)
               if a.inputs["input_ids"].shape == b.inputs["input_ids"].shape)  # fmt: skip


def test_the_longest_case_stops_where_the_model_does(source):
    assert made(source, seq=(1, 4096))["longest"]["input_ids"].shape == (1, 64)


def test_the_cost_is_bounded(source):
    long = source.replace(max_seq=None)
    by_name = made(long, batch=(1, 64), seq=(1, 8192))
    longest = by_name.pop("longest")
    assert longest["input_ids"].shape == (1, 8192)
    assert all(i["input_ids"].size <= BUDGET_TOKENS for i in by_name.values())


def test_float_inputs_are_drawn_too(source):
    spec = InputSpec("x", "f32", ("batch", "seq", 5))
    by_name = made(source.replace(inputs=(spec,)), batch=(1, 4), seq=(1, 9))
    assert by_name["longest"]["x"].shape == (1, 9, 5)
    assert by_name["no padding"]["x"].dtype == np.float32
    assert set(np.abs(by_name["extreme values"]["x"]).ravel()) == {8.0}


def test_every_case_runs_through_the_original(source):
    for case in cases(source, (1, 3), (1, 12)):
        outputs = source.call(case.inputs)
        assert all(np.isfinite(a).all() for a in outputs.values()), case.name


def test_samples_for_tracing_have_sizes_that_no_rule_can_be_read_from(source):
    specs = (InputSpec("x", "f32", ("batch", "seq", 5)), InputSpec("y", "i64", ("batch", "other"), high=3))
    shapes = [tuple(t.shape) for t in samples(source.replace(inputs=specs)).values()]
    assert shapes == [(2, 7, 5), (2, 9)]
    drawn = samples(source)
    assert all(t.shape == (2, 7) for t in drawn.values()) and drawn["attention_mask"].all()
    assert all(t.is_meta for t in samples(zoo.load_named("bert-tiny", shape_only=True)).values())


def test_padding_holds_its_token_and_no_real_position_of_a_padded_row_does(source):
    """What a tokenizer makes: a classifier that looks for a text's end by its padding reads no padded position."""
    ids, *rest = source.inputs
    padded = source.replace(inputs=(InputSpec(ids.name, ids.dtype, ids.dims, role="ids", high=2, pad=1), *rest))
    for name, inputs in made(padded, batch=(1, 4), seq=(1, 20)).items():
        real, drawn = inputs["attention_mask"] != 0, inputs["input_ids"]
        if not real.all():
            assert (drawn[~real] == 1).all() and (drawn[real] != 1).all(), name


def test_packed_rows_start_again_at_zero(source):
    places = InputSpec("position_ids", "i64", ("batch", "seq"), role="positions")
    by_name = made(source.replace(inputs=(source.inputs[0], places)), batch=(1, 4), seq=(1, 20))
    assert set(by_name) == {"packed rows", "one text a row", "many short texts", "shortest", "longest",
                            "extreme values", "largest batch"}  # fmt: skip
    for name, inputs in by_name.items():
        step = np.diff(inputs["position_ids"], axis=1, prepend=-1)
        assert ((step == 1) | (inputs["position_ids"] == 0)).all() and (inputs["position_ids"][:, 0] == 0).all(), name
    texts = {name: (i["position_ids"] == 0).sum(1).max() for name, i in by_name.items()}
    assert texts["one text a row"] == 1 < texts["packed rows"] < texts["many short texts"]


def test_a_second_length_differs_and_is_padded_in_another_way():
    source = zoo.load_named("bart-tiny")
    by_name = made(source, batch=(1, 8), seq=(1, 64))
    sizes = [(i["attention_mask"].shape[1], i["decoder_attention_mask"].shape[1]) for i in by_name.values()]
    assert any(a < b for a, b in sizes) and any(a > b for a, b in sizes)
    assert sizes[list(by_name).index("shortest")] == (1, 1) and sizes[list(by_name).index("longest")] == (64, 64)
    for name, inputs in by_name.items():
        first, second = inputs["attention_mask"], inputs["decoder_attention_mask"]
        assert inputs["input_ids"].shape == first.shape and inputs["decoder_input_ids"].shape == second.shape
        assert len(first) == len(second) and second.sum(1).min() >= 1, name
    right = by_name["padding right"]
    assert right["attention_mask"][:, 0].all() and not right["decoder_attention_mask"][:, 0].all()
    assert by_name["padding left"]["decoder_attention_mask"].all()


def test_a_second_length_stays_within_its_range():
    source = zoo.load_named("bart-tiny")
    for inputs in made(source, batch=(2, 3), seq=(5, 9)).values():
        assert all(5 <= a.shape[1] <= 9 for a in inputs.values())


def test_texts_that_end_have_one_end_at_their_last_token():
    source = zoo.load_named("bert-tiny")
    ending = source.replace(inputs=tuple(replace(s, end=9) if s.role == "ids" else s for s in source.inputs))
    for name, inputs in made(ending, batch=(1, 4), seq=(1, 16)).items():
        ids, real = inputs["input_ids"], inputs["attention_mask"]
        last = real.shape[1] - 1 - real[:, ::-1].argmax(1)
        assert (ids[np.arange(len(ids)), last] == 9).all() and ((ids == 9).sum(1) == 1).all(), name
