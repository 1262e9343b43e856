"""Proof that a bundle answers as the original does: recorded cases, replayed against one tolerance table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..backends.bundle import Bundle
from ..backends.cases import Case, Cases
from ..ir.diagnostics import CheckError, LoadError, RunError
from ..ir.dims import Dim
from ..ir.graph import Node, Program
from ..ir.ops.attention import attention

Arrays = Mapping[str, np.ndarray]
Call = Callable[..., Mapping[str, np.ndarray]]  # of the inputs, and of the entry where it is not the first

# Allowed |difference| as a share of max(1, max|original|), by the compute type. Relative to the largest value of the
# output because rounding errors of a matrix product scale with its largest terms, not with each element. Where the
# original's own rounding is larger (its distance from itself in f64), NOISE times that: a bundle may be twice as far
# from the exact answer as the original is, and so three times that from the original.
# It widens the tolerance to MOST times at most: an original that is further from itself in f64 computes something
# else there, and must not excuse a bundle that does.
NOISE, MOST = 3.0, 100.0
TOLERANCE = {"f64": 1e-9, "f32": 1e-5, "f16": 2e-2, "bf16": 6e-2}
# Weights in few bits, and the eight bits to which their kernels round activations, move single answers far: a model may
# hang on one large activation. So what is judged is the median over rows (of the last axis) of |difference| /
# |original| in l2: models come to 0.08 in 8 bits and 0.25 in 4, and a kernel that is wrong to about 1.4.
ROW_TOLERANCE = {"int8": 0.15, "stored": 0.15, "int4": 0.45}
_FULL_BYTES = 4 << 20  # outputs up to here are stored whole; of larger ones a seeded sample of rows
_SAMPLED_ROWS = 48


@dataclass(slots=True)
class OutputError:
    """How far one output is from the original, in the case that comes nearest to its tolerance (or passes it most).

    Errors are NaN where an output was not finite. `Report.by_case` has every case.
    median_row_error: of weights in few bits what is judged, by ROW_TOLERANCE; None elsewhere.
    """

    name: str
    max_abs_error: float = 0.0
    max_rel_error: float = 0.0
    tolerance: float = 0.0
    min_cosine: float = 1.0
    passed: bool = True
    worst_case: str = ""
    median_row_error: float | None = None

    @property
    def judged(self) -> float:
        """The error that the tolerance is for."""
        return self.max_abs_error if self.median_row_error is None else self.median_row_error


@dataclass(slots=True)
class Report:
    """The result of a verification. perplexity: the rows of `perplexity.perplexities`, where a text was given."""

    passed: bool
    outputs: list[OutputError]
    cases: int
    origin: str
    by_case: list[dict[str, Any]] = field(default_factory=list, repr=False)
    first_difference: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    perplexity: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def counting(program: Program, inputs: Arrays, entry_name: str | None = None) -> dict[str, np.ndarray]:
    """Which positions [batch, length] count, by output; outputs without positions are left out.

    Those that may look at something under the padding mask of their own length; none in a row where any mask is empty.
    """
    entry = program.functions[entry_name or program.entries[0]]
    leads = {v.type.shape[:2]: inputs[v.name].shape[:2] for v in entry.inputs if v.type.rank >= 2}
    masks = {v.type.shape: inputs[v.name] for v in entry.inputs if v.name.endswith("attention_mask")}
    found = {}
    for name, type in zip(entry.output_names, (v.type for v in entry.outputs), strict=True):
        lead = type.shape[:2]
        if lead not in leads or type.rank < 2:
            continue
        found[name] = np.ones(leads[lead], bool)
        if lead in masks:
            rows = np.logical_and.reduce([mask.any(axis=1) for mask in masks.values()])
            found[name] = attends(program, masks[lead], lead[1]) & rows[:, None]
    return found


def attends(program: Program, mask: np.ndarray, length: Dim | None = None) -> np.ndarray:
    """Which positions [batch, seq] may look at something, under every attention of the program.

    length: only under attention from positions of that length to others of it; None is any.
    mask: [batch, seq], nonzero where a token is real. Where an attention's mask is a full one, a bias, or drawn by
    hand, only real positions are known to.
    """
    seq, real = mask.shape[1], np.asarray(mask != 0)
    nodes = [n for g in program.functions.values() for n in g.nodes if length is None or _within(n, length)]
    kinds = {(n.attrs["causal"], n.attrs["window"]) for n in nodes if n.op.name == "attention"}
    ok = real.copy() if any(map(_says_more, nodes)) else np.ones(mask.shape, bool)
    for causal, window in kinds:
        allowed = attention.allowed(seq, seq, real, causal, window)
        ok &= np.broadcast_to(allowed, (*mask.shape[:1], 1, seq, seq)).any(axis=-1).reshape(mask.shape)
    return ok


def all_see(program: Program, inputs: Arrays) -> bool:
    """Whether every position may look at something under the windows that look both ways.

    Only then do answers without positions count: a model that reads both ways may read its answer at padding. One that
    looks back reads it where the text ends.
    """
    windows = {
        n.attrs["window"] for g in program.functions.values() for n in g.nodes
        if n.op.name == "attention" and n.attrs["window"] and not n.attrs["causal"]
    }  # fmt: skip
    masks = [np.asarray(a != 0) for name, a in inputs.items() if name.endswith("attention_mask") and a.ndim == 2]
    seen = (attention.allowed(m.shape[1], m.shape[1], m, False, w) for m in masks for w in windows)
    return all(bool(allowed.any(axis=-1).all()) for allowed in seen)


def _within(node: Node, length: Dim) -> bool:
    """Whether a node may be attention from positions of a length to others of the same."""
    if node.op.name != "attention":
        return any(v.type.rank > 1 and v.type.shape[-2:] == (length, length) for v in node.outputs)
    return all(v is not None and v.type.shape[1] == length for v in node.inputs[:2])


def _says_more(node: Node) -> bool:
    """Whether a node keeps positions from looking at others by more than attributes and the padding mask."""
    if node.op.name != "attention":
        return node.op.name == "softmax"
    mask, bias, _ = (*node.inputs[3:], None, None, None)[:3]
    return bias is not None or (mask is not None and mask.type.rank == 4)


def record(
    call: Call, inputs: Iterable[tuple[str, Mapping[str, np.ndarray]]], program: Program, origin: str,
    exact: Call | None = None, entry: str | None = None,
) -> Cases:  # fmt: skip
    """Asks the original each case of an entry, the first by default.

    `call` runs it, `exact` runs it in f64; `origin` says who it is.

    Positions that attend to nothing are left out (what the original computes there is arbitrary); of long outputs a
    seeded sample of rows is kept.
    """
    entry = entry or program.entries[0]
    made = []
    for name, given in inputs:
        case = _case(name, entry, given, call(given), program)
        made.append(case if exact is None else replace(case, noise=_noise(case, exact(given), program)))
    return Cases(origin, tuple(made))


def _noise(case: Case, exact: Arrays, program: Program) -> dict[str, float]:
    """How far each floating output of the original lies from the exact one, at the rows that are kept."""
    wide = _case(case.name, case.entry, case.inputs, exact, program, case.rows).outputs
    return {
        k: float(np.abs(_at_finite(v, v).astype(np.float64) - _at_finite(wide[k], v)).max(initial=0.0))
        for k, v in case.outputs.items() if k in wide and wide[k].dtype == np.float64
    }  # fmt: skip


def _case(name: str, entry: str, inputs: Arrays, outputs: Arrays, program: Program,
          known: Mapping[str, np.ndarray] | None = None) -> Case:  # fmt: skip
    """A case with the rows that are kept; `known` gives them where they were chosen before."""
    stored: dict[str, np.ndarray] = {}
    rows: dict[str, np.ndarray] = {}
    odd: list[str] = []
    counted = counting(program, inputs, entry)
    for key, array in outputs.items():
        array = np.ascontiguousarray(array)
        finite = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
        if key not in counted or counted[key].shape != array.shape[:2]:
            if all_see(program, inputs):
                odd += [] if finite.all() else [key]
                stored |= {key: array} if finite.any() else {}
            continue
        lead = array.shape[:2]
        if known is not None:
            rows[key] = known[key]
            stored[key] = array.reshape(lead[0] * lead[1], *array.shape[2:])[rows[key]]
            continue
        keep = counted[key] & finite.reshape(*lead, -1).any(axis=-1)
        odd += [] if finite[counted[key]].all() else [key]
        chosen = np.flatnonzero(keep.reshape(-1)).astype(np.int64)
        width = array.nbytes // max(1, lead[0] * lead[1])
        if len(chosen) * width > _FULL_BYTES:
            sample = np.random.default_rng(0).choice(
                len(chosen), min(_SAMPLED_ROWS, len(chosen)), replace=False
            )
            chosen = np.sort(chosen[sample])
        rows[key] = chosen
        stored[key] = array.reshape(lead[0] * lead[1], *array.shape[2:])[chosen]
    return Case(name, entry, dict(inputs), stored, rows, not_finite=tuple(odd))


def compare(run: Call, cases: Cases, dtype: str) -> Report:
    """Replays the cases through `run` and holds each output against the tolerance of the compute type, or of the format
    of the weights."""
    errors: dict[str, OutputError] = {}
    by_case: list[dict[str, Any]] = []
    for case in cases.cases:
        first = case.entry == cases.cases[0].entry
        answers = run(case.inputs) if first else run(case.inputs, case.entry)
        for key, expected in case.outputs.items():
            if key not in answers:
                raise RunError(f"the bundle gives no output {key!r}", found=", ".join(answers))
            name = key if first else _spoken(case, key)
            error = errors.setdefault(name, OutputError(name))
            by_case.append(_measure(error, key, case, answers[key], expected, dtype))
    outputs = list(errors.values())
    return Report(
        all(e.passed for e in outputs), outputs, len(cases.cases), cases.origin, by_case, notes=_left_out(cases)
    )


def _spoken(case: Case, key: str) -> str:
    """What an output of another entry is called; all that it keeps of its inputs' shapes under one name."""
    kept = {(a.shape, a.dtype.kind) for a in case.inputs.values() if a.ndim > 2}
    return f"{case.entry}: {'caches' if (case.outputs[key].shape, 'f') in kept or key in case.rows else key}"


