"""The same for an NVIDIA GPU."""

from __future__ import annotations

import ctypes.util

from ...compiler.hardware.calibration import Calibration
from ...ir.diagnostics import TundishError
from ..report.progress import Progress

_HINT = "run it on the machine with the GPU, or calibrate --target cpu"


def calibrate(backend: str, *, quick: bool, progress: Progress) -> Calibration:
    """Measures the first GPU. Raises: TundishError where there is none that can be used."""
    require()
    raise TundishError("calibrating a GPU is not written yet", hint=_HINT)


def require() -> None:
    """Raises: TundishError where no GPU can be used."""
    if not ctypes.util.find_library("cuda"):
        raise TundishError("this machine has no NVIDIA driver", hint=_HINT)
