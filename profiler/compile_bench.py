"""What compiling costs: `python -m tundish.profiler.compile_bench [MODEL...] [--backend tvm] [--write FILE]`.

Each model is compiled in two processes of its own: the first with no kernel kept from before, the second with those of
the first. Then the bundle's size beside its weights', and what a process holds that runs it. Limits stand beside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..backends.bundle import Bundle, open_bundle
from ..backends.inputs import random_inputs
from ..ir.diagnostics import RunError, TundishError
from .benchmarks import machine_line, write_part
from .memory import measured_peak
from .process import environment, peak_bytes
from .report.table import size, table
from .workers import resolve

PART = "compile"
MODELS = ("bert-base", "llama-like")
COLD_S, WARM_S = {"bert-base": 60.0, "llama-like": 90.0}, {"bert-base": 10.0}  # what they may take
BEYOND_BYTES = 20_000_000  # of a bundle, beside its weights
SIZES = {"batch": 1, "seq": 128}  # of the runs whose memory is measured, where the model takes them
COMPILE = f"{__package__.rpartition('.')[0]}.api:compile"
KEPT = "TUNDISH_KERNELS"


def most_bytes(weights_bytes: int) -> int:
    """What a run may hold: 1.10 times the weights, and 300 MiB."""
    return weights_bytes * 110 // 100 + (300 << 20)


def bench(model: str, backend: str) -> dict[str, Any]:
    """One model's row. Raises: RunError where it cannot be compiled."""
    with tempfile.TemporaryDirectory(prefix="tundish-compile-") as name:
        folder = Path(name)
        cold, warm = (_in_process(model, backend, folder / "b.tundish", folder / "kernels") for _ in range(2))
        with open_bundle(folder / "b.tundish") as bundle:
            weights, whole = bundle.weights.stat().st_size, sum(f.size for f in bundle.manifest.files.values())
            cases = sum(f.size for name, f in bundle.manifest.files.items() if name.startswith("cases."))
            peak = _peak(bundle)
    return {
        "model": model, "cold_s": cold["seconds"], "most_cold_s": COLD_S.get(model), "warm_s": warm["seconds"],
        "most_warm_s": WARM_S.get(model), "compile_peak_bytes": cold["peak_bytes"], "weights_bytes": weights,
        "beyond_bytes": whole - weights - cases, "most_beyond_bytes": BEYOND_BYTES, "cases_bytes": cases,
        "run_bytes": peak, "most_run_bytes": most_bytes(weights), "cold_stages_s": cold["stages_s"],
        "warm_stages_s": warm["stages_s"],
    }  # fmt: skip


def within(row: Mapping[str, Any]) -> bool:
    """Whether a row holds all its limits; what has none does."""
    pairs = (("cold_s", "most_cold_s"), ("warm_s", "most_warm_s"), ("beyond_bytes", "most_beyond_bytes"),
             ("run_bytes", "most_run_bytes"))  # fmt: skip
    return all(row[limit] is None or row[figure] <= row[limit] for figure, limit in pairs)


def _peak(bundle: Bundle) -> int:
    """Of a process that runs it, with the pages of its weights."""
    entry, signature = next(iter(bundle.entries.items()))
    sizes = {
        n: min(max(low, SIZES.get(n, low)), high or SIZES.get(n, low)) for n, (low, high) in signature.symbols.items()
    }
    peak = measured_peak(bundle.path, random_inputs(signature, sizes=sizes), entry=entry, threads=None)
    return peak.peak + peak.mapped


def _in_process(model: str, backend: str, out: Path, kernels: Path) -> dict[str, Any]:
    job = {"model": model, "backend": backend, "out": str(out)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", f"{__package__}.compile_bench", "--job", json.dumps(job)],
        capture_output=True, text=True, env={**environment(), KEPT: str(kernels)},
    )  # fmt: skip
    if done.returncode:
        raise RunError(f"{model} cannot be compiled", found=(done.stderr.strip().splitlines() or ["nothing"])[-1][:300])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _job(job: Mapping[str, str]) -> dict[str, Any]:
    """In a process of its own: seconds of all that `tundish compile` does, imports included, and of its stages."""
    marks: list[tuple[str, float]] = []
    began = time.perf_counter()
    compile = resolve(COMPILE)
    marks.append(("importing", began))
    made = compile(job["model"], job["out"], backend=job["backend"],
                   progress=lambda stage, _: marks.append((stage, time.perf_counter())))  # fmt: skip
    end = time.perf_counter()
    made.close()
    return {"seconds": end - began, "stages_s": stages(marks, end), "peak_bytes": peak_bytes()}


def stages(marks: Sequence[tuple[str, float]], end: float) -> dict[str, float]:
    """Seconds of each stage: what is said last holds until something else is.

    >>> stages([("loading", 0.0), ("writing: a", 1.0), ("writing: b", 3.0), ("writing: a", 4.0)], 4.5)
    {'loading': 1.0, 'writing: a': 2.5, 'writing: b': 1.0}
    """
    found: dict[str, float] = {}
    for (stage, start), (_, stop) in zip(marks, [*marks[1:], ("", end)], strict=True):
        found[stage] = found.get(stage, 0.0) + stop - start
    return found


def markdown(rows: Sequence[Mapping[str, Any]], backend: str) -> str:
    """The table, and where the time went."""
    lines = [
        machine_line(), "", f"Backend: {backend}, {len(os.sched_getaffinity(0))} cores.", "",
        "| model | cold s | at most | warm s | at most | peak compiling | weights | beyond them | at most | running "
        "| at most |", "|" + "---|" * 11,
    ]  # fmt: skip
    for r in rows:
        cells = [r["model"], _s(r["cold_s"]), _s(r["most_cold_s"]), _s(r["warm_s"]), _s(r["most_warm_s"])]
        cells += [size(r[k]) for k in ("compile_peak_bytes", "weights_bytes", "beyond_bytes", "most_beyond_bytes",
                                       "run_bytes", "most_run_bytes")]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for r in rows:
        for kind in ("cold", "warm"):
            parts = [f"{stage} {s:.1f}" for stage, s in r[f"{kind}_stages_s"].items() if s >= 0.05]
            lines += ["", f"{r['model']}, {kind}, seconds: {', '.join(parts)}."]
    return "\n".join(lines)


def _s(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def main() -> None:
    """Prints the table; exit 1 where a limit is not held."""
    parser = argparse.ArgumentParser(prog="compile_bench", description="What compiling costs.")
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--backend", default="tvm")
    parser.add_argument("--write", type=Path, help="the markdown file whose table to rewrite")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job is not None:
        print(json.dumps(_job(asked.job)))
        return
    try:
        rows = [bench(model, asked.backend) for model in asked.models]
    except TundishError as error:
        print(f"tundish: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    table([{k: v for k, v in row.items() if not k.endswith("stages_s")} for row in rows])
    print(markdown(rows, asked.backend))
    if asked.write is not None:
        write_part(asked.write, PART, markdown(rows, asked.backend))
    sys.exit(0 if all(map(within, rows)) else 1)


if __name__ == "__main__":
    main()
