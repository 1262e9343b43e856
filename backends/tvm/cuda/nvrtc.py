"""NVIDIA's run-time compiler, which makes device code of CUDA C without a GPU, a driver or a C compiler."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ....ir.diagnostics import BuildError

HINT = "pip install 'tundish[cuda]'"
_FOLDERS = ("nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib")  # of the packages of CUDA 13, and of 12


def _places() -> Iterator[str]:
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        for folder in _FOLDERS:
            yield from map(str, sorted((Path(root).parent / folder).glob("libnvrtc.so.*"), reverse=True))
    found = ctypes.util.find_library("nvrtc")
    if found is not None:
        yield found


class Nvrtc:
    """The loaded library."""

    def __init__(self, path: str) -> None:
        self.path, self._library = path, ctypes.CDLL(path)
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    @property
    def version(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return f"{major.value}.{minor.value}"

    def cubin(self, source: str, arch: str) -> bytes:
        """Device code of a program in CUDA C. Raises: BuildError with what the compiler says."""
        program = ctypes.c_void_p()
        text = source.encode()
        self._check(self._library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernel.cu", 0, None, None))
        try:
            words = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", b"--extra-device-vectorization"]
            options = (ctypes.c_char_p * len(words))(*words)
            if self._library.nvrtcCompileProgram(program, len(words), options):
                raise BuildError(f"a kernel cannot be compiled for {arch}", found=self._log(program)[:600])
            size = ctypes.c_size_t()
            self._check(self._library.nvrtcGetCUBINSize(program, ctypes.byref(size)))
            code = ctypes.create_string_buffer(size.value)
            self._check(self._library.nvrtcGetCUBIN(program, code))
            return code.raw
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _log(self, program: ctypes.c_void_p) -> str:
        size = ctypes.c_size_t()
        self._check(self._library.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
        log = ctypes.create_string_buffer(size.value)
        self._check(self._library.nvrtcGetProgramLog(program, log))
        return log.value.decode(errors="replace")

    def _check(self, code: int) -> None:
        if code:
            raise BuildError("NVIDIA's run-time compiler failed",
                             found=self._library.nvrtcGetErrorString(code).decode())  # fmt: skip


@cache
def nvrtc() -> Nvrtc | None:
    """The library where there is one, of a package or of the system."""
    for path in _places():
        try:
            return Nvrtc(path)
        except OSError:
            continue
    return None


def need() -> Nvrtc:
    """Raises: BuildError where there is none."""
    found = nvrtc()
    if found is None:
        raise BuildError("kernels for NVIDIA GPUs need NVIDIA's run-time compiler", hint=HINT)
    return found
