"""A race of single kernels: each competitor's file in a process of its own, their answers held against ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler.hardware.machine import this_machine
from ..ir.build import Builder
from ..ir.diagnostics import RunError
from ..ir.dims import Range
from ..ir.dtypes import DTYPES, f32
from ..ir.graph import Graph, Program, Value
from ..ir.tensor import TensorType
from ..ir.weights import Held, Weight
from .answers import ANSWER, read_answer
from .openers import Arrays, Begin, Run
from .rounds import figures, race
from .workers import Worker

OURS, FILE = "ours", "ours.tundish"
TOLERANCE = 1e-4  # of numbers that are of the size of 1
_LIMIT_S = 300.0
_SLOT_S = 0.15
Peers = Mapping[str, tuple[str, str]]  # by name: the file's name, how it is opened


def compiled(
    path: Path, graph: Graph, symbols: Mapping[str, Range], weights: Mapping[str, np.ndarray], dtype: str = "f32",
    backend: str = "tvm",
) -> None:  # fmt: skip
    """A bundle of a graph, with weights in fp32 by their names; dtype: of the precision that is asked for."""
    from ..backends.bundle_write import write_bundle
    from ..backends.registry import get
    from ..compiler.driver import compile_program
    from ..compiler.task import Precision, Task

    held = {name: Weight(TensorType(f32, w.shape), Held(w)) for name, w in weights.items()}
    program = Program({"forward": graph}, ("forward",), held, dict(symbols))
    engine, machine = get(backend), this_machine()
    precision = Precision(weights=dtype, compute=dtype)
    plan = compile_program(program, Task(machine, engine.capabilities(machine), precision, program.symbols))
    write_bundle(path, plan, engine).close()


def weight(b: Builder, name: str, shape: tuple[int, ...]) -> Value:
    """A weight in a graph that is being built."""
    return b.emit_node("weight", (), {"name": name}, types=(TensorType(f32, shape),)).output


def ours(job: dict[str, Any], inputs: Arrays) -> Begin:
    """Opens our bundle."""
    from ..backends.bundle import open_bundle

    def begin() -> Run:
        bundle = open_bundle(Path(job["path"]), threads=job["threads"])
        kind = DTYPES[job["dtype"]].numpy
        given = {name: x.astype(kind) if x.dtype.kind == "f" else x for name, x in inputs.items()}

        def run() -> Any:
            found = bundle.run(given)
            return found.items

        return run

    return begin


OPENED_BY = f"{__package__}.kernel_race:ours"


def raced(
    folder: Path, peers: Peers, threads: int, rounds: int, count: int, say: Callable[[str], None],
    dtype: str = "f32", tolerance: float = TOLERANCE,
) -> dict[str, Any]:  # fmt: skip
    """{"ms" of one of `count` equal kernels, "clean", "rounds", "ratios": {peer: theirs / ours}}; inputs.npz lies in
    the folder, and is given in that type. tolerance: by which answers may differ from ours, of numbers of the size of
    1. Raises: RunError where one does not run, or answers something else."""
    from .host_lock import measuring_alone

    cpus = sorted(os.sched_getaffinity(0))[:threads]
    with _opened(folder, peers, threads, cpus, dtype, tolerance) as workers, measuring_alone(say):
        live = {name: (worker, float(worker.ready["run_s"])) for name, worker in workers.items()}
        ran, failed = race(live, OURS, rounds, threads, cpus)
    if failed:
        raise RunError("a competitor ended", found=str(failed))
    found = {name: figures(ran, name, OURS, rounds) for name in workers}
    return {
        "ms": found[OURS]["median_ms"] / count, "clean": found[OURS]["clean_rounds"], "rounds": len(ran),
        "ratios": {name: found[name]["ratio"] for name in workers if name != OURS},
    }  # fmt: skip


@contextmanager
def _opened(
    folder: Path, peers: Peers, threads: int, cpus: list[int], dtype: str, tolerance: float
) -> Iterator[Mapping[str, Worker]]:  # fmt: skip
    with ExitStack() as stack:
        workers, answers = {}, {}
        for name, (file, kind) in peers.items():
            own = folder / name.replace(" ", "-")
            own.mkdir(exist_ok=True)
            job = {
                "peer": own.name, "kind": kind, "path": str(folder / file), "threads": threads, "slot_s": _SLOT_S,
                "folder": str(own), "inputs": str(folder / "inputs.npz"), "answer": str(own / ANSWER),
                "environment": {"OMP_NUM_THREADS": str(threads)}, "dtype": dtype,
            }  # fmt: skip
            workers[name] = Worker(job, _LIMIT_S, cpus)
            stack.callback(workers[name].close)
            if "error" in workers[name].ready:
                raise RunError(f"{name} does not run", found=str(workers[name].ready["error"]))
            answers[name] = read_answer(own / ANSWER)[-1][1]
            found = answers[name].reshape(answers[OURS].shape)
            if not np.allclose(found, answers[OURS], atol=tolerance, rtol=min(tolerance, 1.0)):
                raise RunError(f"{name} gives another answer than ours")
        yield workers


def markdown(lines: list[dict[str, Any]]) -> list[str]:
    """Rows as a table."""
    keys = list(lines[0])
    return [
        "| " + " | ".join(keys) + " |", "|" + "---|" * len(keys),
        *("| " + " | ".join(str(line[key]) for key in keys) + " |" for line in lines),
    ]  # fmt: skip
