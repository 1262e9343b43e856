"""All files of a profile by one call, and what cannot be written is refused before anything is."""

from __future__ import annotations

import pytest
from profile_kit import profile

from tundish.ir.diagnostics import BuildError
from tundish.profiler.report.write import check_files, write


def test_what_is_named_is_written_and_nothing_else(tmp_path):
    pytest.importorskip("perfetto")
    files = {"html": tmp_path / "p.html", "trace": tmp_path / "p.pftrace", "csv": tmp_path / "p.csv"}
    assert write(profile()) == {} and not list(tmp_path.iterdir())
    assert write(profile(), csv=files["csv"]) == {"csv": str(files["csv"])}
    assert write(profile(), **files) == {kind: str(file) for kind, file in files.items()}
    assert sorted(tmp_path.iterdir()) == sorted(files.values()) and all(f.stat().st_size for f in files.values())


def test_what_cannot_be_written_is_refused_first(tmp_path):
    with pytest.raises(BuildError, match="is a folder"):
        write(profile(), html=tmp_path, csv=tmp_path / "p.csv")
    with pytest.raises(BuildError, match="there is no folder"):
        write(profile(), csv=tmp_path / "p.csv", trace=tmp_path / "no" / "t")
    with pytest.raises(BuildError, match="cannot be one file"):
        check_files(tmp_path / "x", csv=str(tmp_path / "x"))
    assert not list(tmp_path.iterdir())