def _left_out(cases: Cases) -> list[str]:
    """One line for each output that the original itself does not always give finite. Raises: LoadError.

    Where it gives nothing finite at all, there is nothing to compare.
    """
    own = [case for case in cases.cases if case.entry == cases.cases[0].entry]  # a step gives its caches back too
    if not any(np.isfinite(array).any() for case in own for array in case.outputs.values()):
        raise LoadError(f"{cases.origin} answered no finite number, so there is nothing to verify by",
                        hint="look for weights that are NaN or infinite; `tundish compile` warns of them")  # fmt: skip
    counts = Counter(key for case in cases.cases for key in case.not_finite)
    return [f"{key}: what is NaN or infinite in the original was not compared ({n} cases)" for key, n in counts.items()]


def check(bundle: Bundle, dtype: str) -> None:
    """Raises: CheckError where a bundle does not answer as the original did."""
    cases = bundle.cases()
    report = compare(bundle.run, cases, dtype) if cases.cases else None
    wrong = [o for o in report.outputs if not o.passed] if report is not None else []
    if wrong:
        worst = ", ".join(f"{o.name} by {o.judged:.3g} where {o.tolerance:.3g} is allowed" for o in wrong)
        raise CheckError(
            f"the bundle differs from {cases.origin} (case {wrong[0].worst_case})", found=worst,
            hint="nothing was written; compile without --verify and run `tundish verify --bisect` to find the node",
        )


