"""docs/onnx.md: what became of ONNX's node cases, in total and by op."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from parity.onnx_nodes import Row, counts

_HEAD = """# ONNX conformance

ONNX's own node cases (`onnx.backend.test.loader.load_model_tests(kind="node")`, onnx {onnx}), each through import and
numpy evaluation, and where it imports through the ONNX Runtime backend (compiled, onnxruntime {ort}). Made by
`make onnx-table`.

- **passed**: names, element types and shapes of the outputs agree, and each element at the case's own tolerance
  (whole numbers are equal; bf16 and f16 may be two units off, as bf16 may in onnx's own runner).
- **fixed**: passed too, but a shape follows from the values of some input, so these were given on import (as
  `--fix NAME=VALUES` does). A program has shapes that follow from input shapes.
- **refused**: one line says why; nothing is made.
- **not taken**: ONNX Runtime has no kernel, or its Python interface no way in, for what we wrote.
- An op's cases include those that write it out as a function of simpler ops.
"""


def table(rows: list[Row], plain: Iterable[str] = ()) -> str:
    """plain: the cases that ONNX Runtime passes by itself, from the case's own file."""
    import onnx
    import onnxruntime

    alone = set(plain)
    wanted = [r for r in rows if r.wanted]
    groups = (("all", rows), ("only ops that Transformers need", wanted))
    lines = [_HEAD.format(onnx=onnx.__version__, ort=onnxruntime.__version__), "## Totals", ""]
    lines += _grid(
        ("", "cases", "passed", "fixed", "refused", "wrong", "crashed", "ONNX Runtime: passed", "not taken", "refused",
         "wrong", "crashed", "ONNX Runtime alone"),
        [_total(name, part, alone) for name, part in groups],
    )  # fmt: skip
    lines += ["", "## By op", ""]
    lines += _grid(
        ("op", "cases", "passed", "fixed", "refused", "ONNX Runtime", "why not"),
        [_op(name, [r for r in rows if r.subject == name]) for name in sorted({r.subject for r in rows})],
    )
    return "\n".join(lines) + "\n"


def _total(name: str, rows: list[Row], alone: set[str]) -> tuple[object, ...]:
    n = counts(rows)
    numpy = [n.get(k, 0) for k in ("passed", "passed with fixed inputs", "refused", "wrong", "crashed")]
    ort = [n.get(f"ort {k}", 0) for k in ("passed", "not taken", "refused", "wrong", "crashed")]
    return name, n["cases"], *numpy, *ort, sum(r.name in alone for r in rows)


def _op(name: str, rows: list[Row]) -> tuple[object, ...]:
    n = counts(rows)
    reasons = Counter(_short(r.reason) for r in rows if r.reason)
    reasons.update(f"ONNX Runtime: {_short(r.ort_reason)}" for r in rows if r.ort_reason)
    why = "; ".join(f"{text} ({times})" if times > 1 else text for text, times in sorted(reasons.items()))
    bad = n.get("wrong", 0) + n.get("crashed", 0)
    assert not bad or why, "what is wrong says how"
    return (name, n["cases"], n.get("passed", 0), n.get("passed with fixed inputs", 0) or "", n.get("refused", 0) or "",
            n.get("ort passed", 0), why)  # fmt: skip


_CUTS = (
    (r"^\d+ kinds? of op cannot be captured: .*", "no counterpart"),
    (r"onnxruntime cannot open forward.onnx: \[ONNXRuntimeError\] : \d+ : \w+ : ", ""),
    (r"onnxruntime failed in entry 'forward': (\[ONNXRuntimeError\] : \d+ : \w+ : )?", ""),
    (r"This is an invalid model. Type Error: (Type '[^']*').* of operator \((\w+)\).*", r"\1 is not \2's"),
    (r"Could not find an implementation for (\w+)\(\d+\).*", r"no kernel for \1"),
    (r"Failed to find kernel for (\w+)\(\d+\).*", r"no kernel for \1"),
    (r"onnxruntime takes no (\w+) .*", r"no \1"),
    (r"Numpy_type \d+ can't be converted to MLDataType.", "its Python interface takes no such numbers"),
    (r"No corresponding Numpy type for Tensor Type. \w+", "its Python interface gives no such numbers"),
)


def _short(reason: str) -> str:
    for pattern, text in _CUTS:
        reason = re.sub(pattern, text, reason)
    return reason.replace("|", "/")[:120]


def _grid(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]
