"""An account on a terminal: totals by phase, the tree of modules, ops, and formulas where sizes are symbols."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...ir import dims
from ...ir.dims import Dim, Expr
from ...ir.weight_file import write_whole
from .table import size

PIPED = 200  # columns of what goes into a pipe
COUNTS = ("flops", "hardware_flops", "read_bytes", "written_bytes")
Line = dict[str, Any]


def show(found: Line, depth: int = 4) -> None:
    """Prints what `tundish account` found. depth: levels of modules, 0 for all; equal layers are one line."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else PIPED, highlight=False)
    for line in head(found):
        console.print(Text(line), soft_wrap=True)
    symbolic = any(isinstance(found[c], str) for c in COUNTS)
    hidden: dict[str, None] = {}
    for title, body in formulas(found, depth) if symbolic else tables(found, depth):
        console.print(Text(f"\n{title}", style="bold"))
        shown = body if isinstance(body, Text) else _table(_fitting(body, console.width, hidden))
        console.print(shown, soft_wrap=isinstance(body, Text))
    told = [f"too narrow for {', '.join(hidden)}; --json and --csv have them"] if hidden else []
    for note in [*found["notes"], *told]:
        console.print(Text(f"note: {note}"), soft_wrap=True)


def tables(found: Line, depth: int) -> list[tuple[str, Any]]:
    """(title, lines) of phases, modules and ops."""
    whole, some = found["hardware_flops"], found["active_parameters"] != found["parameters"]
    return [
        ("by phase", phases(found)),
        (f"{found['phase']} by module", [_module(b, whole, some) for b in branches(found, depth)]),
        (f"{found['phase']} by op", [_op(r, whole) for r in found["by_op"]]),
    ]


def head(found: Line) -> list[str]:
    """What does not hang on the phase, a line each."""
    total, active, kept = found["parameters"], found["active_parameters"], found["kv_cache"]
    some = f"; {active:,} ({count(active)}, {_share(active, total)}) active per token" if active != total else ""
    lines = [
        f"model       {found['model']}",
        f"parameters  {total:,} ({count(total)}){some}",
        f"weights     {size(found['weights_bytes'])}",
    ]
    return lines + ([f"KV cache    {_kept(kept)}"] if kept else [])


def _kept(kept: Line) -> str:
    layers = kept["layers"]
    windows: dict[int, int] = {}
    for layer in layers:
        if layer["window"]:
            windows[layer["window"]] = windows.get(layer["window"], 0) + 1
    told = "".join(f", {n} of them of the last {w:,} tokens only" for w, n in windows.items())
    return f"{_bytes(kept['bytes_per_token'])} per token of a row, in {len(layers)} layers{told}"


def phases(found: Line) -> list[Line]:
    """A line for each phase."""
    return [
        {"phase": r["phase"], "at": ", ".join(f"{n} {s}" for n, s in r["sizes"].items()), **_work(r),
         "KV cache": _bytes(r["kv_cache_bytes"]) if r["kv_cache_bytes"] else "-",
         "activation peak": _bytes(r["activation_peak_bytes"])}
        for r in found["by_phase"]
    ]  # fmt: skip


def formulas(found: Line, depth: int) -> list[tuple[str, Any]]:
    """(title, text) of each phase's totals, and of FLOPs by module and by op."""
    blocks = [_phase_formulas(row) for row in found["by_phase"]]
    named = {
        "module": [(b.label, b.sums["flops"]) for b in branches(found, depth)],
        "op": [(r["op"], r["flops"]) for r in found["by_op"]],
    }
    for name, pairs in named.items():
        blocks.append((f"FLOPs of {found['phase']} by {name}", _formulas([p for p in pairs if p[1] != 0])))
    return blocks


def _phase_formulas(row: Line) -> tuple[str, Any]:
    at = ", ".join(f"{n} {s}" for n, s in row["activation_peak_at"].items())
    peak = f"{_bytes(row['activation_peak_bytes'])} at {at}"
    counts = [(c.replace("_", " "), row[c]) for c in (*COUNTS, "kv_cache_bytes")]
    names = ", ".join(f"{n}" if n == s else f"{n} = {s}" for n, s in row["sizes"].items())
    return f"{row['phase']}, with {names}", _formulas(counts, ("activation peak", peak))


