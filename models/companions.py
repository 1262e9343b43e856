"""What loaders of text generation look for in a folder: which ONNX files, and beside them configs and tokenizer.

Source: what transformers' `from_pretrained` reads (config.json, generation_config.json, the tokenizer's files); what
Transformers.js reads beside those (`transformers.js_config`); onnxruntime-genai's `genai_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from .config_file import config, settings, token_ids
from .decoding import PAST, check_generates, two_texts
from .seq2seq_past import KEPT, decoder_of, encoder_of
from .seq2seq_past import file_name as seq2seq_name
from .source import Source
from .with_past import file_name, with_past

# Where Transformers.js looks; optimum finds them there, genai_config.json names the first.
ONNX_FILE = "onnx/model.onnx"
ENCODER_FILE, DECODER_FILE = "onnx/encoder_model.onnx", "onnx/decoder_model_merged.onnx"
# Format of the weights -> Transformers.js' `dtype`, and what it adds to a file's name for it.
_DTYPES = {"int8": ("q8", "_quantized"), "int4": ("q4", "_q4")}
_PLAIN = ("fp32", "")
# What genai knows by name and takes as one decoder with separate keys and values; others of that kind are `decoder`.
_GENAI_TYPES = frozenset({
    "chatglm", "ernie4_5", "gemma", "gemma2", "gemma3_text", "granite", "internlm2", "llama", "mistral", "nemotron",
    "olmo", "phi", "phi3", "phimoe", "qwen2", "qwen3", "smollm3",
})  # fmt: skip
# How optimum-onnx 0.1.0 works out the shape of the empty past that it begins with: families whose config it asks for
# the number of key heads, and for their size; of all others it takes every head, and hidden_size by heads.
_ASKS_HEADS = frozenset({
    "arcee", "cohere", "gemma", "gemma3_text", "glm", "gpt_oss", "granite", "helium", "llama", "mistral", "nemotron",
    "qwen2", "qwen3", "qwen3_moe", "smollm3", "stablelm",
})  # fmt: skip
_ASKS_SIZE = frozenset({"gemma", "gemma3_text", "gpt_oss", "nemotron"})
_FALLBACK_CONTEXT = 4096  # where nothing in the model bounds it
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class Part:
    """One ONNX file. from_zero: sizes that may be 0; file_name: what its inputs and outputs are called there."""

    file: str
    source: Source
    file_name: Callable[[str], str] = str
    from_zero: frozenset[str] = frozenset()


def parts_of(source: Source, weights: str | None = None) -> tuple[Part, ...]:
    """The ONNX files that a model becomes, the one with the cache last. Raises: ModelError where it keeps none.

    weights: the format in which they are held, by which loaders tell files apart.
    """
    check_generates(source, "leave out --with-past, or choose the head that writes text, such as --task causal-lm")
    if not two_texts(source):
        return (Part(_named(ONNX_FILE, weights), with_past(source), file_name, frozenset({PAST})),)
    decoder = Part(_named(DECODER_FILE, weights), decoder_of(source), seq2seq_name, frozenset({PAST, KEPT}))
    return Part(_named(ENCODER_FILE, weights), encoder_of(source)), decoder


def _named(file: str, weights: str | None) -> str:
    _, ending = _DTYPES.get(weights or "", _PLAIN)
    return file.replace(".onnx", f"{ending}.onnx")


def companions(
    source: Source, parts: Sequence[Part], external: Mapping[str, bool], weights: str | None = None
) -> dict[str, bytes]:
    """Path within the folder -> content. external: ONNX file -> whether its weights lie beside it."""
    files = _tokenizer_files(source.tokenizer_files(), source.pad_side)
    files["config.json"] = _text(_config(source, external, weights))
    files["generation_config.json"] = _text(settings(source.module))
    if not two_texts(source):  # genai takes of those that read one text and write another only those of speech
        files["genai_config.json"] = _text(_genai_config(source, parts[-1]))
    return dict(sorted(files.items()))


def opened_axes(source: Source, part: Part) -> dict[str, dict[int, str]]:
    """Sizes of the past that the ONNX file must not state: input -> axis -> name.

    optimum begins with an empty past, whose heads it guesses; a wrong guess does no harm in an empty array, unless the
    file forbids it. Source: `ORTModelForCausalLM.__init__` and `ORTDecoderForSeq2Seq.__init__` of optimum-onnx 0.1.0.
    """
    module: Any = source.module
    text = module.config.get_text_config()
    kind, heads = str(text.model_type), int(text.num_attention_heads)
    guess = {
        1: ("kv_heads", text.num_key_value_heads if kind in _ASKS_HEADS else heads),
        3: ("head_size", text.head_dim if kind in _ASKS_SIZE else text.hidden_size // heads),
    }
    if kind == "deepseek_v3":  # guessed for its heads as they are computed with, while it keeps what they are made of
        guess = {axis: (name, -1) for axis, (name, _) in guess.items()}
    found: dict[str, dict[int, str]] = {}
    for spec in (s for s in part.source.inputs if s.name.startswith(PAST)):
        wrong = {axis: name for axis, (name, size) in guess.items() if spec.dims[axis] != size}
        found |= {part.file_name(spec.name): wrong} if wrong else {}
    return found


def _text(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n").encode()


def _config(source: Source, external: Mapping[str, bool], weights: str | None) -> dict[str, Any]:
    """The model's config, in older readers' words too, and what Transformers.js is to look for."""
    told = config(source)
    rope = told.get("rope_parameters")
    if isinstance(rope, Mapping) and "rope_theta" in rope:  # transformers before 5 read these two
        scaled = {k: v for k, v in rope.items() if k != "rope_theta"}
        told["rope_theta"] = rope["rope_theta"]
        told["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else scaled
    dtype, _ = _DTYPES.get(weights or "", _PLAIN)
    return told | {
        "torch_dtype": "float32", "use_cache": True,
        "transformers.js_config": {"dtype": dtype, "use_external_data_format": {
            PurePosixPath(file).name: int(beside) for file, beside in external.items()
        }},
    }  # fmt: skip


# -- onnxruntime-genai ------------------------------------------------------------------------------------


def _genai_config(source: Source, part: Part) -> dict[str, Any]:
    """Source: the keys that onnxruntime-genai 0.18's own builder writes, and `src/config.cpp` reads."""
    module: Any = source.module
    text = module.config.get_text_config()
    kind, tokens, step = str(text.model_type), _token_ids(module), part.source
    keys = [s for s in step.inputs if "_key_" in s.name]
    heads, size = (int(d) for d in (keys[0].dims[1], keys[0].dims[3]))
    context = source.max_seq or getattr(text, "max_position_embeddings", None) or _FALLBACK_CONTEXT
    plain = [s.name for s in step.inputs if s.name in ("input_ids", "attention_mask", "position_ids")]
    return {
        "model": {
            **tokens, "context_length": context, "type": kind if kind in _GENAI_TYPES else "decoder",
            "vocab_size": source.vocab_size,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []}, "filename": part.file,
                "head_size": size, "hidden_size": text.hidden_size, "num_attention_heads": text.num_attention_heads,
                "num_hidden_layers": len(keys), "num_key_value_heads": heads,
                "inputs": {**{name: name for name in plain}, **_patterns("past")},
                "outputs": {"logits": "logits", **_patterns("present")},
            },
        },
        "search": _search(source.module, context),
    }  # fmt: skip


