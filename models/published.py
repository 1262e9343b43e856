"""Models at the size they were published in, for counting on the meta device: few machines hold them.

Every size stands in the paper or config.json that its `Published.source` names. A deep one is captured with a few of
its layers, which are then repeated; see `ir/stretch.py`.
"""

from __future__ import annotations

from .entries import Entry, Named, Plain, Published

_ROPE_405B = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
_LLAMA_3_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "bos_token_id": 128000, "eos_token_id": 128001,
}  # fmt: skip
_LLAMA_3_405B = {
    "vocab_size": 128256, "hidden_size": 16384, "num_hidden_layers": 126, "num_attention_heads": 128,
    "num_key_value_heads": 8, "intermediate_size": 53248, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_parameters": _ROPE_405B, "bos_token_id": 128000, "eos_token_id": 128001,
}  # fmt: skip
_T5_LARGE = {
    "vocab_size": 32128, "d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_decoder_layers": 24,
    "num_heads": 16, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_MIXTRAL_8X7B = {
    "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
}  # fmt: skip
_QWEN3_30B = {
    "vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True, "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
    "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
}  # fmt: skip
_DEEPSEEK_V3 = {
    "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
    "num_key_value_heads": 128, "first_k_dense_replace": 3, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "max_position_embeddings": 163840, "rope_parameters": _YARN,
}  # fmt: skip
_PALM_540B = {
    "vocab_size": 256_000, "d_model": 18_432, "heads": 48, "head_size": 256, "layers": 118, "feedforward": 73_728,
    "max_positions": 2048,
}  # fmt: skip
_FOUR = {"num_hidden_layers": 4}

PUBLISHED: dict[str, Named] = {
    "llama-3-8b": Entry(
        "llama", "LlamaForCausalLM", _LLAMA_3_8B, 8_030_261_248, "Meta 2024: 32 layers, H 4096",
        shallow=_FOUR, depths={"model.layers": 32},
        published=Published(
            "8.03 B", "embeddings and the untied head", "config.json and model card of meta-llama/Meta-Llama-3-8B"
        ),
    ),
    "llama-3-405b": Entry(
        "llama", "LlamaForCausalLM", _LLAMA_3_405B, 405_853_388_800, "Meta 2024: 126 layers, H 16384",
        shallow=_FOUR, depths={"model.layers": 126},
        published=Published(
            "405.85 B", "embeddings and the untied head",
            "Grattafiori et al. 2024, \"The Llama 3 Herd of Models\", Table 3; config.json of "
            "meta-llama/Llama-3.1-405B",
        ),
    ),
    "t5-large": Entry(
        "t5", "T5ForConditionalGeneration", _T5_LARGE, 737_668_096, "Raffel et al. 2019: 24 + 24 layers, H 1024",
        shallow={"num_layers": 4, "num_decoder_layers": 4}, depths={"encoder.block": 24, "decoder.block": 24},
        published=Published(
            "738 M", "the embeddings once, which encoder, decoder and head share; the paper says about 770 M",
            "config.json and weights of google-t5/t5-large",
        ),
    ),
    "vit-base": Entry(
        "vit", "ViTForImageClassification", {"num_labels": 1000}, 86_567_656,
        "Dosovitskiy et al. 2020: 12 layers, H 768, patches of 16",
        published=Published(
            "86 M", "the head for 1,000 classes, 769,000, which the paper's count leaves out; no pooler",
            "Dosovitskiy et al. 2020, \"An Image is Worth 16x16 Words\", Table 1", apart=769_000,
        ),
    ),
    "mixtral-8x7b": Entry(
        "mixtral", "MixtralForCausalLM", _MIXTRAL_8X7B, 46_702_792_704,
        "Mistral AI 2023: 32 layers, 8 experts, 2 a token",
        shallow=_FOUR, depths={"model.layers": 32},
        published=Published(
            "46.7 B", "embeddings, the untied head, routers and all experts; active: 2 of 8 experts",
            "Mistral AI, \"Mixtral of experts\" (December 2023); Jiang et al. 2024, Table 1", "12.9 B",
        ),
    ),
    "qwen3-30b-a3b": Entry(
        "qwen3_moe", "Qwen3MoeForCausalLM", _QWEN3_30B, 30_532_122_624, "Qwen 2025: 48 layers, 128 experts, 8 a token",
        shallow=_FOUR, depths={"model.layers": 48},
        published=Published(
            "30.5 B", "embeddings, the untied head, routers and all experts; active: 8 of 128 experts, 3.35 B, "
            "which is printed without its last digit",
            "config.json and model card of Qwen/Qwen3-30B-A3B", "3.3 B",
        ),
    ),
    "deepseek-v3": Entry(
        "deepseek_v3", "DeepseekV3ForCausalLM", _DEEPSEEK_V3, 671_026_404_352,
        "DeepSeek-AI 2024: 61 layers, latent attention, 256 experts, 8 a token and a shared one",
        shallow={"num_hidden_layers": 7}, depths={"model.layers": 61},
        published=Published(
            "671 B",
            "embeddings, the untied head, routers without their 14,848 correction biases, all experts; not the 11.5 B "
            "of the layer that predicts one more token; active: 8 of 256 experts and the shared one; what is "
            "printed is reached without the embeddings' table, 926,679,040",
            "DeepSeek-AI 2024, \"DeepSeek-V3 Technical Report\", section 4.2; config.json of deepseek-ai/DeepSeek-V3",
            "37 B", active_apart=926_679_040,
        ),
    ),
    "palm-540b": Plain(
        "Palm", _PALM_540B, 540_356_474_880, "Chowdhery et al. 2022: 118 parallel layers, H 18432", "palm",
        shallow={"layers": 4}, depths={"layers": 118},
        published=Published(
            "540.35 B", "the embeddings once, which the head shares; the norms' scales, 2,193,408, are ours to add",
            "Chowdhery et al. 2022, \"PaLM\", Table 1; the vocabulary is 256k", apart=2_193_408,
        ),
    ),
}  # fmt: skip
