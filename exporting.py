"""The verb that writes ONNX for others: one file, or a folder that loaders of decoders take as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .compiler.task import Task
from .ir.diagnostics import CaptureError, TundishError, ours
from .ir.dims import Range
from .ir.graph import Program
from .profiler.report.progress import Progress, silent
from .work import Asked, as_range, captured, open_source


def export_with_past(
    model: Any, output: str | Path, asked: Asked, *, portable: bool = False, opset: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Writes a decoder as a folder for optimum, Transformers.js and onnxruntime-genai, prefill and decode in one graph.

    asked: its sizes, any by default that the model can take; any number of tokens may stand before, also none.
    Raises: CaptureError for a model that does not decode; BuildError where the folder cannot be written.
    """
    from .backends.onnxruntime.backend import OnnxRuntime
    from .backends.onnxruntime.export import check_asked
    from .backends.onnxruntime.export_folder import MARKER, export_folder
    from .backends.publish import refuse
    from .compiler.driver import compile_program
    from .compiler.hardware.machine import this_machine
    from .ir.text import to_text
    from .models.companions import ONNX_FILE, companions, opened_axes

    out = Path(output)
    _check(asked)
    check_asked(out / ONNX_FILE, opset)
    refuse(out, MARKER, "an exported folder")
    progress("loading the model", 0.0)
    source = open_source(model, asked)
    step = _with_past(source)
    progress("capturing", 0.25)
    program = _program(step, asked)
    machine = this_machine()
    capabilities = OnnxRuntime(portable=portable, opset=opset).capabilities(machine)
    plan = compile_program(program, Task(machine, capabilities, ranges=program.symbols))
    progress("writing", 0.7)
    with ours(lambda: to_text(plan.program)):
        row = export_folder(
            plan, out, ONNX_FILE, lambda external: companions(source, step, external), name=source.name,
            portable=portable, opset=opset, opened=opened_axes(source, step),
        )  # fmt: skip
    progress("done", 1.0)
    return row


def _check(asked: Asked) -> None:
    """Raises: TundishError on a wish that such a folder cannot grant."""
    wrong = {"--fix": asked.fixed, "--packed": asked.packed, "--past": asked.past, "sample inputs": asked.inputs,
             "--phase": asked.phase != "prefill"}  # fmt: skip
    given = [option for option, value in wrong.items() if value]
    if given:
        raise TundishError(f"--with-past cannot be joined with {' and '.join(given)}",
                           hint="it takes any number of tokens behind any past")  # fmt: skip


def _with_past(source: Any) -> Any:
    """Raises: CaptureError where it does not decode."""
    from .models.errors import ModelError
    from .models.with_past import with_past

    try:
        return with_past(source)
    except ModelError as error:
        raise CaptureError(error.problem, found=error.found, hint=error.hint) from error


def _program(step: Any, asked: Asked) -> Program:
    """The step with the file's names. Raises: CaptureError for a model that cannot begin without a past."""
    from .ir.canonical import with_names
    from .ir.capture.quantized import hold_quantized
    from .models.with_past import file_name

    longest = step.max_seq
    ranges = {
        "batch": as_range("batch", asked.batch, Range(1, None)), "seq": as_range("seq", asked.seq, Range(1, longest)),
        "past": Range(0, longest),
    }  # fmt: skip
    program = with_names(captured(step, ranges), file_name)
    found = program.symbols["past"]
    if found.low > 0:
        raise CaptureError(f"{step.name} cannot begin without tokens before it", found=f"past {found}",
                           hint="export it without --with-past")  # fmt: skip
    return hold_quantized(program, step.quantized)[0] if step.quantized else program
