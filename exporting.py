"""The verb that writes ONNX for others: one file, or a folder that loaders of decoders take as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .compiler.task import Task
from .ir.diagnostics import CaptureError, CompileError, TundishError, ours
from .ir.dims import Range
from .ir.graph import Program
from .originals import as_ours, captured, open_source
from .profiler.report.progress import Progress, silent
from .weight_formats import policy
from .work import Asked, Work, as_range, saved_program


def export_file(
    model: Any, output: str | Path, asked: Asked, *, weights: str | None = None, portable: bool = False,
    opset: int | None = None, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Writes a model as one ONNX file. Raises: as `export_with_past`, but that any model may be one."""
    from .backends.onnxruntime.export import check_asked, export_onnx
    from .compiler.driver import compile_program
    from .ir.text import to_text

    check_asked(Path(output), opset)
    task = _task(weights, portable, opset)
    work = Work(model, asked, progress)
    plan = compile_program(work.program, replace(task, ranges=work.program.symbols))
    progress("writing", 0.7)
    with ours(lambda: to_text(plan.program)):
        row = export_onnx(plan, Path(output), portable=portable, opset=opset)
    progress("done", 1.0)
    return row


def export_with_past(
    model: Any, output: str | Path, asked: Asked, *, weights: str | None = None, portable: bool = False,
    opset: int | None = None, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Writes a decoder as a folder for optimum, Transformers.js and onnxruntime-genai, prefill and decode in one graph.

    An encoder-decoder becomes two graphs, without onnxruntime-genai.
    asked: its sizes, any by default that the model can take; any number of tokens may stand before, also none.
    weights: a format of `weight_formats`, fp32 by default.
    Raises: CaptureError for a model that does not decode; CompileError on weights that cannot be so; BuildError where
    the folder cannot be written.
    """
    from .backends.onnxruntime.export import check_asked
    from .backends.onnxruntime.export_folder import MARKER, export_folder
    from .backends.publish import refuse
    from .compiler.driver import compile_program
    from .ir.text import to_text
    from .models.companions import companions, opened_axes, parts_of

    out, task = Path(output), _task(weights, portable, opset)
    _check(model, asked)
    check_asked(out / MARKER, opset)
    refuse(out, MARKER, "an exported folder")
    progress("loading the model", 0.0)
    source = open_source(model, asked)
    with as_ours():
        parts = parts_of(source, weights)
    progress("capturing", 0.25)
    programs = {part.file: _program(part, asked) for part in parts}
    plans = {file: compile_program(p, replace(task, ranges=p.symbols)) for file, p in programs.items()}
    progress("writing", 0.7)
    with ours(lambda: to_text(plans[parts[-1].file].program)):
        row = export_folder(
            plans, out, lambda external: companions(source, parts, external, weights), name=source.name,
            portable=portable, opset=opset, opened={part.file: opened_axes(source, part) for part in parts},
        )  # fmt: skip
    progress("done", 1.0)
    return row


def _task(weights: str | None, portable: bool, opset: int | None) -> Task:
    """Of a file for any machine. Raises: CompileError on a format that is none, or that such a file cannot have."""
    from .backends.onnxruntime.backend import OnnxRuntime
    from .compiler.hardware.machine import this_machine
    from .compiler.passes.quantize import check_blocks

    machine, held = this_machine(), policy("fp32", weights)
    if portable and held.blocks:
        raise CompileError(f"standard ONNX ops have no kernels for {weights} weights",
                           hint="leave --portable out, or take --weights fp32 or bf16")  # fmt: skip
    capabilities = OnnxRuntime(portable=portable, opset=opset).capabilities(machine)
    check_blocks(capabilities, held)
    return Task(machine, capabilities, held)


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
