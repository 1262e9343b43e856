from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tundish.ir.diagnostics import TundishError
from tundish.profiler import compare, quiet
from tundish.profiler.answers import Reference
from tundish.profiler.compare import Contest, compare_peers
from tundish.profiler.peers import ALIASES, OURS, PEERS, Peer, cannot, chosen
from tundish.profiler.rounds import Slot
from tundish.profiler.workers import Worker

INPUTS = {"x": np.ones((2, 3), np.float32)}
WANTED = Reference("the original", {"hidden": np.full((2, 3), 7.0, np.float32)})
KEYS = ["name", "median_ms", "iqr_ms", "ratio", "clean_rounds", "max_abs_difference", "compile_s", "peak_bytes"]


def _odd(name: str) -> Peer:
    return Peer(f"odd_peers:{name}", {"torch": None})


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Races competitors of tests/odd_peers.py against `well` in our place."""

    def run(*names: str, **options: Any) -> dict[str, dict[str, Any]]:
        for name in names:
            monkeypatch.setitem(PEERS, name, _odd(name))
        contest = Contest("the model", INPUTS, {"form": "torch"}, WANTED)
        made = compare_peers(contest, [OURS, *names], rounds=1, threads=1, **options)
        return {row["name"]: row for row in made["rows"]}

    monkeypatch.setitem(PEERS, OURS, _odd("well"))
    return run


def test_peers_that_cannot_say_why_and_the_others_are_timed(race: Any) -> None:
    rows = race("wrong", "dies", "complains", "dies_later")
    assert list(rows[OURS])[: len(KEYS)] == KEYS
    assert rows[OURS]["ratio"] == 1.0 and rows[OURS]["max_abs_difference"] == 0.0 and rows[OURS]["same_answer"]
    assert rows["dies"] == {"name": "dies", "cannot": "the process ended by SIGSEGV: something broke"}
    assert rows["complains"] == {"name": "complains", "cannot": "ValueError: it does not like"}
    assert rows["dies_later"] == {"name": "dies_later", "cannot": "the process ended with code 3"}
    assert rows["wrong"]["max_abs_difference"] == 0.5 and not rows["wrong"]["same_answer"]
    assert "hidden differs from the original by 0.5 where" in rows["wrong"]["note"]
    assert rows[OURS]["clean_rounds"] + rows[OURS]["dropped_rounds"] >= 1
    assert rows["wrong"]["peak_bytes"] > 1 << 20


def test_a_peer_of_few_bits_is_held_beside_ours_of_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each round's own ratio, 3 over 2; where ours of as many bits did not run, nothing is said."""
    monkeypatch.setitem(PEERS, "alike", Peer("odd_peers:well", {"torch": None}, weights="int8", like="narrow"))
    ran = [{"alike": Slot(3.0 * i, 0.0), "narrow": Slot(2.0 * i, 0.0)} for i in (1, 2, 4)]
    said = compare._beside_like("alike", ran, 3)
    assert said == "1.50 times narrow, which holds weights in as many bits (IQR 0.00)"
    assert not compare._beside_like("alike", [{"alike": Slot(3.0, 0.0)}], 1)
    assert not compare._beside_like("torch", ran, 3)


def test_ours_that_cannot_is_an_error(race: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, OURS, _odd("complains"))
    with pytest.raises(TundishError, match="the model cannot be timed: ValueError: it does not like"):
        race("wrong")


def test_a_machine_without_memory_for_one_more_is_told(race: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1 << 40])  # for ours
    monkeypatch.setattr(compare, "available_memory_bytes", lambda: next(free, 1 << 10))
    assert "of memory, and 1.0 KiB are free" in race("well")["well"]["cannot"]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Any]:
    np.savez(tmp_path / "inputs.npz", **INPUTS)
    opened: list[Worker] = []

    def open_one(name: str, limit_s: float) -> Worker:
        job = {"peer": name, "kind": f"odd_peers:{name}", "folder": str(tmp_path)}
        job |= {"inputs": str(tmp_path / "inputs.npz"), "answer": str(tmp_path / "answer.npz")}
        opened.append(Worker(job, limit_s))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_one_that_hangs_is_ended(worker: Any) -> None:
    hung = worker("hangs", 1.0)
    assert hung.ready == {"error": "gave no answer in 1 s and was ended"}
    hung.close()
    assert not Path(f"/proc/{hung.pid}").exists()


def test_one_that_waits_uses_no_cpu_even_if_its_threads_spin(worker: Any) -> None:
    waiting = worker("spins", 120.0)
    time.sleep(0.1)
    before = _used(waiting.pid)
    time.sleep(0.3)
    assert _used(waiting.pid) == before
    assert waiting.run(120.0)["ms"] >= 1.0
    assert _used(waiting.pid) > before


def _used(pid: int) -> int:
    """Ticks of CPU time. Source: proc_pid_stat(5), utime and stime."""
    columns = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(columns[11]) + int(columns[12])


def test_a_slot_lasts_long_enough_and_tells_its_load(worker: Any) -> None:
    answer = worker("well", 120.0).run(120.0)
    assert answer["runs"] * answer["ms"] >= 249 and set(answer["load"]) == set(quiet.Load.__slots__)


def test_names() -> None:
    for backend, other in (("onnxruntime", "tundish-tvm"), ("tvm", "tundish-ort")):
        beside = [name for name, peer in PEERS.items() if backend in peer.beside]
        assert chosen(None, "decode", backend) == beside
        assert chosen(None, backend=backend) == [n for n in beside if not PEERS[n].weights and not PEERS[n].decodes]
        assert {n for n in beside if n.startswith(other)} == {n for n in PEERS if n.startswith(other)}
    assert set(chosen(None, "decode")) | set(chosen(None, "decode", "tvm")) == set(PEERS)
    assert chosen(["torch"]) == [OURS, "torch"]
    assert chosen(["torch-onnx", "onnxruntime", "torch"]) == [OURS, "onnxruntime", "torch"]
    assert set(ALIASES.values()) <= set(PEERS)
    with pytest.raises(TundishError, match="there is no peer 'frob'"):
        chosen(["torch", "frob"])


def test_a_peer_that_does_not_take_the_form_or_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cannot("torch", "torch") is None and cannot("onnxruntime", "onnx") is None
    assert cannot("aoti", "onnx") == "takes a torch module, and this is an ONNX file"
    monkeypatch.setitem(PEERS, "absent", Peer("onnx", {"onnx": None}, ("no_such_module",)))
    assert "no_such_module is not installed" in (cannot("absent", "onnx") or "")
