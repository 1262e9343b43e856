"""The trace, read back with the perfetto package's own protobuf classes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from profile_kit import profile, transformer

from tundish.ir.diagnostics import BuildError
from tundish.profiler.modules import module_rows
from tundish.profiler.report import perfetto
from tundish.profiler.report.timeline import KERNEL, MODULE, NODE

pb = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="needs the perfetto package")


@dataclass
class Slice:
    kind: str
    name: str
    above: tuple[str, ...]
    start_ns: int
    end_ns: int = -1
    facts: dict[str, object] = field(default_factory=dict)


def slices(trace) -> list[Slice]:
    """Each slice, ended by the end that follows it on its track, as the format says."""
    open_: list[Slice] = []
    found = []
    last = 0
    for packet in trace.packet:
        event = packet.track_event
        if event.type == pb.TrackEvent.TYPE_SLICE_BEGIN:
            facts = {a.name: getattr(a, a.WhichOneof("value")) for a in event.debug_annotations}
            above = tuple(s.name for s in open_)
            open_.append(Slice(event.categories[0], event.name, above, packet.timestamp, -1, facts))
            found.append(open_[-1])
        elif event.type == pb.TrackEvent.TYPE_SLICE_END:
            open_.pop().end_ns = packet.timestamp
        else:
            continue
        assert packet.timestamp >= last and packet.trusted_packet_sequence_id
        last = packet.timestamp
    assert not open_
    return found


def parsed(made, tmp_path: Path):
    perfetto.write(made, tmp_path / "run.pftrace")
    trace = pb.Trace()
    trace.ParseFromString((tmp_path / "run.pftrace").read_bytes())
    return trace


def test_every_layer_is_nested_with_its_duration(tmp_path):
    made = profile(transformer(3))
    found = slices(parsed(made, tmp_path))
    assert found[0].name == made.model and found[0].above == () and found[0].facts["measured_ms"] == made.total_ms
    nodes = {s.facts["name"]: s for s in found if s.kind == NODE}
    assert nodes.keys() == {n.name for n in made.nodes}
    for row in made.nodes:
        slice = nodes[row.name]
        parts = row.module.split(".")
        assert slice.above == (made.model, *(".".join(parts[: i + 1]) for i in range(len(parts))))
        assert abs(slice.end_ns - slice.start_ns - row.measured_ms * 1e6) <= 1
        assert slice.facts["source"] == row.source and slice.facts["flops"] == row.flops
    modules = {s.name for s in found if s.kind == MODULE}
    assert modules == {r.path for r in module_rows(made) if r.path}
    for slice in found:
        if slice.kind == MODULE:
            inside = [s for s in nodes.values() if slice.name in s.above]
            assert slice.start_ns == min(s.start_ns for s in inside) and slice.end_ns == max(s.end_ns for s in inside)
    kernels = [s for s in found if s.kind == KERNEL]
    assert [s.name for s in kernels] == [n.kernel for n in made.nodes]
    assert all(s.above[-1].endswith(name) for s, name in zip(kernels, nodes, strict=True))


def test_nodes_of_no_length_stay_siblings(tmp_path):
    made = profile(ms=lambda step: 0.0, gap_ms=0.0)
    found = slices(parsed(made, tmp_path))
    assert all(not any(" " in name for name in s.above[1:]) for s in found if s.kind == NODE)


def test_tracks_are_children_of_one_process_and_memory_is_a_counter(tmp_path):
    made = profile()
    trace = parsed(made, tmp_path)
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")}
    (process,) = [t for t in tracks.values() if t.HasField("process")]
    assert {t.parent_uuid for t in tracks.values() if t is not process} == {process.uuid}
    events = [p.track_event for p in trace.packet if p.HasField("track_event")]
    assert {e.track_uuid for e in events} <= set(tracks)
    counted = [e.counter_value for e in events if e.type == pb.TrackEvent.TYPE_COUNTER]
    assert counted == [m.live_bytes for m in made.memory]
    bare = parsed(replace(made, memory=()), tmp_path)
    assert not [p for p in bare.packet if p.track_event.type == pb.TrackEvent.TYPE_COUNTER]


def test_equal_profiles_give_equal_bytes(tmp_path):
    perfetto.write(profile(), tmp_path / "a")
    perfetto.write(profile(), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "perfetto.protos.perfetto.trace", None)
    with pytest.raises(BuildError, match=r"needs the perfetto package"):
        perfetto.write(profile(), tmp_path / "x")
    assert not list(tmp_path.iterdir())
