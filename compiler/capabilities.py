"""What a backend can do on a machine, as a value that the compiler reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .tuning import Choice


@dataclass(frozen=True, slots=True)
class Fusion:
    """A fused kernel that a backend takes: an anchor op and the ops after it, in order.

    usual: it is taken where nothing was measured.
    """

    anchor: str
    epilogue: tuple[str, ...]
    usual: bool = True


@dataclass(frozen=True, slots=True)
class Blocks:
    """A form of quantised weight: bits of a number, numbers that share a scale, and the scheme of `dequantize`."""

    bits: int
    group: int
    scheme: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    """ops: lowered as they are. decomposed: lowered through the op's own `decompose`. declined: op -> reason.

    dtypes:  the element types that its kernels compute in.
    products: narrower types in which its products with weights multiply, adding up in f32, while all else is computed
      in f32; two of their numbers along k lie beside each other in its panels.
    unable:  why it neither computes nor multiplies in a type, where there is more to say than that.
    fusions: the fused kernels it takes; a fused node that it does not take is inlined.
    features: CPU or device features that its files will need (`avx2`, ...).
    targets: the targets that it builds for.
    joins:   groups of projections of one input that it runs faster as one product: `qkv`, `gate_up`.
    block_joins: the same where their weights are quantised.
    wide_inside: ops that keep their statistics in f32 themselves, whatever they are given; the others among those
      that must (`Op.keeps_f32`) get casts around them.
    kernels: op -> the names of the kernels that it has for it, the usual one first.
    alone:   the ops of which it has so many that they are timed alone first: `Choice.alone`.
    runs:    what can be set when a bundle is opened.
    blocks:  the forms of quantised weights that its kernels work on as they are, where that is asked for; None: all
      that its ops take, and always.
    panel:   the columns of a panel, where its products read weights in panels; 0: they read matrices.
    x_bits:  the bits to which those kernels round what is multiplied, as `quantized_matmul` says.
    """

    backend: str
    ops: frozenset[str]
    decomposed: frozenset[str] = frozenset()
    declined: Mapping[str, str] = field(default_factory=dict)
    dtypes: frozenset[str] = frozenset({"f32"})
    products: frozenset[str] = frozenset()
    unable: Mapping[str, str] = field(default_factory=dict)
    fusions: frozenset[Fusion] = frozenset()
    features: frozenset[str] = frozenset()
    joins: frozenset[str] = frozenset()
    block_joins: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset({"cpu"})
    wide_inside: frozenset[str] = frozenset()
    kernels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    alone: frozenset[str] = frozenset()
    runs: tuple[Choice, ...] = ()
    blocks: frozenset[Blocks] | None = None
    panel: int = 0
    x_bits: int = 0
