"""Runs a library's kernels. Needs numpy, tvm_ffi and TVM's run-time library: not its compiler."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from ...compiler.hardware.machine import this_machine
from ...compiler.passes.memory import ALIGN, placed
from ...ir import dims
from ...ir.diagnostics import LoadError, RunError
from ...ir.dtypes import DTYPES
from ...ir.weights import TensorFile
from ..base import Arrays, Bound, Built, KernelTime, Profiled
from ..options import TvmBody, TvmOptions, typed
from ..signature import Signature, choose, known_entry
from .results import Results
from .schedule import Arg, Schedule

RUNTIME = "libtvm_runtime.so"
_LAUNCHES = 9  # of kernels that do nothing, after each profiled run
MOST_KEPT = 16  # tables of different sizes that an entry keeps


class TvmRunner:
    """An opened library."""

    def __init__(self, built: Built, threads: int | None) -> None:
        self.built = built
        options = typed(built.options, TvmOptions)
        self._body = _fitting(options)
        self._variants = self._body.variants()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = threads or options.threads or cores
        self._library = _opened(built.folder / self._body.library, built.folder / RUNTIME, cores)
        self.threads = min(self.threads, _workers())
        self._weights = TensorFile(built.weights)
        self._entries: dict[str, _Entry] = {}

    def _entry(self, entry: str, sizes: Mapping[str, int]) -> _Entry:
        variants = self._variants[entry]
        variant = variants[choose(variants, sizes)]
        file = variant.function
        if file not in self._entries:
            schedule, signature = read_schedule(self.built.folder / file), self.built.entries[entry]
            seal = schedule.seal(signature, variant.guard, self._weights.header, self._body.features)
            try:
                run = self._library[seal]
            except AttributeError:
                raise LoadError(f"{self._body.library} has no function for {file} with these weights and inputs",
                                hint="the bundle was changed; compile it again") from None  # fmt: skip
            self._entries[file] = _Entry(schedule, signature, run, self._weights, self.threads)
        return self._entries[file]

    def run(self, entry: str, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Runs an entry once. Raises: RunError."""
        signature = known_entry(entry, self.built.entries)
        names, sizes = signature.select(outputs), signature.bind(inputs)
        if signature.aliases:
            held = {name: np.array(inputs[name], order="C") for name in signature.aliases.values()}
            answers = self._entry(entry, sizes).run({**inputs, **held}, sizes)
            answers |= {out: held[name] for out, name in signature.aliases.items()}
        else:
            answers = self._entry(entry, sizes).run(inputs, sizes)
        return {name: answers[name] for name in names}

    def bind(self, entry: str, held: Arrays) -> Bound:
        """An entry that writes over these arrays. Raises: RunError."""
        signature = known_entry(entry, self.built.entries)
        signature.sizes_of(held)
        arrays = {name: held[name] for name in signature.aliases.values()}
        odd = [n for n, a in arrays.items() if not (a.flags.c_contiguous and a.flags.writeable)]
        if odd:
            raise RunError(f"{odd[0]!r} cannot be written over in place", hint="give a contiguous, writeable array")
        return _Bound(self, entry, signature, arrays)

    def profile(self, entry: str, inputs: Arrays, *, warmup: int, repeats: int) -> Profiled:
        """Runs an entry in turns at once, and kernel by kernel with a clock between. Raises: RunError."""
        signature = known_entry(entry, self.built.entries)
        sizes = signature.bind(inputs)
        one = self._entry(entry, sizes)
        given = {name: np.array(a, order="C") for name, a in inputs.items()}
        totals, profiled, runs, launches = [], [], [], []
        for i in range(warmup + repeats):
            start = time.perf_counter()
            one.run(given, sizes)
            total = time.perf_counter() - start
            start = time.perf_counter()
            kernels, seconds, launch = one.timed(given, sizes, start)
            if i >= warmup:
                totals.append(total)
                profiled.append(seconds)
                runs.append(kernels)
                launches.append(launch)
        variants = self._variants[entry]
        function = self._body.functions[variants[choose(variants, sizes)].function]
        return Profiled(function, tuple(totals), tuple(profiled), tuple(runs), median(launches), _gap_s(runs))

    def close(self) -> None:
        """Forgets the entries; TVM keeps the library."""
        self._entries.clear()


def _fitting(options: TvmOptions) -> TvmBody:
    """The most able body that this CPU runs. Raises: LoadError where it runs none."""
    have = this_machine().features
    found = next((body for body in options.bodies if have >= set(body.features)), None)
    if found is None:
        raise LoadError("none of the bundle's libraries runs on this CPU", hint="compile it on, or for, this machine")
    return found


