"""tests/golden/<pass>/<case>.txt: a program, `----`, and what the pass makes of it.

Lines `# key: value` at the head set the task: fusions, joins, compute, weights, blocks, without (ops taken in parts),
kernels (forms of quantised weights), panel (columns), products (types that are multiplied in, and no more).
`pytest --update-golden` rewrites what stands below the line.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from compiler_kit import fusions, task

from tundish.compiler.capabilities import Blocks
from tundish.compiler.driver import PASSES, pass_names
from tundish.compiler.passes.registry import Rewrite
from tundish.compiler.task import Precision, Task
from tundish.ir.op import OPS
from tundish.ir.text import from_text, to_text
from tundish.ir.verify import verify

FOLDER = Path(__file__).resolve().parent.parent / "golden"
REWRITES = {p.name: p for p in PASSES if isinstance(p, Rewrite)}
CASES = sorted(p for name in REWRITES for p in (FOLDER / name).glob("*.txt"))
LINE = "----\n"


def read_task(head: dict[str, str]) -> Task:
    without = frozenset(head.get("without", "").split())
    chains = [c.strip() for c in head.get("fusions", "").split(",") if c.strip()]
    products = frozenset(head.get("products", "").split())
    return task(
        dtypes=frozenset({"f32", "f16", "bf16"}) - products,
        products=products,
        precision=Precision(
            weights=head.get("weights", "f32"), compute=head.get("compute", "f32"), blocks=head.get("blocks", "")
        ),
        fusions=fusions(*chains),
        joins=frozenset(head.get("joins", "").split()),
        ops=frozenset(OPS) - without,
        decomposed=without,
        blocks=read_blocks(head["kernels"]) if "kernels" in head else None,
        panel=int(head.get("panel", 0)),
    )


def read_blocks(text: str) -> frozenset[Blocks]:
    """`4 32 centred, 8 64 centred` as the forms of quantised weights that a backend takes."""
    forms = (form.split() for form in text.split(","))
    return frozenset(Blocks(int(bits), int(group), scheme) for bits, group, scheme in forms)


def head_of(text: str) -> dict[str, str]:
    lines = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_golden(path: Path, update_golden: bool) -> None:
    before, _, wanted = path.read_text(encoding="utf-8").partition(LINE)
    program = verify(from_text("".join(x for x in before.splitlines(keepends=True) if not x.startswith("#"))))
    after = verify(REWRITES[path.parent.name](program, read_task(head_of(before))).program)
    got = to_text(after)
    if update_golden:
        path.write_text(before + LINE + got, encoding="utf-8")
    else:
        assert got == wanted, f"run pytest --update-golden and read the difference of {path.name}"


def test_every_rewrite_has_a_case() -> None:
    assert set(REWRITES) == {p.parent.name for p in CASES}
    assert set(REWRITES) < set(pass_names())
