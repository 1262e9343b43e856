"""Makes the shared library of a bundle: each kernel once, and one function an entry that runs them in order."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tvm

from ...compiler.hardware.baselines import Baseline
from ...ir.diagnostics import BuildError
from ..base import Say
from .barrier import barrier_code
from .emit import Kernels
from .linker import check_linker
from .objects import lowered, object_code, objects, target_of
from .schedule import Schedule
from .script import WIDTHS, address, both, external, function, i64, imports, load, parallel, table_of, when


def write_library(
    kernels: Kernels, schedules: Sequence[Schedule], chip: Baseline, out: Path, prefix: str = "",
    say: Say | None = None,
) -> str:  # fmt: skip
    """Compiles and links. The file's name, which tells its content: what a process has once loaded under a path, it is
    given again for that path, whatever lies there by then.

    Raises: BuildError where the system has no linker for that CPU, or it fails.
    """
    linker, target = check_linker(chip.arch), target_of(chip)
    functions = {name: make("kernel", **static) for name, (make, static) in kernels.made.items()}
    for name, one in functions.items():
        check_widths(name, one, kernels.widths.get(name, ()))
    made = objects(functions, target, say)
    symbols = {name: one.symbol for name, one in made.items()}
    entries = tvm.IRModule({
        tvm.ir.GlobalVar(name): entry_of(s, symbols, barrier_code(chip.arch))
        for name, s in {s.function: s for s in schedules}.items()  # entries may be alike
    })  # fmt: skip
    code = {one.symbol: one.code for one in made.values()} | {
        "entries": object_code(lowered(entries, target, packed=True), target)
    }
    with tempfile.TemporaryDirectory() as aside:
        files = [Path(aside) / f"{name}.o" for name in sorted(code)]
        for file in files:
            file.write_bytes(code[file.stem])
        linked = Path(aside) / "kernels.so"
        done = subprocess.run([linker, "-shared", "-o", str(linked), *map(str, files)], capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"{Path(linker).name} could not link the kernels", found=done.stderr.strip()[:300])
        name = f"{prefix}kernels-{hashlib.sha256(linked.read_bytes()).hexdigest()[:16]}.so"
        shutil.copyfile(linked, out / name)
    return name


def check_widths(name: str, function: Any, calls: Iterable[Sequence[int]]) -> None:
    """A kernel reads arrays as wide as those that it is given. calls: by call, the bits of an element of each.

    Raises: BuildError for a fault of ours, which would otherwise be read as numbers that are none.
    """
    wanted = {int(slot): int(bits) for slot, bits in function.attrs[WIDTHS].items()}
    for given in calls:
        for slot, bits in enumerate(given):
            if max(8, bits) != wanted.get(slot, max(8, bits)):
                raise BuildError(f"{name} reads {wanted[slot]} bits an element in slot {slot}", found=f"{bits} bits")


def entry_of(schedule: Schedule, symbols: Mapping[str, str], barrier: str) -> Any:
    """(table, state, first, end, threads) runs the calls first..end - 1, all in one parallel region."""

    def write(table: Any, state: Any, first: Any, end: Any, threads: Any) -> None:
        words, counters = table_of(table, max(1, schedule.words)), table_of(state, 16)
        with imports(barrier), parallel(threads) as thread:
            at = 0
            for i, one in enumerate(schedule.calls):
                place = at

                def run(one: Any = one, place: int = place) -> None:
                    external(symbols[one.kernel], address(words, place), thread, threads)

                def wait() -> None:
                    external("tundish_barrier", address(counters, 0), threads)

                at += len(one.args)
                size, only = load(words, at - 1), one.only
                here = [] if only is None else [size >= only.low, size <= only.high]
                if one.waits:
                    when(both(first < i, i64(i) < end, threads > 1, *here), wait)
                when(both(first <= i, i64(i) < end, *here), run)

    args = (("table", "int64*"), ("state", "int64*"), ("first", "int64"), ("end", "int64"), ("threads", "int64"))
    return function(schedule.function, args, write)
