"""What a tuner compares: bundles of one program with other options, built in processes of their own or by Ray.

`python -m tundish.profiler.candidates` reads a Job as JSON from its parent and answers one JSON line.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..ir.diagnostics import TundishError
from .process import environment

MOST_WORKERS = 256
Files = dict[str, bytes]
Row = tuple[str, str, str, str, str]  # a site's four words, and the option taken there


@dataclass(frozen=True, slots=True)
class Job:
    """One build; plain values, so that any process on any machine can be sent it.

    program: the folder that `ir.save` wrote. out: the bundle's folder. cases: the folder with the answers of the
    default, "" where it is the default that is built. token: the name of a file in `program`, by which a process on
    another machine knows that it is not there.
    """

    program: str
    out: str
    cases: str
    backend: str
    target: str
    dtype: str
    model: str
    options: tuple[Row, ...] = ()
    token: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """problem: why it may not be chosen, "" where its answers are those of the default.

    wrong: it was built, and its numbers differ.
    """

    problem: str = ""
    wrong: bool = False


def build(job: Job) -> Outcome:
    """Compiles and writes a candidate, and holds its answers against the default's."""
    from ..backends.bundle import open_bundle, write_bundle
    from ..backends.cases import read_cases
    from ..backends.registry import get
    from ..compiler.driver import compile_program
    from ..compiler.hardware.machine import this_machine
    from ..compiler.task import Precision, Task
    from ..compiler.tuning import Site, Table
    from ..ir.save import load
    from .parity import compare

    machine, engine, program = this_machine(job.target), get(job.backend), load(Path(job.program))
    table = Table().with_options({Site(*row[:4]): row[4] for row in job.options})
    task = Task(machine, engine.capabilities(machine), Precision(weights=job.dtype, compute=job.dtype),
                program.symbols, tuning=table, model=job.model)  # fmt: skip
    plan = compile_program(program, task)
    write_bundle(Path(job.out), plan, engine, name="candidate", info={"dtype": job.dtype}).close()
    if not job.cases:
        return Outcome()
    with open_bundle(Path(job.out)) as made:
        report = compare(made.run, read_cases(Path(job.cases)), job.dtype)
    wrong = [f"{o.name} by {o.max_abs_error:.3g} where {o.tolerance:.3g} is allowed"
             for o in report.outputs if not o.passed]  # fmt: skip
    return Outcome(f"it differs from the default: {', '.join(wrong)}", wrong=True) if wrong else Outcome()


def attempt(job: Job) -> Outcome:
    """`build`, with what stops it as the outcome's problem."""
    try:
        return build(job)
    except Exception as error:  # a backend may raise anything
        return Outcome(f"{type(error).__name__}: {error}".split("\n")[0][:300])


