"""The verbs: one short function each, where models and everything else meet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .backends.bundle import Bundle, open_bundle
from .backends.version import version
from .compiling import NOTES, Wish, compiled
from .evaluating import as_transformers, evaluate
from .exporting import export_file, export_with_past
from .generating import generate
from .ir.diagnostics import LoadError, TundishError
from .ir.dims import Range
from .ir.graph import Program
from .measuring import account, bench, calibrate, diff
from .models.errors import ModelWarning
from .placing import place, size_bytes
from .profiler.diff import read_percent
from .profiler.report.accounting import show as show_account
from .profiler.report.changes import show_diff
from .profiler.report.progress import Progress, silent, stages
from .profiler.report.table import pairs, table
from .profiler.report.terminal import show as show_profile
from .profiler.report.write import check_files as check_reports
from .profiler.report.write import write as write_reports
from .profiling import predictions, profile
from .recording import record_routing
from .tuning import tune
from .work import Asked, Span, Work, after_passes, record_all

__all__ = [
    "Bundle", "ModelWarning", "Program", "TundishError", "account", "as_transformers", "bench", "calibrate", "capture",
    "check_reports", "compile", "demo", "diff", "doctor", "evaluate", "explain", "export", "generate", "load",
    "models", "ops", "pairs", "place", "predictions", "profile", "read_percent", "record_routing", "run", "show",
    "show_account", "show_diff", "show_profile", "stages", "summary", "table", "targets", "tune", "verify", "version",
    "write_reports",
]  # fmt: skip
# What a user is told of a bundle that generates.
CACHES = ("bytes_per_token", "encoder_bytes_per_token", "windows", "longest_context")


def compile(
    model: Any, output: str | Path | None = None, *, target: str = "cpu", backend: str = "onnxruntime",
    task: str | None = None, batch: Span = None, seq: Span = None, precision: str = "fp32", weights: str | None = None,
    inputs: Mapping[str, Any] | None = None, fixed: Mapping[str, Any] | None = None, packed: bool = False,
    phase: str = "generate", past: Span = None, print_after: str | None = None, verified: bool = False,
    tuning: str | Path | None = None, routing: str | Path | None = None, expert_memory: str | int | None = None,
    progress: Progress = silent,
) -> Bundle:  # fmt: skip
    """Compiles a model into a bundle: captured, optimised, built, with the original's answers stored beside it.

    model:     a path or name as on the command line, a torch module (then `inputs` are sample tensors by name),
               or a Program.
    backend:   onnxruntime, tvm, reference, or `auto`: all that can are built, timed here in turn, and the fastest is
               taken; the bundle's notes say by how much.
    output:    the bundle's folder, replaced as a whole if it exists; a temporary one when None.
    batch, seq: the sizes to allow, a Range or `1..8`; by default 1..8 and 1..512, at most what the model can take.
    precision: fp32, fp16 or bf16.
    weights:   fp32, bf16, int8 or int4, whatever the precision of the computation; `stored` for the blocks in which the
               model's file has them. The precision by default.
    fixed:     inputs that are settled now and are none of the bundle's: an array, a .npy file, or `1,2,3`.
    packed:    for rows that hold several texts end to end: `position_ids`, which start again at 0 where a text does,
               are an input in place of `attention_mask`.
    phase:     `generate`: the whole model, and where it writes text also the step that `generate` runs, over one copy
               of the weights. `prefill`: the whole model alone. `decode` compiles one step of a decoder: one token a
               row, whose other inputs are the keys and values of `past` tokens before it (1..512, or what the model
               can take), and which gives them back with one more, concatenated.
    verified:  replay the recorded cases before the bundle takes its place; one that fails is not written.
    routing:   a file of `profile --record-routing`: what the model's routers choose on a text.
    expert_memory: bytes for all experts, as 4GiB, where not all are to be in memory: the plan says which stay, and what
               a token reads of the others. Needs `routing`.
    tuning:    the table that `tune` wrote, or `none`; by default this chip's, where there is one.
    Raises: CaptureError, CompileError, BuildError, each with the user's line.
    """
    wish = Wish(precision, weights, task, packed, print_after, verified, tuning, routing,
                size_bytes(expert_memory, "expert_memory"))  # fmt: skip
    asked = Asked(task, batch, seq, inputs, fixed, packed, phase, past)
    return compiled(model, asked, wish, backend, target, output, progress)


def capture(
    model: Any, *, task: str | None = None, batch: Span = None, seq: Span = None,
    inputs: Mapping[str, Any] | None = None, fixed: Mapping[str, Any] | None = None, packed: bool = False,
    phase: str = "prefill", past: Span = None, output: str | Path | None = None, progress: Progress = silent,
) -> Program:  # fmt: skip
    """Captures a model as a Program with repeated layers folded; saves it as a folder where `output` is given."""
    from .ir.fold import fold
    from .ir.save import save

    program = fold(Work(model, Asked(task, batch, seq, inputs, fixed, packed, phase, past), progress).program)
    if output is not None:
        save(program, Path(output))
    return program


def load(path: str | Path) -> Bundle:
    """Opens a bundle; every file is checked against the manifest first. Raises: LoadError."""
    return open_bundle(Path(path))


def run(
    bundle: str | Path | Bundle, inputs: Mapping[str, Any], *, output: str | Path | None = None,
    entry: str | None = None, threads: int | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Runs a bundle once; an input is an array, a .npy file, or "random" (seeded). Rows describe the outputs."""
    from .backends.inputs import arrays
    from .ir.weight_file import writing

    opened = bundle if isinstance(bundle, Bundle) else load(bundle)
    outputs = opened.run(arrays(opened, inputs), entry=entry, threads=threads)
    rows: list[dict[str, Any]] = [
        {"output": name, "dtype": str(array.dtype), "shape": list(array.shape)} for name, array in outputs.items()
    ]
    if output is not None:
        with writing(str(output)):
            Path(output).mkdir(parents=True, exist_ok=True)
            for row, (name, array) in zip(rows, outputs.items(), strict=True):
                row["file"] = str(Path(output) / f"{name}.npy")
                np.save(row["file"], array)
    return rows