def _formulas(pairs: list[tuple[str, Dim | str]], *more: tuple[str, str]) -> Any:
    """A formula a line, then text as it is; what is the least of many stands below, under a name."""
    from rich.text import Text

    least: dict[str, str] = {}
    lines = [*((name, formula(value, least)) for name, value in pairs), *more]
    width = max((len(name) for name, _ in lines), default=0)
    told = [f"  {name:<{width}}  {text}" for name, text in lines]
    for text, name in least.items():
        told += [f"  {f'{name} = ' if not i else '':>{width + 2}}{part}" for i, part in enumerate(text.split("\n"))]
    return Text("\n".join(told))


def formula(value: Dim | str, least: dict[str, str] | None = None) -> str:
    """A count as people write polynomials: `18,432·batch·seq² + 7,168·batch·seq`.

    least: text of a minimum of more than two -> the name that stands for it; new ones are added.
    """
    dim = _dim(value)
    if not isinstance(dim, Expr):
        return f"{dim:,}"
    text = ""
    for mono, coeff in dim.terms:
        factors = [f"{abs(coeff):,}"] * (abs(coeff) != 1 or not mono)
        factors += [f"{_atom(atom, least)}{str(power).translate(_RAISED) if power > 1 else ''}" for atom, power in mono]
        sign = " - " if coeff < 0 else " + "
        text += (sign if text else "-" if coeff < 0 else "") + "·".join(factors)
    return text


_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def _dim(value: Dim | str) -> Dim:
    return dims.parse(value) if isinstance(value, str) else value


def _atom(atom: dims.Atom, least: dict[str, str] | None) -> str:
    if atom.fn not in ("min", "max"):
        return str(atom)
    parts = list(_flat(atom))
    if least is None or len(parts) <= _FEW:
        return f"{atom.fn}({', '.join(formula(p, least) for p in parts)})"
    parts.sort(key=lambda d: dims.evaluate(d, dict.fromkeys(dims.symbols(d), 0)))
    text = f"{atom.fn}(" + ",\n    ".join(formula(p, least) for p in parts) + ")"
    return least.setdefault(text, f"m{len(least) + 1}")


_FEW = 2  # stand where they are


def _flat(atom: dims.Atom) -> Iterator[Dim]:
    """What a minimum of minima is the minimum of."""
    for side in (atom.left, atom.right):
        inner = side.terms[0][0][0][0] if isinstance(side, Expr) and _is_atom(side) else None
        if inner is not None and inner.fn == atom.fn:
            yield from _flat(inner)
        else:
            yield side


def _is_atom(dim: Expr) -> bool:
    (mono, coeff), *rest = dim.terms
    return not rest and coeff == 1 and len(mono) == 1 and mono[0][1] == 1


# -- the tree of modules -------------------------------------------------------------------------------


@dataclass(slots=True)
class Branch:
    """Equal modules of a tree as one: their name at this level, how many they are, and their sums."""

    name: str
    depth: int
    times: int = 0
    sums: dict[str, Any] = field(default_factory=dict)
    below: dict[str, Branch] = field(default_factory=dict)

    def add(self, row: Line) -> None:
        self.times += 1
        for key in ("parameters", "active_parameters", *COUNTS):
            self.sums[key] = self.sums.get(key, 0) + _dim(row[f"total_{key}"])

    @property
    def label(self) -> str:
        return f"{'  ' * self.depth}{self.name}{f' ×{self.times}' if self.times > 1 else ''}"

    def parts(self) -> list[Branch]:
        """What stands below, in order; a list whose members stand there too is left out."""
        return [b for name, b in self.below.items() if b.below or f"{name}.*" not in self.below]


_INDEX = re.compile(r"^\d+$")


def branches(found: Line, depth: int = 0) -> Iterator[Branch]:
    """The modules as a tree, parents first, `depth` levels of it; the layers of a list are one branch, `h.*`."""
    root = Branch(found["model"], 0)
    for row in found["by_module"]:
        place = root
        for name in _levels(row["module"]):
            place = place.below.setdefault(name, Branch(name, place.depth + 1))
        place.add(row)
    waiting = [root]
    while waiting:
        branch = waiting.pop()
        if branch.times:
            yield branch
        if not depth or branch.depth < depth:
            waiting.extend(reversed(branch.parts()))


