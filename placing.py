"""The verb `place`: experts, with copies, to devices."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .compiler.experts.drawn import touched
from .compiler.experts.placement import Fleet, Placement, checked_loads
from .compiler.experts.placement import place as placed
from .compiler.experts.routing import read_routing
from .ir.diagnostics import LoadError, TundishError, first_line

OBJECTIVES = ("tokens", "experts")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip
Size = str | int | None
_LOADS = "numpy.save(FILE, counts), counts [experts] or [layers, experts]; or a routing file, .json"


def place(
    *, experts: int, devices: int, slots: int, load: Any = None, groups: int = 1, nodes: int = 1, previous: Any = None,
    expert_bytes: Size = None, most_moved: Size = None, objective: str = "tokens", top_k: int | None = None,
    batch_tokens: int = 64, output: str | Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Places the experts of each layer, some of them more than once, so that the fullest device has little to do.

    slots:     of all devices together; each holds slots / devices experts, no two alike.
    load:      how often each expert is chosen: [experts] or [layers, experts], a .npy file of it, or a .json file of
               `profile --record-routing`. Even by default.
    groups:    of the router, in order: each stays within one of `nodes`. 1: experts lie anywhere.
    previous:  a file that `output` wrote, or its assignment: what lies on the devices now stays there where that
               costs at most half a percent of balance. most_moved: the bytes that may be loaded, whatever that costs.
    objective: `tokens`, what prefill computes; `experts`, the different experts that a decode of `batch_tokens`
               reads, for which `top_k` says how many each token chooses.
    Rows: max_over_mean is the fullest device's load over the mean of all; lower_bound is what no placement is below, in
    the same unit; assignment the experts of each device (of each layer); moved_bytes what is loaded, of a first
    placement all. Of several layers the numbers are the worst layer's, but the bytes of all.
    Raises: TundishError, LoadError in one line each.
    """
    fleet = Fleet(devices, slots, nodes, groups)
    fleet.check(experts)
    bytes_each, limit = size_bytes(expert_bytes, "expert_bytes"), size_bytes(most_moved, "most_moved")
    wanted = _wanted(_loads(load, experts), objective, top_k, batch_tokens)
    before = _previous(previous, len(wanted))
    most = None if limit is None else limit // (bytes_each or 1) // len(wanted)
    start = time.perf_counter()
    found = [placed(row, fleet, old, most) for row, old in zip(wanted, before, strict=True)]
    seconds = (time.perf_counter() - start) / len(found)
    single = load is None or np.ndim(_array(load)) == 1
    row = {**_row(found, bytes_each or 1, single), "objective": objective, "seconds_a_layer": seconds,
           "experts": experts, "devices": devices, "slots": slots, "groups": groups, "nodes": nodes,
           "notes": _notes(load, expert_bytes, previous)}  # fmt: skip
    if output is not None:
        _write(Path(output), row)
    return row


def _row(found: Sequence[Placement], bytes_each: int, single: bool) -> dict[str, Any]:
    worst = max(found, key=lambda p: p.max_over_mean / p.bound_over_mean)
    fullest, bound = max(p.max_over_mean for p in found), max(p.bound_over_mean for p in found)
    assignments = [p.assignment.tolist() for p in found]
    moved = sum(p.puts for p in found)
    return {
        "max_over_mean": fullest, "lower_bound": bound,
        "gap_percent": 100 * (worst.max_over_mean / worst.bound_over_mean - 1),
        "moved_bytes": moved * bytes_each, "moved_experts": moved, "expert_bytes": bytes_each, "layers": len(found),
        "by_layer": [{"layer": i, "max_over_mean": p.max_over_mean, "lower_bound": p.bound_over_mean,
                      "moved_experts": p.puts, "most_copies": int(p.copies.max())} for i, p in enumerate(found)],
        "assignment": assignments[0] if single else assignments,
    }  # fmt: skip


def _notes(load: Any, expert_bytes: Size, previous: Any) -> list[str]:
    notes = [] if load is not None else ["no load was given: every expert is taken to be chosen as often as the others"]
    if expert_bytes is None:
        notes.append("the bytes of an expert were not given: moved_bytes counts 1 for each expert that is loaded")
    if previous is None:
        notes.append("there is no earlier placement: every slot is loaded")
    return notes


def size_bytes(given: Size, name: str) -> int | None:
    """`80GiB`, `44MB` or a number, in bytes. Raises: TundishError."""
    if given is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(given).strip().lower())
    if match is None or match[2] not in _UNITS or not float(match[1]):
        option = name.replace("_", "-")
        raise TundishError(f"--{option} takes a size such as 44MB or 1.5GiB", found=str(given)[:80])
    return int(float(match[1]) * _UNITS[match[2]])


def _array(load: Any) -> np.ndarray:
    if not isinstance(load, (str, Path)):
        return np.asarray(load)
    if Path(load).suffix == ".json":
        return read_routing(Path(load)).loads()
    try:
        return np.asarray(np.load(load, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise LoadError(f"{Path(load).name} is no .npy file of loads", found=first_line(error), hint=_LOADS) from error


def _loads(load: Any, experts: int) -> np.ndarray:
    """f64 [layers, experts]. Raises: LoadError, TundishError."""
    array = np.ones(experts) if load is None else _array(load)
    if array.ndim not in (1, 2) or array.shape[-1] != experts or not array.size:
        raise TundishError("loads are [experts] or [layers, experts]", found=f"{list(array.shape)}, {experts} experts",
                           hint="--experts says how many there are")  # fmt: skip
    return np.stack([checked_loads(row) for row in array.reshape(-1, experts)])


def _wanted(loads: np.ndarray, objective: str, top_k: int | None, batch_tokens: int) -> np.ndarray:
    """What is balanced: the loads, or the experts that a batch reaches. Raises: TundishError."""
    experts = loads.shape[1]
    if objective not in OBJECTIVES:
        raise TundishError(f"there is no objective {objective!r}", hint=f"one of {', '.join(OBJECTIVES)}")
    if top_k is not None and not 1 <= top_k <= experts:
        raise TundishError("each token chooses at least one expert and at most all",
                           found=f"--top-k {top_k} of {experts} experts")  # fmt: skip
    if batch_tokens < 1:
        raise TundishError("a batch has at least one token", found=f"--batch-tokens {batch_tokens}")
    if objective == "tokens":
        return loads
    if top_k is None:
        raise TundishError("how many experts a token chooses is needed to count different ones", hint="give --top-k")
    return np.stack([touched(row * top_k / row.sum(), 1, batch_tokens) for row in loads])


def _previous(previous: Any, layers: int) -> list[np.ndarray | None]:
    """The assignment of each layer. Raises: LoadError."""
    if previous is None:
        return [None] * layers
    given = _assignment_of(Path(previous)) if isinstance(previous, (str, Path)) else previous
    try:
        array = np.array(given)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "iu" or array.ndim not in (2, 3):
        raise LoadError("the earlier placement holds no assignment of experts to devices",
                        hint="give a file that `tundish place -o FILE` wrote")  # fmt: skip
    rows = list(array.reshape(-1, *array.shape[-2:]).astype(np.int64))
    if len(rows) != layers:
        raise LoadError("the earlier placement is of another number of layers", found=f"{len(rows)}, not {layers}")
    return [*rows]


def _assignment_of(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["assignment"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LoadError(f"{path.name} is no placement", found=first_line(error),
                        hint="give a file that `tundish place -o FILE` wrote") from error  # fmt: skip


def _write(path: Path, row: dict[str, Any]) -> None:
    from .ir.weight_file import writing

    with writing(str(path)):
        path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
