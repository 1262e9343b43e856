"""ONNX's own node cases through import and numpy evaluation, and through ONNX Runtime where they import.

    PYTHONPATH=tests python -m parity.onnx_nodes                   # totals, and what is wrong or crashed
    PYTHONPATH=tests python -m parity.onnx_nodes Pad Resize --all  # cases of these ops, a line each
    PYTHONPATH=tests python -m parity.onnx_nodes --write docs/onnx.md
    PYTHONPATH=tests python -m parity.onnx_nodes --ort --engine tvm  # through the TVM backend in its place
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tundish.backends import registry
from tundish.backends.bundle_write import build_files
from tundish.backends.onnxruntime.runner import fed
from tundish.compiler.driver import compile_program
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.task import Task
from tundish.ir.capture.from_onnx import Unsettled, capture
from tundish.ir.diagnostics import BuildError, CompileError, LoadError, RunError, TundishError
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.verify import verify

LIMIT_S = 10  # a case that takes longer counts as a crash
# The ops that Transformer models need.
WANTED = frozenset("""
    Attention RotaryEmbedding RMSNormalization LayerNormalization Gelu Swish SwiGLU Softmax MatMul Gemm Gather GatherND
    GatherElements ScatterND ScatterElements TopK Where Cast QuantizeLinear DequantizeLinear DynamicQuantizeLinear
    MatMulInteger QLinearMatMul TensorScatter Einsum CumSum OneHot NonZero Loop Scan If LinearAttention
    CausalConvWithState FlexAttention Reshape Transpose Concat Slice Split Expand Unsqueeze Squeeze Add Sub Mul Div Pow
    Sqrt Erf Tanh Sigmoid ReduceMean ReduceSum ReduceMax Trilu Range ConstantOfShape Shape Clip Equal Greater Less And
    Or Not Neg Reciprocal Sin Cos Exp Tile Pad Constant
""".split())
UNITS = {"bfloat16": 2**-6, "float16": 2**-9}
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """What became of one case.

    subject: the op that it is about; `ops` are those of its graph, without the bodies of loops and branches.
    outcome: passed, passed with fixed inputs, refused, wrong, crashed.
    fixed:   the inputs whose values had to be given when it was imported.
    ort:     passed, refused (by us), not taken (by ONNX Runtime), wrong or crashed; "" where it was not tried.
    """

    name: str
    subject: str
    ops: tuple[str, ...]
    outcome: str = ""
    reason: str = ""
    fixed: tuple[str, ...] = ()
    ort: str = ""
    ort_reason: str = ""

    @property
    def wanted(self) -> bool:
        """Whether the case uses only ops that Transformer models need."""
        return WANTED.issuperset(self.ops)

    @property
    def passed(self) -> bool:
        return self.outcome.startswith("passed")


@lru_cache
def cases() -> dict[str, Any]:
    """Name -> onnx's TestCase. ONNX makes them anew each time, which takes 4 s."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind="node")}


def _subject(name: str) -> str:
    """The op of the case, or of the one whose op this one writes out as simpler ones."""
    base = name.split("_expanded")[0]
    graph = cases().get(base, cases()[name]).model.graph
    return "+".join(dict.fromkeys(n.op_type for n in graph.node))


# -- one case -----------------------------------------------------------------------------------------------


