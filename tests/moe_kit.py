"""Every family of models with experts, tiny: transformers' own, and the forms in which people write them by hand.

Each factory gives (module, sample inputs), as `tests/moe_kit.py:mixtral` on the command line takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

LAYERS, EXPERTS, TOP_K, WIDTH, INNER, VOCABULARY = 2, 4, 2, 32, 24, 64
_BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": INNER, "max_position_embeddings": 256, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# name -> (class, what differs from _BASE, layers of experts)
FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": EXPERTS, "num_experts_per_tok": TOP_K}, 2),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {
        "num_experts": EXPERTS, "num_experts_per_tok": TOP_K, "moe_intermediate_size": INNER,
        "shared_expert_intermediate_size": 16}, 2),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {
        "num_experts": EXPERTS, "num_experts_per_tok": TOP_K, "moe_intermediate_size": INNER, "head_dim": 8}, 2),
    "deepseek_v3": ("DeepseekV3ForCausalLM", {
        "num_hidden_layers": 3, "num_key_value_heads": 4, "first_k_dense_replace": 1, "q_lora_rank": 24,
        "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "n_routed_experts": 8,
        "moe_intermediate_size": 16, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
        "n_shared_experts": 1}, 2),
    "gpt_oss": ("GptOssForCausalLM", {
        "num_local_experts": EXPERTS, "num_experts_per_tok": TOP_K, "head_dim": 8, "sliding_window": 16}, 2),
    "phimoe": ("PhimoeForCausalLM", {"num_local_experts": EXPERTS, "num_experts_per_tok": TOP_K}, 2),
    "granitemoe": ("GraniteMoeForCausalLM", {"num_local_experts": EXPERTS, "num_experts_per_tok": TOP_K}, 2),
    "jamba": ("JambaForCausalLM", {
        "num_experts": EXPERTS, "num_experts_per_tok": TOP_K, "num_hidden_layers": 4, "attn_layer_period": 2,
        "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False,
        "mamba_d_state": 4, "mamba_dt_rank": 4}, 2),
    "switch_transformers": ("SwitchTransformersForConditionalGeneration", {
        "d_model": WIDTH, "d_kv": 8, "d_ff": INNER, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
        "num_experts": EXPERTS, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
        "expert_capacity": 3, "decoder_start_token_id": 0}, 2),
    "dbrx": ("DbrxForCausalLM", {
        "d_model": WIDTH, "n_heads": 4, "n_layers": LAYERS, "max_seq_len": 256,
        "ffn_config": {"ffn_hidden_size": INNER, "moe_num_experts": EXPERTS, "moe_top_k": TOP_K,
                       "hidden_size": WIDTH},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}}, 2),
    "llama4_text": ("Llama4ForCausalLM", {
        "num_local_experts": EXPERTS, "num_experts_per_tok": 1, "head_dim": 8, "intermediate_size_mlp": 48,
        "interleave_moe_layer_step": 1, "attention_chunk_size": 128}, 2),
}  # fmt: skip


def of_transformers(kind: str, seed: int = 0) -> Any:
    """The tiny model of a family with seeded weights, its router's far enough apart that ties do not decide."""
    import transformers

    cls, more, _ = FAMILIES[kind]
    settings = {**_BASE, **more} if kind not in ("dbrx", "switch_transformers") else {
        "vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 2, **more}  # fmt: skip
    config = transformers.AutoConfig.for_model(kind, **settings)
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model = getattr(transformers, cls)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
            elif "router" in name or "gate.w" in name:
                parameter.mul_(20.0)
    return model


class Causal(torch.nn.Module):
    """A decoder's logits, without a cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False).logits


class Router(torch.nn.Module):
    """softmax over all, the k best, their weights made to add up to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(WIDTH, EXPERTS, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = torch.softmax(self.gate(x).float(), -1).topk(TOP_K, -1)
        return (weights / weights.sum(-1, keepdim=True)).to(x.dtype), chosen


class Expert(torch.nn.Module):
    """down(silu(gate x) · up x)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (torch.nn.Linear(WIDTH, INNER, bias=False) for _ in range(2))
        self.down = torch.nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))


class StaticLoop(torch.nn.Module):
    """Every expert on every token, weighted by what the router gives it: 0 where it was not chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = Router(), torch.nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = self.router(x)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            share = (weights * (chosen == i)).sum(-1, keepdim=True)
            out = out + share * expert(x)
        return out


class OneHotLoop(StaticLoop):
    """The same by one-hot masks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = self.router(x)
        masks = torch.nn.functional.one_hot(chosen, EXPERTS).to(x.dtype)  # [b, s, k, e]
        shares = (masks * weights[..., None]).sum(-2)
        return sum(expert(x) * shares[..., i : i + 1] for i, expert in enumerate(self.experts))  # type: ignore[return-value]


class GatherBmm(torch.nn.Module):
    """The chosen experts' matrices gathered for each token, then batched products."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router()
        self.gate_up = torch.nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * INNER) * 0.2)
        self.down = torch.nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH) * 0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, chosen = self.router(x)
        flat, ids = x.reshape(-1, WIDTH), chosen.reshape(-1)
        rows = flat.repeat_interleave(TOP_K, 0)[:, None]
        gate, up = torch.bmm(rows, self.gate_up[ids]).chunk(2, -1)
        given = torch.bmm(torch.nn.functional.silu(gate) * up, self.down[ids]).view(-1, TOP_K, WIDTH)
        return (given * weights.reshape(-1, TOP_K, 1)).sum(1).view_as(x)


HAND: dict[str, Callable[[], torch.nn.Module]] = {
    "static_loop": StaticLoop, "one_hot_loop": OneHotLoop, "gather_bmm": GatherBmm,
}  # fmt: skip


class Stack(torch.nn.Module):
    """Embedding, LAYERS of experts behind norms and around them residuals, a head."""

    def __init__(self, made: Callable[[], torch.nn.Module]) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.layers = torch.nn.ModuleList(made() for _ in range(LAYERS))
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(WIDTH) for _ in range(LAYERS))
        self.head = torch.nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return self.head(x)


def by_hand(name: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return Stack(HAND[name]).eval()


def sample(rows: int = 2, length: int = 5, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.from_numpy(np.random.default_rng(seed).integers(3, VOCABULARY, (rows, length)))}
