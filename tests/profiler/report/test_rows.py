"""What is written can be read back, and what is no profile is refused in one line."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from profile_kit import profile

from tundish.ir.diagnostics import BuildError, LoadError
from tundish.profiler.report import rows


def test_json_is_read_back_as_it_was(tmp_path):
    made = profile()
    rows.write_json(made, tmp_path / "p.json")
    assert rows.read_json(tmp_path / "p.json") == made


def test_json_holds_what_scripts_rely_on(tmp_path):
    rows.write_json(profile(), tmp_path / "p.json")
    plain = json.loads((tmp_path / "p.json").read_text())
    assert {"total_ms", "nodes", "unattributed_ms", "peak_bytes"} <= plain.keys()
    promised = {
        "name", "op", "module", "source", "measured_ms", "predicted_ms", "flops", "read_bytes", "written_bytes",
        "roof", "percent_of_roof",
    }  # fmt: skip
    assert all(promised <= node.keys() for node in plain["nodes"])


def test_csv_has_a_line_for_each_row_and_keeps_odd_text():
    made = profile()
    odd = replace(made.nodes[0], module='a,"b"\nc', predicted_ms=None)
    lines = list(csv.DictReader(io.StringIO(rows.to_csv(replace(made, nodes=(odd, *made.nodes[1:]))))))
    assert [line["name"] for line in lines] == [*(n.name for n in made.nodes), "unattributed"]
    assert float(lines[-1]["measured_ms"]) == made.unattributed_ms and not lines[-1]["op"]
    assert lines[0]["module"] == odd.module and lines[0]["predicted_ms"] == ""
    assert float(lines[1]["measured_ms"]) == made.nodes[1].measured_ms
    assert float(lines[1]["flops_per_s"]) == pytest.approx(made.nodes[1].flops_per_s)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"nodes": []}', '{"total_ms": "fast"}', "\x00\xff", "[" * 100_000],
)
def test_what_is_no_profile_is_refused(text, tmp_path):
    (tmp_path / "x.json").write_bytes(text.encode("latin1"))
    with pytest.raises(LoadError, match="is no profile"):
        rows.read_json(tmp_path / "x.json")


def test_a_field_of_another_type_is_named(tmp_path):
    plain = profile().to_json()
    plain["nodes"][3]["measured_ms"] = "quick"
    (tmp_path / "x.json").write_text(json.dumps(plain))
    with pytest.raises(LoadError, match=r"measured_ms|nodes\[3\]|\$\.nodes"):
        rows.read_json(tmp_path / "x.json")


def test_files_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "p.csv").write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BuildError, match="the disk is full"):
        rows.write_csv(profile(), tmp_path / "p.csv")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("p.csv", "old")]


@pytest.mark.parametrize("missing", ["no-such.json", "folder"])
def test_a_file_that_cannot_be_read_is_named(missing, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(LoadError, match=f"cannot read .*{missing}"):
        rows.read_json(tmp_path / missing)
