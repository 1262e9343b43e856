"""Which measured kernel stands for one that was not measured: of the same kind of loop, the first that there is."""

from __future__ import annotations

_CHEAP, _COSTLY, _MOVE, _REDUCE = ("mul", "add"), ("tanh", "sigmoid", "gelu"), ("slice", "transpose"), ("softmax",)

KIN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("sub", "div", "maximum", "minimum", "neg", "abs", "relu", "sqrt", "reciprocal", "where"), _CHEAP),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "cast", "sign"), _CHEAP),
    **dict.fromkeys(("exp", "log", "erf", "sin", "cos", "pow", "rsqrt", "silu", "sigmoid"), _COSTLY),
    **dict.fromkeys(("concat", "slice", "split", "expand", "pad", "iota", "transpose", "cache", "tril"), _MOVE),
    **dict.fromkeys(("mean", "sum", "max", "min", "argmax", "cumsum", "topk", "variance"), _REDUCE),
    "reshape": ("reshape",),
    "gather": ("gather", *_MOVE),
    "conv": ("conv", "linear"),
    "matmul": ("matmul", "linear"),
    "quantized": ("linear",),
    **dict.fromkeys(("moe", "panel", "quad"), ("linear",)),
    "attention": ("attention", "attention_mask", "attention_causal", "attention_causal_mask"),
    "rms": ("rms_norm", "layer_norm"),
    "layer": ("layer_norm", "rms_norm"),
    "gelu": ("gelu", "gelu_tanh"),
    "rotary": ("rotary", "mul"),
    "add": ("add_broadcast", "add", "mul"),
    "mul": ("mul_broadcast", "mul", "add"),
}
