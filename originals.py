"""A model as its user has it: opened, captured as a program, and asked for answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from .ir.diagnostics import CaptureError, CompileError
from .ir.dims import Range
from .ir.graph import Program


@contextmanager
def as_ours() -> Iterator[None]:
    """What the models' side refuses, as an error of ours. Raises: CaptureError."""
    from .models.errors import ModelError

    try:
        yield
    except ModelError as error:
        raise CaptureError(error.problem, found=error.found, hint=error.hint) from error


def answers_of(source: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the original answers. Raises: CaptureError where it cannot run on these inputs."""
    try:
        return dict(source.call(inputs))
    except MemoryError:
        raise
    except Exception as error:  # the user's own module may raise anything
        first = str(getattr(error, "problem", error)).strip().partition("\n")[0]
        raise CaptureError(
            f"{source.name} does not answer: {type(error).__name__}: {first}",
            found=", ".join(f"{name}{list(array.shape)}" for name, array in inputs.items()),
            hint="run the original on these shapes, or allow other sizes with --batch and --seq",
        ) from error


def open_source(model: Any, asked: Any) -> Any:
    """Loads a model, after checking that it will fit. asked: a `work.Asked`. Raises: CaptureError."""
    from .models.open import estimate_bytes, open_model, opens_bare
    from .models.packed import packed

    with as_ours():
        bare = asked.shapes and opens_bare(model)
        if not bare:
            _check_fits(estimate_bytes(model))
        source = open_model(model, asked.task, inputs=asked.inputs, fixed=asked.fixed, shape_only=bare)
        source = packed(source) if asked.packed else source
    return step_of(source) if asked.phase == "decode" else source


def step_of(source: Any) -> Any:
    """One decode step of an opened model. Raises: CaptureError where it does not decode."""
    from .models.decoding import decode_step

    with as_ours():
        return decode_step(source)


def _check_fits(weight_bytes: int | None) -> None:
    """Refuses before any work starts. Peak while compiling is 1.5 x weights + 1 GiB at most."""
    from .compiler.hardware.machine import available_memory_bytes
    from .profiler.report.table import size

    needed, free = int((weight_bytes or 0) * 1.5) + (1 << 30), available_memory_bytes()
    if weight_bytes is not None and needed > free:
        raise CompileError(
            f"compiling needs {size(needed)} of memory, and {size(free)} are free",
            found=f"{size(weight_bytes)} of weights (the peak is 1.5 times that and 1 GiB)",
            hint="free memory, or compile on a larger machine",
        )


def captured(source: Any, ranges: Mapping[str, Range]) -> Program:
    """The source's program by the way in for its form: flat, or folded where few layers stand for many."""
    from .compiler.passes.raise_moe import raised

    program = raised(_CAPTURES[source.form](source, ranges)).program
    if not source.depths:
        return program
    from .ir.fold import fold
    from .ir.stretch import stretch

    return stretch(fold(program), source.depths)


def _from_torch(source: Any, ranges: Mapping[str, Range]) -> Program:
    from .ir.capture.from_torch import capture as capture_torch
    from .models.cases import samples

    return capture_torch(
        source.module, samples(source), source.axes(), outputs=source.outputs, constants=source.constants,
        by_position=source.by_position, ranges=ranges,
    )  # fmt: skip


def _from_onnx(source: Any, ranges: Mapping[str, Range]) -> Program:
    from .ir.capture.from_onnx import capture as capture_onnx

    return capture_onnx(source.model, source.axes(), arrays=source.arrays, fixed=source.fixed, ranges=ranges)


_CAPTURES: Mapping[str, Callable[[Any, Mapping[str, Range]], Program]] = {"torch": _from_torch, "onnx": _from_onnx}