def _patterns(first: str) -> dict[str, str]:
    return {f"{first}_{kind}_names": file_name(f"{first}_{kind}_0").replace(".0.", ".%d.") for kind in ("key", "value")}


def _token_ids(module: Any) -> dict[str, Any]:
    """bos, eos (one or several) and pad. Where none pads, the end does; where none ends, nothing stops but length."""
    found = token_ids(module)
    ends = found.get("eos")
    end = ends[0] if isinstance(ends, list) else ends
    found.setdefault("pad", 0 if end is None else end)
    return {f"{key}_token_id": value for key, value in found.items()}


def _search(module: Any, context: int) -> dict[str, Any]:
    """The model's own way to choose tokens, by genai's names. Its cache is given anew by each step, not shared."""
    own = getattr(module, "generation_config", None)

    def of(name: str, usual: Any) -> Any:
        value = getattr(own, name, None)
        return usual if value is None else value

    return {
        "do_sample": of("do_sample", False), "early_stopping": True, "length_penalty": of("length_penalty", 1.0),
        "max_length": context, "min_length": 0, "num_beams": of("num_beams", 1), "num_return_sequences": 1,
        "no_repeat_ngram_size": of("no_repeat_ngram_size", 0), "past_present_share_buffer": False,
        "repetition_penalty": of("repetition_penalty", 1.0), "temperature": of("temperature", 1.0),
        "top_k": of("top_k", 50), "top_p": of("top_p", 1.0),
    }  # fmt: skip


# -- the tokenizer ----------------------------------------------------------------------------------------


def _tokenizer_files(files: Mapping[str, bytes], pad_side: str) -> dict[str, bytes]:
    """The tokenizer's own files, and what older loaders read beside them: the chat template within the config, a map
    of special tokens, and a class that they know."""
    found = dict(files)
    if "tokenizer.json" not in found:
        return found
    config = json.loads(found.get("tokenizer_config.json", b"{}"))
    if str(config.get("tokenizer_class", "TokenizersBackend")) == "TokenizersBackend":  # transformers 5's name
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.setdefault("padding_side", pad_side)
    config.setdefault("model_input_names", ["input_ids", "attention_mask"])  # else generate is handed segments too
    if "chat_template.jinja" in found:
        config.setdefault("chat_template", found["chat_template.jinja"].decode())
    elif isinstance(config.get("chat_template"), str):
        found["chat_template.jinja"] = config["chat_template"].encode()
    special = {name: config[name] for name in _SPECIAL if config.get(name) is not None}
    found.setdefault("special_tokens_map.json", _text(special))
    return found | {"tokenizer_config.json": _text(config)}
