"""NVIDIA's driver, called by ctypes: device memory, modules of device code, launches. Nothing else is linked.

Source: NVIDIA, CUDA Driver API 13.0: contexts, modules, memory, execution, stream capture.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence
from functools import cache
from typing import Any

from ....ir.diagnostics import LoadError, RunError

_MAJOR, _MINOR, _DYNAMIC_SHARED = 75, 76, 8  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_*
_STATIC_SHARED = 48 << 10  # beyond, a function must be told
_GLOBAL = 1  # CU_MEM_ATTACH_GLOBAL
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
_END, _BUFFER, _SIZE = 0, 1, 2  # CU_LAUNCH_PARAM_*
_Address = ctypes.c_uint64


class Driver:
    """The first GPU of this machine. Raises: LoadError where there is none that can be used."""

    def __init__(self) -> None:
        self._cuda = _library()
        self._call("cuInit", 0)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, 256, device)
        self.name = name.value.decode()
        self.compute = self._attribute(_MAJOR, device), self._attribute(_MINOR, device)
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context = context
        self.enter()
        self._stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), 1)

    def _attribute(self, which: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    def _call(self, name: str, *args: Any) -> None:
        """Raises: RunError with the driver's own words."""
        code = getattr(self._cuda, name)(*args)
        if code:
            said = ctypes.c_char_p()
            self._cuda.cuGetErrorString(code, ctypes.byref(said))
            raise RunError(f"the GPU failed: {name}", found=(said.value or b"error %d" % code).decode())

    def enter(self) -> None:
        """Makes this thread's calls this GPU's."""
        self._call("cuCtxSetCurrent", self._context)

    def function(self, cubin: bytes, name: str, shared: int) -> Any:
        """A kernel of a module, which may ask for so many bytes of shared memory. Raises: LoadError."""
        module, found = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            self._call("cuModuleLoadData", ctypes.byref(module), cubin)
            self._call("cuModuleGetFunction", ctypes.byref(found), module, name.encode())
            if shared > _STATIC_SHARED:
                self._call("cuFuncSetAttribute", found, _DYNAMIC_SHARED, shared)
        except RunError as error:
            raise LoadError("the GPU does not take the bundle's device code", found=error.found) from error
        return found

    def allocate(self, size: int, *, managed: bool = False) -> int:
        """Device memory, or memory that host and device both see. Its address."""
        address = _Address()
        if managed:
            self._call("cuMemAllocManaged", ctypes.byref(address), ctypes.c_size_t(size), _GLOBAL)
        else:
            self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        self.enter()
        self._cuda.cuMemFree_v2(_Address(address))

    def write(self, address: int, source: int, size: int) -> None:
        """Copies from the host, in order with what else the stream does; the host's bytes may change afterwards."""
        self._call("cuMemcpyHtoDAsync_v2", _Address(address), ctypes.c_void_p(source), ctypes.c_size_t(size),
                   self._stream)  # fmt: skip

    def read(self, target: int, address: int, size: int) -> None:
        """Copies to the host; there only after `wait`."""
        self._call("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(target), _Address(address), ctypes.c_size_t(size),
                   self._stream)  # fmt: skip

    def launch(self, function: Any, grid: int, threads: int, shared: int, words: int, count: int) -> None:
        """Runs a kernel whose parameters are so many 64-bit words at an address of the host's."""
        size = ctypes.c_size_t(count * 8)
        extra = (ctypes.c_void_p * 5)(_BUFFER, words, _SIZE, ctypes.addressof(size), _END)
        self._call("cuLaunchKernel", function, grid, 1, 1, threads, 1, 1, shared, self._stream, None, extra)

    def wait(self) -> None:
        """Until the stream is done."""
        self._call("cuStreamSynchronize", self._stream)

    # -- graphs ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """What is launched from now on is recorded, not run."""
        self._call("cuStreamBeginCapture_v2", self._stream, _RELAXED)

    def end(self) -> Any:
        """What was recorded, to be run again and again."""
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_uint64(0))
        finally:
            self._cuda.cuGraphDestroy(graph)
        return ready

    def replay(self, graph: Any) -> None:
        self._call("cuGraphLaunch", graph, self._stream)

    def forget(self, graph: Any) -> None:
        self.enter()
        self._cuda.cuGraphExecDestroy(graph)

    # -- time ------------------------------------------------------------------------------------------

    def mark(self) -> Any:
        """A point in the stream's time."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), 0)
        self._call("cuEventRecord", event, self._stream)
        return event

    def between(self, first: Any, second: Any) -> float:
        """Seconds between two marks, which both have passed."""
        value = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(value), first, second)
        return value.value / 1e3

    def drop(self, marks: Sequence[Any]) -> None:
        for event in marks:
            self._cuda.cuEventDestroy_v2(event)


def _library() -> Any:
    path = ctypes.util.find_library("cuda") or "libcuda.so.1"
    try:
        return ctypes.CDLL(path)
    except OSError:
        raise LoadError(
            "the bundle's kernels are for an NVIDIA GPU, and this machine has no NVIDIA driver",
            hint="open it on a machine with a GPU, or compile with --target cpu",
        ) from None


@cache
def driver() -> Driver:
    """Opened once. Raises: LoadError."""
    try:
        return Driver()
    except RunError as error:
        raise LoadError("this machine's GPU cannot be used", found=f"{error.problem}: {error.found}") from error
