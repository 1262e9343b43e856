"""The tables of docs/benchmarks.md: what is measured, and how it is written down."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ..compiler.hardware.machine import this_machine
from ..ir.weight_file import write_whole
from .ceilings import Ceiling
from .standings import columns, parsed, standing, summary


@dataclass(frozen=True, slots=True)
class Workload:
    """A model or bundle at one size. seq: of a prefill, past: of a decode; None is 128, or what the model can take."""

    model: str
    batch: int = 1
    seq: int | None = None
    phase: str = "prefill"
    past: int | None = None

    @property
    def spoken(self) -> str:
        """`gpt2 1 x 1, decode at 256`, `bert-base 1 x 128`."""
        if self.phase == "decode":
            return f"{self.model} {self.batch} x 1, decode at {self.past or 'the default past'}"
        return f"{self.model} {self.batch} x {self.seq}" if self.seq else f"{self.model}, batch {self.batch}"


WORKLOADS = (
    Workload("bert-base", 1, 128), Workload("gpt2", 1, 128), Workload("gpt2", 1, phase="decode", past=256),
    Workload("smollm2", 1, phase="decode", past=256),
    Workload("llama-like", 1, 128), Workload("vit-focus", 1),
)  # fmt: skip
"""What `tundish bench` times when it is given no model."""

OF_BACKEND: dict[str, tuple[Workload, ...]] = {
    "tvm": (
        Workload("bert-base", 1, 128), Workload("bert-base", 8, 128), Workload("gpt2", 1, 128),
        Workload("llama-like", 1, 128), Workload("vit-base", 1), Workload("minilm", 16, 128),
        *(Workload(model, 1, 128) for model in ("mixtral-like", "qwen3-moe-like")),
        *(Workload(model, 1, phase="decode", past=256)
          for model in ("gpt2", "llama-like", "smollm2", "mixtral-like", "qwen3-moe-like")),
    ),
}  # fmt: skip
"""The same where a backend is named, of those that have workloads of their own."""

PEERS, HEADING, STANDINGS = "bench", "### ", "standings"
_ON = {"tvm": " on TVM"}  # what a table's title says of the backend, where it is not the usual one
_COLUMNS = ("median ms", "IQR ms", "times ours", "IQR", "clean of rounds", "differs by", "compile s", "peak compiling",
            "peak running")  # fmt: skip
PREDICTED = "predicted against measured"
_PACKAGES = ("torch", "transformers", "onnxruntime-gpu", "onnxruntime", "openvino", "onnx")


def write_tables(path: Path, results: list[dict[str, Any]]) -> None:
    """Rewrites these tables of peers in a markdown file, each under its heading; the others are kept."""
    before = f"\n{read_part(path, PEERS)}".split(f"\n{HEADING}")[1:]
    sections = {section.partition("\n")[0]: section.strip() for section in before}
    sections |= tables(results)
    write_part(path, PEERS, "\n\n".join(HEADING + text for text in sections.values()))
    stands = standings(sections)
    if stands:
        write_part(path, STANDINGS, stands)


def tables(results: list[dict[str, Any]]) -> dict[str, str]:
    """The section of each, heading included, by its heading."""
    return {_heading(r): _table(r) for r in results}


def standings(sections: Mapping[str, str]) -> str:
    """What the tables of backends that have workloads of their own come to."""
    parts = []
    for backend, said in _ON.items():
        found = [standing(t.partition(said)[0], parsed(text)) for t, text in sections.items() if said in t]
        text = summary([f for f in found if f is not None])
        parts += [f"With `--backend {backend}`:", text] if text else []
    return "\n\n".join(parts)


def read_part(path: Path, part: str) -> str:
    """What stands between a part's markers, "" where they are not."""
    begin, end = _markers(part)
    text = path.read_text() if path.is_file() else ""
    return text.partition(begin)[2].partition(end)[0] if end in text else ""


def _markers(part: str) -> tuple[str, str]:
    return f"<!-- {part}: begin; written by a command -->", f"<!-- {part}: end -->"


def write_part(path: Path, part: str, body: str) -> None:
    """Rewrites what stands between a part's markers in a markdown file, adding both at its end where they are not."""
    begin, end = _markers(part)
    text = path.read_text() if path.is_file() else "# Benchmarks\n"
    if begin not in text or end not in text.partition(begin)[2]:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    write_whole(path, f"{head}{begin}\n{body}\n{end}{tail}".encode())


def machine_line() -> str:
    """The date, the machine and the versions of what was measured."""
    machine = this_machine()
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    widest = "AVX-512" if "avx512f" in machine.features else "AVX2" if "avx2" in machine.features else "scalar"
    return f"{date.today()}, {machine.name}, {machine.cores} cores, {widest}; {', '.join(versions)}."


def _heading(result: dict[str, Any]) -> str:
    return f"{result['workload']}{_ON.get(result.get('backend', ''), '')}, fp32, {result['threads']} threads"


def _table(result: dict[str, Any]) -> str:
    """A table below its heading, with what it was measured on: tables of one file may be of different days."""
    shapes = ", ".join(f"{k} {list(v)}" for k, v in list(result["shapes"].items())[:3])
    more = len(result["shapes"]) - 3
    extra = columns(result)
    names = [*_COLUMNS, *next(iter(extra.values()), ())]
    lines = [
        _heading(result), "", machine_line(), "",
        f"Inputs: {shapes}{f' and {more} more' if more > 0 else ''}.", *_limits(result), "",
        "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|",
    ]  # fmt: skip
    rows = sorted(result["rows"], key=lambda r: r.get("median_ms", float("inf")))
    notes = dict.fromkeys(f"{r['name']}: {r['note']}." for r in rows if r.get("note"))
    notes |= dict.fromkeys(f"{text}." for text in result["notes"])
    shown = [_line(row, extra.get(row["name"], {}), len(names)) for row in rows]
    return "\n".join([*lines, *shown, *(f"\n{note}" for note in notes)])


def _limits(result: dict[str, Any]) -> list[str]:
    if "peak_flops_per_s" not in result:
        return []
    return ["", Ceiling(result["peak_flops_per_s"], result["read_bytes_per_s"]).spoken]


def _line(row: dict[str, Any], extra: Mapping[str, str], columns: int) -> str:
    if "cannot" in row:
        return f"| {row['name']} | cannot: {row['cannot']} |" + " |" * (columns - 1)
    rounds = row["clean_rounds"] + row["dropped_rounds"]
    differs = "" if row["max_abs_difference"] is None else f"{row['max_abs_difference']:.1e}"
    cells = [
        row["name"], f"{row['median_ms']:.3g}" if row["median_ms"] < 100 else f"{row['median_ms']:.0f}",
        f"{row['iqr_ms']:.2g}", f"{row['ratio']:#.3g}", f"{row['ratio_iqr']:.2f}", f"{row['clean_rounds']} of {rounds}",
        differs if row["same_answer"] else f"**{differs or 'another answer'}**", f"{row['compile_s']:.1f}",
        _gib(row["compile_peak_bytes"]), _gib(row["peak_bytes"]), *extra.values(),
    ]  # fmt: skip
    return "| " + " | ".join([*cells, *[""] * (columns + 1 - len(cells))]) + " |"


def _gib(value: int | None) -> str:
    return "" if value is None else f"{value / 2**30:.2f} GiB"
