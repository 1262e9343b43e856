"""The trace, read back with the perfetto package's own protobuf classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from profile_kit import profile, transformer
from trace_kit import holds, parsed, protobuf, slices

from tundish.ir.diagnostics import BuildError
from tundish.profiler.profiles import Profile
from tundish.profiler.report import perfetto
from tundish.profiler.report.timeline import NODE

pb = protobuf()


def written(made: Profile, folder: Path):
    perfetto.write(made, folder / "run.pftrace")
    return parsed(folder / "run.pftrace")


def test_every_layer_is_nested_with_its_duration(tmp_path):
    made = profile(transformer(3))
    holds(written(made, tmp_path), made)


def test_a_module_that_is_entered_again_is_another_slice(tmp_path):
    made = profile(transformer(1))
    turned = replace(made, nodes=tuple(replace(n, module="ab"[i % 2]) for i, n in enumerate(made.nodes)))
    trace = written(turned, tmp_path)
    holds(trace, turned)
    assert sum(s.name in "ab" for s in slices(trace)) == len(made.nodes)


def test_nodes_of_no_length_stay_siblings(tmp_path):
    made = profile(ms=lambda step: 0.0, gap_ms=0.0)
    trace = written(made, tmp_path)
    holds(trace, made)
    assert all(not any(" " in name for name in s.above[1:]) for s in slices(trace) if s.kind == NODE)


def test_tracks_are_children_of_one_process_and_memory_is_a_counter(tmp_path):
    made = profile()
    trace = written(made, tmp_path)
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")}
    (process,) = [t for t in tracks.values() if t.HasField("process")]
    assert {t.parent_uuid for t in tracks.values() if t is not process} == {process.uuid}
    events = [p.track_event for p in trace.packet if p.HasField("track_event")]
    assert {e.track_uuid for e in events} <= set(tracks)
    counted = [e.counter_value for e in events if e.type == pb.TrackEvent.TYPE_COUNTER]
    assert counted == [m.live_bytes for m in made.memory]
    bare = written(replace(made, memory=()), tmp_path)
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
