"""Competitors that misbehave, opened by name in processes of their own; see tests/profiler/test_compare.py."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Begin = Callable[[], Callable[[], Any]]


def _answering(answer: Callable[[], Any]) -> Begin:
    return lambda: lambda: (answer(), lambda: [("hidden", np.full((2, 3), 7.0, np.float32))])[1]


def well(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Begin:
    return _answering(lambda: time.sleep(0.001))


def wrong(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Begin:
    return lambda: lambda: lambda: [("hidden", np.full((2, 3), 7.5, np.float32))]


def complains(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Begin:
    raise ValueError("it does not like\nthis model")


def dies(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Begin:
    print("something broke", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    return _answering(lambda: None)


def dies_later(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Begin:
    left = iter(range(6))  # the first run, those to warm up, and two of its first slot
    return _answering(lambda: next(left, None) is None and os._exit(3))


def hangs(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Begin:
    return _answering(lambda: time.sleep(600))


def spins(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Begin:
    """As a pool of threads that waits for work by looking for it."""

    def spin() -> None:
        while True:
            pass

    threading.Thread(target=spin, daemon=True).start()
    return well(job, inputs)
