"""`python -m fuzz --minutes 30 --seed 0 --target bundle,onnx`: exit code 1 where something was found."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .driver import Fuzzer
from .targets import TARGETS

KEEP = Path("build/fuzz")


def main() -> int:
    asked = _arguments()
    KEEP.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tundish-fuzz-") as folder:
        scratch = Path(os.path.realpath(folder))
        fuzzer = Fuzzer(
            {n: TARGETS[n] for n in asked.target}, scratch / "seeds", scratch / "work", KEEP.resolve(), asked.seed,
            say=lambda finding: print(finding, flush=True),
        )
        (scratch / "work").mkdir()
        try:
            make = [sys.executable, "-P", "-c", _MAKE, str(scratch / "seeds")]
            subprocess.run(make, check=True, stderr=subprocess.DEVNULL)
            if asked.again:
                kind, said = fuzzer.again(Path(asked.again))
                print(f"{kind}: {said}")
                return int(kind == "finding")
            return _run(fuzzer, asked.minutes, asked.first)
        finally:
            fuzzer.worker.stop()


_MAKE = "import sys, pathlib, fuzz.seeds; fuzz.seeds.make(pathlib.Path(sys.argv[1]))"


def _run(fuzzer: Fuzzer, minutes: float, first: int) -> int:
    print(f"fuzzing {', '.join(fuzzer.targets)} for {minutes:g} minutes, seed {fuzzer.seed}", flush=True)
    found = list(fuzzer.run(time.monotonic() + 60 * minutes, first))
    for name in fuzzer.targets:
        counts = {k: fuzzer.outcomes[name, k] for k in ("done", "refused", "finding")}
        print(f"{name}: {', '.join(f'{n} {k}' for k, n in counts.items())}")
    print(f"{len(found)} kinds of findings" if found else "nothing found")
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Hostile input, made at random.")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--target", default="", help=f"some of {','.join(TARGETS)}; all when not given")
    parser.add_argument("--again", default="", help="a folder of build/fuzz, to run it again")
    asked = parser.parse_args()
    asked.target = asked.target.split(",") if asked.target else list(TARGETS)
    unknown = set(asked.target) - set(TARGETS)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