class TooLong(BaseException):
    """Over LIMIT_S; not an Exception, so that nothing on the way takes it for its own."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tried(name: str, *, ort: bool = False, engine: str = "onnxruntime") -> Row:
    """One case through numpy, and where it imports and `ort` says so through ONNX Runtime, or another backend."""
    case = cases()[name]
    row = Row(name, _subject(name), tuple(sorted({n.op_type for n in case.model.graph.node})))
    imported: dict[str, Any] = {}

    def in_numpy() -> None:
        imported["program"], imported["fixed"] = _imported(case)
        compare(case, evaluate(imported["program"], _rest(case, imported["fixed"])))

    outcome, reason = judged(in_numpy, refuses=(TundishError,))
    if outcome == "refused" and imported:
        outcome, reason = "wrong", f"imported, but cannot be evaluated: {reason}"
    fixed = tuple(sorted(imported.get("fixed", {})))
    if outcome == "passed" and fixed:
        outcome = "passed with fixed inputs"
    row = replace(row, outcome=outcome, reason=reason, fixed=fixed)
    if not ort or not imported or outcome == "crashed":
        return row
    judgement, why = judged(
        lambda: _compiled(engine, case, imported["program"], imported["fixed"]), refuses=(CompileError, BuildError),
        untaken=(LoadError, RunError),
    )  # fmt: skip
    return replace(row, ort=judgement, ort_reason=why)


def judged(
    run: Callable[[], None], refuses: tuple[type[Exception], ...], untaken: tuple[type[Exception], ...] = ()
) -> tuple[str, str]:
    """(outcome, reason); a TundishError that is no refusal says that a wrong thing was made."""
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
    except AssertionError as error:
        if error.args and isinstance(error.args[0], Wrong):
            return "wrong", str(error)
        return "crashed", _crash(error)
    except refuses as error:
        return "refused", _line(error)
    except untaken as error:
        return "not taken", _line(error)
    except TundishError as error:
        return "wrong", _line(error)
    except TooLong:
        return "crashed", f"took over {LIMIT_S} s"
    except Exception as error:  # whatever it is, it is ours
        return "crashed", _crash(error)
    return "passed", ""


class Wrong(str):
    """What differs from what the case expects."""


def _line(error: TundishError) -> str:
    found = f" ({error.found})" if error.found else ""
    return " ".join(f"{error.problem}{found}".split())


def _crash(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text} at {Path(last.filename).name}:{last.lineno}"


def given(case: Any) -> dict[str, Any]:
    """The case's inputs by name."""
    return {v.name: array(a) for v, a in zip(case.model.graph.input, case.data_sets[0][0], strict=False)}


def array(data: Any) -> Any:
    from onnx import TensorProto, numpy_helper

    if isinstance(data, TensorProto):
        return numpy_helper.to_array(data)
    return data if isinstance(data, (list, type(None))) else np.asarray(data)


def _imported(case: Any) -> tuple[Program, dict[str, np.ndarray]]:
    """The program, and the inputs that had to be fixed: none, unless a shape depends on their values."""
    inputs, fixed = given(case), {}
    while True:
        try:
            return verify(capture(case.model, fixed=fixed)), fixed
        except Unsettled as error:
            more = [n for n in error.inputs if n in inputs and n not in fixed]
            if not more:
                raise
            fixed.update({n: inputs[n] for n in more})


def _rest(case: Any, fixed: Arrays) -> dict[str, np.ndarray]:
    return {n: a for n, a in given(case).items() if n not in fixed}


@lru_cache
def _task(engine: str) -> Task:
    machine = this_machine()
    return Task(machine, registry.get(engine).capabilities(machine))


def _compiled(name: str, case: Any, program: Program, fixed: Arrays) -> None:
    engine = registry.get(name)
    plan = compile_program(program, _task(name))
    with tempfile.TemporaryDirectory() as folder:
        runner = engine.open(build_files(plan, engine, Path(folder)), threads=1)
        try:
            compare(case, runner.run("forward", _rest(case, fixed)))
        finally:
            runner.close()


def passes_alone(name: str) -> bool:
    """Whether ONNX Runtime passes the case by itself, from the case's own file, met halfway where that helps.

    Files of a newer form and opset than it knows are let in, and numbers that numpy lacks go by their bits.
    """
    import onnxruntime as ort

    case, options = cases()[name], ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    model = type(case.model)()
    model.CopyFrom(case.model)
    model.ir_version = min(model.ir_version, 10)
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
            names = [o.name for o in session.get_outputs()]
            compare(case, dict(zip(names, fed(session, names, given(case)), strict=True)))
    except (Exception, TooLong):  # its errors have no common base
        return False
    return True


