"""A captured program through all passes, verified after each, and opened on ONNX Runtime: no bundle, no cases."""

from __future__ import annotations

from pathlib import Path

from tundish.backends import registry
from tundish.backends.base import Runner
from tundish.backends.bundle_write import build_files
from tundish.compiler.driver import compile_program
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.plan import Plan
from tundish.compiler.task import Task
from tundish.ir.graph import Program

ENGINE = registry.get("onnxruntime")


def compiled(program: Program) -> Plan:
    machine = this_machine()
    task = Task(machine, ENGINE.capabilities(machine), ranges=program.symbols)
    return compile_program(program, task, verify_each=True)


def opened(plan: Plan, folder: Path) -> Runner:
    return ENGINE.open(build_files(plan, ENGINE, folder), threads=1)
