"""Safetensors files from elsewhere: read where the usual library reads them, and refused where a header lies."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tundish.ir.diagnostics import LoadError
from tundish.ir.weights import TensorFile


def at(begin: Any, end: Any, shape: list[Any], dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def written(folder: Path, header: Any) -> Path:
    """A file of this header and 16 bytes of tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + np.arange(4, dtype=np.float32).tobytes())
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"a": at(0, 8, [2]), "b": at(8, 16, [2])},
        {"b": at(8, 16, [1, 2]), "a": at(0, 8, [2, 1])},
        {"a": at(0, 16, [4]), "none": at(16, 16, [0]), "empty": at(0, 0, [0, 1 << 40])},
        {"__metadata__": {"format": "pt"}, "a": at(0, 16, [2, 2])},
    ],
)
def test_it_is_read_as_the_usual_library_reads_it(tmp_path: Path, header: Any) -> None:
    path = written(tmp_path, header)
    ours, theirs = TensorFile(path), load_file(path)
    assert set(ours) == set(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    "header",
    [
        {"a": at(0, 8, [2]), "b": at(4, 12, [2])},
        {"a": at(0, 16, [4]), "b": at(0, 16, [4])},
        {"a": at(0, 8, [2])},
        {"a": at(8, 16, [2])},
        {"a": at(0, 24, [6])},
        {"a": at(-8, 8, [4])},
        {"a": at(0, 16, [-4])},
        {"a": at(0, 16, [2])},
        {"a": at(False, 16, [4])},
        {"a": at(0, 16.0, [4])},
        {"a": at(0, 16, [4.0])},
        {"a": at(0, 16, [4], "F31")},
        {"a": at(0, 16, [4], ["F32"])},
        {"a": at(0, 16, [1] * 70 + [4])},
        {"a": at(0, 16, [4]), "b": at(16, 16, [0, 1 << 70])},
        {"a": [0, 16]},
        b'{"a": %s, "a": %s}' % ((json.dumps(at(0, 16, [4])).encode(),) * 2),
        b"[1]",
        b"[" * 100_000,
        b"\xff\xff",
        b"{}",
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any) -> None:
    with pytest.raises(LoadError, match="w.safetensors"):
        TensorFile(written(tmp_path, header))