def _levels(path: str) -> list[str]:
    """`model.layers.3.mlp` -> model, layers.*, mlp: a list and its index are one level."""
    levels: list[str] = []
    for part in path.split(".") if path else []:
        if _INDEX.match(part) and levels:
            levels[-1] += ".*"
        else:
            levels.append(part)
    return levels


def _module(branch: Branch, whole: int, with_active: bool) -> Line:
    row = branch.sums
    active = {"active": f"{row['active_parameters']:,}"} if with_active else {}
    return {
        "module": branch.label, "parameters": f"{row['parameters']:,}", **active, **_work(row),
        "share": _share(row["hardware_flops"], whole),
    }  # fmt: skip


def _op(row: Line, whole: int) -> Line:
    share = _share(row["hardware_flops"], whole)
    return {"op": row["op"], "count": f"{row['count']:,}", **_work(row), "share": share}


def _work(row: Line) -> Line:
    flops, done, read, written = (row[c] for c in COUNTS)
    moved = read + written
    return {
        "FLOPs": count(flops), "hardware FLOPs": count(done), "read": size(read), "written": size(written),
        "FLOP/byte": f"{done / moved:.3g}" if moved else "-",
    }  # fmt: skip


def count(number: int) -> str:
    """In decimal units, four digits: `10.87 G`."""
    scaled = float(number)
    for unit in ("", "k", "M", "G", "T", "P", "E"):
        if abs(scaled) < 999.95 or unit == "E":
            return f"{number:,}" if not unit else f"{scaled:#.4g} {unit}"
        scaled /= 1000
    raise AssertionError("unreachable")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _bytes(value: int | str) -> str:
    return size(value) if isinstance(value, int) else formula(value)


def _fitting(lines: list[Line], width: int, hidden: dict[str, None]) -> list[Line]:
    """The lines with as many columns as fit; those left out are added to `hidden`."""
    columns = list(dict.fromkeys(name for line in lines for name in line))
    wide = {c: max(len(c), *(len(line.get(c, "")) for line in lines)) + 2 for c in columns}
    for name in _SPARE:
        if sum(wide[c] for c in columns) > width and name in columns:
            columns.remove(name)
            hidden[name] = None
    return [{c: line[c] for c in columns if c in line} for line in lines]


_SPARE = ("active", "written", "parameters", "activation peak", "hardware FLOPs", "read", "KV cache", "count")


def _table(lines: list[Line]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    columns = list(dict.fromkeys(name for line in lines for name in line))
    for name in columns:
        words = name in ("phase", "at", "module", "op")
        table.add_column(name, justify="left" if words else "right", no_wrap=True, overflow="ellipsis")
    for line in lines:
        table.add_row(*(Text(str(line.get(name, "-"))) for name in columns))
    return table


# -- rows for a spreadsheet ----------------------------------------------------------------------------


def write_csv(found: Line, path: Path) -> None:
    """Raises: BuildError where the file cannot be written."""
    write_whole(path, to_csv(found).encode())


COLUMNS = ("table", "name", "depth", "count", "parameters", "active_parameters", *COUNTS, "intensity")


def to_csv(found: Line) -> str:
    """A line for each phase, module (all within it; `own` rows: by its own code) and op, under a line of names."""
    out = io.StringIO()
    lines = csv.DictWriter(out, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    for row in found["by_phase"]:
        lines.writerow({"table": "phase", "name": row["phase"], **_known(row)})
    for row in found["by_module"]:
        inclusive = {k.removeprefix("total_"): v for k, v in row.items() if k.startswith("total_")}
        named = {"name": row["module"], "depth": row["depth"]}
        lines.writerow({"table": "module", **named, **_known(inclusive)})
        lines.writerow({"table": "own", **named, **_known(row)})
    for row in found["by_op"]:
        lines.writerow({"table": "op", "name": row["op"], **_known(row)})
    return out.getvalue()


def _known(row: Line) -> Line:
    return {k: v for k, v in row.items() if v is not None}
