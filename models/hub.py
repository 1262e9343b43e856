"""Models by `org/name`, from a hub cache that was filled before; nothing is fetched and no code of theirs is run."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from .errors import ModelError

_NAME = re.compile(r"(?P<org>[\w][\w.-]*)/(?P<name>[\w][\w.-]*?)(@(?P<revision>[\w][\w.-]*))?")


def is_name(text: str) -> bool:
    """Whether a text has the form `org/name` or `org/name@revision`."""
    return _NAME.fullmatch(text) is not None


def cache_folder() -> Path:
    """Where the hub's library keeps its cache. Source: huggingface_hub, environment variables."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub"))


def snapshot(text: str) -> Path:
    """The folder of a cached revision, `main` by default. Raises: ModelError."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise ModelError(f"{text!r} is not of the form org/name")
    cache, revision = cache_folder(), match["revision"] or "main"
    repository = cache / f"models--{match['org']}--{match['name']}"
    if not repository.is_dir():
        raise _absent(text, cache)
    commit = _commit(repository, revision)
    folder = repository / "snapshots" / commit
    if not commit or not folder.is_dir():
        kept = sorted(p.name for p in (repository / "snapshots").glob("*"))
        raise ModelError(f"the hub cache holds no revision {revision!r} of {text.partition('@')[0]}",
                         found=", ".join(kept) or "none", hint="fetch it first, or name one that is there")  # fmt: skip
    check_links(folder, repository)
    return folder


def _commit(repository: Path, revision: str) -> str:
    """The snapshot that a branch, a tag or the start of a commit's name means; "" for none."""
    reference = repository / "refs" / revision
    if reference.is_file():
        text = reference.read_text(encoding="utf-8", errors="replace").strip()
        return text if re.fullmatch(r"[0-9A-Za-z]{1,64}", text) else ""
    names = [p.name for p in (repository / "snapshots").glob("*") if p.name.startswith(revision)]
    return names[0] if len(names) == 1 else ""


def repository_of(path: Path) -> Path | None:
    """The cached repository that a path lies in by its name (`models--…/snapshots/…`), or None."""
    parents = Path(os.path.abspath(path)).parents
    return next((p.parent for p in parents if p.name == "snapshots" and p.parent.name.startswith("models--")), None)


def check_links(folder: Path, within: Path) -> None:
    """Raises: ModelError for a file of `folder` that does not really lie in `within`."""
    root = os.path.realpath(within) + os.sep
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            if not os.path.realpath(path).startswith(root):
                raise ModelError(f"{os.path.relpath(path, folder)} leads out of {within}",
                                 found=os.path.realpath(path), hint="fetch the model again")  # fmt: skip


def _absent(text: str, cache: Path) -> ModelError:
    kept = sorted(p.name.removeprefix("models--").replace("--", "/") for p in cache.glob("models--*"))
    near = difflib.get_close_matches(text, kept, n=3)
    hint = f"nearest there: {', '.join(near)}" if near else "fetch it first: hf download " + text.partition("@")[0]
    return ModelError(f"{text!r} is neither a path nor in the hub cache {cache}; nothing is fetched", hint=hint)
