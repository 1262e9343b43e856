"""The lock of those that measure, held by another process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tundish.profiler import host_lock

HOLD = """
import sys
from tundish.profiler.host_lock import measuring_alone
with measuring_alone():
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def own_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(host_lock.tempfile, "tempdir", None)


@pytest.fixture
def holder():
    """A process that holds the lock until it reads a line."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()
