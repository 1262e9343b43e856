"""A profile as a Perfetto trace, to open in https://ui.perfetto.dev: modules, nodes and kernels nested in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...ir.diagnostics import BuildError
from ...ir.weight_file import write_whole
from ..profiles import NodeRow, Profile
from .timeline import ENTRY, KERNEL, MODULE, NODE, Span, placed, spans

SEQUENCE = 1
PROCESS, RUN, MEMORY = 1, 2, 3  # uuids of the tracks


def write(profile: Profile, path: Path) -> None:
    """Raises: BuildError where the file cannot be written, or the `perfetto` package is missing."""
    write_whole(path, trace(profile).SerializeToString(deterministic=True))


def trace(profile: Profile) -> Any:
    """The trace's protobuf: one track of nested slices, and one counter of live bytes where memory is known."""
    pb = protobuf()
    out = pb.Trace()
    _describe(out, PROCESS, process=f"{profile.model} · {profile.backend}")
    _describe(out, RUN, parent=PROCESS, name=f"{profile.phase or 'run'}, {_sizes(profile)}")
    open_: list[Span] = []
    for span in (*spans(profile), None):
        while open_ and (span is None or open_[-1].depth >= span.depth):
            _end(out.packet.add(), open_.pop(), pb)
        if span is not None:
            _begin(out.packet.add(), span, profile, pb)
            open_.append(span)
    _memory(out, profile, pb)
    return out


def protobuf() -> Any:
    """The package's classes. Raises: BuildError where it is missing."""
    try:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2
    except ImportError as error:
        raise BuildError("a trace needs the perfetto package", hint="pip install 'tundish[report]'") from error
    return perfetto_trace_pb2


def _sizes(profile: Profile) -> str:
    return ", ".join(f"{k} {v}" for k, v in profile.sizes.items())


def _describe(out: Any, uuid: int, *, parent: int = 0, name: str = "", process: str = "") -> Any:
    packet = out.packet.add()
    packet.trusted_packet_sequence_id = SEQUENCE
    described = packet.track_descriptor
    described.uuid = uuid
    if parent:
        described.parent_uuid = parent
    if process:
        described.process.pid, described.process.process_name = 1, process
    if name:
        described.name = name
    return described


def _begin(packet: Any, span: Span, profile: Profile, pb: Any) -> None:
    event = _event(packet, span.start_ms, pb.TrackEvent.TYPE_SLICE_BEGIN, RUN)
    event.name = f"{span.row.op} {span.name}" if span.kind == NODE and span.row else span.name
    event.categories.append(span.kind)
    for key, value in _facts(span, profile).items():
        if value is not None and value != "":
            _annotate(event.debug_annotations.add(), key, value)


def _end(packet: Any, span: Span, pb: Any) -> None:
    _event(packet, span.end_ms, pb.TrackEvent.TYPE_SLICE_END, RUN)


def _event(packet: Any, ms: float, kind: int, track: int) -> Any:
    packet.timestamp = round(ms * 1e6)
    packet.trusted_packet_sequence_id = SEQUENCE
    packet.track_event.type, packet.track_event.track_uuid = kind, track
    return packet.track_event


def _facts(span: Span, profile: Profile) -> dict[str, Any]:
    if span.kind == ENTRY:
        return {
            "backend": profile.backend, "target": profile.target, "machine": profile.machine, "date": profile.date,
            "precision": profile.precision, "threads": profile.threads, **profile.sizes,
            "measured_ms": profile.total_ms, "iqr_ms": profile.iqr_ms, "predicted_ms": profile.predicted_ms,
            "unattributed_ms": profile.unattributed_ms, "calibration": profile.calibration,
        }  # fmt: skip
    return {MODULE: {"module": span.name}, NODE: _node_facts(span.row), KERNEL: {}}[span.kind]


def _node_facts(row: NodeRow | None) -> dict[str, Any]:
    if row is None:
        return {}
    names = (
        "name", "op", "module", "source", "measured_ms", "iqr_ms", "predicted_ms", "flops", "hardware_flops",
        "read_bytes", "written_bytes", "roof", "percent_of_roof",
    )  # fmt: skip
    return {name: getattr(row, name) for name in names}


def _annotate(into: Any, name: str, value: Any) -> None:
    into.name = name
    if isinstance(value, float):
        into.double_value = value
    elif isinstance(value, int):
        into.int_value = value
    else:
        into.string_value = str(value)


def _memory(out: Any, profile: Profile, pb: Any) -> None:
    """A counter of the bytes that the plan holds alive, a value where each node begins."""
    live = {point.name: point.live_bytes for point in profile.memory}
    if not live:
        return
    described = _describe(out, MEMORY, parent=PROCESS, name="live bytes (predicted)")
    described.counter.unit = pb.CounterDescriptor.UNIT_SIZE_BYTES
    for row, start in placed(profile):
        if row.name in live:
            event = _event(out.packet.add(), start, pb.TrackEvent.TYPE_COUNTER, MEMORY)
            event.counter_value = live[row.name]
