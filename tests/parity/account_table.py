"""Writes the tables of docs/accounting.md: ten published models, and what torch's own counter says of small ones.

Run: `make account-table`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tundish
from tundish.models.zoo import ZOO, load_named

SEQ = 128
SMALL = ("bert-base", "gpt2", "mixtral-tiny")  # those that torch runs here in a moment
_PRODUCTS = ("linear", "matmul", "conv", "attention", "moe")


def published() -> Iterator[str]:
    """One row for each model whose published counts are known."""
    yield "| model | parameters | published | active | FLOPs | of dense kernels | what is included |"
    yield "|---|---|---|---|---|---|---|"
    for name, entry in ZOO.items():
        if entry.published is None:
            continue
        row = tundish.account(name, batch=1, seq=None if name == "vit-base" else SEQ, phase="prefill")
        told = entry.published
        active = f"{row['active_parameters']:,}" + (f" ({told.active})" if told.active else "")
        yield (
            f"| {name} | {row['parameters']:,} | {told.total} | {active} | {row['flops']:,} | "
            f"{row['hardware_flops']:,} | {told.includes}. {told.source} |"
        )


def counters() -> Iterator[str]:
    """FlopCounterMode on the model as it runs, in both forms of attention and experts, beside our dense count."""
    yield "| model | attention, experts | torch's counter | ours, same ops, dense | torch / ours |"
    yield "|---|---|---|---|---|"
    for name in SMALL:
        seq = min(SEQ, load_named(name, shape_only=True).max_seq or SEQ)
        rows = tundish.account(name, batch=1, seq=seq, phase="prefill")["by_op"]
        ours = sum(r["hardware_flops"] for r in rows if r["op"] in _PRODUCTS)
        for attention in ("eager", "sdpa"):
            for experts in ("eager", "grouped_mm") if "mixtral" in name else ("",):
                found = counted(name, seq, attention, experts)
                form = attention + (f", {experts}" if experts else "")
                yield f"| {name} | {form} | {found:,} | {ours:,} | {found / ours:.3f} |"


def counted(name: str, seq: int, attention: str, experts: str) -> int:
    """What torch's counter says of one forward of 1 x seq tokens."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    module: Any = load_named(name).module
    module.set_attn_implementation(attention)
    if experts:
        module.set_experts_implementation(experts)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(input_ids=torch.arange(seq)[None] % 128, attention_mask=torch.ones(1, seq, dtype=torch.long))
    return int(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    tables = {"published": list(published()), "counters": list(counters())}
    if asked.write is None:
        print("\n\n".join("\n".join(rows) for rows in tables.values()))
        return
    text = asked.write.read_text(encoding="utf-8")
    for name, rows in tables.items():
        head, mark, rest = text.partition(f"<!-- {name} -->\n")
        tail = rest.partition(f"<!-- end of {name} -->")[2]
        text = head + mark + "\n".join(rows) + f"\n<!-- end of {name} -->" + tail
    asked.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