def _measure(error: OutputError, key: str, case: Case, answer: np.ndarray, expected: np.ndarray, dtype: str
) -> dict[str, Any]:  # fmt: skip
    """Adds one case to an output's error; the case's own row."""
    whole, lead = answer, answer.shape[:2]
    if key in case.rows:
        answer = _rows(answer, case.rows[key], key)
    if answer.shape != expected.shape:
        raise RunError(
            f"output {key!r} has another shape than the original's",
            found=f"{list(answer.shape)} for {list(expected.shape)} in case {case.name}",
        )
    judged = _at_finite(answer, expected) if key in case.not_finite else whole
    finite = bool(np.isfinite(judged).all()) if answer.dtype.kind == "f" else True
    got, want = (_at_finite(a.astype(np.float64), expected) for a in (answer, expected))
    largest = float(np.abs(want).max(initial=0.0))
    difference = float(np.abs(got - want).max(initial=0.0)) if finite else float("nan")
    if dtype in ROW_TOLERANCE:
        off = median = _median_row_error(got, want) if finite else float("nan")
        tolerance = ROW_TOLERANCE[dtype]
    else:
        least = TOLERANCE[dtype] * max(1.0, largest)
        tolerance = min(max(least, NOISE * case.noise.get(key, 0.0)), MOST * least)
        off, median = difference, None
    if not off <= tolerance:
        error.passed = False
    if not finite or off / tolerance >= error.judged / (error.tolerance or 1.0):
        error.max_abs_error, error.tolerance, error.worst_case = difference, tolerance, case.name
        error.median_row_error = median
    relative = difference / largest if largest else difference
    error.max_rel_error = float(np.maximum(error.max_rel_error, relative))  # unlike max(), it keeps a NaN
    error.min_cosine = min(error.min_cosine, _cosine(got, want))
    return {
        "case": case.name, "output": key, "max_abs_error": difference, "tolerance": tolerance,
        "median_row_error": median,
        "noise": case.noise.get(key), "max_abs_error_at_tokens": _at_tokens(case, key, lead, got - want),
    }  # fmt: skip


