"""How products are cut for a chip: its registers, vectors and caches decide.

Source of the way: Low et al. 2016, "Analytical Modeling Is Enough for High-Performance BLIS"; of the order of loops:
Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from ...compiler.hardware.caches import ASSUMED, Cache

USUAL = "usual"
WIDTH = 32  # columns of a panel
BYTES = 4  # of an f32
# Sums that must be under way at once: a multiply-add takes 4 cycles, and two begin in each.
UNDER_WAY = 8


@dataclass(frozen=True)
class Chip:
    """lanes: f32 numbers in a vector. registers: vectors. l1_bytes, l2_bytes: of one core's caches."""

    lanes: int = 16
    registers: int = 32
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10


@dataclass(frozen=True)
class Tiles:
    """rows: of a tile, whose sums stay in registers. deep: the block of k, row_block: the rows of x that go through it
    together, group: the panels. ahead: how far ahead of their use weights are asked for, in numbers."""

    rows: int
    deep: int
    row_block: int
    group: int
    ahead: int


def chip_of(features: frozenset[str], caches: tuple[Cache, ...] = ASSUMED) -> Chip:
    """A CPU with these features; without any known of it, a small one."""
    size = {c.level: c.size_bytes for c in caches}
    wide = "avx512f" in features
    return Chip(
        lanes=16 if wide else 8 if "avx2" in features else 4,
        registers=16 if "avx2" in features and not wide else 32,
        l1_bytes=size.get("L1", Chip.l1_bytes),
        l2_bytes=size.get("L2", Chip.l2_bytes),
    )


@dataclass(frozen=True)
class Cut:
    """Where measured tiles differ from those of the model: rows in place of its own, or 0; the others times so much."""

    rows: int = 0
    deep: float = 1.0
    block: float = 1.0
    group: float = 1.0
    ahead: float = 1.0


@cache
def cuts(chip: Chip) -> Mapping[str, Cut]:
    """What a tuner can choose among, by name: one or several changes, with commas between.

    >>> list(cuts(Chip()))[:4], cuts(Chip())["rows 8, deep /2"]
    (['usual', 'ahead x2', 'ahead /2', 'group x2'], Cut(rows=8, deep=0.5, block=1.0, group=1.0, ahead=1.0))
    """
    usual = _rows(WIDTH // chip.lanes, chip.registers)
    rows = dict.fromkeys(r for r in (usual + 2, usual - 2, usual - 4, usual // 2) if r > 0)
    axes: list[Sequence[tuple[str, float]]] = [[("", 0), *((f"rows {r}", r) for r in rows)]]
    axes += [[("", 1.0), (f"{word} x2", 2.0), (f"{word} /2", 0.5)] for word in ("deep", "block", "group", "ahead")]
    found = {}
    for chosen in product(*axes):
        name = ", ".join(word for word, _ in chosen if word) or USUAL
        found[name] = Cut(int(chosen[0][1]), *(times for _, times in chosen[1:]))
    return found


def tiles_of(k: int, chip: Chip, cut: Cut = Cut()) -> Tiles:
    """Tiles for weights of so many rows.

    Of the second cache, a block of x takes a half, two blocks of a panel (the one at work, and the next on its way) an
    eighth each, the sums of a group of panels a sixteenth; of the first, weights on their way take a third.

    >>> tiles_of(4096, Chip(16, 32, 48 << 10, 1 << 20))
    Tiles(rows=12, deep=1024, row_block=128, group=4, ahead=4096)
    """
    rows = cut.rows or _rows(WIDTH // chip.lanes, chip.registers)
    most = max(1, int(chip.l2_bytes // 8 // (WIDTH * BYTES) * cut.deep))
    blocks = -(-k // most)
    deep = _up(-(-k // blocks), chip.lanes)
    row_block = max(rows, int(min(256, max(rows, chip.l2_bytes // 2 // (deep * BYTES))) * cut.block))
    group = max(1, int(max(1, chip.l2_bytes // 16 // (row_block * WIDTH * BYTES)) * cut.group))
    ahead = _up(int(chip.l1_bytes // 3 // BYTES * cut.ahead), WIDTH)
    return Tiles(rows, deep, row_block, group, ahead)


def _rows(vectors: int, registers: int) -> int:
    """As many as registers hold beside what is multiplied: the vectors of a panel and one of x, or one and those of x;
    of more than four a multiple of four, which leaves some room.

    >>> _rows(2, 32), _rows(4, 16), _rows(8, 32)
    (12, 3, 3)
    """
    rows = 1
    while (rows + 1) * vectors + min(vectors, rows + 1) + 1 <= registers:
        rows += 1
    return rows if rows < 4 else rows // 4 * 4


def _up(n: int, step: int) -> int:
    return -(-n // step) * step