class Builders(Protocol):
    """Who builds; `width` candidates at a time."""

    width: int

    def build_all(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Builds all of them and returns when the last is done."""
        ...

    def close(self) -> None:
        """Ends what was started."""
        ...


class Here:
    """Builds in this process."""

    width = 1

    def build_all(self, jobs: Sequence[Job]) -> list[Outcome]:
        return [attempt(job) for job in jobs]

    def close(self) -> None:
        pass


class Processes:
    """Builds in so many processes of this machine at a time."""

    def __init__(self, width: int) -> None:
        self.width = width

    def build_all(self, jobs: Sequence[Job]) -> list[Outcome]:
        with ThreadPoolExecutor(self.width) as pool:
            return list(pool.map(_in_process, jobs))

    def close(self) -> None:
        pass


def _in_process(job: Job) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tundish.profiler.candidates"], input=json.dumps(asdict(job)).encode(),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        env=environment(),
    )  # fmt: skip
    if done.returncode:
        return Outcome(f"the process that built it ended with code {done.returncode}")
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


class OverRay:
    """Builds as tasks of Ray: of a cluster (`ray://host:port`, or $RAY_ADDRESS), or of this machine.

    Tundish and the backend's library must be installed where tasks run; the program is sent where its folder is not.
    """

    def __init__(self, address: str | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise TundishError("Ray is not installed", hint="pip install 'tundish[ray]'") from error
        self._ray, self._started = ray, not ray.is_initialized()
        self._sent: dict[str, Any] = {}
        if self._started:
            self._start(address)
        self._task = ray.remote(num_cpus=1)(there)
        self.width = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _start(self, address: str | None) -> None:
        paths = os.pathsep.join(p for p in sys.path if p)
        asked: dict[str, Any] = {
            "address": address, "log_to_driver": False, "logging_level": "ERROR",
            "runtime_env": {"env_vars": {"PYTHONPATH": paths}},
        }  # fmt: skip
        if not address and not os.environ.get("RAY_ADDRESS"):
            asked["include_dashboard"] = False
        try:
            self._ray.init(**asked)
        except Exception as error:  # Ray's and gRPC's errors have no common base
            raise TundishError(f"Ray cannot be reached at {address or 'this machine'}",
                               found=str(error).strip().split("\n")[0][:300]) from error  # fmt: skip

    def build_all(self, jobs: Sequence[Job]) -> list[Outcome]:
        first: list[Any] = self._ray.get([self._task.remote(job) for job in jobs])
        away = [job for job, answer in zip(jobs, first, strict=True) if answer is None]
        sent = self._ray.get([self._task.remote(job, *self._files(job)) for job in away])
        outcomes = iter(sent)
        answers: list[Any] = [next(outcomes) if answer is None else answer for answer in first]
        return [_received(job, answer) for job, answer in zip(jobs, answers, strict=True)]

    def _files(self, job: Job) -> list[Any]:
        """References to the bytes of the program and of the cases, put where tasks can get them once."""
        for folder in (job.program, job.cases):
            if folder not in self._sent:
                self._sent[folder] = self._ray.put(packed(Path(folder)) if folder else {})
        return [self._sent[job.program], self._sent[job.cases]]

    def close(self) -> None:
        if self._started:
            self._ray.shutdown()


def there(job: Job, program: Files | None = None, cases: Files | None = None) -> tuple[Outcome, Files] | None:
    """A build on whatever machine this is: in place where the program's folder is here, else from its bytes.

    None: neither is at hand, and the bytes must be sent.
    """
    if (Path(job.program) / job.token).is_file():
        return attempt(job), {}
    if program is None or cases is None:
        return None
    with tempfile.TemporaryDirectory(prefix="tundish-tune-") as name:
        folder = Path(name)
        unpacked(folder / "program", program)
        unpacked(folder / "cases", cases)
        here = replace(job, program=str(folder / "program"), out=str(folder / "out"),
                       cases=str(folder / "cases") if job.cases else "")  # fmt: skip
        outcome = attempt(here)
        return outcome, packed(folder / "out") if not outcome.problem else {}


def _received(job: Job, answer: tuple[Outcome, Files]) -> Outcome:
    outcome, files = answer
    if files:
        unpacked(Path(job.out), files)
    return outcome


def packed(folder: Path) -> Files:
    """Every file below a folder, by its relative name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def unpacked(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes such files. The names come from `packed`, in a task of ours."""
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def opened(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    """An opener of `openers`: the bundle with what the job sets at run time in place of what the manifest says."""
    import onnxruntime  # noqa: F401

    from ..backends.bundle import open_bundle

    def begin() -> Any:
        bundle = open_bundle(Path(job["path"]), threads=job["threads"])
        bundle.run_options = job["run"]

        def run() -> Any:
            return bundle.run(inputs).items

        return run

    return begin


def opened_step(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    """The same of a decoder's step: one token on caches that hold `past` tokens."""
    import onnxruntime  # noqa: F401

    from ..backends.bundle import open_bundle
    from ..backends.generation.session import Session

    (past,) = inputs["past"].tolist()

    def begin() -> Any:
        bundle = open_bundle(Path(job["path"]), threads=job["threads"])
        session = Session(bundle, 1, past + 1)
        session.read([[1] * past])
        def run() -> Any:
            session.rewind(0, past)
            logits = session.read([[1]])
            return {"logits": logits}.items

        return run

    return begin


def check_workers(workers: int | str) -> None:
    """Raises: TundishError on what names no builders."""
    text = str(workers)
    number = text.isascii() and text.isdigit() and int(text[:9]) <= MOST_WORKERS
    if not (number or text == "ray" or re.fullmatch(r"ray://[^/:\s]+:\d+", text)):
        raise TundishError("--workers takes a number of processes, ray, or ray://HOST:PORT", found=text[:80])


def builders(workers: int | str) -> Builders:
    """`2` processes (0: this one), `ray`, or `ray://host:port`. Raises: TundishError."""
    check_workers(workers)
    text = str(workers)
    if text.startswith("ray"):
        return OverRay(None if text == "ray" else text)
    return Processes(int(text)) if int(text) else Here()


def main() -> None:
    """Builds the job on standard input; whatever libraries print goes nowhere."""
    row = json.load(sys.stdin)
    said, sys.stdout = sys.stdout, sys.stderr
    outcome = attempt(Job(**{**row, "options": tuple(tuple(option) for option in row["options"])}))
    print(json.dumps(asdict(outcome)), file=said)


if __name__ == "__main__":
    main()