def verify(
    bundle: str | Path | Bundle, *, against: Any = None, bisect: bool = False, perplexity: str | Path | None = None,
    threads: int | None = None, progress: Progress = silent,
) -> Any:  # fmt: skip
    """Replays the stored cases of the original model, or reruns the original (`against`); a `parity.Report`.

    against: a model as `compile` takes it; a torch module is sampled with the inputs of the first stored case. With
             `perplexity` another bundle too, whose cases are left alone.
    perplexity: a text file that a decoder is to predict, and what it is held against as well: `Report.perplexity`.
    Raises: LoadError where the stored answers are not an original's.
    """
    from .profiler import parity
    from .profiler.bisect import first_difference

    opened = bundle if isinstance(bundle, Bundle) else load(bundle)
    base = _bundle_of(against) if perplexity is not None else None
    work = None if against is None or base is not None else _again(opened, against, progress)
    cases = opened.cases() if work is None else _asked_again(opened, work, progress)
    if not cases.cases:
        raise LoadError(
            "the bundle holds no answers of an original model to verify by",
            hint="compile from the original model, or give it with --against",
        )
    if cases.origin.startswith("tundish"):
        raise LoadError(
            "the stored answers came from Tundish itself and prove nothing",
            hint="compile from the original model, or give it with --against",
        )
    report = parity.compare(lambda x, entry=None: opened.run(x, entry, threads=threads), cases, opened.manifest.judged)
    if bisect and not report.passed:
        report.first_difference = first_difference(opened, cases, work.program if work is not None else None)
        report.notes.append(report.first_difference["text"])
    if perplexity is not None:
        from .profiler.perplexity import Reader, perplexities

        progress("reading the text", 0.7)
        held = base if work is None else Reader(work.name, work.call, tuple(s.name for s in work.source.inputs))
        report.perplexity = perplexities(opened, Path(perplexity), held, threads=threads)
    return report


