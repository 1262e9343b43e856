"""What tables of peers come to: the rates that were reached, and the bars of a backend, each beside its limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .ceilings import Ceiling
from .peers import OURS, PEERS

Row = Mapping[str, Any]
Table = Mapping[str, Mapping[str, str]]  # competitor -> its cells by the column's name
SLOWER = 0.97  # of a peer's time: what is still counted as equal
FEWER = ("bf16", "int8", "int4")


def columns(result: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """More cells of each row, by the row's name: the rate, its share of the highest there is, and the least time.

    Of a prefill, arithmetic, against the chip's peak; of a decode, bytes of weights, against the highest rate that
    anything reached on the same weights in that run. limit ms: what neither peak nor memory, or the highest rate that
    anyone read weights at, let be beaten. Without what was counted, nothing.
    """
    rows = [r for r in result["rows"] if r.get("flops")]
    if "peak_flops_per_s" not in result or not rows:
        return {}
    reached = {r["name"]: r["weights_bytes"] / (r["median_ms"] / 1e3) for r in rows}
    decode = result.get("phase") == "decode"
    fastest = max([result["read_bytes_per_s"], *(reached.values() if decode else ())])
    most = Ceiling(result["peak_flops_per_s"], fastest)
    found = {}
    for r in rows:
        best = max(reached[o["name"]] for o in rows if _held(o["name"]) == _held(r["name"]))
        rate = r["flops"] / (r["median_ms"] / 1e3)
        limit = f"{1e3 * most.least_s(r['flops'], r['weights_bytes']):.3g}"
        own = {"GB/s": f"{reached[r['name']] / 1e9:.1f}", "of the highest": f"{reached[r['name']] / best:.0%}"}
        peak = {"GFLOP/s": f"{rate / 1e9:.0f}", "of peak": f"{rate / most.flops_per_s:.0%}"}
        found[r["name"]] = {**(own if decode else peak), "limit ms": limit}
    return found


def parsed(section: str) -> dict[str, dict[str, str]]:
    """The rows of a table in markdown, by what stands in their first column."""
    lines = [[c.strip() for c in line.strip().strip("|").split("|")] for line in section.splitlines() if "|" in line]
    if len(lines) < 2:
        return {}
    (_, *names), _, *rows = lines
    return {row[0]: dict(zip(names, row[1:], strict=False)) for row in rows if not row[1].startswith("cannot")}


def standing(title: str, table: Table) -> dict[str, Any] | None:
    """One workload of a backend: its fastest peer and how much longer that takes; of a decode also what fewer bits
    give. None where ours did not run beside a peer."""
    rivals = {n: _ratio(row) for n, row in table.items() if n in PEERS and not n.startswith(OURS) and not _held(n)}
    if OURS not in table or not rivals:
        return None
    peer = min(rivals, key=rivals.__getitem__)
    found: dict[str, Any] = {"workload": title, "peer": peer, "ratio": rivals[peer], "row": table[OURS]}
    for held in FEWER:
        name, other = f"{OURS}-{held}", f"{OURS}-ort-{held}"
        if name in table:
            found[held] = 1 / _ratio(table[name])
            if other in table:
                found[f"{held} ort"] = _ratio(table[other]) / _ratio(table[name])
    return found


def _held(name: str) -> str:
    """The format of a competitor's weights, "" for the model's own."""
    return PEERS[name].weights if name in PEERS else ""


def _ratio(row: Mapping[str, str]) -> float:
    return float(row["times ours"])


def summary(found: Sequence[Mapping[str, Any]]) -> str:
    """Geometric mean of prefills, where ours is slower, and a table of all; "" of none."""
    prefill, decode = ([f for f in found if (f["row"].get("of peak") is None) == late] for late in (False, True))
    parts = []
    if prefill:
        mean = math.exp(sum(math.log(f["ratio"]) for f in prefill) / len(prefill))
        slow = [f"{f['workload']} ({f['peer']}, {f['ratio']:.2f})" for f in prefill if f["ratio"] < SLOWER]
        parts.append(
            f"Prefill: the fastest peer of each workload takes {mean:.3f} times as long as ours (geometric mean of "
            f"{len(prefill)}). Ours is slower by more than 3% on {', '.join(slow) or 'none'}."
        )
        parts.append(_markdown(prefill, ("of peak", "limit ms"), {}))
    if decode:
        more = {**{held: f"{held}, times as fast" for held in FEWER}, "int8 ort": "ORT's int8 over ours",
                "int4 ort": "ORT's int4 over ours"}  # fmt: skip
        parts.append(_markdown(decode, ("GB/s", "of the highest", "limit ms"), more))
    return "\n\n".join(parts)


def _markdown(found: Sequence[Mapping[str, Any]], shown: Sequence[str], more: Mapping[str, str]) -> str:
    """shown: columns of the workloads' own tables. more: what else a standing may have -> its column."""
    names = ["workload", "ours ms", *shown, "fastest peer", "times ours", *more.values()]
    rows = [
        [f["workload"], f["row"]["median ms"], *(f["row"].get(s, "") for s in shown), f["peer"], f"{f['ratio']:.2f}",
         *(f"{f[key]:.2f}" if key in f else "" for key in more)]
        for f in found
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows))
