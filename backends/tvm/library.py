"""Makes the shared library of a bundle: each kernel once, and one function an entry that runs them in order."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx

from ...ir.diagnostics import BuildError
from .barrier import barrier_code
from .emit import Kernels
from .schedule import Schedule
from .script import address, both, call, external, function, i64, imports, parallel, table_of, when

LINKERS = ("gcc", "cc", "clang", "ld")


def module_of(kernels: Kernels, schedules: Sequence[Schedule], arch: str) -> Any:
    """All kernels, and each schedule's function: (table, state, first, end, threads) runs its calls first..end - 1."""
    module = tvm.IRModule()
    names: dict[str, Any] = {}
    for name, (make, static) in kernels.made.items():
        names[name] = tvm.ir.GlobalVar(name)
        module[names[name]] = make(name, **static)
    for schedule in schedules:
        module[tvm.ir.GlobalVar(schedule.function)] = _entry(schedule, names, barrier_code(arch))
    return module


def _entry(schedule: Schedule, names: Mapping[str, Any], barrier: str) -> Any:
    def write(table: Any, state: Any, first: Any, end: Any, threads: Any) -> None:
        words, counters = table_of(table, max(1, schedule.words)), table_of(state, 16)
        with imports(barrier), parallel(threads) as thread:
            at = 0
            for i, one in enumerate(schedule.calls):
                place = at

                def run(one: Any = one, place: int = place) -> None:
                    call(names[one.kernel], address(words, place), thread, threads)

                def wait() -> None:
                    external("tundish_barrier", address(counters, 0), threads)

                if one.waits:
                    when(both(first < i, i64(i) < end, threads > 1), wait)
                when(both(first <= i, i64(i) < end), run)
                at += len(one.args)

    args = (("table", "int64*"), ("state", "int64*"), ("first", "int64"), ("end", "int64"), ("threads", "int64"))
    return function(schedule.function, args, write)


def compiled(module: Any, target: Mapping[str, Any]) -> Any:
    """Machine code of a module. Only what these kernels use of TVM's lowering runs."""
    own = tvm.target.Target(dict(target))
    own = own.with_host(own)
    t, in_order = tirx.transform, tvm.transform.Sequential
    module = t.BindTarget(own)(module)
    module = in_order([
        t.FlattenBuffer(), t.NarrowDataType(32), t.VectorizeLoop(True), t.UnrollLoop(), t.StmtSimplify(),
        t.RemoveNoOp(), t.VerifyMemory(), t.MakePackedAPI(),
    ])(module)  # fmt: skip
    entries, kernels = (
        tvm.IRModule({v: f for v, f in module.functions.items() if ("global_symbol" in f.attrs) is public})
        for public in (True, False)
    )
    entries = in_order([t.LowerTVMBuiltin(), t.LowerIntrin()])(entries)
    entries.update(t.LowerIntrin()(kernels))
    return tvm.get_global_func("target.build.llvm")(entries, own)


def link(code: Any, library: Path, arch: str) -> None:
    """Writes the shared library. Raises: BuildError where the system has no linker for that CPU, or it fails."""
    object_file = library.with_suffix(".o")
    code.write_to_file(str(object_file), "o")
    prefix = "" if arch == platform.machine() else f"{arch}-linux-gnu-"
    linker = next((path for name in LINKERS if (path := shutil.which(f"{prefix}{name}"))), None)
    if linker is None:
        raise BuildError(f"there is no linker for {arch} on this system", hint=f"install {prefix}gcc or binutils")
    done = subprocess.run([linker, "-shared", "-o", str(library), str(object_file)], capture_output=True, text=True)
    object_file.unlink()
    if done.returncode:
        raise BuildError(f"{Path(linker).name} could not link the kernels", found=done.stderr.strip()[:300])


_ = s_tir  # registers the passes that `tirx.transform` names
