"""What a session answers is what the whole text gives, however it was read: at once, in pieces, beside other rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tundish
from tundish.backends.generation import session as s
from tundish.ir.diagnostics import RunError

VOCAB, LONG = 128, 40


@pytest.fixture(scope="module", params=["llama-tiny", "mistral-tiny", "deepseek-v3-tiny"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Without a window; with one of 8 tokens; with keys and values of different sizes, which no kernel takes."""
    with tundish.compile(request.param, tmp_path_factory.mktemp("s") / "b.tundish", batch="1..4") as made:
        yield made


@pytest.fixture(autouse=True)
def few_spare_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "SLACK", 5)  # so that windows slide


def texts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(7)
    return [rng.integers(3, VOCAB, n).tolist() for n in lengths]


def whole(bundle: Any, text: list[int]) -> np.ndarray:
    ids = np.array([text])
    return bundle.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})["logits"][0]


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, atol=2e-6 * max(1.0, float(np.abs(b).max())))


def test_one_by_one_and_in_pieces(bundle: Any) -> None:
    (text,) = texts(LONG)
    wanted = whole(bundle, text)
    alone, pieces, scored = (s.Session(bundle, 1, LONG) for _ in range(3))
    for i, token in enumerate(text):
        close(alone.read([[token]])[0], wanted[i])
    for start in range(0, LONG, 7):
        close(pieces.read([text[start : start + 7]])[0], wanted[min(start + 7, LONG) - 1])
    close(scored.score([text])[0], wanted)
    assert alone.lengths.tolist() == pieces.lengths.tolist() == [LONG]


def test_rows_of_different_lengths_do_not_meet(bundle: Any) -> None:
    rows = texts(3, 21, 12)
    session = s.Session(bundle, 3, LONG)
    found = session.read(rows)
    for i, row in enumerate(rows):
        close(found[i], whole(bundle, row)[-1])
    for step in range(12):
        new = [[5 + step], [], [9 + step]] if step % 3 else [[5 + step], [7 + step], [9 + step]]
        rows = [row + more for row, more in zip(rows, new, strict=True)]
        found = session.read(new)
        for i, more in enumerate(new):
            if more:
                close(found[i], whole(bundle, rows[i])[-1])
            else:
                assert not found[i].any()
    assert session.lengths.tolist() == [len(r) for r in rows]


def test_saved_restored_and_gone_back(bundle: Any) -> None:
    (text,) = texts(18)
    one, other = s.Session(bundle, 1, LONG), s.Session(bundle, 2, LONG + 3)
    one.read([text])
    kept = one.save(0)
    other.restore(1, kept)
    close(other.read([[], [4, 9, 8]])[1], whole(bundle, [*text, 4, 9, 8])[-1])
    one.read([[5]])
    one.rewind(0, len(text))
    close(one.read([[4]])[0], whole(bundle, [*text, 4])[-1])
    one.rewind(0, 0)
    close(one.read([text[:3]])[0], whole(bundle, text[:3])[-1])


def test_a_window_that_slid_is_not_gone_back_to(bundle: Any) -> None:
    (text,) = texts(30)
    session = s.Session(bundle, 1, LONG)
    for token in text:
        session.read([[token]])
    if bundle.manifest.info["generation"]["windows"]:
        with pytest.raises(RunError, match="a window of 8 tokens has slid"):
            session.rewind(0, 10)
    else:
        session.rewind(0, 10)
        close(session.read([[4]])[0], whole(bundle, [*text[:10], 4])[-1])


def test_caches_are_written_in_place(bundle: Any) -> None:
    session = s.Session(bundle, 2, LONG)
    before = {name: array.ctypes.data for name, array in session._caches.items()}
    session.read(texts(4, 6))
    session.read([[3], [4]])
    assert {name: array.ctypes.data for name, array in session._caches.items()} == before
    for name, array in session._caches.items():
        filled = np.abs(array).sum((1, 3)) > 0
        assert filled[0, :5].all() and filled[1, :7].all(), name
        assert set(bundle.entries["step"].aliases.values()) == set(before)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([[1] * (LONG + 1)], "would have 41 tokens"), ([[VOCAB]], "none of the model's"),
        ([[1], [2]], "there are 1 rows"),
    ],
)
def test_what_cannot_be_read(bundle: Any, tokens: list[list[int]], said: str) -> None:
    with pytest.raises(RunError, match=said):
        s.Session(bundle, 1, LONG).read(tokens)


def test_more_than_the_bundle_takes(bundle: Any) -> None:
    with pytest.raises(RunError, match="rows, not 9"):
        s.Session(bundle, 9, LONG)
    with pytest.raises(RunError, match="tokens of context, not 65"):
        s.Session(bundle, 1, 65)
