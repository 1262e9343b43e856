"""A loaded model, described well enough to capture it, to run the original, and to make inputs for it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from .errors import ModelError, ModelWarning, raised_at

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, np.ndarray]
_EXPERTS = "_experts_implementation_internal"

DTYPES: dict[str, np.dtype] = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "i16": np.dtype(np.int16),
    "i8": np.dtype(np.int8),
    "u64": np.dtype(np.uint64),
    "u32": np.dtype(np.uint32),
    "u16": np.dtype(np.uint16),
    "u8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model.

    dims: ints, names of sizes that vary (`batch`, `seq`), and such a name with a number added (`past+1`).
    role: `ids` and `data` are drawn at random, `mask` is 1 where a token is real, `positions` count from 0 on and
          start again where a row's next text starts.
    inverted: a mask that is 1 where a token is padding.
    low, high: the least and greatest integer that may stand in it; for floats, `high` is the usual magnitude.
    end: the id that ends each row's text and stands nowhere else in it; None: a text need not end.
    pad: the id that stands where a token is padding, and in a padded row nowhere else; None: any may stand anywhere.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]
    role: str = "data"
    low: int = 0
    high: int = 1
    inverted: bool = False
    pad: int | None = None
    end: int | None = None


def _no_files() -> dict[str, bytes]:
    return {}


@dataclass(frozen=True, eq=False)
class Source:
    """A model in eval mode, in eager torch, with what its inputs and outputs are called.

    inputs:          in the order in which forward takes them.
    outputs:         names of the tensors that it returns, in order.
    constants:       keyword arguments that are always passed (`use_cache=False`).
    by_position:     inputs are passed by position; forward has no names for them.
    parameter_bytes: of all parameters and buffers, a tied one counted once.
    max_seq:         the longest sequence that the model's positions allow, or None.
    spans:           least and greatest size (None: any), by name, of sizes that the model's file bounds.
    pad_side:        where its tokenizer pads.
    tokenizer_files: reads what a bundle needs to turn text into ids, name -> content.
    notes:           what the user should know, in sentences.
    fixed:           inputs whose values are settled, which the user gives no more.
    quantized:       parameter -> its blocks, of those that lie quantised in the user's file (`gguf_blocks.Blocks`).
    depths:          where layers are held -> how many the few there stand for, of a model that is only looked at.
    double:          everything is computed in f64, also where the model itself asks for f32.
    phase:           `decode` where one token a row is computed against what was kept of those before; see `decoding`.
    """

    name: str
    kind: str
    module: torch.nn.Module
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    by_position: bool = False
    parameter_bytes: int = 0
    max_seq: int | None = None
    spans: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    vocab_size: int | None = None
    pad_side: str = "right"
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_files: Callable[[], Mapping[str, bytes]] = _no_files
    notes: tuple[str, ...] = ()
    quantized: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, np.ndarray] = field(default_factory=dict)
    double: bool = False
    depths: Mapping[str, int] = field(default_factory=dict)
    phase: str = "prefill"

    @property
    def form(self) -> str:
        """What is captured: `torch` for a module; kinds that are captured otherwise say which."""
        return "torch"

    @property
    def origin(self) -> str:
        """Who answers `call`, with its version."""
        import torch

        return f"torch {torch.__version__.split('+')[0]} eager"

    @property
    def on_meta(self) -> bool:
        """Whether it has shapes only, and no weights."""
        return any(t.is_meta for t in tensors(self.module).values())

    def replace(self, **changes: Any) -> Source:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def call(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Runs the original once, in eager torch. Raises: ModelError on missing or unknown inputs."""
        import torch

        names = [spec.name for spec in self.inputs]
        if set(inputs) != set(names):
            raise ModelError(f"{self.name} takes the inputs {', '.join(names)}", found=", ".join(inputs) or "none")
        device = "meta" if self.on_meta else "cpu"
        with torch.no_grad(), _plain_layers(), _in_double() if self.double else nullcontext():
            given = {name: to_torch(inputs[name]).to(device) for name in names}
            found = dict(flatten(_forward(self, given)))
        return {name: to_numpy(found[name]) for name in self.outputs}

    def axes(self) -> dict[str, dict[int, str]]:
        """Which axes of each input vary: `{"input_ids": {0: "batch", 1: "seq"}}`."""
        return {s.name: {i: d for i, d in enumerate(s.dims) if isinstance(d, str)} for s in self.inputs}

    def buffers(self) -> frozenset[str]:
        """Names of the tensors that are no parameters (tables of positions and frequencies)."""
        names = [name for name, _ in self.module.named_buffers()]
        for holder, depth in self.depths.items():  # those of the layers that are not there too
            inner = [n.removeprefix(f"{holder}.").partition(".") for n in names if n.startswith(f"{holder}.")]
            names += [f"{holder}.{i}.{rest}" for _, _, rest in inner for i in range(depth)]
        return frozenset(names)

    @property
    def exact(self) -> Callable[[Arrays], Mapping[str, np.ndarray]] | None:
        """The same model in double precision, for judging others' rounding; None where there is no such thing."""
        return self.float64().call

    def float64(self) -> Source:
        """The same model computing in double precision, for judging others' rounding.

        Weights are widened one op at a time, as they are used, so that it takes little more memory.
        """
        return self.replace(double=True)


def describe(source: Source, probe: Arrays) -> Source:
    """The source with its outputs named and its bytes counted, by one run on `probe`."""
    outputs = named_outputs(source, probe)
    notes = (*source.notes, *odd_weights(source.name, source.module))
    return source.replace(outputs=outputs, parameter_bytes=count_bytes(source.module), notes=notes)


