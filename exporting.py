"""The verb that writes ONNX for others: one file, or a folder that loaders of decoders take as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .compiler.task import Task
from .ir.diagnostics import CaptureError, TundishError, ours
from .ir.dims import Range
from .ir.graph import Program
from .profiler.report.progress import Progress, silent
from .work import Asked, as_range, captured, open_source, saved_program


def export_with_past(
    model: Any, output: str | Path, asked: Asked, *, portable: bool = False, opset: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Writes a decoder as a folder for optimum, Transformers.js and onnxruntime-genai, prefill and decode in one graph.

    An encoder-decoder becomes two graphs, without onnxruntime-genai.
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
    from .models.companions import companions, opened_axes

    out = Path(output)
    _check(model, asked)
    check_asked(out / MARKER, opset)
    refuse(out, MARKER, "an exported folder")
    progress("loading the model", 0.0)
    source = open_source(model, asked)
    parts = _parts(source)
    progress("capturing", 0.25)
    machine = this_machine()
    capabilities = OnnxRuntime(portable=portable, opset=opset).capabilities(machine)
    plans = {}
    for part in parts:
        program = _program(part, asked)
        plans[part.file] = compile_program(program, Task(machine, capabilities, ranges=program.symbols))
    progress("writing", 0.7)
    with ours(lambda: to_text(plans[parts[-1].file].program)):
        row = export_folder(
            plans, out, lambda external: companions(source, parts, external), name=source.name, portable=portable,
            opset=opset, opened={part.file: opened_axes(source, part) for part in parts},
        )  # fmt: skip
    progress("done", 1.0)
    return row


def _check(model: Any, asked: Asked) -> None:
    """Raises: TundishError on a wish that such a folder cannot grant."""
    if saved_program(model) is not None:
        raise CaptureError("a captured graph has its inputs already", hint="give the model that it was captured from")
    wrong = {"--fix": asked.fixed, "--packed": asked.packed, "--past": asked.past, "sample inputs": asked.inputs,
             "--phase": asked.phase != "prefill"}  # fmt: skip
    given = [option for option, value in wrong.items() if value]
    if given:
        raise TundishError(f"--with-past cannot be joined with {' and '.join(given)}",
                           hint="it takes any number of tokens behind any past")  # fmt: skip


def _parts(source: Any) -> Any:
    """Raises: CaptureError where it does not decode."""
    from .models.companions import parts_of
    from .models.errors import ModelError

    try:
        return parts_of(source)
    except ModelError as error:
        raise CaptureError(error.problem, found=error.found, hint=error.hint) from error


def _program(part: Any, asked: Asked) -> Program:
    """What one file holds. Raises: CaptureError for a model that cannot begin without a past."""
    from .ir.canonical import with_names
    from .ir.capture.quantized import hold_quantized

    source, longest = part.source, part.source.max_seq
    length = as_range("seq", asked.seq, Range(1, longest))
    if longest is not None and (length.high is None or length.high > longest):
        raise CaptureError(f"{source.name} takes at most {longest} positions", found=f"--seq {length}")
    names = {d for axes in source.axes().values() for d in axes.values() if d.isidentifier()} - {"batch"}
    ranges = {name: Range(0, longest) if name in part.from_zero else length for name in sorted(names)}
    ranges["batch"] = as_range("batch", asked.batch, Range(1, None))
    program = with_names(captured(source, ranges), part.file_name)
    for name in part.from_zero:
        if program.symbols[name].low > 0:
            raise CaptureError(f"{source.name} cannot begin without tokens before it", hint="leave out --with-past",
                               found=f"{name} {program.symbols[name]}")  # fmt: skip
    return hold_quantized(program, source.quantized)[0] if source.quantized else program
