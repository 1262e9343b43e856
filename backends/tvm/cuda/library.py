"""Makes the device code of a bundle: each kernel a cubin of its own, all in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import tvm
from tvm import tirx

from ....compiler.hardware.gpus import Gpu
from ....ir.dtypes import DTYPES
from ....ir.tensor import TensorType
from ....ir.weight_file import write_weights
from ...base import Say
from ..emit import Kernels
from ..library import check_widths
from ..objects import folder, keep, read
from ..schedule import Launch, Schedule
from .nvrtc import need
from .prelude import PRELUDE

Key = TypeVar("Key")
_BEGIN = 'extern "C" __global__'


@dataclass(frozen=True)
class Source:
    """A kernel in CUDA C, without the prelude, how it is launched, and how many parameters it has."""

    text: str
    launch: Launch
    parameters: int

    @property
    def whole(self) -> str:
        return PRELUDE + self.text


def sources(kernels: Kernels, gpu: Gpu) -> dict[str, Source]:
    """The text of each kernel, by its name."""
    functions = {name: make("kernel", **static) for name, (make, static) in kernels.made.items()}
    for name, one in functions.items():
        check_widths(name, one, kernels.widths.get(name, ()))
    return {name: source(one, gpu) for name, one in functions.items()}


def source(function: Any, gpu: Gpu) -> Source:
    """A kernel's text, as TVM writes it."""
    block, shared, blocks = (int(n) for n in function.attrs["tundish.launch"])
    target = tvm.target.Target({"kind": "cuda", "arch": gpu.arch})
    module = tirx.transform.BindTarget(target)(tvm.IRModule({tvm.ir.GlobalVar("kernel"): function}))
    t = tirx.transform
    module = tvm.transform.Sequential([
        t.FlattenBuffer(), t.VectorizeLoop(True), t.UnrollLoop(), t.StmtSimplify(), t.RemoveNoOp(), t.LowerIntrin(),
    ])(module)  # fmt: skip
    text = str(tvm.get_global_func("target.build.cuda")(module, target).inspect_source())
    text = text[text.rindex(_BEGIN) :]  # the declaration goes
    if blocks:
        text = text.replace(f"__launch_bounds__({block})", f"__launch_bounds__({block}, {blocks})")
    return Source(text, Launch(block, shared), len(function.params))


def cubins(found: Mapping[str, Source], gpu: Gpu, say: Say | None = None) -> dict[str, bytes]:
    """The device code of each; what was compiled before is read again."""
    compiler = need()
    kept, made = folder(), dict[str, bytes]()
    for i, (name, one) in enumerate(found.items()):
        key = hashlib.sha256(f"{compiler.version}\n{gpu.arch}\n{one.whole}".encode()).hexdigest()
        code = read(kept, key)
        if code is None:
            code = compiler.cubin(one.whole, gpu.arch)
            keep(kept, key, code)
        made[name] = code
        if say is not None:
            say(f"compiling kernels for {gpu.arch}", i + 1, len(found))
    return made


def write_cubins(code: Mapping[str, bytes], path: Path) -> None:
    """One file of them, as tensors of bytes under the kernels' names."""
    arrays = {name: np.frombuffer(data, np.uint8) for name, data in sorted(code.items())}
    items = [(n, TensorType(DTYPES["u8"], a.shape), partial(_itself, a)) for n, a in arrays.items()]
    write_weights(path, items)


def _itself(array: np.ndarray) -> np.ndarray:
    return array


def launched(schedules: Mapping[Key, Schedule], found: Mapping[str, Source]) -> dict[Key, Schedule]:
    """The schedules, with how each of their kernels is launched."""
    for call in (c for s in schedules.values() for c in s.calls):
        wanted = found[call.kernel].parameters
        assert len(call.args) == wanted, f"{call.kernel} takes {wanted} parameters, not {len(call.args)}"
    return {
        key: msgspec.structs.replace(s, launches={c.kernel: found[c.kernel].launch for c in s.calls})
        for key, s in schedules.items()
    }

