"""How shapes broadcast: numpy's rule, on symbolic dims."""

from __future__ import annotations

from ..diagnostics import GraphError
from ..dims import Dim


def broadcast(op: str, *shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The common shape. Raises: GraphError where two dims are not 1 and not provably equal."""
    rank = max((len(s) for s in shapes), default=0)
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    result: list[Dim] = []
    for axis in range(rank):
        sizes = {s[axis] for s in padded} - {1}
        if len(sizes) > 1:
            names = " and ".join(sorted(map(str, sizes)))
            raise GraphError(
                f"{op}: axis {axis - rank} is {names}, which do not broadcast",
                found=" with ".join(str(list(map(str, s))) for s in shapes),
            )
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)
