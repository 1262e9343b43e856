"""Which ops ONNX Runtime's CPU provider has kernels for in the types where it lacks many.

An op that is not listed is computed in f32 between casts. f16 is not here: ONNX Runtime puts those casts itself.
"""

from __future__ import annotations

_MOVES = frozenset({"cast", "reshape"})

ABSENT = frozenset({"f4e2m1", "f8e8m0", "i2", "u2"})  # types that it has no kernels for at all

NATIVE: dict[str, frozenset[str]] = {
    name: _MOVES for name in ("bf16", "f8e4m3", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz")
}
