"""Makes cases, has them run by a worker under limits, and keeps what was found."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from .targets import Target

CPU_S, WALL_S = 10.0, 60.0
CASES_PER_WORKER = 2000  # libraries keep caches, which should not be taken for what a case needs
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Finding:
    target: str
    number: int
    said: str
    change: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.target} {self.number}: {self.said} [{self.change}] -> {self.folder}"


class Worker:
    """A process of `worker.py`, started when it is first needed and again after it was stopped."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.cases = scratch, 0
        self.process: subprocess.Popen[bytes] | None = None
        self.said = scratch / "stderr.txt"

    def run(self, asked: Mapping[str, Any]) -> tuple[str, str]:
        """(kind, what was said): as the worker answered, or "finding" where it hung or died."""
        if self.process is None:
            self.start()
        assert self.process is not None and self.process.stdin is not None
        self.cases += 1
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def start(self) -> None:
        self.stop()
        home = self.scratch / "home"
        home.mkdir(parents=True, exist_ok=True)
        out = str(self.scratch / "out")
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HOME": str(home), "TMPDIR": out,
            "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "TORCHINDUCTOR_CACHE_DIR": out,
        }  # fmt: skip
        with self.said.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fuzz.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=stderr, env=environment, start_new_session=True,
            )  # fmt: skip
        self.cases = 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()
        self.process = None

    def _answer(self) -> tuple[str, str]:
        process = self.process
        assert process is not None and process.stdout is not None
        began, cpu = time.monotonic(), _cpu_s(process.pid)
        while not select.select([process.stdout], [], [], 0.2)[0]:
            taken, wall = _cpu_s(process.pid) - cpu, time.monotonic() - began
            if taken > CPU_S or wall > WALL_S:
                process.send_signal(signal.SIGUSR1)
                time.sleep(0.5)
                self.stop()
                return "finding", f"hang: {taken:.0f} s of CPU time, {wall:.0f} s in all at {self._place()}"
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self.stop()
            return "finding", f"crash: {signal.Signals(-code).name if code < 0 else code} at {self._place()}"
        answer = json.loads(line)
        return answer["kind"], answer["said"]

    def _place(self) -> str:
        """The innermost lines of the stack that a stopped worker wrote: of all, and of ours."""
        text = self.said.read_text(errors="replace").rpartition("(most recent call first)")[2]
        frames = re.findall(r'File "(.+)", line (\d+) in (\w+)', text)
        ours = [f for f in frames if "site-packages" not in f[0] and "/lib/python" not in f[0]]
        told = [f"{file.split('site-packages/')[-1]}:{line} {name}" for file, line, name in (*frames[:1], *ours[:1])]
        return " < ".join(dict.fromkeys(told)) or "no Python line"


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass
class Fuzzer:
    """seeds: TARGET/SEED/ folders. keep: where findings are put. say: is told each new one."""

    targets: Mapping[str, Target]
    seeds: Path
    scratch: Path
    keep: Path
    seed: int = 0
    say: Callable[[Finding], None] = lambda finding: None
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    spent_s: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.worker = Worker(self.scratch)

    def warm(self) -> None:
        """Each seed as it is, so that what is loaded once is loaded. Raises: RuntimeError where one is refused."""
        for name in self.targets:
            for folder in sorted((self.seeds / name).iterdir()):
                for deep in (False, True):
                    self._fill(folder)
                    kind, said = self._ask(name, deep, warm=True)
                    if kind != "done":
                        raise RuntimeError(f"the seed {name}/{folder.name} is not taken: {said}")

    def run(self, until_s: float, first: int = 0) -> Iterator[Finding]:
        """Cases until that time (of `time.monotonic`), each target for as long as the others; new findings."""
        numbers = dict.fromkeys(self.targets, first)
        while time.monotonic() < until_s:
            name = min(self.targets, key=lambda n: self.spent_s[n])
            began = time.monotonic()
            finding = self.case(name, numbers[name])
            numbers[name] += 1
            self.spent_s[name] += time.monotonic() - began  # type: ignore[assignment]
            if finding is not None:
                yield finding

    def case(self, name: str, number: int) -> Finding | None:
        """Runs one case; what it found, where that is new."""
        if self.worker.process is None or self.worker.cases >= CASES_PER_WORKER:
            self.worker.start()
            self.warm()
        target, rng = self.targets[name], Random(f"{self.seed}/{name}/{number}")
        seeds = sorted((self.seeds / name).iterdir())
        self._fill(rng.choice(seeds))
        change = target.change(self.scratch / "case" / "in", rng)
        deep = rng.random() < target.deep
        shutil.rmtree(self.scratch / "kept", ignore_errors=True)
        shutil.copytree(self.scratch / "case" / "in", self.scratch / "kept")
        kind, said = self._ask(name, deep)
        if kind != "finding" and self._strayed():
            kind, said = "finding", f"writes {', '.join(self._strayed())}"
        self.outcomes[name, kind] += 1
        if kind != "finding":
            return None
        what, _, place = said.rpartition(" at ")
        key = f"{name} {what.partition(':')[0]} {place if what else re.sub(r'[0-9]+', '0', said)}"
        self.known[key] += 1
        return self._kept(name, number, said, change, deep) if self.known[key] == 1 else None

    def again(self, folder: Path) -> tuple[str, str]:
        """Runs the case of a kept finding."""
        about = json.loads((folder / "case.json").read_text())
        self.warm()
        self._fill(folder / "in")
        return self._ask(about["target"], about["deep"])

    def _fill(self, source: Path) -> None:
        for name in ("case", "out"):
            shutil.rmtree(self.scratch / name, ignore_errors=True)
        (self.scratch / "out").mkdir(parents=True)
        shutil.copytree(source, self.scratch / "case" / "in")

    def _ask(self, name: str, deep: bool, warm: bool = False) -> tuple[str, str]:
        case, out = self.scratch / "case" / "in", self.scratch / "out"
        return self.worker.run({"target": name, "case": str(case), "out": str(out), "deep": deep, "warm": warm})

    def _strayed(self) -> list[str]:
        """What lies in the scratch folder, or beside the case, and should not."""
        found = {p.name for p in self.scratch.iterdir()} - {"case", "out", "home", "kept", "stderr.txt"}
        return sorted(found | ({p.name for p in (self.scratch / "case").iterdir()} - {"in"}))

    def _kept(self, name: str, number: int, said: str, change: str, deep: bool) -> Finding:
        folder = self.keep / f"{name}-{self.seed}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.scratch / "kept", folder / "in")
        about = {"target": name, "seed": self.seed, "number": number, "said": said, "change": change, "deep": deep}
        (folder / "case.json").write_text(json.dumps(about, indent=1) + "\n")
        finding = Finding(name, number, said, change, folder)
        self.say(finding)
        return finding
