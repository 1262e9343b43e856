"""Runs a GPU's kernels without one: their CUDA C, as NVIDIA's compiler gets it, as C++ in which each thread of a block
is a context of its own (`threads.h`)."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tundish.backends.tvm.cuda.library import Source

HEADER = Path(__file__).parent / "threads.h"
COMPILER = shutil.which("g++") if platform.machine() == "x86_64" else None
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="simulating a GPU's threads needs g++ and an x86-64 CPU")
FORWARD, BACKWARD, MIXED = 0, 1, 12345  # orders of a block's threads
_DYNAMIC = re.compile(r"extern __shared__ __align__\(\d+\) (\w+) (\w+)\[\];")
_SIGNATURE = re.compile(r"kernel\((.*?)\)\s*\{", re.DOTALL)
_RUN = """
static const int64_t* tundish_words;
static void tundish_call() {{ kernel({args}); }}
extern "C" int simulate(const int64_t* words, int64_t grid, int block, uint64_t order) {{
  tundish_words = words, tundish_body = tundish_call, gpu::block_size = block, gpu::said[0] = 0;
  for (int64_t i = 0; i < grid && !gpu::said[0]; i++) {{
    gpu::block_index.x = order == 1 ? grid - 1 - i : i;
    gpu::run_block(order > 1 ? order + i * 7919 : order);
  }}
  return gpu::said[0] != 0;
}}
"""


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="tundish-simulated-"))


def _compile(*args: str) -> None:
    options = ["-O1", "-fPIC", "-w", "-std=c++17", "-fno-strict-aliasing", "-ffp-contract=off",
               "-ftrivial-auto-var-init=pattern", "-fsanitize=alignment", "-mf16c", "-mfma"]  # fmt: skip
    done = subprocess.run([str(COMPILER), *options, *args], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(args)}\n{done.stderr[:3000]}"


@cache
def _header() -> Path:
    """The header, compiled once for all kernels."""
    made = Path(shutil.copy(HEADER, _folder()))
    _compile("-x", "c++-header", str(made), "-o", f"{made}.gch")
    return made


@cache
def compiled(text: str) -> ctypes.CDLL:
    """A kernel's text as a library."""
    found = _SIGNATURE.search(text)
    assert found is not None, text
    args = []
    for i, parameter in enumerate(p.strip() for p in found.group(1).split(",")):
        kind = parameter.rpartition(" ")[0].replace("__restrict__", "").strip()
        args.append(f"({kind})tundish_words[{i}]")
    text = _DYNAMIC.sub(r"\1* \2 = (\1*)tundish_dynamic;", text)
    name = hashlib.sha256(text.encode()).hexdigest()[:24]
    code, library = _folder() / f"{name}.cpp", _folder() / f"{name}.so"
    code.write_text(f'#include "{_header()}"\n{text}\n{_RUN.format(args=", ".join(args))}')
    _compile("-shared", str(code), "-o", str(library))
    loaded = ctypes.CDLL(str(library))
    loaded.complaint.restype = ctypes.c_char_p
    loaded.simulate.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_uint64]
    return loaded


def launch(source: Source, grid: int, words: np.ndarray, order: int = FORWARD) -> None:
    """Runs a kernel. words: its parameters. Raises: AssertionError with what a thread did wrong."""
    library = compiled(source.text)
    if library.simulate(words.ctypes.data, grid, source.launch.threads, order):
        raise AssertionError(f"{library.complaint().decode()}\n{source.text}")


def run(source: Source, grid: int, args: Sequence[np.ndarray | int], order: int = FORWARD) -> None:
    """The same, given arrays and sizes."""
    words = np.array([a.ctypes.data if isinstance(a, np.ndarray) else a for a in args], np.int64)
    launch(source, grid, words, order)
