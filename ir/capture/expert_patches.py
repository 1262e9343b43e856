"""Layers of experts of transformers that pass its experts interface by: each module's forward, written with the one op.

What stands between the two products is found by running the module's own activation, not by its name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..ops.moe import ACTIVATIONS

_VALUES = np.linspace(-12.0, 12.0, 97)


def _activation(function: Any, gated: bool) -> str | None:
    """Which of the op's activations `function` makes, with a second factor where gated; None for any other."""
    import torch

    with torch.no_grad():
        got = function(torch.from_numpy(_VALUES)).double().numpy()
    for name, known in ACTIVATIONS.items():
        if known.gated == gated and np.allclose(got, known.fn(_VALUES, np.ones(1)), rtol=1e-5, atol=1e-6):
            return name
    return None


def _dbrx(experts: Any) -> Callable[..., Any] | None:
    """DbrxExperts: gate, value and output matrices [experts · f, d] of a GLU."""
    import torch

    mlp = experts.mlp
    activation = _activation(mlp.activation_fn, True)

    def forward(hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
        shape = (experts.num_experts, experts.ffn_hidden_size, experts.hidden_size)
        first = torch.cat((mlp.w1.view(shape), mlp.v1.view(shape)), 1).transpose(1, 2)
        flat = hidden_states.reshape(-1, experts.hidden_size)
        out = torch.ops.tundish.moe(flat, top_k_index, top_k_weights, first, mlp.w2.view(shape), activation=activation)
        return out.view(hidden_states.shape)

    return forward if activation else None


def _switch(experts: Any) -> Callable[..., Any] | None:
    """SwitchTransformersExperts: handed a one-hot row for each token, all 0 where the expert's capacity is used up."""
    import torch

    inner = list(experts.values())
    activation = _activation(inner[0].act, False)

    def forward(hidden_states: Any, selected_experts: Any, routing_weights: Any) -> Any:
        taken = selected_experts.sum(-1)  # [tokens, 1]: 0 for a token that is dropped, whose part is then nothing
        first, last = (torch.stack([getattr(e, name).weight.t() for e in inner]) for name in ("wi", "wo"))
        return torch.ops.tundish.moe(
            hidden_states, selected_experts.argmax(-1), routing_weights * taken.to(routing_weights.dtype), first, last,
            activation=activation,
        )  # fmt: skip

    return forward if activation else None


def _switch_router(router: Any) -> Callable[..., Any] | None:
    """SwitchTransformersTop1Router converts its own layer each time it runs, which no trace allows."""
    layer, forward = router.classifier, type(router).forward
    if layer.weight.dtype != router.dtype:
        return None

    def unconverted(hidden_states: Any) -> Any:
        layer.to = lambda dtype: layer  # it has that type
        try:
            return forward(router, hidden_states)
        finally:
            del layer.to

    return unconverted


def _llama4(block: Any) -> Callable[..., Any] | None:
    """Llama4TextMoe runs every expert on every token, each scaled by its score before: 0 where it was not chosen."""
    import torch

    experts, k = block.experts, block.top_k
    activation = _activation(experts.act_fn, True)

    def forward(hidden_states: Any) -> Any:
        flat = hidden_states.reshape(-1, block.hidden_dim)
        _, logits = block.router(flat)
        best, chosen = torch.topk(logits, k, dim=1)
        scores = torch.sigmoid(best.float()).to(flat.dtype)
        scaled = flat.repeat_interleave(k, 0) * scores.reshape(-1, 1) if k > 1 else flat * scores
        ones = torch.ones_like(scores).reshape(-1, 1)
        routed = torch.ops.tundish.moe(
            scaled, chosen.reshape(-1, 1), ones, experts.gate_up_proj, experts.down_proj, activation=activation
        )
        routed = routed.view(-1, k, block.hidden_dim).sum(1) if k > 1 else routed
        return block.shared_expert(flat) + routed, logits

    return forward if activation else None


# The name of a class of transformers -> what makes its forward; None from that leaves it as it is.
_MADE: dict[str, Callable[[Any], Callable[..., Any] | None]] = {
    "DbrxExperts": _dbrx, "SwitchTransformersExperts": _switch, "SwitchTransformersTop1Router": _switch_router,
    "Llama4TextMoe": _llama4,
}  # fmt: skip


@contextlib.contextmanager
def patched_experts(module: Any) -> Iterator[None]:
    """Inside, the layers of experts in `module` that have no interface run as one op each."""
    changed = []
    try:
        for part in module.modules():
            make = _MADE.get(type(part).__name__)
            ours = make(part) if make and type(part).__module__.startswith("transformers.") else None
            if ours is not None:
                part.forward = ours
                changed.append(part)
        yield
    finally:
        for part in changed:
            del part.forward
