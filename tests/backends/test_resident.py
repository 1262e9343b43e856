"""Experts of a file larger than memory: the same numbers as from memory, and no byte read that was not counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from routing_kit import routed

import tundish
from tundish.backends.resident import ALIGNMENT, ResidentExperts, write_expert_file
from tundish.compiler.experts.residency import (
    LookAhead,
    Policy,
    Slots,
    accesses_of,
    least_reads,
    plan_residency,
    reads,
)
from tundish.ir.diagnostics import LoadError, TundishError

SMALL = 5000  # bytes of an expert, which is no multiple of a page


def small(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(e).integers(0, 256, SMALL, np.uint8) for e in range(count)]


@pytest.fixture
def file(tmp_path) -> tuple[Path, int]:
    path = tmp_path / "experts.bin"
    return path, write_expert_file(path, small(16))


@pytest.mark.parametrize("policy", [Policy, LookAhead])
@pytest.mark.parametrize("pinned", [(), (3, 9)])
def test_each_expert_is_what_was_written(file, policy, pinned):
    path, each = file
    assert each == 2 * ALIGNMENT
    accesses, _ = accesses_of(routed(layers=2, experts=8, tokens=40))
    with ResidentExperts(path, each, Slots(5, policy(), pinned)) as held:
        for expert in accesses:
            assert held.expert(expert)[:SMALL].tobytes() == small(16)[expert].tobytes()
        assert held.reads == reads(accesses, Slots(5, policy(), pinned))
        assert held.read_bytes == held.reads * each


@pytest.mark.parametrize(("each", "problem"), [(5000, "multiple of 4096"), (12288, "does not hold experts of 12288")])
def test_a_file_that_cannot_be_is_refused(file, each, problem):
    with pytest.raises(LoadError, match=problem):
        ResidentExperts(file[0], each, Slots(2, Policy()))


def test_what_is_not_there_is_refused(file, tmp_path):
    with pytest.raises(LoadError, match="none.bin cannot be read"):
        ResidentExperts(tmp_path / "none.bin", 4096, Slots(2, Policy()))
    with ResidentExperts(*file, Slots(2, Policy())) as held, pytest.raises(LoadError, match="holds 16 experts"):
        held.expert(16)
    with pytest.raises(TundishError, match="of one size"):
        write_expert_file(tmp_path / "x.bin", [np.zeros(9), np.zeros(9000)])


# -- for real: 2 GiB of experts under a limit of 1 GiB --------------------------------------------------

WIDTH, INNER, AHEAD, TOKENS = 1024, 2730, 16, 96
EACH, LIMIT, ROOM = 32 << 20, 1 << 30, 704 << 20

CHILD = """
import hashlib, json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]),) * 2)
from pathlib import Path
import numpy as np
from tundish.backends.resident import ResidentExperts
from tundish.compiler.experts.residency import accesses_of, counts_of, plan_residency
from tundish.compiler.experts.routing import read_routing

def from_disk():
    return dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())["read_bytes"]

routing, (width, inner, each, room, ahead) = read_routing(Path(sys.argv[2])), map(int, sys.argv[4:9])
plan = plan_residency(routing, each, room, policy="look-ahead", ahead=ahead)
accesses, tokens = accesses_of(routing)
digest, end, before = hashlib.sha256(), 0, int(from_disk())
with ResidentExperts(Path(sys.argv[1]), each, plan.slots_of(counts_of(routing))) as held:
    for i, expert in enumerate(accesses):
        first = end
        while end < len(accesses) and tokens[end] <= tokens[i] + ahead:
            end += 1
        held.slots.policy.learn(accesses[first:end])
        weights = held.expert(expert).view(np.float32)
        x = np.cos(np.arange(width, dtype=np.float32) * (1 + tokens[i]))
        gate, up = (weights[: 2 * width * inner].reshape(2, width, inner)[j] for j in (0, 1))
        h = x @ gate
        y = (h / (1 + np.exp(-h)) * (x @ up)) @ weights[2 * width * inner : 3 * width * inner].reshape(inner, width)
        digest.update(y.tobytes())
        del weights, gate, up
    told = held.read_bytes
print(json.dumps({"digest": digest.hexdigest(), "counted": told, "from_disk": int(from_disk()) - before,
                  "predicted": plan.bytes_per_token * plan.tokens, "least": plan.least_bytes_per_token * plan.tokens}))
"""


def large() -> Iterator[np.ndarray]:
    """64 experts of 32 MiB."""
    block = np.random.default_rng(0).standard_normal(EACH // 4, np.float32) * np.float32(0.02)
    for expert in range(64):
        yield np.roll(block, 4099 * expert)


def child(file: Path, routing: Path, limit: int, room: int) -> dict[str, object]:
    paths = os.pathsep.join([str(Path(tundish.__file__).parent.parent), *(p for p in sys.path if p)])
    words = [str(w) for w in (file, routing, limit, WIDTH, INNER, EACH, room, AHEAD)]
    done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twice_the_memory_of_experts_by_real_routing(tmp_path):
    """What the system says was read is near the optimum, as predicted, and answers are those of a run with all."""
    pytest.importorskip("torch")
    file, routing = tmp_path / "experts.bin", tmp_path / "routing.json"
    text = Path(tundish.__file__).parent / "models" / "shakespeare" / "heldout.txt"
    tundish.record_routing("shakespeare-moe", text=text, tokens=TOKENS).save(routing)
    try:
        assert write_expert_file(file, large()) == EACH and file.stat().st_size == 2 << 30
        few = child(file, routing, LIMIT, ROOM)
        if not few["from_disk"]:
            pytest.skip("this file system's reads are not counted as the disk's")
        assert few["counted"] <= few["from_disk"] <= 1.01 * few["counted"]
        assert few["counted"] == pytest.approx(few["predicted"])
        assert few["from_disk"] <= 1.3 * few["least"]
        all_fit = child(file, routing, 4 << 30, 2 << 30)
        assert all_fit["counted"] < few["counted"] and all_fit["digest"] == few["digest"]
        print({k: v for k, v in few.items() if k != "digest"})
    finally:
        file.unlink(missing_ok=True)


def test_the_plan_of_the_real_run_is_near_the_optimum():
    """The same arithmetic without the disk, on drawn routing of that shape."""
    routing = routed(layers=4, experts=16, tokens=200)
    accesses, _ = accesses_of(routing)
    plan = plan_residency(routing, EACH, ROOM, policy="look-ahead", ahead=AHEAD)
    assert plan.slots == 22
    assert plan.bytes_per_token * 200 <= 1.3 * EACH * least_reads(accesses, 22)
