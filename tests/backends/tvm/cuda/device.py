"""A GPU that is simulated: what `driver.Driver` does, on this machine's memory and by `simulate`."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tundish.backends.base import Built, Runner, Say
from tundish.backends.bundle_write import build_files
from tundish.backends.signature import signatures
from tundish.backends.tvm.backend import Tvm
from tundish.backends.tvm.cuda.build import DEVICE, body
from tundish.backends.tvm.cuda.library import Source
from tundish.backends.tvm.cuda.runner import CudaRunner
from tundish.backends.tvm.schedule import Launch
from tundish.compiler.hardware.gpus import GPUS, Gpu
from tundish.compiler.plan import Plan

from .simulate import FORWARD, launch

GUARD = 4096  # bytes on both sides of what is allocated, which no kernel may write
POISON = 0xFF  # of every byte of fresh memory: floats are nan, whole numbers -1


class Simulated:
    """order: of a block's threads. graphs: how many were replayed. managed: bytes that the host was given to see."""

    name = "a simulated GPU"

    def __init__(self, gpu: Gpu = GPUS["sm90"], order: int = FORWARD) -> None:
        self.compute, self.order, self.graphs, self.managed = gpu.compute, order, 0, 0
        self._memory: dict[int, np.ndarray] = {}
        self._recorded: list[Callable[[], None]] | None = None

    def enter(self) -> None:
        pass

    def function(self, code: bytes, name: str, shared: int) -> Source:
        text = json.loads(code)
        assert shared <= 227 << 10
        return Source(text["text"], Launch(text["threads"], text["shared"]), text["parameters"])

    def allocate(self, size: int, *, managed: bool = False) -> int:
        memory = np.full(size + 2 * GUARD + 256, POISON, np.uint8)
        self.managed += size * managed
        start = memory.ctypes.data + GUARD
        start += -start % 256
        self._memory[start] = memory
        return start

    def free(self, address: int) -> None:
        self.check()
        del self._memory[address]

    def check(self) -> None:
        """Raises: AssertionError where a kernel wrote outside of what was allocated."""
        for address, memory in self._memory.items():
            lead = address - memory.ctypes.data
            assert (memory[:lead] == POISON).all(), "a kernel wrote before an array"
            assert (memory[-GUARD:] == POISON).all(), "a kernel wrote after an array"

    def write(self, address: int, source: int, size: int) -> None:
        assert self._recorded is None
        ctypes.memmove(address, source, size)

    def read(self, target: int, address: int, size: int) -> None:
        assert self._recorded is None
        ctypes.memmove(target, address, size)

    def launch(self, function: Source, grid: int, threads: int, shared: int, words: int, count: int) -> None:
        assert (threads, shared) == (function.launch.threads, function.launch.shared)
        assert count == function.parameters
        given = np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(words)).copy()
        if self._recorded is not None:
            self._recorded.append(lambda: launch(function, grid, given, self.order))
        else:
            launch(function, grid, given, self.order)

    def wait(self) -> None:
        self.check()

    def begin(self) -> None:
        self._recorded = []

    def end(self) -> Any:
        done, self._recorded = self._recorded, None
        return done

    def replay(self, graph: Any) -> None:
        self.graphs += 1
        for run in graph:
            run()

    def forget(self, graph: Any) -> None:
        pass

    def mark(self) -> float:
        return time.perf_counter()

    def drop(self, marks: Any) -> None:
        pass

    def between(self, first: float, second: float) -> float:
        return second - first


def texts(found: Mapping[str, Source], gpu: Gpu, say: Say | None = None) -> dict[str, bytes]:
    """The kernels' texts in place of device code."""
    return {
        n: json.dumps({"text": s.text, "threads": s.launch.threads, "shared": s.launch.shared,
                       "parameters": s.parameters}).encode()
        for n, s in found.items()
    }


class Simulating(Tvm):
    """The TVM backend for a GPU whose code is run by simulation."""

    def __init__(self, gpu: Gpu = GPUS["sm90"], order: int = FORWARD) -> None:
        self.gpu, self.device = gpu, Simulated(gpu, order)

    @cached_property
    def target(self) -> str:
        return f"cuda-{self.gpu.name}"

    def build(self, plan: Plan, out: Path, weights: Path, progress: Say | None = None) -> Built:
        bodies = [body(plan, self.gpu, out, progress, texts)]
        return Built(out, weights, signatures(plan), {"device": DEVICE, "bodies": bodies})

    def open(self, built: Built, *, threads: int | None = None) -> Runner:
        return CudaRunner(built, self.device)

    def opened(self, plan: Plan, folder: Path) -> Runner:
        return self.open(build_files(plan, self, folder))
