"""gguf files of seeded weights, for the tests that open them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

HALVES = {  # where the f16s of a block stand
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "TQ2_0": (64,),
}  # fmt: skip
LLAMA = {
    "block_count": 2, "context_length": 64, "embedding_length": 64, "feed_forward_length": 96,
    "attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 16, "vocab_size": 50,
}  # fmt: skip
WIDE = {**LLAMA, "embedding_length": 256, "feed_forward_length": 256, "rope.dimension_count": 64}


def random_blocks(rng: np.random.Generator, kind: str, shape: tuple[int, ...], most: float = 65504.0) -> np.ndarray:
    """Any bytes, with finite scales of any exponent up to `most`: u8[..., bytes of the row]."""
    numbers, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // numbers, size), np.uint8)
    for at in HALVES[kind]:
        half = (blocks[:, at : at + 2].copy().view(np.uint16) & np.uint16(0xFBFF)).view(np.float16)
        blocks[:, at : at + 2] = np.clip(half, -most, most).astype(np.float16).view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def weights(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """A matrix such as models have, as blocks of that type."""
    if kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        plain = (rng.standard_normal(shape) * 0.1).astype(np.float32)
        return gguf.quantize(plain, gguf.GGMLQuantizationType[kind])
    return random_blocks(rng, kind, shape, most=0.0005)


def write(
    path: Path, family: str, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[tuple[int, ...], str]],
    tokens: int = 0,
) -> Path:  # fmt: skip
    """A file of seeded weights. tensors: name -> (shape, type)."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, family)
    for key, value in metadata.items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(f"{family}.{key}", value)
    if tokens:
        writer.add_token_list([f"t{i}" for i in range(tokens)])
    for name, (shape, kind) in tensors.items():
        if kind == "F32":
            writer.add_tensor(name, (rng.standard_normal(shape) * 0.1 + (len(shape) == 1)).astype(np.float32))
        else:
            raw = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, weights(rng, kind, shape), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama(path: Path, kind: str, head: str = "", config: Mapping[str, int] = LLAMA, table: str = "") -> Path:
    """A tiny Llama whose matrices are of that type. head: the type of its own head, "" for a tied one."""
    h, f, v = (config[k] for k in ("embedding_length", "feed_forward_length", "vocab_size"))
    kv = h // config["attention.head_count"] * config["attention.head_count_kv"]
    tensors: dict[str, tuple[tuple[int, ...], str]] = {"token_embd.weight": ((v, h), table or kind)}
    matrices = {"attn_q": (h, h), "attn_k": (kv, h), "attn_v": (kv, h), "attn_output": (h, h),
                "ffn_gate": (f, h), "ffn_up": (f, h), "ffn_down": (h, f)}  # fmt: skip
    for i in range(config["block_count"]):
        tensors |= {f"blk.{i}.{n}.weight": ((h,), "F32") for n in ("attn_norm", "ffn_norm")}
        tensors |= {f"blk.{i}.{n}.weight": (shape, kind) for n, shape in matrices.items()}
    tensors["output_norm.weight"] = (h,), "F32"
    if head:
        tensors["output.weight"] = (v, h), head
    return write(path, "llama", {**config, "attention.layer_norm_rms_epsilon": 1e-5}, tensors)


def inputs(batch: int = 2, seq: int = 7, vocabulary: int = 50) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(1).integers(0, vocabulary, (batch, seq))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
