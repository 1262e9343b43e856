"""Runs a bundle's device code. Needs numpy and the driver, or another device that does what `driver.Driver` does."""

from __future__ import annotations

import ctypes
import math
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....compiler.hardware.gpus import GPUS
from ....ir.diagnostics import LoadError, RunError
from ....ir.weights import TensorFile
from ...base import Arrays, Bound, Built, KernelTime, Profiled
from ...options import TvmBody, TvmOptions, typed
from ...signature import Signature, choose, known_entry
from ..runner import read_schedule
from ..schedule import Schedule
from .table import Array, Table

NAME = "kernel"  # of the function of each module
MOST_KEPT = 16  # tables of different sizes that an entry keeps


class CudaRunner:
    """An opened library of device code. device: the first GPU, where none is given."""

    def __init__(self, built: Built, device: Any = None) -> None:
        if device is None:
            from .driver import driver

            device = driver()
        self.built, self.device = built, device
        self._body = _fitting(typed(built.options, TvmOptions), device)
        self._variants = self._body.variants()
        self._code = TensorFile(built.folder / self._body.library)
        self._weights = _Weights(TensorFile(built.weights), device)
        self._functions: dict[str, Any] = {}
        self._entries: dict[str, _Entry] = {}
        self._shared: dict[int, int] = {}  # address -> bytes of arrays that the device sees too
        self.busy = threading.Lock()

    def _entry(self, entry: str, sizes: Mapping[str, int]) -> _Entry:
        variants = self._variants[entry]
        file = variants[choose(variants, sizes)].function
        if file not in self._entries:
            schedule = self._schedule(file)
            for name, launch in schedule.launches.items():
                if name not in self._functions:
                    self._functions[name] = self.device.function(self._code[name].tobytes(), NAME, launch.shared)
            self._entries[file] = _Entry(self, schedule, self.built.entries[entry])
        return self._entries[file]

    def _schedule(self, file: str) -> Schedule:
        """Raises: LoadError on one that speaks of what is not there."""
        schedule = read_schedule(self.built.folder / file)
        called = {c.kernel for c in schedule.calls}
        odd = called - set(schedule.launches) | called - set(self._code)
        places = {"arena": len(schedule.buffers), "constant": len(schedule.constants)}
        for arg in (a for c in schedule.calls for a in c.args):
            inside = arg.name.isdigit() and int(arg.name) < places.get(arg.kind, 0)
            if arg.kind == "scratch" or (arg.kind in places and not inside):
                odd.add(f"{arg.kind} {arg.name}"[:60])
        if odd:
            raise LoadError(f"{file} is broken", found=", ".join(sorted(odd))[:200])
        return schedule

    def run(self, entry: str, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Runs an entry once. Raises: RunError."""
        signature = known_entry(entry, self.built.entries)
        names, sizes = signature.select(outputs), signature.bind(inputs)
        held = {name: np.array(inputs[name], order="C") for name in signature.aliases.values()}
        answers = self._run(entry, {**inputs, **held}, sizes, held)
        answers |= {out: held[name] for out, name in signature.aliases.items()}
        return {name: answers[name] for name in names}

    def _run(
        self, entry: str, inputs: Arrays, sizes: Mapping[str, int], held: Arrays
    ) -> dict[str, np.ndarray]:  # fmt: skip
        with self.busy:
            self.device.enter()
            return self._entry(entry, sizes).run(inputs, sizes, held)

    def bind(self, entry: str, held: Arrays) -> Bound:
        """An entry that writes over these arrays; those that `zeros` made stay on the device. Raises: RunError."""
        signature = known_entry(entry, self.built.entries)
        signature.sizes_of(held)
        arrays = {name: held[name] for name in signature.aliases.values()}
        odd = [n for n, a in arrays.items() if not (a.flags.c_contiguous and a.flags.writeable)]
        if odd:
            raise RunError(f"{odd[0]!r} cannot be written over in place", hint="give a contiguous, writeable array")
        return _Bound(self, entry, signature, arrays)

    def zeros(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """An array that the device reads and writes where it lies."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not size:
            return np.zeros(shape, dtype)
        self.device.enter()
        address = self.device.allocate(size, managed=True)
        raw = (ctypes.c_uint8 * size).from_address(address)
        self._shared[address] = size
        weakref.finalize(raw, _release, self.device, address, self._shared)
        array = np.frombuffer(raw, np.uint8).view(dtype).reshape(shape)
        array[...] = 0
        return array

    def sees(self, array: np.ndarray) -> bool:
        """Whether the device sees an array's memory."""
        start, end = array.ctypes.data, array.ctypes.data + array.nbytes
        return array.flags.c_contiguous and any(a <= start and end <= a + n for a, n in self._shared.items())

    def profile(self, entry: str, inputs: Arrays, *, warmup: int, repeats: int) -> Profiled:
        """Runs an entry at once, and kernel by kernel with the device's clock between. Raises: RunError."""
        signature = known_entry(entry, self.built.entries)
        sizes = signature.bind(inputs)
        given = {name: np.array(a, order="C") for name, a in inputs.items()}
        totals, profiled, runs = [], [], []
        with self.busy:
            self.device.enter()
            one = self._entry(entry, sizes)
            for i in range(warmup + repeats):
                start = time.perf_counter()
                one.run(given, sizes, {})
                total = time.perf_counter() - start
                start = time.perf_counter()
                kernels = one.timed(given, sizes)
                seconds = time.perf_counter() - start
                if i >= warmup:
                    totals.append(total)
                    profiled.append(seconds)
                    runs.append(kernels)
        variants = self._variants[entry]
        function = self._body.functions[variants[choose(variants, sizes)].function]
        return Profiled(function, tuple(totals), tuple(profiled), tuple(runs))

    def function(self, name: str) -> Any:
        """A loaded kernel."""
        return self._functions[name]

    def weight(self, name: str) -> int:
        """A weight's address on the device."""
        return self._weights.address(name)

    def close(self) -> None:
        """Frees what it holds of the device."""
        for entry in self._entries.values():
            entry.close()
        self._entries.clear()
        self._weights.close()


def _release(device: Any, address: int, shared: dict[int, int]) -> None:
    shared.pop(address, None)
    device.free(address)


def _fitting(options: TvmOptions, device: Any) -> TvmBody:
    """The code for this GPU. Raises: LoadError where there is none."""
    for body in reversed(options.bodies):
        if any(GPUS[name].runs_on(device.compute) for name in body.features if name in GPUS):
            return body
    major, minor = device.compute
    have = ", ".join(sorted(f for b in options.bodies for f in b.features))
    raise LoadError(f"the bundle holds no code for this GPU: {device.name}",
                    found=f"code for {have}, a chip of compute capability {major}.{minor}",
                    hint="compile it for this one")  # fmt: skip


class _Weights:
    """The weights on the device, each copied there when it is first asked for."""

    def __init__(self, file: TensorFile, device: Any) -> None:
        self._file, self._device = file, device
        self._held: dict[str, int] = {}

    def address(self, name: str) -> int:
        if name not in self._held:
            array = self._file[name]
            self._held[name] = self._device.allocate(max(1, array.nbytes))
            self._device.write(self._held[name], array.ctypes.data, array.nbytes)
        return self._held[name]

    def close(self) -> None:
        for address in self._held.values():
            self._device.free(address)
        self._held.clear()


class _Bound:
    """An entry on arrays that it writes over."""

    def __init__(self, runner: CudaRunner, entry: str, signature: Signature, held: Arrays) -> None:
        self._runner, self._entry, self._signature, self._held = runner, entry, signature, held
        self._known = signature.sizes_of(held)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """One run. Raises: RunError."""
        sizes = self._signature.sizes_of(inputs, self._known)
        missing = [s.name for s in self._signature.inputs if s.name not in inputs and s.name not in self._held]
        if missing:
            raise RunError(f"input {missing[0]!r} is missing")
        return self._runner._run(self._entry, {**inputs, **self._held}, sizes, self._held)


class _Entry:
    """One variant: its tables by sizes, and the block of device memory that they share."""

    def __init__(self, runner: CudaRunner, schedule: Schedule, signature: Signature) -> None:
        self._runner, self._device = runner, runner.device
        self.schedule, self.signature = schedule, signature
        self._tables: dict[tuple[int, ...], Table] = {}
        self._graphs: dict[tuple[int, ...], Any] = {}
        self._block, self._bytes = 0, 0
        self._settled: tuple[int, ...] | None = None  # the sizes of the run before, where nothing moved in it
        self._last: tuple[int, ...] | None = None  # those of the last that was prepared

    def _table(self, sizes: Mapping[str, int]) -> Table:
        key = tuple(sizes.values())
        if key not in self._tables:
            if len(self._tables) >= MOST_KEPT:
                oldest = next(iter(self._tables))
                self._tables.pop(oldest)
                self._forget(oldest)
            self._tables[key] = Table(self.schedule, self.signature, sizes, self._runner.weight)
        return self._tables[key]

    def _forget(self, key: tuple[int, ...]) -> None:
        if key in self._graphs:
            self._device.forget(self._graphs.pop(key))

    def _prepared(self, inputs: Arrays, sizes: Mapping[str, int]) -> Table:
        """The table, pointed to the device's memory, in which the inputs are."""
        table, key = self._table(sizes), tuple(sizes.values())
        if table.bytes > self._bytes:
            self._free()
            self._block, self._bytes = self._device.allocate(table.bytes), table.bytes
        seen = {n: a.ctypes.data for n, a in inputs.items() if n in table.inputs and self._stays(n, a, table.inputs[n])}
        new = table.base != self._block
        if table.place(self._block, seen):
            self._forget(key)
            self._settled = None
        if new or self._last != key:  # another table may have written where the constants lie
            self._device.write(self._block + table.constants_at, table.constants.ctypes.data, table.constants.nbytes)
            zero = np.zeros(1, np.int64)
            self._device.write(self._block + table.report, zero.ctypes.data, 8)
            self._device.wait()
        self._last = key
        for name, array in table.inputs.items():
            if name not in seen:
                self._send(inputs[name], array)
        return table

    def _stays(self, name: str, array: np.ndarray, wanted: Array) -> bool:
        return name in self.signature.aliases.values() and array.dtype == wanted.dtype and self._runner.sees(array)

    def _send(self, given: np.ndarray, array: Array) -> None:
        given = np.ascontiguousarray(given, array.dtype)
        self._device.write(self._block + array.offset, given.ctypes.data, array.bytes)

    def run(self, inputs: Arrays, sizes: Mapping[str, int], held: Arrays) -> dict[str, np.ndarray]:
        """One run; `held` are written over, where they lie or by a copy of what the device wrote."""
        table, key = self._prepared(inputs, sizes), tuple(sizes.values())
        self._start(table, key)
        outputs = {name: np.empty(a.shape, a.dtype) for name, a in table.outputs.items()}
        for name, array in table.outputs.items():
            self._device.read(outputs[name].ctypes.data, self._block + array.offset, array.bytes)
        for name, given in held.items():
            if not self._stays(name, given, table.inputs[name]):
                array = table.inputs[name]
                self._device.read(given.ctypes.data, self._block + array.offset, array.bytes)
        self._check(table)
        return outputs

    def _start(self, table: Table, key: tuple[int, ...]) -> None:
        """Launches all. What ran before with everything in the same place is recorded, and run as a whole from then."""
        if key in self._graphs:
            self._device.replay(self._graphs[key])
            return
        if self._settled == key:
            self._device.begin()
            self._launch(table)
            self._graphs[key] = self._device.end()
            self._device.replay(self._graphs[key])
            return
        self._launch(table)
        self._settled = key

    def _launch(self, table: Table) -> None:
        for ready in table.launches:
            self._one(table, ready)

    def _one(self, table: Table, ready: Any) -> None:
        kernel = ready.call.kernel
        launch = self.schedule.launches[kernel]
        self._device.launch(self._runner.function(kernel), ready.grid, launch.threads, launch.shared,
                            table.words.ctypes.data + 8 * ready.first, ready.count)  # fmt: skip

    def _check(self, table: Table) -> None:
        """Waits. Raises: RunError for an index that a kernel found outside."""
        found = np.zeros(1, np.int64)
        self._device.read(found.ctypes.data, self._block + table.report, 8)
        self._device.wait()
        if not found[0]:
            return
        call = self.schedule.calls[int(found[0]) - 1]
        found[0] = 0
        self._device.write(self._block + table.report, found.ctypes.data, 8)
        self._device.wait()
        which = f"{call.kernel.rpartition('_')[0]}, node {', '.join(call.keys)}"
        raise RunError("an index is outside of what is looked up by it", found=which, hint="look at the ids given")

    def timed(self, inputs: Arrays, sizes: Mapping[str, int]) -> tuple[KernelTime, ...]:
        """Each kernel's seconds by the device's clock."""
        table = self._prepared(inputs, sizes)
        marks = [self._device.mark()]
        for ready in table.launches:
            self._one(table, ready)
            marks.append(self._device.mark())
        self._check(table)
        found, at = [], 0.0
        for ready, first, second in zip(table.launches, marks, marks[1:], strict=False):
            seconds, keys = self._device.between(first, second), ready.call.keys
            found.append(KernelTime(keys[0] if keys else "", ready.call.kernel, at, seconds, tuple(keys)))
            at += seconds
        self._device.drop(marks)
        return tuple(found)

    def _free(self) -> None:
        for key in list(self._graphs):
            self._forget(key)
        self._settled = None
        if self._block:
            self._device.free(self._block)
        self._block = self._bytes = 0
        self._last = None

    def close(self) -> None:
        self._free()
        self._tables.clear()
