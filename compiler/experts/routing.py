"""What a model's routers chose on a text: the statistics, their file, and whether it is of the model at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ...ir.diagnostics import LoadError, first_line
from ...ir.graph import Node, Program, Value, producers
from ...ir.unfold import unfold
from ...ir.walk import steps
from ...ir.weight_file import read_at_most, write_whole
from ...ir.weights import Held, Read, Stored, Weight, leaves, materialize

VERSION = 1
MOST_BYTES = 256 << 20  # of a file that is read
MOST_PAIRS = 16  # for each expert: the pairs that are chosen together most often
MOST_TRACED = 1 << 18  # choices of all layers together that are kept as they came
SPANS = tuple(2**i for i in range(10))  # runs of tokens whose different experts are counted
_FINGERPRINT = 64  # numbers of a weight that tell it from another


class ExpertLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer of experts.

    counts: how many tokens chose each expert. pairs: (a, b, tokens that chose both), the most frequent.
    kept:   of a token's experts, the share that the token before it in its text chose too.
    reached: (n, different experts that n tokens in a row chose, on average).
    trace:  the choices of the first tokens, k each, in order.
    """

    module: str
    experts: int
    k: int
    counts: tuple[int, ...]
    pairs: tuple[tuple[int, int, int], ...]
    kept: float
    reached: tuple[tuple[int, float], ...]
    trace: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return sum(self.counts) // self.k

    @property
    def loads(self) -> np.ndarray:
        """f64 [experts]: how often each was chosen."""
        return np.array(self.counts, np.float64)

    @property
    def max_over_mean(self) -> float:
        """The skew: what the hottest expert is chosen for, over the mean."""
        return max(self.counts) * self.experts / max(1, sum(self.counts))

    @property
    def kept_by_chance(self) -> float:
        """What `kept` were if each token chose by the layer's frequencies alone: Σ q² / k, q an expert's share."""
        shares = self.loads / max(1, self.tokens)
        return float((shares**2).sum()) / self.k

    def distinct(self, tokens: int) -> float:
        """The different experts that so many tokens in a row reach: as recorded, beyond that by their frequencies."""
        spans, seen = np.array(self.reached).T
        if tokens <= spans[-1]:
            return float(np.interp(tokens, spans, seen))
        shares = np.clip(self.loads / max(1, self.tokens), 0.0, 1.0)
        return max(float(seen[-1]), float((1.0 - (1.0 - shares) ** tokens).sum()))

    def choices(self) -> np.ndarray:
        """i64 [tokens, k]: the trace."""
        return np.array(self.trace, np.int64).reshape(-1, self.k)