def named_outputs(source: Source, probe: Arrays) -> tuple[str, ...]:
    """What it returns, by one run on `probe`. Raises: ModelError where it does not run, or returns no tensor."""
    import torch

    with torch.no_grad(), _plain_layers(), shapes_only(source.module) if source.on_meta else nullcontext() as to_fake:
        arrays = {s.name: to_torch(probe[s.name]) for s in source.inputs}
        try:
            arrays = {k: to_fake(v) for k, v in arrays.items()} if to_fake else arrays
            found = dict(flatten(_forward(source, arrays)))
        except ModelError:
            raise
        except Exception as error:  # the module may raise anything
            shapes = ", ".join(f"{k}{list(v.shape)}" for k, v in probe.items())
            said, place = str(error).strip().partition("\n")[0], raised_at(error)
            raise ModelError(
                f"{place + ': ' if place else ''}{source.name} does not run: {type(error).__name__}: {said}",
                found=shapes,
                hint="run the module in torch on these shapes first",
            ) from error  # fmt: skip
    if not found:
        raise ModelError(f"{source.name} returns no tensor")
    return tuple(found)


def odd_weights(name: str, module: torch.nn.Module) -> list[str]:
    """Warns of weights that are not numbers, by name: a note for each kind. In a buffer an infinity may be a mask."""
    parameters = {k for k, _ in module.named_parameters()}
    nan, inf = [], []
    for key, tensor in tensors(module).items():
        # The sum needs no copy of the weight, and is not finite where an element is not; it may also overflow.
        if not tensor.is_floating_point() or tensor.is_meta or bool(tensor.sum().isfinite()):
            continue
        nan += [key] if bool(tensor.isnan().any()) else []
        inf += [key] if key in parameters and bool(tensor.isinf().any()) else []
    return [*warned(name, "NaN", nan), *warned(name, "infinities", inf)]


def warned(name: str, kind: str, weights: list[str]) -> list[str]:
    """One note, which is also warned of, where some weights hold such values."""
    if not weights:
        return []
    more = f" and {len(weights) - 8} more" if len(weights) > 8 else ""
    note = f"{name} has weights with {kind}: {', '.join(weights[:8])}{more}; what depends on them is not compared"
    warnings.warn(note, ModelWarning, stacklevel=3)
    return [note]


def flatten(output: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of everything in a model's result; what is not a tensor is left out.

    A single tensor is called `output`, the members of a tuple `output_0`, `output_1`; those of a dict by their keys.
    """
    import torch

    if isinstance(output, torch.Tensor):
        yield name or "output", output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from flatten(value, f"{name}_{key}" if name else str(key))
    elif isinstance(output, (tuple, list)):
        for i, value in enumerate(output):
            yield from flatten(value, f"{name or 'output'}_{i}")


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, each storage once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def count_bytes(module: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, a tied one counted once."""
    return sum(t.numel() * t.element_size() for t in tensors(module).values())


def _forward(source: Source, given: Mapping[str, Any]) -> Any:
    """`given` is in the order of the inputs."""
    if source.by_position:
        return source.module(*given.values(), **source.constants)
    return source.module(**given, **source.constants)


@contextmanager
def _plain_layers() -> Iterator[None]:
    """Inside, torch's own Transformer layers compute every position: their fused kernels give 0 at padding."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _widened() -> Any:
    """A mode in which every op sees its floating tensors in f64, also where a model itself asks for f32."""
    import torch
    from torch.overrides import TorchFunctionMode

    narrow = (torch.float32, torch.float16, torch.bfloat16)

    def wide(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.double() if value.dtype in narrow else value
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(wide(v) for v in value)
        return torch.float64 if isinstance(value, torch.dtype) and value in narrow else value

    class Widened(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            func = torch.Tensor.double if func is torch.Tensor.float else func
            return func(*map(wide, args), **{k: wide(v) for k, v in (kwargs or {}).items()})

    return Widened()


@contextmanager
def _in_double() -> Iterator[None]:
    """Everything computed in f64, new tensors too for which no type is given."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _widened():
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def shapes_only(module: torch.nn.Module) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Inside, the module, which is on the meta device, runs on the fake tensors that the yielded function makes.

    Plain meta tensors are not enough: transformers looks at a mask's values unless it sees that it is being traced.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with _gathered_experts(module), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield lambda tensor: mode.from_tensor(tensor.to("meta"))


@contextmanager
def _gathered_experts(module: torch.nn.Module) -> Iterator[None]:
    """Inside, transformers' experts run in its one form whose shapes do not hang on which experts are chosen."""
    held = {id(c): c for m in module.modules() if hasattr(c := getattr(m, "config", None), _EXPERTS)}
    saved = {key: getattr(config, _EXPERTS) for key, config in held.items()}
    try:
        for config in held.values():
            setattr(config, _EXPERTS, "batched_mm")
        yield
    finally:
        for key, config in held.items():
            setattr(config, _EXPERTS, saved[key])


def to_torch(array: np.ndarray) -> torch.Tensor:
    """A tensor that owns a copy of the array."""
    import torch

    if array.dtype == DTYPES["bf16"]:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's content. Raises: ModelError on the meta device."""
    import torch

    if tensor.is_meta:
        raise ModelError("a model without weights cannot be run", hint="load it with its weights")
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(DTYPES["bf16"])
    return tensor.contiguous().numpy()