class _Bound:
    """An entry on arrays that it writes over."""

    def __init__(self, runner: TvmRunner, entry: str, signature: Signature, held: Arrays) -> None:
        self._runner, self._entry, self._signature, self._held = runner, entry, signature, held
        self._known = signature.sizes_of(held)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """One run. Raises: RunError."""
        sizes = self._signature.sizes_of(inputs, self._known)
        missing = [s.name for s in self._signature.inputs if s.name not in inputs and s.name not in self._held]
        if missing:
            raise RunError(f"input {missing[0]!r} is missing")
        return self._runner._entry(self._entry, sizes).run({**inputs, **self._held}, sizes)


class _Entry:
    """One variant: its tables by sizes, its arena."""

    def __init__(self, schedule: Schedule, signature: Signature, run: Any, weights: TensorFile, threads: int) -> None:
        self.schedule, self.signature, self._run, self._weights = schedule, signature, run, weights
        self._threads = threads
        self._tables: dict[tuple[int, ...], _Table] = {}
        self._arena = np.zeros(0, np.uint8)
        self._results = Results()
        self._state = aligned(16 * 8).view(np.int64)
        self._busy = threading.Lock()  # tables and the arena are of one run at a time

    def table(self, sizes: Mapping[str, int]) -> _Table:
        key = tuple(sizes.values())
        if key not in self._tables:
            if len(self._tables) >= MOST_KEPT:
                self._tables.pop(next(iter(self._tables)))
            self._tables[key] = _Table(self.schedule, self.signature, sizes, self._weights, self._threads)
        return self._tables[key]

    def _prepared(self, inputs: Arrays, sizes: Mapping[str, int]) -> tuple[_Table, dict[str, np.ndarray], list[Any]]:
        table = self.table(sizes)
        if table.arena_bytes > self._arena.size:
            self._arena = aligned(table.arena_bytes)
        outputs, keep = table.fill(inputs, self._arena, self._results)
        return table, outputs, keep

    def run(self, inputs: Arrays, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        with self._busy:
            table, outputs, keep = self._prepared(inputs, sizes)
            self._call(table, 0, len(self.schedule.calls))
            self._check(table)
        del keep
        return outputs

    def _check(self, table: _Table) -> None:
        """Raises: RunError for an index, or a place in a cache, that a kernel found outside."""
        if not table.report[0]:
            return
        call = self.schedule.calls[int(table.report[0]) - 1]
        table.report[0] = 0
        found = f"{call.kernel.rpartition('_')[0]}, node {', '.join(call.keys)}"
        raise RunError("an index or a position is outside of what it points into", found=found,
                       hint="look at the ids and positions given")  # fmt: skip

    def timed(
        self, inputs: Arrays, sizes: Mapping[str, int], began: float
    ) -> tuple[tuple[KernelTime, ...], float, float]:
        """(the kernels, the seconds of all since `began`, what it takes to begin and end one that does nothing)."""
        found, launches = [], []
        with self._busy:
            table, _, keep = self._prepared(inputs, sizes)
            for i, call in enumerate(self.schedule.calls):
                start = time.perf_counter()
                self._call(table, i, i + 1)
                seconds = time.perf_counter() - start
                key = call.keys[0] if call.keys else ""
                found.append(KernelTime(key, call.kernel, start - began, seconds, tuple(call.keys)))
            whole, end = time.perf_counter() - began, len(self.schedule.calls)
            self._check(table)
            for _ in range(_LAUNCHES):
                start = time.perf_counter()
                self._call(table, end, end)
                launches.append(time.perf_counter() - start)
        del keep
        return tuple(found), whole, median(launches)

    def _call(self, table: _Table, first: int, end: int) -> None:
        self._run(table.pointer, ctypes.c_void_p(self._state.ctypes.data), first, end, self._threads)


class _Table:
    """The words of one entry at some sizes: all but what changes from run to run is filled in once."""

    def __init__(
        self, schedule: Schedule, signature: Signature, sizes: Mapping[str, int], weights: TensorFile, threads: int
    ) -> None:
        self.signature, self.sizes = signature, sizes
        known = {**sizes}
        self.words = np.zeros(max(1, schedule.words), np.int64)
        self.pointer = ctypes.c_void_p(self.words.ctypes.data)
        lives = [(size_of(b.bytes, known), b.first, b.last) for b in schedule.buffers]
        offsets, arena = placed([(-(-n // ALIGN) * ALIGN, first, last) for n, first, last in lives])
        scratch = -(-size_of(schedule.scratch, known) // ALIGN) * ALIGN * threads
        self.arena_bytes = arena + scratch
        self._constants = [
            np.asarray([number_of(c.value, known)], DTYPES[c.dtype].numpy) for c in schedule.constants
        ]  # fmt: skip
        self.report = np.zeros(1, np.int64)
        self._in_arena: list[tuple[int, int]] = []
        self._inputs: dict[str, list[tuple[int, int]]] = {}
        self._outputs: dict[str, list[tuple[int, int]]] = {}
        at = 0
        for call in schedule.calls:
            for arg in call.args:
                self._word(at, arg, known, offsets, arena, weights)
                at += 1
        self._base = 0
        outputs = [(s.name, s.type) for s in signature.outputs]
        self._shapes = {n: (tuple(dims.evaluate(d, known) for d in t.shape), t.dtype.numpy) for n, t in outputs}
        self._types = {s.name: s.type.dtype.numpy for s in signature.inputs}

    def _word(
        self, at: int, arg: Arg, sizes: Mapping[str, int], offsets: Sequence[int], arena: int, weights: TensorFile
    ) -> None:
        value = size_of(arg.value, sizes)
        if arg.kind == "size":
            self.words[at] = value
        elif arg.kind == "weight":
            self.words[at] = weights[arg.name].ctypes.data + value
        elif arg.kind == "constant":
            self.words[at] = self._constants[int(arg.name)].ctypes.data + value
        elif arg.kind == "report":
            self.words[at] = self.report.ctypes.data
        elif arg.kind == "arena":
            self._in_arena.append((at, offsets[int(arg.name)] + value))
        elif arg.kind == "scratch":
            self._in_arena.append((at, arena + value))
        else:
            (self._inputs if arg.kind == "input" else self._outputs).setdefault(arg.name, []).append((at, value))

    def fill(
        self, inputs: Arrays, arena: np.ndarray, results: Results
    ) -> tuple[dict[str, np.ndarray], list[Any]]:  # fmt: skip
        """Points to this run's arrays. The outputs, and what must live until it is done."""
        base = arena.ctypes.data
        if base != self._base:
            for at, offset in self._in_arena:
                self.words[at] = base + offset
            self._base = base
        keep: list[Any] = []
        for name, places in self._inputs.items():
            array = inputs[name]
            if not array.flags.c_contiguous or array.dtype != self._types[name]:
                array = np.ascontiguousarray(array, self._types[name])
            keep.append(array)
            self._point(places, array)
        outputs: dict[str, np.ndarray] = {}
        for name, (shape, dtype) in self._shapes.items():
            if name in self.signature.aliases:
                continue
            outputs[name] = results.array(name, shape, dtype)
            self._point(self._outputs.get(name, ()), outputs[name])
        return outputs, keep

    def _point(self, places: Sequence[tuple[int, int]], array: np.ndarray) -> None:
        address = array.ctypes.data
        for at, offset in places:
            self.words[at] = address + offset


def _gap_s(runs: Sequence[Sequence[KernelTime]]) -> float:
    """What lies between two kernels that are timed."""
    gaps = [b.start_s - a.start_s - a.seconds for run in runs for a, b in pairwise(run)]
    return median(gaps) if gaps else 0.0


def aligned(size: int) -> np.ndarray:
    """Zeroed bytes that begin at a cache line."""
    raw = np.zeros(size + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + size]


@lru_cache(4096)
def _parsed(text: str) -> Any:
    return dims.parse(text)


def size_of(text: str, sizes: Mapping[str, int]) -> int:
    return int(text) if text.isdigit() else dims.evaluate(_parsed(text), sizes)


def number_of(text: str, sizes: Mapping[str, int]) -> float:
    try:
        return float(text)
    except ValueError:
        return dims.evaluate(_parsed(text), sizes)


def read_schedule(path: Path) -> Schedule:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Schedule)
    except (OSError, msgspec.MsgspecError) as error:
        raise LoadError(f"{path.name} is broken", found=str(error)[:200]) from error


# -- TVM's run-time ---------------------------------------------------------------------------------------------


def _opened(library: Path, runtime: Path, cores: int) -> Any:
    """The bundle's library. TVM's pool of threads is told of the cores once, and to leave their binding alone."""
    os.environ.setdefault("TVM_NUM_THREADS", str(cores))
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "2000")
    import tvm_ffi

    with _loading:
        _load_runtime(runtime)
    try:
        return tvm_ffi.load_module(str(library))
    except Exception as error:
        raise LoadError(f"{library.name} cannot be loaded", found=str(error).splitlines()[0][:200]) from error


_loading = threading.Lock()
_loaded: list[ctypes.CDLL] = []  # a process can hold one only: a second would register all its functions again


def _load_runtime(bundled: Path) -> None:
    """TVM's own where it is installed, which may be imported yet; else the one that the first bundle brings."""
    if _loaded:
        return
    installed = runtime_library()
    path = installed if installed is not None else bundled
    try:
        _loaded.append(ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL))
    except OSError as error:
        raise LoadError(f"TVM's {RUNTIME} cannot be loaded", found=str(error)[:200]) from error


def runtime_library() -> Path | None:
    """The run-time library of an installed TVM, which is not imported for that."""
    found = importlib.util.find_spec("tvm")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "lib" / RUNTIME
    return path if path.is_file() else None


def _workers() -> int:
    import tvm_ffi

    count = tvm_ffi.get_global_func("runtime.NumThreads")
    return int(count())
