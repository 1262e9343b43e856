"""The verb `place`, and its words on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_kit import Command, command, refused  # noqa: F401

import tundish

pytest.importorskip("scipy")
LINE = ("place", "--experts", "32", "--devices", "8", "--slots", "40")


@pytest.fixture
def loads(tmp_path):
    draw = np.random.default_rng(0)
    rows = np.exp(draw.normal(0, 1, (3, 32)))
    for name, array in (("now", rows[0]), ("then", rows[1]), ("layers", rows)):
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def test_what_scripts_read(command: Command, loads):
    told = command(*LINE, "--load", str(loads / "now.npy"), "--json").json
    assert np.shape(told["assignment"]) == (8, 5)
    assert sorted({e for row in told["assignment"] for e in row}) == list(range(32))
    assert 1.0 <= told["lower_bound"] <= told["max_over_mean"] <= 1.01 * told["lower_bound"]
    assert told["moved_bytes"] == 40 * told["expert_bytes"]


def test_from_an_earlier_placement(command: Command, loads):
    first, line = loads / "first.json", (*LINE, "--expert-bytes", "2MiB", "--json")
    command(*line, "--load", str(loads / "now.npy"), "-o", str(first))
    again = command(*line, "--load", str(loads / "now.npy"), "--previous", str(first)).json
    assert again["moved_bytes"] == 0 and again["assignment"] == json.loads(first.read_text())["assignment"]
    other = command(*line, "--load", str(loads / "then.npy"), "--previous", str(first)).json
    assert other["moved_bytes"] == other["moved_experts"] * 2 * 2**20
    few = command(*line, "--load", str(loads / "then.npy"), "--previous", str(first), "--most-moved", "8MiB").json
    assert few["moved_bytes"] <= 8 * 2**20
    assert few["max_over_mean"] >= other["max_over_mean"]


def test_every_layer_has_its_own_placement(loads):
    found = tundish.place(experts=32, devices=8, slots=40, load=loads / "layers.npy", output=loads / "all.json")
    assert np.shape(found["assignment"]) == (3, 8, 5) and found["layers"] == 3
    assert found["max_over_mean"] == max(row["max_over_mean"] for row in found["by_layer"])
    again = tundish.place(experts=32, devices=8, slots=40, load=loads / "layers.npy", previous=loads / "all.json")
    assert again["moved_experts"] == 0


def test_no_load_is_an_even_one(command: Command):
    told = command(*LINE)
    assert told.code == 0 and "every expert is taken" in told.err
    assert tundish.place(experts=32, devices=8, slots=40)["max_over_mean"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("words", "parts"), [
    (("--slots", "30"), ["slots are a multiple of devices"]),
    (("--slots", "16"), ["32 experts do not fit into 16 slots", "at least 32"]),
    (("--load", "{tmp}/none.npy"), ["none.npy is no .npy file"]),
    (("--load", "{tmp}/wrong.npy"), ["[31], 32 experts"]),
    (("--load", "{tmp}/nan.npy"), ["nan for expert 3"]),
    (("--load", "{tmp}/pickle.npy"), ["no .npy file"]),
    (("--objective", "speed"), ["no objective 'speed'"]),
    (("--objective", "experts"), ["--top-k"]),
    (("--top-k", "33"), ["--top-k 33 of 32 experts"]),
    (("--previous", "{tmp}/none.json"), ["none.json is no placement"]),
    (("--previous", "{tmp}/other.json"), ["other devices"]),
    (("--previous", "{tmp}/words.json"), ["no assignment"]),
    (("--expert-bytes", "many"), ["--expert-bytes takes a size"]),
    (("--nodes", "3"), ["devices are a multiple of nodes"]),
])  # fmt: skip
def test_what_cannot_be_is_told_in_one_line(command: Command, tmp_path, words, parts):
    np.save(tmp_path / "wrong.npy", np.ones(31))
    np.save(tmp_path / "nan.npy", np.where(np.arange(32) == 3, np.nan, 1.0))
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "other.json").write_text('{"assignment": [[0, 1], [2, 3]]}')
    (tmp_path / "words.json").write_text('{"assignment": [["a"], [1, 2]]}')
    refused(command(*LINE, *(w.format(tmp=tmp_path) for w in words)), *parts)
