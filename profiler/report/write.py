"""The files of a profile, each written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ...ir.diagnostics import BuildError
from ..profiles import Profile
from . import html as page
from . import perfetto, rows

File = str | Path | None


def write(profile: Profile, html: File = None, trace: File = None, csv: File = None) -> dict[str, str]:
    """Writes those that are named: kind -> file. Raises: BuildError."""
    check_files(html, trace, csv)
    writers = {"html": (html, page.write), "trace": (trace, perfetto.write), "csv": (csv, rows.write_csv)}
    written = {}
    for kind, (file, writer) in writers.items():
        if file is not None:
            writer(profile, Path(file))
            written[kind] = str(file)
    return written


def check_files(html: File = None, trace: File = None, csv: File = None, routing: File = None) -> None:
    """Cheap, so that it can be asked before work starts. Raises: BuildError on what cannot be written."""
    if trace is not None:
        perfetto.protobuf()
    given = [Path(f) for f in (html, trace, csv, routing) if f is not None]
    for path in given:
        check_file(path)
    if len({p.absolute() for p in given}) < len(given):
        raise BuildError("two reports cannot be one file", found=", ".join(map(str, given)))


def check_file(path: Path) -> None:
    """Raises: BuildError where it is a folder, or in none."""
    if path.is_dir():
        raise BuildError(f"{path} is a folder", hint="name the file to write")
    if not path.absolute().parent.is_dir():
        raise BuildError(f"{path} cannot be written: there is no folder {path.parent}")