def export(
    model: Any, output: str | Path, *, portable: bool = False, opset: int | None = None, task: str | None = None,
    batch: Span = None, seq: Span = None, inputs: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None, packed: bool = False, phase: str = "prefill", past: Span = None,
    with_past: bool = False, weights: str | None = None, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Writes an ONNX file; weights above 2 GB go to one file of external data beside it.

    portable: standard ONNX ops only, at any opset from 17.
    weights: as in `compile`; int8, int4 and stored by ONNX Runtime's own MatMulNBits, so not where it is portable.
    with_past: `output` becomes a folder that loaders of text generation take, prefill and decode in one graph.
    Raises: CompileError where an op does not exist at that opset; CaptureError where the model cannot decode.
    """
    asked = Asked(task, batch, seq, inputs, fixed, packed, phase, past)
    write = export_with_past if with_past else export_file
    return write(model, output, asked, weights=weights, portable=portable, opset=opset, progress=progress)


def show(
    model: Any, *, task: str | None = None, optimized: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """What was captured: inputs, outputs, functions and op counts (calls expanded), and the program's text."""
    from .ir.fold import fold
    from .ir.text import to_text
    from .ir.walk import op_counts

    work = Work(model, Asked(task), progress)
    program = after_passes(work.program, "onnxruntime") if optimized else fold(work.program)
    entry = program.functions[program.entries[0]]
    counts = op_counts(program)
    return {
        "model": work.name,
        "inputs": {v.name: str(v.type) for v in entry.inputs},
        "outputs": {n: str(v.type) for n, v in zip(entry.output_names, entry.outputs, strict=True)},
        "symbols": {n: str(r) for n, r in program.symbols.items()},
        "functions": {n: len(g.nodes) for n, g in program.functions.items()},
        "nodes": sum(counts.values()),
        "op_counts": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        "text": to_text(program),
    }


def models() -> list[dict[str, Any]]:
    """The models that have a name: zoo architectures with seeded random weights, installed real ones."""
    from .models.zoo import models as rows

    return rows()


def targets() -> list[dict[str, Any]]:
    """Targets, and whether the backends that serve them are usable here."""
    from .backends.doctor import target_rows

    return target_rows()


def ops() -> list[dict[str, Any]]:
    """Every op and how each backend takes it: lowered, decomposed, or declined with a reason."""
    from .backends.doctor import op_rows

    return op_rows()


def doctor() -> list[dict[str, Any]]:
    """What is installed, what is missing, and what to do about it."""
    from .backends.doctor import part_rows

    return part_rows()


def explain(bundle: Bundle) -> list[dict[str, Any]]:
    """What each pass did and declined when this bundle was compiled."""
    try:
        rows = json.loads((bundle.path / NOTES).read_text(encoding="utf-8"))
        return [{key: row[key] for key in ("pass", "what", "where", "times")} for row in rows]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise LoadError(f"{NOTES} of {bundle.path.name} is broken", found=str(error)[:200]) from error


def summary(bundle: Bundle) -> dict[str, Any]:
    """The bundle in one row: where, how large, for what, and what it needs at run time."""
    m = bundle.manifest
    return {
        "bundle": str(bundle.path),
        "bytes": sum(f.size for f in m.files.values()),
        "model": m.name, "target": m.target, "backend": m.backend, "precision": m.info.get("precision", ""),
        "weights": m.info.get("weights", {}),
        "phase": m.info.get("phase", "prefill"),
        "entries": list(bundle.entries),
        "sizes": {n: str(Range(*span)) for n, span in next(iter(bundle.entries.values())).symbols.items()},
        "generation": {k: v for k, v in m.info.get("generation", {}).items() if k in CACHES and v},
        "memory": m.info.get("memory", {}), "notes": m.info.get("notes", []),
        "tuning": m.info.get("tuning") or "defaults",
    }  # fmt: skip


def demo(output: str | Path = "demo", *, progress: Progress = silent) -> list[dict[str, Any]]:
    """Compiles all-MiniLM-L6-v2 and SmolLM2-135M with their real weights, verifies them, and uses them.

    Ends with a profile of the latter as a page and a trace beside the bundles.
    """
    from .profiler.demo import demonstrate

    return demonstrate(compile, verify, profile, Path(output), progress)


# -- what the verbs share -------------------------------------------------------------------------------


def _bundle_of(against: Any) -> Bundle | None:
    """What a bundle is held against, where that is a bundle itself."""
    if isinstance(against, (str, Path)) and (Path(against) / "manifest.json").is_file():
        return load(against)
    return against if isinstance(against, Bundle) else None


def _again(bundle: Bundle, model: Any, progress: Progress) -> Work:
    """The original of a bundle, opened as it was when the bundle was compiled, its program before any pass."""
    stored = bundle.cases().cases
    spans = {n: Range(*span) for e in bundle.entries.values() for n, span in e.symbols.items()}
    given = None
    if not isinstance(model, (str, Path, Program)) and stored:
        import torch

        given = {name: torch.from_numpy(np.array(array)) for name, array in stored[0].inputs.items()}
    info = bundle.manifest.info
    asked = Asked(info.get("task"), spans.get("batch"), spans.get("seq"), given, info.get("fixed"),
                  bool(info.get("packed")) and given is None,
                  "generate" if "generation" in info else info.get("phase", "prefill"),
                  spans.get("past"))  # fmt: skip
    work = Work(model, asked, progress)
    if work.source is None:
        raise LoadError("a captured graph is no original, and proves nothing",
                        hint="give the model that it was captured from")  # fmt: skip
    return work


def _asked_again(bundle: Bundle, work: Work, progress: Progress) -> Any:
    """What the original answers now, to the stored cases or else to new ones."""
    progress("asking the original model", 0.55)
    return record_all(work, bundle.cases().cases)
