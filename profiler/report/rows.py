"""A profile as rows: CSV for spreadsheets, JSON for scripts and for `tundish diff`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import msgspec

from ...ir.diagnostics import LoadError
from ...ir.weight_file import read_at_most, write_whole
from ..profiles import UNATTRIBUTED, NodeRow, Profile

LARGEST_BYTES = 1 << 30  # of a file that is read: a profile of 100,000 nodes has 60 MB


def write_csv(profile: Profile, path: Path) -> None:
    """Raises: BuildError where the file cannot be written."""
    write_whole(path, to_csv(profile).encode())


def to_csv(profile: Profile) -> str:
    """One line per node under a line of names, then one for what no node took; what is not known is empty."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(COLUMNS)
    for row in profile.nodes:
        plain = row.to_json()
        lines.writerow(["" if plain[c] is None else plain[c] for c in COLUMNS])
    if all(row.name != UNATTRIBUTED for row in profile.nodes):
        known = {"name": UNATTRIBUTED, "measured_ms": profile.unattributed_ms}
        lines.writerow([known.get(c, "") for c in COLUMNS])
    return out.getvalue()


COLUMNS = (*NodeRow.__slots__, "flops_per_s", "bytes_per_s")  # type: ignore[attr-defined]


def write_json(profile: Profile, path: Path) -> None:
    """Raises: BuildError where the file cannot be written."""
    write_whole(path, (json.dumps(profile.to_json(), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Profile:
    """What `tundish profile --json` wrote. Raises: LoadError on any other file."""
    try:
        data = read_at_most(path, LARGEST_BYTES)
    except OSError as error:
        raise LoadError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > LARGEST_BYTES:
        raise LoadError(f"{path} is too large for a profile")
    try:
        return msgspec.convert(msgspec.json.decode(data), Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        said = str(error).partition("\n")[0][:200]
        raise LoadError(f"{path} is no profile", found=said, hint="give what `tundish profile --json` wrote") from error
