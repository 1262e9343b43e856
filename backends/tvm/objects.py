"""Machine code of kernels, one object file each, kept by content: a kernel that was compiled before is read again."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx

from ...compiler.hardware.baselines import Baseline
from ...ir.weight_file import write_whole
from ..base import Say

FOLDER = "TUNDISH_KERNELS"  # the environment's word for where kernels are kept; "none" keeps none
MOST_BYTES = 512 << 20  # of all kept kernels: the oldest make way
STALE_S = 3600.0  # after which nobody writes a kernel still


@dataclass(frozen=True)
class Object:
    """A kernel's name in the library, and its object file's bytes."""

    symbol: str
    code: bytes


def folder() -> Path | None:
    """Where kernels are kept: below the user's cache folder."""
    said = os.environ.get(FOLDER)
    if said is not None:
        return None if said in ("", "none") else Path(said)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path(os.environ.get("HOME", "~")).expanduser() / ".cache")
    return Path(home) / "tundish" / "kernels"


def target_of(chip: Baseline) -> dict[str, Any]:
    """TVM's description of a CPU."""
    return {"kind": "llvm", "mcpu": chip.llvm, "mtriple": f"{chip.arch}-linux-gnu",
            "mattr": [f"+{a}" for a in chip.more]}  # fmt: skip


def objects(functions: Mapping[str, Any], target: Mapping[str, Any], say: Say | None = None) -> dict[str, Object]:
    """The object of each kernel, by the kernel's name. What is not kept yet is compiled, one on each core at a time."""
    keys = {name: _key(function, target) for name, function in functions.items()}
    kept, found, lacking = folder(), dict[str, Object](), list[str]()
    for name, key in keys.items():
        code = read(kept, key)
        if code is None:
            lacking.append(name)
        else:
            found[name] = Object(_symbol(name, key), code)

    def make(name: str) -> Object:
        symbol = _symbol(name, keys[name])
        module = tvm.IRModule({tvm.ir.GlobalVar(symbol): functions[name].with_attr("global_symbol", symbol)})
        return Object(symbol, object_code(lowered(module, target, packed=False), target))

    with _pool() as pool:
        for i, (name, made) in enumerate(zip(lacking, pool.map(make, lacking), strict=True)):
            found[name] = made
            keep(kept, keys[name], made.code)
            if say is not None:
                say("compiling kernels", i + 1, len(lacking))
    return found


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """A thread on each core. After an error, or Ctrl-C, nothing is begun any more."""
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def lowered(module: Any, target: Mapping[str, Any], *, packed: bool) -> Any:
    """What of TVM's lowering these functions need. packed: they are called from outside, by TVM's convention."""
    own = tvm.target.Target(dict(target))
    t, in_order = tirx.transform, tvm.transform.Sequential
    module = t.BindTarget(own.with_host(own))(module)
    module = in_order([
        t.FlattenBuffer(), t.NarrowDataType(32), t.VectorizeLoop(True), t.UnrollLoop(), t.StmtSimplify(),
        t.RemoveNoOp(), t.VerifyMemory(),
    ])(module)  # fmt: skip
    return in_order([*([t.MakePackedAPI(), t.LowerTVMBuiltin()] if packed else []), t.LowerIntrin()])(module)


def object_code(module: Any, target: Mapping[str, Any]) -> bytes:
    """LLVM's work on a lowered module."""
    own = tvm.target.Target(dict(target))
    built = tvm.get_global_func("target.build.llvm")(module, own.with_host(own))
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / "kernel.o"
        built.write_to_file(str(path), "o")
        return path.read_bytes()


def _key(function: Any, target: Mapping[str, Any]) -> str:
    """By what the kernel says, for whom, and who compiles it."""
    text = f"{tvm.__version__}\n{sorted(target.items())}\n{function.script()}"
    return hashlib.sha256(text.encode()).hexdigest()


def _symbol(name: str, key: str) -> str:
    return f"{name.rpartition('_')[0]}_{key[:16]}"


def read(kept: Path | None, key: str) -> bytes | None:
    """The kept object, whose last 32 bytes are the hash of the others; None where there is none, or a broken one."""
    if kept is None:
        return None
    try:
        data = (kept / f"{key}.o").read_bytes()
        os.utime(kept / f"{key}.o")
    except OSError:
        return None
    return data[:-32] if hashlib.sha256(data[:-32]).digest() == data[-32:] else None


def keep(kept: Path | None, key: str, code: bytes) -> None:
    """A folder that cannot be written to is no reason not to compile."""
    if kept is None:
        return
    try:
        kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(kept / f"{key}.o", code + hashlib.sha256(code).digest())
        _make_room(kept)
    except Exception:  # a full disk comes as a BuildError, others as an OSError
        return


def _make_room(kept: Path) -> None:
    """The oldest go, and what a process that was killed left half-written."""
    for path in kept.glob(".*.partial-*"):
        if path.stat().st_mtime < time.time() - STALE_S:
            path.unlink(missing_ok=True)
    files = sorted((p.stat().st_mtime, p.stat().st_size, p) for p in kept.glob("*.o"))
    over = sum(size for _, size, _ in files) - MOST_BYTES
    for _, size, path in files:
        if over <= 0:
            return
        path.unlink(missing_ok=True)
        over -= size
