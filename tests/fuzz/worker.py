"""A process that runs cases one after another under limits. It reads one JSON line per case, and answers with one."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import signal
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

ALLOWED_BYTES = 2 << 30
_MEMORY = re.compile(r"bad_alloc|(can't|unable to|failed to|cannot) allocate|not enough memory", re.I)
_WRITES = frozenset({
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "shutil.rmtree", "shutil.move",
})  # fmt: skip
_NEVER = frozenset({
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "pty.spawn", "webbrowser.open", "pickle.find_class",
})  # fmt: skip


class Watch:
    """An audit hook that notes, and stops, what a case must not do."""

    def __init__(self) -> None:
        self.case: str | None = None  # the case's folder, while one runs
        self.out = ""
        self.seen: list[str] = []
        here = Path(__file__).resolve().parents[2]
        known = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), str(here), "/proc", "/sys", "/dev",
                 "/usr", "/lib", "/etc/localtime", "/etc/os-release"]  # fmt: skip
        self.readable = tuple(os.path.realpath(p) for p in known)
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.case is None:
            return
        said = self._judge(event, args)
        if said is not None:
            self.seen.append(said)
            raise PermissionError(said)

    def _judge(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event in _NEVER:
            return f"{event} {str(args)[:120]}"
        if event == "open" and isinstance(args[0], (str, bytes)):
            path, flags = os.path.realpath(os.fsdecode(args[0])), args[2]
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and path != os.devnull:
                return None if self._within(path, self.out) else f"writes {path}"
            return None if self._within(path, str(self.case), self.out, *self.readable) else f"reads {path}"
        if event in _WRITES and isinstance(args[0], (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(args[0]))
            path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            return None if self._within(path, self.out) else f"{event} {os.fsdecode(args[0])}"
        return None

    @staticmethod
    def _within(path: str, *folders: str) -> bool:
        return any(path == f or path.startswith(f + os.sep) for f in folders)


def size_bytes() -> int:
    """VmSize of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def run(watch: Watch, use: Any, asked: dict[str, Any]) -> tuple[str, str]:
    """("done" | "refused" | "finding", what was said)."""
    case, out = Path(asked["case"]), Path(asked["out"])
    os.chdir(out)
    if asked["warm"]:  # what libraries load, start and look up when they are first used is no part of a case
        return _outcome(use, case, out, asked["deep"])
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes() + ALLOWED_BYTES, resource.RLIM_INFINITY))
    watch.case, watch.out, watch.seen = str(case.parent), str(out), []
    try:
        result = _outcome(use, case, out, asked["deep"])
    finally:
        watch.case = None
    if watch.seen:
        return "finding", f"does what it must not: {'; '.join(watch.seen[:3])}"
    return result


def _outcome(use: Any, case: Path, out: Path, deep: bool) -> tuple[str, str]:
    from tundish.ir.diagnostics import TundishError
    from tundish.models.errors import ModelError

    try:
        use(case, out, deep)
    except BaseException as error:  # whatever a case brings about is to be told
        said = f"{type(error).__name__}: {str(error)[:300]}"
        if not isinstance(error, (TundishError, ModelError)) or getattr(error, "tundish_program", None) is not None:
            return "finding", f"{said} at {_place(error)}"
        if any(isinstance(e, MemoryError) or _MEMORY.search(str(e)) for e in _chain(error)):
            return "finding", f"memory: {said} at {_place(error)}"
        return "refused", said
    return "done", ""


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error, and what it was raised from, which may be a ring."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__
    return found


def _place(error: BaseException) -> str:
    """Where it came from: the innermost line of ours and the innermost of all."""
    frames = traceback.extract_tb(_chain(error)[-1].__traceback__)
    ours = [f for f in frames if "site-packages" not in f.filename and "/fuzz/" not in f.filename]
    last = [f"{f.filename.split('site-packages/')[-1]}:{f.lineno}" for f in (*ours[-1:], *frames[-1:])]
    return " < ".join(dict.fromkeys(reversed(last)))


def main() -> None:
    from fuzz.targets import PLANTED, TARGETS

    sys.dont_write_bytecode = True
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is nobody's
    watch, tables = Watch(), {**TARGETS, **PLANTED}
    for line in sys.stdin:
        asked = json.loads(line)
        kind, said = run(watch, tables[asked["target"]].use, asked)
        answers.write(json.dumps({"kind": kind, "said": said}) + "\n")


if __name__ == "__main__":
    main()
