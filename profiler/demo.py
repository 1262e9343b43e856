"""The demonstration: two models with real weights compiled, verified and put to use."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..backends.bundle import Bundle
from ..backends.text import continuation, neighbours
from .parity import Report
from .profiles import Profile
from .report.progress import Progress
from .report.write import write

# What each of the two is used for, and its bar: the largest error of logits on text, the least cosine of embeddings.
PROFILED = "smollm2"  # its profile is written as a page and a trace at the end
JOBS: dict[str, Callable[[Bundle], dict[str, Any]]] = {"minilm": neighbours, "smollm2": continuation}
LOGITS_BAR, COSINE_BAR = 1e-4, 0.99999


def demonstrate(
    compile: Callable[..., Bundle], verify: Callable[[Bundle], Report], profile: Callable[[Bundle], Profile],
    folder: Path, progress: Progress,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row per model: sizes, times, errors, and whether every bar was met (`passed`).

    The row of PROFILED also says where its profile was written.
    """
    rows = []
    for i, (name, use) in enumerate(JOBS.items()):
        part = _part(progress, name, i)
        bundle, row = _one(name, use, compile, verify, folder, part)
        if name == PROFILED:
            part("profiling", 0.995)
            row = _with_profile(row, profile(bundle), folder / name)
        rows.append(row)
    return rows


def _with_profile(row: dict[str, Any], found: Profile, stem: Path) -> dict[str, Any]:
    """The row with the files of a profile, and lines that say where they are."""
    files = write(found, html=f"{stem}.html", trace=f"{stem}.pftrace")
    lost = found.unattributed_ms / found.total_ms if found.total_ms else 0.0
    lines = [
        f"profile of {len(found.nodes)} nodes in {found.total_ms:.1f} ms, {lost:.1%} in none of them:",
        f"  page   {files['html']}  (open it in a browser)",
        f"  trace  {files['trace']}  (open it at https://ui.perfetto.dev)",
    ]
    return {**row, **files, "lines": [*row["lines"], *lines]}


def _one(
    name: str, use: Any, compile: Any, verify: Any, folder: Path, progress: Progress
) -> tuple[Bundle, dict[str, Any]]:
    started = time.perf_counter()
    bundle = compile(name, folder / f"{name}.tundish", progress=progress)
    compiled = time.perf_counter()
    progress("verifying", 0.99)
    report = verify(bundle)
    verified = time.perf_counter()
    used = use(bundle)
    ended = time.perf_counter()
    on_text = max(c["max_abs_error_at_tokens"] for c in report.by_case if c["case"].startswith("text"))
    cosine = min(o.min_cosine for o in report.outputs)
    met = on_text <= LOGITS_BAR if name == "smollm2" else cosine >= COSINE_BAR
    return bundle, {
        "model": name, "bundle": str(bundle.path), "bytes": sum(f.size for f in bundle.manifest.files.values()),
        "verified": report.passed, "cases": report.cases, "max_abs_error_on_text": on_text,
        "max_abs_error": max(c["max_abs_error"] for c in report.by_case), "min_cosine": cosine,
        "compile_s": compiled - started, "verify_s": verified - compiled, "use_s": ended - verified,
        "answers_right": used["right"], "passed": bool(report.passed and used["right"] and met), "lines": used["lines"],
    }  # fmt: skip


def _part(progress: Progress, name: str, index: int) -> Progress:
    """The progress of one of the jobs as progress of them all."""

    def show(stage: str, share: float) -> None:
        progress(f"{name}: {stage}", (index + share) / len(JOBS))

    return show
