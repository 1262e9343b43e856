"""`tundish bench` on real peers: what it prints, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli_kit import Command, command, made, refused  # noqa: F401

import tundish

KEYS = {"name", "median_ms", "iqr_ms", "ratio", "clean_rounds", "max_abs_difference", "compile_s", "peak_bytes"}


def test_a_bundle_beside_the_model_whose_name_it_bears(command: Command, made: Path) -> None:
    told = command("bench", made / "bert.tundish", "--peers", "torch", "--rounds", 1, "--seq", 16, "--json")
    assert told.code == 0, told.err
    ours, torch = told.json["rows"]
    assert set(ours) >= KEYS and set(torch) >= KEYS
    assert 0 < torch["max_abs_difference"] < 1e-4 and torch["same_answer"] and ours["same_answer"]
    assert ours["ratio"] == 1.0 and torch["peak_bytes"] > ours["peak_bytes"]  # it need not open torch
    assert any("taken to be the model named bert-tiny" in note for note in told.json["notes"])
    assert told.json["shapes"]["input_ids"] == [1, 16]


def test_a_bundle_against_an_onnx_file(command: Command, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "bert.tundish", tmp_path / "b")
    tundish.export(made / "bert.tir", tmp_path / "bert.onnx", seq="1..32", batch="1..4")
    told = command("bench", "b", "--against", "bert.onnx", "--peers", "onnxruntime,torch", "--rounds", 1, "--json")
    assert told.code == 0, told.err
    ours, runtime, torch = told.json["rows"]
    assert torch == {"name": "torch", "cannot": "takes a torch module, and this is an ONNX file"}
    assert runtime["same_answer"] and ours["same_answer"] and runtime["median_ms"] > 0
    assert told.json["shapes"]["input_ids"] == [1, 32]  # as long as the bundle takes


def test_a_bundle_without_its_original(command: Command, made: Path) -> None:
    assert command("compile", made / "bert.tir", "-o", "x.tundish").code == 0
    told = command("bench", "x.tundish", "--peers", "torch,openvino", "--rounds", 1)
    assert told.code == 0, told.err
    assert told.out.count("give it with --against") == 2 and "tundish" in told.out


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("bench bert-tiny --peers torch,frob", ["there is no peer 'frob'"]),
        ("bench bert-tiny --peers torch,", ["there is no peer ''"]),
        ("bench bert-tiny --against gpt2-tiny", ["--against names the original of a bundle"]),
        ("bench bert-tiny --threads 4000", ["cores for this process", "--threads 4000"]),
        ("bench bert-tiny --past 4", ["a prefill has no past", "--phase decode"]),
        ("bench bert-tiny --phase frob", ["there is no phase 'frob'"]),
        ("bench bert-tiny --phase generate", ["there is no phase 'generate'", "one of prefill, decode"]),
        ("bench bert-tiny --seq 65", ["bert-tiny takes at most 64 positions"]),
        ("bench bert-tiny --phase decode", ["does not generate text"]),
        ("bench no-such-model", ["is no model"]),
        ("bench bert-tiny --write .", ["is a folder"]),
        ("bench bert-tiny --write no/such.md", ["there is no folder no"]),
        ("bench {made}/bert.tir", ["holds no original"]),
        ("bench {made}/bert.tundish --phase decode", ["compiled for prefill"]),
        ("bench {made}/bert.tundish --task masked-lm", ["has its head already"]),
        ("bench {made}/bert.tundish --against gpt2-tiny", ["their inputs differ"]),
        ("bench {made}/bert.tundish --peers torch --seq 33", ["seq is 33, outside 1..32"]),
    ],
)
def test_refusals(command: Command, made: Path, line: str, parts: list[str]) -> None:
    refused(command(*line.format(made=made).split()), *parts)


PEERS = "torch,torch-compile,aoti,aoti-static,onnxruntime,ort-optimizer,transformers-onnx,openvino"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("more", [["bert-tiny"], ["gpt2-tiny", "--phase", "decode", "--past", "20"], ["vit-tiny"]])
def test_every_peer_gives_the_same_answer(command: Command, more: list[str]) -> None:
    told = command("bench", *more, "--peers", PEERS, "--rounds", 2, "--json")
    assert told.code == 0, told.err
    rows = {row["name"]: row for row in told.json["rows"]}
    for name in ("torch", "torch-compile", "aoti", "aoti-static", "onnxruntime", "openvino"):
        assert rows[name].get("same_answer"), rows[name]
    for row in rows.values():
        assert row.get("same_answer") or row["cannot"], row
