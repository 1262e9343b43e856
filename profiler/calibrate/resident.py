"""The memory of a process that has a backend open and no model to speak of."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ...backends import registry
from ...backends.bundle_write import write_bundle
from ...compiler.driver import compile_program
from ...compiler.hardware.machine import this_machine
from ...compiler.task import Task
from ...ir.diagnostics import RunError
from ..process import environment, resident_bytes
from .engine import chain_of_trivial_nodes

_TIMEOUT_S = 120


def runtime_bytes(backend: str) -> int:
    """Resident bytes of a fresh process after it ran a bundle of one node. Raises: RunError where it fails."""
    engine, machine = registry.get(backend), this_machine()
    program = chain_of_trivial_nodes(1)
    plan = compile_program(program, Task(machine, engine.capabilities(machine), ranges=program.symbols))
    with tempfile.TemporaryDirectory(prefix="tundish-calibrate-") as folder:
        bundle = write_bundle(Path(folder) / "trivial", plan, engine)
        done = subprocess.run(
            [sys.executable, "-P", "-m", f"{__spec__.parent}.resident", str(bundle.path)], capture_output=True,
            text=True, timeout=_TIMEOUT_S, env=environment(),
        )  # fmt: skip
    if done.returncode:
        raise RunError(f"{backend} did not open in a process of its own", found=done.stderr.strip()[-300:])
    return int(json.loads(done.stdout)["resident_bytes"])


def main() -> None:
    """Opens and runs the bundle named on the command line, and says how large the process is."""
    import numpy as np

    from ...backends.bundle import open_bundle

    with open_bundle(Path(sys.argv[1])) as bundle:
        bundle.run({spec.name: np.ones((1, 1), np.float32) for spec in bundle.inputs})
        print(json.dumps({"resident_bytes": resident_bytes()}))


if __name__ == "__main__":
    main()
