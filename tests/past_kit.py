"""An exported decoder run chunk by chunk in plain ONNX Runtime, and what eager torch answers to the whole text."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch


def session(folder: Path, file: str = "model.onnx") -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(folder / "onnx" / file, options, providers=["CPUExecutionProvider"])


def rows(batch: int, length: int, padded: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask [batch, length]; the last row begins with `padded` places of padding."""
    ids = np.random.default_rng(seed).integers(3, 100, (batch, length))
    mask = np.ones_like(ids)
    mask[-1, :padded] = 0
    return ids, mask


def places(mask: np.ndarray) -> np.ndarray:
    """The position of each token, counted over real ones."""
    return np.maximum(mask.cumsum(-1) - 1, 0)


def whole(module: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Eager torch's logits [batch, length, vocab] of the whole text, without any cache."""
    given = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in inspect.signature(module.forward).parameters:
        given["position_ids"] = places(mask)
    with torch.no_grad():
        tensors = {name: torch.from_numpy(array) for name, array in given.items()}
        return module(**tensors, use_cache=False).logits.numpy()


def answered(
    folder: Path, ids: np.ndarray, mask: np.ndarray, new: np.ndarray, chunks: Sequence[int], ending: str = ""
) -> np.ndarray:
    """Logits [batch, new, vocab] of an encoder-decoder that reads `ids` once and its own text in chunks.

    ending: what the files' names have for the format of their weights.
    """
    encoder, decoder = (session(folder, f"{name}{ending}.onnx") for name in ("encoder_model", "decoder_model_merged"))
    (states,) = encoder.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})
    given = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    names = [o.name for o in decoder.get_outputs()]
    past, done, at = nothing_kept(decoder, len(ids)), [], 0
    for size in chunks:
        given |= {"input_ids": new[:, at : at + size], "use_cache_branch": np.array([at > 0])}
        at += size
        out = dict(zip(names, decoder.run(None, {**given, **past}), strict=True))
        done.append(out.pop("logits"))
        past = {name.replace("present", "past_key_values"): array for name, array in out.items()}
        assert {v.shape[2] for k, v in past.items() if ".decoder." in k} == {at}
        assert {v.shape[2] for k, v in past.items() if ".encoder." in k} == {ids.shape[1]}
    return np.concatenate(done, axis=1)


def nothing_kept(opened: Any, batch: int) -> dict[str, np.ndarray]:
    """The past before the first token: of length 0. Its heads stand in the outputs; inputs may leave them open."""
    shapes = {o.name.replace("present", "past_key_values"): o.shape for o in opened.get_outputs() if o.name != "logits"}
    return {name: np.zeros((batch, shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items()}


def in_chunks(opened: Any, ids: np.ndarray, mask: np.ndarray, chunks: Sequence[int]) -> np.ndarray:
    """Logits [batch, length, vocab] of a text read in chunks, each behind what those before it left."""
    taken = {i.name for i in opened.get_inputs()}
    names = [o.name for o in opened.get_outputs()]
    past, done, at = nothing_kept(opened, len(ids)), [], 0
    for size in chunks:
        new = slice(at, at + size)
        at += size
        given = {"input_ids": ids[:, new], "attention_mask": mask[:, :at], "position_ids": places(mask)[:, new]}
        fed = {name: array for name, array in {**given, **past}.items() if name in taken}
        out = dict(zip(names, opened.run(None, fed), strict=True))
        done.append(out.pop("logits"))
        past = {name.replace("present", "past_key_values"): array for name, array in out.items()}
        assert {array.shape[2] for array in past.values()} == {at}
    return np.concatenate(done, axis=1)
