"""Writes a bundle: every file aside, the manifest last, then one rename."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Union

from ..compiler.hardware.machine import this_machine
from ..compiler.plan import Plan
from ..ir.diagnostics import BuildError
from .base import WEIGHTS, Backend, Built
from .cases import Cases, write_cases
from .manifest import MANIFEST, SCHEMA, EntryPoint, Manifest, entries_of, list_files
from .plan_text import plan_text
from .publish import folder_aside, refuse
from .version import version
from .weight_out import Progress, stored_program, stored_weights, write

if TYPE_CHECKING:
    from .bundle import Bundle

PLAN = "plan.txt"
Extra = tuple[str, Union[Path, bytes]]


def write_bundle(
    out: str | Path, plan: Plan, backend: Backend, *, name: str = "", cases: Cases | None = None,
    extra_files: Iterable[Extra] = (), info: Mapping[str, Any] | None = None,
    check: Callable[[Bundle], None] | None = None, progress: Progress | None = None,
) -> Bundle:  # fmt: skip
    """Builds a plan into the folder `out` and opens it.

    name:        what the manifest calls it; the folder's name by default.
    cases:       what the original model answered, to verify by.
    extra_files: (relative name, a file to copy or bytes), as a tokenizer's.
    info:        small JSON values for the manifest. Nothing that differs between two runs belongs here.
    check:       called with the new bundle before it takes its place; what it raises leaves the old one there.
    progress:    called with (stage, bytes done, bytes in all).

    Raises: BuildError; LoadError where a weight has no bytes.
    """
    from .bundle import open_bundle

    out = Path(out)
    out = out.parent.resolve() / out.name
    check_place(out)
    with folder_aside(out, MANIFEST) as aside:
        _fill(aside, name or out.name, plan, backend, cases, extra_files, info or {}, progress)
        if check is not None:
            with open_bundle(aside) as made:
                check(made)
    return open_bundle(out)


def check_place(out: Path) -> None:
    """Raises: BuildError where there is something that a bundle may not replace: all but a bundle or an empty folder.

    Cheap, so that a compiler can ask before it starts.
    """
    refuse(out, MANIFEST)
    file = out / MANIFEST
    if file.is_file() and not _is_ours(file):
        raise BuildError(
            f"{out.name} is there, and its {MANIFEST} is not a bundle's",
            hint="choose another name; nothing of it was touched",
        )


def _is_ours(file: Path) -> bool:
    """Whether a manifest is one of a bundle, be it of another version or of a broken one."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"schema", "backend", "entries", "files"} <= found.keys()


def build_files(plan: Plan, backend: Backend, folder: Path, progress: Progress | None = None) -> Built:
    """Writes the weights and the backend's files under a folder, as a bundle has them."""
    weights = folder / WEIGHTS
    write(weights, stored_weights(plan.program), progress)
    own = folder / backend.name
    own.mkdir()
    return backend.build(plan, own, weights, progress)


def _fill(
    folder: Path, name: str, plan: Plan, backend: Backend, cases: Cases | None, extra: Iterable[Extra],
    info: Mapping[str, Any], progress: Progress | None,
) -> None:  # fmt: skip
    built = build_files(plan, backend, folder, progress)
    (folder / PLAN).write_text(plan_text(plan.replace(program=stored_program(plan.program))))
    if cases is not None:
        write_cases(folder, cases)
    for relative, content in extra:
        _add(folder, relative, content)
    manifest = Manifest(
        schema=SCHEMA,
        name=name,
        backend=backend.name,
        target=plan.target,
        features=sorted(backend.capabilities(this_machine(plan.target)).features),
        versions={"tundish": version(), **backend.versions()},
        entries={entry: EntryPoint.of(s) for entry, s in built.entries.items()},
        options=dict(built.options),
        info=dict(info),
        files=entries_of(folder, list_files(folder)),
    )
    (folder / MANIFEST).write_bytes(manifest.text())


def _add(folder: Path, relative: str, content: Path | bytes) -> None:
    """Puts one more file in. Raises: BuildError on a name that leads outside, or that is taken."""
    pure = PurePosixPath(relative)
    target = folder / pure
    if pure.is_absolute() or ".." in pure.parts or relative == MANIFEST or target.exists():
        raise BuildError(f"{relative!r} cannot be a file of the bundle: the name is taken or leads outside")
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        target.write_bytes(content)
    else:
        shutil.copyfile(content, target)
