"""A folder for others: ONNX files in it, and the files that loaders look for beside it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...compiler.plan import Plan
from ..publish import folder_aside
from ..version import version
from .export import export_onnx

MARKER = "tundish.json"  # says that the folder is ours to replace, and what made it


def export_folder(
    plans: Mapping[str, Plan], out: Path, companions: Callable[[Mapping[str, bool]], Mapping[str, bytes]], *,
    name: str, portable: bool = False, opset: int | None = None,
    opened: Mapping[str, Mapping[str, Mapping[int, str]]],
) -> dict[str, Any]:  # fmt: skip
    """Writes the folder whole or not at all; a row that describes it, and of several graphs the last.

    plans: an ONNX file's path within -> what it holds; weights too large for it lie in `<file>_data`, as
    Transformers.js has it.
    companions: gives the other files, told of which graphs the weights lie so. opened: file -> as `export_onnx` has it.
    Raises: BuildError where `out` is something else than a folder written here.
    """
    with folder_aside(out, MARKER, what="an exported folder") as aside:
        rows = {
            file: export_onnx(plan, aside / file, portable=portable, opset=opset, data_suffix="_data",
                              opened=opened[file])
            for file, plan in plans.items()
        }  # fmt: skip
        beside = {file: row["external_data"] is not None for file, row in rows.items()}
        for path, content in companions(beside).items():
            (aside / path).write_bytes(content)
        file, row = list(rows.items())[-1]
        written = sorted(str(p.relative_to(aside)) for p in aside.rglob("*") if p.is_file())
        made = {
            "producer": "tundish", "version": version(), "model": name, "portable": portable, "opset": row["opset"],
            "files": {path: _fingerprint(aside / path) for path in written},
        }  # fmt: skip
        (aside / MARKER).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return {
        **row, "file": str(out / file), "external_data": str(out / f"{file}_data") if beside[file] else None,
        "bytes": sum(r["bytes"] for r in rows.values()),
        "inputs": _by_layer(row["inputs"]), "outputs": _by_layer(row["outputs"]), "folder": str(out),
        "files": [*written, MARKER],
    }  # fmt: skip


def _by_layer(names: list[str]) -> list[str]:
    """The names, those of all layers as one: `present.N.key`."""
    return list(dict.fromkeys(re.sub(r"\.\d+\.", ".N.", name) for name in names))


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
