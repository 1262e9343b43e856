"""The three promises of the ONNX Runtime backend."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ...compiler.capabilities import Capabilities, Fusion
from ...compiler.hardware.machine import Machine
from ...compiler.passes.choose import KERNELS, RUN
from ...compiler.plan import Plan
from ...ir.diagnostics import BuildError
from ...ir.weights import TensorFile
from ..base import Built, Runner, Say
from ..options import runs
from ..signature import signatures
from .bound import places
from .lower import DEFAULT_OPSET, STRUCTURE, declined, decomposed, kernels, table
from .lower_fused import FUSED, RARE
from .lower_quantized import BLOCKS, X_BITS
from .nodes import map_file, write_map
from .runner import OrtRunner
from .sessions import PROVIDERS


def providers() -> list[str]:
    """The execution providers that this build of ONNX Runtime has; having one does not say that it starts."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())


class OnnxRuntime:
    """ONNX models beside one weights file; CPU by default, CUDA on request."""

    name = "onnxruntime"

    def __init__(self, *, portable: bool = False, opset: int | None = None) -> None:
        """portable, opset: what `capabilities` speaks for, where a plan is made for an ONNX file."""
        self.portable, self.opset = portable, DEFAULT_OPSET if opset is None else opset

    def versions(self) -> dict[str, str]:
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__}

    def capabilities(self, machine: Machine) -> Capabilities:
        """ONNX Runtime chooses its kernels by CPU when it opens, so its files need no CPU features."""
        return Capabilities(
            self.name,
            ops=frozenset(table(self.opset, self.portable)) | STRUCTURE,
            decomposed=decomposed(self.opset, self.portable),
            declined=declined(self.opset, self.portable),
            dtypes=frozenset({"f32", "f16", "bf16", "i64", "i32", "bool"}),
            targets=frozenset(PROVIDERS),
            fusions=frozenset() if self.portable else frozenset(Fusion(*key, key not in RARE) for key in FUSED),
            kernels={} if self.portable else kernels(),
            blocks=frozenset() if self.portable else frozenset(BLOCKS),
            block_joins=frozenset({"qkv", "gate_up"}),  # with so few bytes a product, starting one is what costs
            x_bits=X_BITS,
            runs=runs(machine.cores) if machine.target == "cpu" else (),
        )

    def ready(self, machine: Machine) -> None:
        """Raises: BuildError."""
        if importlib.util.find_spec("onnx") is None:
            raise BuildError("building ONNX files needs onnx", hint="pip install 'tundish[compile]'")

    def build(self, plan: Plan, out: Path, weights: Path, progress: Say | None = None) -> Built:
        """Writes `<entry>.onnx` (`<entry>.<n>.onnx` for further variants), whose weights lie in `weights`,
        and beside each which nodes of the plan its nodes compute.

        Raises: BuildError on an op that cannot be lowered, or an unknown target.
        """
        from .model import emit, external, proto

        if plan.target not in PROVIDERS:
            raise BuildError(f"ONNX Runtime has no target {plan.target!r}", hint=f"take {' or '.join(PROVIDERS)}")
        stored = TensorFile(weights)
        models: dict[str, list[dict[str, object]]] = {}
        for entry, variants in plan.entries.items():
            models[entry] = []
            for i, variant in enumerate(variants):
                model = emit(plan.program, variant.function, kernels=plan.decisions.get(KERNELS))
                spans = {key: (weights.name, *stored.span(key)) for key in model.weights.values()}
                text = proto(model, external(model, spans, stored.__getitem__)).SerializeToString(deterministic=True)
                file = f"{entry}.{i}.onnx" if i else f"{entry}.onnx"
                (out / file).write_bytes(text)
                write_map(out / map_file(file), variant.function, {n.name: n.keys for n in model.nodes})
                guard = variant.guard
                models[entry].append({"guard": [guard.symbol, guard.op, guard.value], "file": file})
        rowwise = {entry: places(plan.program, variants[0].function) for entry, variants in plan.entries.items()}
        rows = {"rowwise": found} if (found := {entry: names for entry, names in rowwise.items() if names}) else {}
        run = {"run": dict(plan.decisions[RUN])} if RUN in plan.decisions else {}
        return Built(out, weights, signatures(plan), {"models": models, "target": plan.target, **run, **rows})

    def open(self, built: Built, *, threads: int | None = None) -> Runner:
        return OrtRunner(built, threads)
