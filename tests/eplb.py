"""The baseline for placements: the published method of DeepSeek's EPLB, written from its description.

Copies one at a time to the expert with most load for its copies; then the copies, heaviest first, each to the device
with least load that has a slot free. A token of an expert with copies takes each of them equally often. With groups:
groups to nodes in the same way, and the rest within each node. Nothing keeps two copies off one device.
Source: the README of github.com/deepseek-ai/EPLB; DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 3.4.
"""

from __future__ import annotations

import numpy as np


def packed(weights: np.ndarray, packs: int) -> np.ndarray:
    """i64 [packs, items a pack]: heaviest first, each into the lightest pack that is not full."""
    each = len(weights) // packs
    rows: list[list[int]] = [[] for _ in range(packs)]
    level = np.zeros(packs)
    for item in np.argsort(-weights, kind="stable"):
        free = [p for p in range(packs) if len(rows[p]) < each]
        pack = min(free, key=lambda p: level[p])
        rows[pack].append(int(item))
        level[pack] += weights[item]
    return np.array(rows)


def copied(loads: np.ndarray, slots: int) -> np.ndarray:
    """i64 [slots]: the expert in each copy."""
    copies = np.ones(len(loads), np.int64)
    for _ in range(slots - len(loads)):
        copies[np.argmax(loads / copies)] += 1
    return np.repeat(np.arange(len(loads)), copies)


def eplb(loads: np.ndarray, devices: int, slots: int, nodes: int = 1, groups: int = 1) -> np.ndarray:
    """i64 [devices, slots a device]."""
    inside = np.arange(len(loads)).reshape(groups, -1)
    homes = packed(loads[inside].sum(1), nodes) if groups > 1 else np.arange(groups)[None]
    rows = []
    for home in homes:
        mine = inside[home].ravel()
        copies = copied(loads[mine], slots // len(homes))
        shares = loads[mine][copies] / np.bincount(copies)[copies]
        rows.append(mine[copies[packed(shares, devices // len(homes))]])
    return np.concatenate(rows)


def level(assignment: np.ndarray, loads: np.ndarray) -> np.ndarray:
    """f64 [devices] with each copy taking an equal part."""
    copies = np.bincount(assignment.ravel(), minlength=len(loads))
    return (loads / copies)[assignment].sum(1)
