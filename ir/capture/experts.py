"""transformers' layers of experts through its own experts interface: one op; the routing before it stays as written.

What an experts module does between its two products is found by running that part on numbers, not by its name.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from ..diagnostics import CaptureError, Where
from ..ops.moe import ACTIVATIONS
from .places import model_frame

NAME = "tundish"
_LAYOUT = ("has_gate", "has_bias", "is_transposed", "is_concatenated")  # what the interface sets on each module
_ACTIVATION = "_tundish_activation"
# Gates on both sides of every known clamp, values likewise.
_GATES, _VALUES = np.linspace(-12.0, 12.0, 97), np.array([-9.0, -1.5, -0.25, 0.5, 3.0, 9.0])


def activation_of(experts: Any) -> str | None:
    """Which of the op's activations a module of transformers' experts interface applies; None for any other.

    Its own function runs in double precision on a grid that tells all known ones apart.
    """
    import torch

    gate, value = (torch.from_numpy(a.ravel()) for a in np.meshgrid(_GATES, _VALUES))
    try:
        with torch.no_grad():
            if not experts.has_gate:
                found = experts.act_fn(gate[None])
            elif experts.is_concatenated:
                found = experts._apply_gate(torch.cat((gate, value))[None])
            else:
                found = experts._apply_gate(torch.stack((gate, value), -1).reshape(1, -1))
        got = found.double().numpy().ravel()
    except Exception:  # an activation may be any code; one that does not run on plain numbers is not one of ours
        return None
    for name, known in ACTIVATIONS.items():
        if known.gated == experts.has_gate and got.shape == tuple(gate.shape):
            wanted = known.fn(gate.numpy(), value.numpy())
            if np.allclose(got, wanted, rtol=1e-5, atol=1e-6):
                return name
    return None


def _experts(module: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any, *rest: Any, **options: Any) -> Any:
    """hidden_states [tokens, d], top_k_index and top_k_weights [tokens, k] -> [tokens, d]."""
    import torch

    activation = getattr(module, _ACTIVATION, None)
    _check(module, activation, rest, options)
    up, up_bias = ("gate_up_proj", "gate_up_proj_bias") if module.has_gate else ("up_proj", "up_proj_bias")
    first, down = getattr(module, up), module.down_proj
    if not module.is_transposed:
        first, down = first.transpose(1, 2), down.transpose(1, 2)
    biases = (getattr(module, up_bias), module.down_proj_bias) if module.has_bias else (None, None)
    if module.has_gate and not module.is_concatenated:
        first, biases = _apart(first), (None if biases[0] is None else _apart(biases[0]), biases[1])
    return torch.ops.tundish.moe(
        hidden_states, top_k_index, top_k_weights, first, down, *biases, activation=activation
    )


def _apart(interleaved: Any) -> Any:
    """[..., g0 u0 g1 u1 ...] -> [..., g0 g1 ... u0 u1 ...]."""
    import torch

    return torch.cat((interleaved[..., 0::2], interleaved[..., 1::2]), -1)


def _check(module: Any, activation: str | None, rest: Any, options: Any) -> None:
    """Raises: CaptureError with the line that runs the experts, where the op does not say what they do."""
    name = type(module).__name__
    if activation is None:
        act = type(getattr(module, "act_fn", None)).__name__
        raise CaptureError(
            f"the experts of {name} apply {act}, which the op for experts does not know", where=_line(),
            found=f"hidden_act {getattr(module.config, 'hidden_act', None)!r}",
            hint=f"known: {', '.join(ACTIVATIONS)}",
        )  # fmt: skip
    if getattr(module, "has_post_expert_norm", False):
        raise CaptureError(f"{name} norms what each expert gives, which the op for experts does not know",
                           where=_line(), hint="write the experts in plain torch")  # fmt: skip
    if rest or any(v is not None for v in options.values()):
        raise CaptureError(
            f"{name} is called with more than tokens, indices and weights", where=_line(),
            found=", ".join(options) or f"{len(rest)} more", hint="write the experts in plain torch",
        )  # fmt: skip


def _line() -> Where | None:
    """The innermost line of the model that is running now."""
    file, line = model_frame("".join(traceback.format_stack()))
    return Where(file, line) if line else None


@lru_cache(maxsize=1)
def _register() -> None:
    from transformers.integrations.moe import ExpertsInterface

    ExpertsInterface.register(NAME, _experts)


@contextlib.contextmanager
def hooked_experts(module: Any) -> Iterator[None]:
    """Inside, the experts modules in `module` that use transformers' interface run as one op each."""
    found = [m for m in module.modules() if all(hasattr(m, a) for a in _LAYOUT) and hasattr(m, "config")]
    saved = [(m.config, m.config._experts_implementation_internal) for m in found]
    try:
        if found:
            _register()
        for experts in found:
            setattr(experts, _ACTIVATION, activation_of(experts))
            experts.config._experts_implementation_internal = NAME
        yield
    finally:
        for experts in found:
            experts.__dict__.pop(_ACTIVATION, None)
        for config, before in saved:
            config._experts_implementation_internal = before