def _rows(answer: np.ndarray, rows: np.ndarray, name: str) -> np.ndarray:
    """Those of an output's batch·seq rows. Raises: LoadError on rows that it does not have."""
    flat = answer.reshape(-1, *answer.shape[2:]) if answer.ndim >= 2 else answer
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or (rows.size and not 0 <= rows.min() <= rows.max() < len(flat)):
        raise LoadError(f"the stored cases ask for rows that output {name!r} does not have")
    return np.asarray(flat[rows])


def _at_finite(array: np.ndarray, original: np.ndarray) -> np.ndarray:
    """The array with 0 where the original is not finite; NaN of its own it keeps."""
    return np.where(np.isfinite(original), array, np.zeros((), array.dtype))


def _at_tokens(case: Case, name: str, lead: tuple[int, ...], difference: np.ndarray) -> float:
    """The largest difference at positions that hold a real token; over everything for outputs without positions.

    lead: [batch, length] of the output, which says whose mask it is; where two are that long, both must be real.
    """
    masks = [m for n, m in case.inputs.items() if n.endswith("attention_mask") and m.shape == lead]
    if masks and name in case.rows:
        real = np.logical_and.reduce([m != 0 for m in masks]).reshape(-1)
        difference = difference[real[case.rows[name]]]
    return float(np.abs(difference).max(initial=0.0))


def _median_row_error(got: np.ndarray, want: np.ndarray) -> float:
    """The median over rows of the last axis of |got - want| / |want|; rows of zeros count by |got|."""
    width = want.shape[-1] if want.ndim else 1
    size = np.linalg.norm(want.reshape(-1, width), axis=1)
    apart = np.linalg.norm((got - want).reshape(-1, width), axis=1)
    return float(np.median(apart / np.where(size > 0, size, 1.0))) if size.size else 0.0


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest cosine between rows of the last axis; 1 where both are zero."""
    a, b = a.reshape(-1, a.shape[-1] if a.ndim else 1), b.reshape(-1, b.shape[-1] if b.ndim else 1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = np.where(norms > 0, (a * b).sum(1) / np.where(norms > 0, norms, 1), 1.0)
    return float(dots.min(initial=1.0))