class Routing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a routing file holds.

    key:   of the model's layers of experts and their weights; see `routing_key`. of: what was read, in words.
    texts: tokens of each text in the trace, one after the other.
    """

    version: int
    model: str
    key: str
    of: str
    tokens: int
    texts: tuple[int, ...]
    layers: tuple[ExpertLayer, ...]

    def loads(self) -> np.ndarray:
        """f64 [layers, experts]. Raises: LoadError where layers differ in their number of experts."""
        if len({layer.experts for layer in self.layers}) != 1:
            raise LoadError("the layers of this routing file have different numbers of experts",
                            found=", ".join(str(layer.experts) for layer in self.layers))  # fmt: skip
        return np.stack([layer.loads for layer in self.layers])

    def save(self, path: Path) -> None:
        """Raises: BuildError where it cannot be written."""
        write_whole(path, msgspec.json.format(msgspec.json.encode(self), indent=0) + b"\n")


@dataclass(frozen=True, slots=True)
class Place:
    """A layer of experts of a program: its module, and the node that runs it."""

    module: str
    node: Node

    @property
    def experts(self) -> int:
        """Its number."""
        return int(self.node.inputs[3].type.shape[0])  # type: ignore[union-attr,arg-type]

    @property
    def k(self) -> int:
        return int(self.node.inputs[1].type.shape[-1])  # type: ignore[union-attr,arg-type]


def expert_layers(program: Program) -> list[Place]:
    """The layers of experts of the first entry, in the order in which they run."""
    return [Place(s.where.module, s.node) for s in steps(program) if s.node.op.name == "moe"]


def routing_key(program: Program) -> str:
    """16 hex digits that are equal for programs of the same layers of experts with the same weights.

    Of each weight of an expert's two matrices only some numbers are read. Weights without bytes count by their shape.
    """
    flat = unfold(program)
    made, digest = producers(flat.functions[flat.entries[0]]), hashlib.sha256()
    for place in expert_layers(flat):
        digest.update(f"{place.module} {place.experts} {place.k} {place.node.attrs['activation']}\n".encode())
        for value in place.node.inputs[3:5]:
            for name in _weights_of(value, made):
                for leaf in leaves(flat.weights[name]):
                    digest.update(_fingerprint(leaf))
    return digest.hexdigest()[:16]


def _weights_of(value: Value | None, made: dict[Value, Node]) -> Iterator[str]:
    """The names of the weights that a value is made of, in order."""
    todo = [value]
    while todo:
        last = todo.pop()
        node = None if last is None else made.get(last)
        if node is not None and node.op.name == "weight":
            yield node.attrs["name"]
        elif node is not None:
            todo += reversed(node.inputs)


def _fingerprint(weight: Weight) -> bytes:
    source = weight.source
    told = f"{weight.type}".encode()
    if (isinstance(source, Held) and source.array is None) or not isinstance(source, (Held, Stored, Read)):
        return told
    array = materialize(weight).ravel()
    step = max(1, array.size // _FINGERPRINT)
    return told + np.ascontiguousarray(array[::step][:_FINGERPRINT]).tobytes()


def layer_of(module: str, experts: int, texts: Sequence[np.ndarray], traced: int) -> ExpertLayer:
    """The statistics of the choices i64 [tokens, k] of each text; the first `traced` tokens are kept."""
    everything = np.concatenate(list(texts))
    k = everything.shape[1]
    together = np.zeros((experts, experts), np.int64)
    for i in range(k):
        for j in range(i + 1, k):
            np.add.at(together, (everything[:, i], everything[:, j]), 1)
    together = np.triu(together + together.T, 1)
    order = np.argsort(-together, axis=None, kind="stable")[: MOST_PAIRS * experts]
    pairs = [(int(e) // experts, int(e) % experts, int(together.flat[e])) for e in order if together.flat[e]]
    return ExpertLayer(
        module, experts, k, tuple(np.bincount(everything.ravel(), minlength=experts).tolist()), tuple(pairs),
        _kept(texts), tuple(_reached(texts, experts)), tuple(everything[:traced].ravel().tolist()),
    )  # fmt: skip


def _kept(texts: Sequence[np.ndarray]) -> float:
    same = [(t[1:, :, None] == t[:-1, None, :]).any(2) for t in texts if len(t) > 1]
    return float(np.concatenate(same).mean()) if same else 0.0


def _reached(texts: Sequence[np.ndarray], experts: int) -> Iterator[tuple[int, float]]:
    """(n, mean number of different experts in n tokens in a row), for each of SPANS that a text has."""
    for span in SPANS:
        runs = [t[i : i + span] for t in texts for i in range(0, len(t) - span + 1, span)]
        if runs:
            yield span, float(np.mean([len(np.unique(run)) for run in runs]))


def read_routing(path: Path) -> Routing:
    """Raises: LoadError on a file that is none, or says what cannot be."""
    try:
        data = read_at_most(path, MOST_BYTES)
        if len(data) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        found = msgspec.json.decode(data, type=Routing)
        for i, layer in enumerate(found.layers):
            _check_layer(layer, f"layer {i}")
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path.name} is no routing file", found=first_line(error),
                        hint="`tundish profile MODEL --record-routing FILE` writes one") from error  # fmt: skip
    if found.version != VERSION:
        raise LoadError(f"{path.name} is a routing file of version {found.version}, and this reads {VERSION}",
                        hint="record it again")  # fmt: skip
    return found


def _check_layer(layer: ExpertLayer, name: str) -> None:
    """Raises: ValueError."""
    if not 1 <= layer.k <= layer.experts or len(layer.counts) != layer.experts:
        raise ValueError(f"{name} has {layer.experts} experts, {layer.k} for each token, {len(layer.counts)} counts")
    if min(layer.counts) < 0 or sum(layer.counts) % layer.k or not sum(layer.counts):
        raise ValueError(f"the counts of {name} are not those of tokens that choose {layer.k}")
    ids = (*layer.trace, *(e for pair in layer.pairs for e in pair[:2]))
    if len(layer.trace) % layer.k or any(not 0 <= e < layer.experts for e in ids):
        raise ValueError(f"{name} names an expert outside 0..{layer.experts - 1}")
    spans = [n for n, _ in layer.reached]
    if not spans or spans[0] != 1 or spans != sorted(set(spans)):
        raise ValueError(f"{name} does not say how many experts its tokens reach")


def check_routing(routing: Routing, program: Program, name: str) -> None:
    """Raises: LoadError where the routing was recorded of another model."""
    mine = [(p.experts, p.k) for p in expert_layers(program)]
    other = [(layer.experts, layer.k) for layer in routing.layers]
    if not mine:
        raise LoadError(f"{name} has no experts, so no routing is of it", found=f"the routing of {routing.model}")
    if mine != other:
        raise LoadError(f"the routing file is of another model, {routing.model}",
                        found=f"{_spoken(other)}; {name} has {_spoken(mine)}")  # fmt: skip
    if routing.key != routing_key(program):
        raise LoadError(f"the routing file is of another model, {routing.model}",
                        found="experts of the same number, of other weights or in other modules",
                        hint="record it again: `tundish profile MODEL --record-routing FILE`")  # fmt: skip


def _spoken(layers: list[tuple[int, int]]) -> str:
    kinds: dict[Any, int] = {}
    for layer in layers:
        kinds[layer] = kinds.get(layer, 0) + 1
    return ", ".join(f"{n} layers of {e} experts, {k} a token" for (e, k), n in kinds.items())