def compare(case: Any, got: Arrays) -> None:
    """Names, element types and shapes of the outputs, and their elements at the case's own tolerance."""
    meant = [array(a) for a in case.data_sets[0][1]]
    names = [o.name for o in case.model.graph.output]
    if list(got) != names or len(got) != len(meant):
        raise AssertionError(Wrong(f"the outputs are {', '.join(got)}, not {', '.join(names)}"))
    for (name, have), want in zip(got.items(), meant, strict=True):
        if have.dtype != want.dtype or have.shape != want.shape:
            raise AssertionError(Wrong(f"{name} is {have.dtype}{list(have.shape)}, not {want.dtype}{list(want.shape)}"))
        if have.size and not _close(have, want, case.rtol, case.atol).all():
            raise AssertionError(Wrong(f"{name}: {_difference(have, want, case.rtol, case.atol)}"))


def _close(have: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> np.ndarray:
    """Whole numbers are equal; floats are within the case's tolerance, or two units of a type of 16 bits.

    onnx's own runner gives bf16 those two units; f16 gets them by the same reason, for one case.
    """
    if want.dtype.kind in "iub":
        return np.asarray(have == want)
    rtol = max(rtol, UNITS.get(want.dtype.name, 0.0))
    return np.isclose(have.astype(np.float64), want.astype(np.float64), rtol, atol, equal_nan=True)


def _difference(have: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> str:
    bad = ~_close(have, want, rtol, atol)
    return f"{bad.sum()} of {bad.size} differ, such as {have[bad].flat[0]} for {want[bad].flat[0]}"


# -- all of them --------------------------------------------------------------------------------------------


def run(names: Iterable[str] | None = None, *, ort: bool = False, engine: str = "onnxruntime") -> list[Row]:
    return [tried(name, ort=ort, engine=engine) for name in (cases() if names is None else names)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", help="only cases about these ops, or whose name holds the word")
    parser.add_argument("--all", action="store_true", help="a line for every case, not only what is wrong or crashed")
    parser.add_argument("--ort", action="store_true", help="run through ONNX Runtime too")
    parser.add_argument("--engine", default="onnxruntime", help="the backend that --ort runs")
    parser.add_argument("--write", type=Path, help="write the table there")
    asked = parser.parse_args(arguments)
    os.environ["ALLOW_RELEASED_ONNX_OPSET_ONLY"] = "0"  # read once, when onnxruntime first opens a model
    chosen = [n for n in cases() if not asked.ops or _subject(n) in asked.ops or any(o in n for o in asked.ops)]
    rows = run(chosen, ort=asked.ort or asked.write is not None, engine=asked.engine)
    for row in rows:
        if asked.all or {row.outcome, row.ort} & {"wrong", "crashed"}:
            sys.stdout.write(f"{_spoken(row)}\n")
    sys.stdout.write("\n".join(totals(rows)) + "\n")
    if asked.write is not None:
        from parity.onnx_table import table

        asked.write.write_text(table(rows, [row.name for row in rows if passes_alone(row.name)]))
    return 0


def _spoken(row: Row) -> str:
    text = f"{row.name}: {row.outcome}" + (f" ({', '.join(row.fixed)})" if row.fixed else "")
    text += f": {row.reason}" if row.reason else ""
    return text + (f"; ORT {row.ort}" if row.ort else "") + (f": {row.ort_reason}" if row.ort_reason else "")


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """How many cases came to each outcome; those of ONNX Runtime as `ort passed`."""
    found: dict[str, int] = {"cases": 0}
    for row in rows:
        found["cases"] += 1
        for key in (row.outcome, f"ort {row.ort}" if row.ort else ""):
            if key:
                found[key] = found.get(key, 0) + 1
    return found


def totals(rows: list[Row]) -> list[str]:
    wanted = [r for r in rows if r.wanted]
    return [f"{what}: {counts(part)}" for what, part in (("all", rows), ("only the ops of Transformers", wanted))]


if __name__ == "__main__":
    sys.exit(main())
