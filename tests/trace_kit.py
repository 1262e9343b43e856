"""Perfetto traces read back with the perfetto package's own protobuf classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tundish.profiler.modules import module_rows
from tundish.profiler.profiles import Profile
from tundish.profiler.report.timeline import KERNEL, MODULE, NODE


@dataclass
class Slice:
    """above: the names of the slices that it stands in, outermost first."""

    kind: str
    name: str
    above: tuple[str, ...]
    start_ns: int
    end_ns: int = -1
    facts: dict[str, object] = field(default_factory=dict)


def protobuf() -> Any:
    return pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="needs the perfetto package")


def parsed(file: Path) -> Any:
    trace = protobuf().Trace()
    trace.ParseFromString(file.read_bytes())
    return trace


def slices(trace: Any) -> list[Slice]:
    """Each slice, ended by the end that follows it on its track, as the format says."""
    event_type = protobuf().TrackEvent
    open_: list[Slice] = []
    found = []
    last = 0
    for packet in trace.packet:
        event = packet.track_event
        if event.type == event_type.TYPE_SLICE_BEGIN:
            facts = {a.name: getattr(a, a.WhichOneof("value")) for a in event.debug_annotations}
            above = tuple(s.name for s in open_)
            open_.append(Slice(event.categories[0], event.name, above, packet.timestamp, -1, facts))
            found.append(open_[-1])
        elif event.type == event_type.TYPE_SLICE_END:
            open_.pop().end_ns = packet.timestamp
        else:
            continue
        assert packet.timestamp >= last and packet.trusted_packet_sequence_id
        last = packet.timestamp
    assert not open_
    return found


def holds(trace: Any, made: Profile) -> None:
    """The trace has every module, node and kernel of a profile, each in what it belongs to, as long as was measured."""
    found = slices(trace)
    assert found[0].name == made.model and found[0].above == () and found[0].facts["measured_ms"] == made.total_ms
    nodes = {s.facts["name"]: s for s in found if s.kind == NODE}
    assert nodes.keys() == {n.name for n in made.nodes}
    for row in made.nodes:
        piece = nodes[row.name]
        parts = row.module.split(".") if row.module else []
        assert piece.above == (made.model, *(".".join(parts[: i + 1]) for i in range(len(parts))))
        assert abs(piece.end_ns - piece.start_ns - row.measured_ms * 1e6) <= 1
        assert piece.facts.get("source", "") == row.source and piece.facts["flops"] == row.flops
    assert {s.name for s in found if s.kind == MODULE} == {r.path for r in module_rows(made) if r.path}
    kernels = [s for s in found if s.kind == KERNEL]
    assert sorted(s.name for s in kernels) == sorted(n.kernel for n in made.nodes if n.kernel)
    _modules_are_their_nodes(found)


def _modules_are_their_nodes(found: list[Slice]) -> None:
    """A module's slice begins with the first node inside it and ends with the last."""
    for i, piece in enumerate(found):
        if piece.kind == MODULE:
            below = found[i + 1 :]
            own = [s for s in below[: next((j for j, s in enumerate(below) if piece.name not in s.above), None)]]
            times = [(s.start_ns, s.end_ns) for s in own if s.kind == NODE]
            assert piece.start_ns == min(t[0] for t in times) and piece.end_ns == max(t[1] for t in times)
