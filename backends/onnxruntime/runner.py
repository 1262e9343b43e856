"""Runs built models in ONNX Runtime. Needs numpy and onnxruntime, nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.diagnostics import RunError
from ..base import Bound, Built, Profiled
from ..options import OrtOptions, typed
from ..signature import choose, known_entry
from .bound import BITS, OrtBound
from .sessions import session, switch

if TYPE_CHECKING:
    import onnxruntime

_NAMED = {name: dtype for dtype, (name, _) in BITS.items()}


class OrtRunner:
    """An opened set of models: one session per variant, opened when it first runs."""

    def __init__(self, built: Built, threads: int | None) -> None:
        self._options = typed(built.options, OrtOptions)
        self.built, self.threads = built, threads or self._options.threads
        self._variants = self._options.variants()
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def session(self, file: str) -> onnxruntime.InferenceSession:
        """The session of one of the model files."""
        if file not in self._sessions:
            path = self.built.folder / file
            self._sessions[file] = session(path, self.built.weights, self._options.target, self.threads, self._set)
        return self._sessions[file]

    def _set(self, options: Any, more: Callable[[Any], None] | None = None) -> None:
        """What the bundle says of how it is opened, and then what a caller wants besides."""
        switch(options, self._options.run)
        if more is not None:
            more(options)

    def run(
        self, entry: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Runs an entry once. Raises: RunError."""
        file, names = self._chosen(entry, inputs, outputs)
        if not names:
            return {}  # ONNX Runtime takes no names for all of them
        aliases = self.built.entries[entry].aliases
        if aliases:
            held = self._held(entry, inputs)
            answers = self.bind(entry, held).run(inputs) | {out: held[name] for out, name in aliases.items()}
            return {name: answers[name] for name in names}
        opened = self.session(file)
        try:
            results = fed(opened, names, inputs)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise RunError(f"onnxruntime failed in entry {entry!r}: {error}") from error
        return dict(zip(names, results, strict=True))

    def bind(self, entry: str, held: Mapping[str, np.ndarray]) -> Bound:
        """An entry that writes over these arrays, through ONNX Runtime's IO binding. Raises: RunError."""
        signature = known_entry(entry, self.built.entries)
        return self._bound(lambda file: self.session(file), entry, held, signature.sizes_of(held))

    def _held(self, entry: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What one run holds: copies of what it writes over, and what other entries make and it only reads."""
        signature = self.built.entries[entry]
        made = {s.name for name, other in self.built.entries.items() if name != entry for s in other.outputs}
        read = {s.name: np.asarray(inputs[s.name]) for s in signature.inputs if s.name in made}
        return read | {name: np.array(inputs[name], order="C") for name in signature.aliases.values()}

    def _bound(self, opened: Callable[[str], Any], entry: str, held: Mapping[str, np.ndarray], sizes: Any) -> OrtBound:
        signature, variants = self.built.entries[entry], self._variants[entry]
        file = variants[choose(variants, sizes)].function
        written = list(signature.aliases.values())
        odd = [n for n in written if not (held[n].flags.c_contiguous and held[n].flags.writeable)]
        if odd:
            raise RunError(f"{odd[0]!r} cannot be written over in place", hint="give a contiguous, writeable array")
        arrays = {n: a for n, a in held.items() if n in written or a.flags.c_contiguous}
        return OrtBound(opened(file), signature, arrays, tuple(self._options.rowwise.get(entry, ())))

    def profile(self, entry: str, inputs: Mapping[str, np.ndarray], *, warmup: int, repeats: int) -> Profiled:
        """Runs an entry in turns without and with ONNX Runtime's own profiling, in two sessions.

        Raises: RunError; LoadError where the bundle does not say which kernel computes which node.
        """
        from .profile import profiled

        file, names = self._chosen(entry, inputs, None)
        target, aliases = self._options.target, self.built.entries[entry].aliases
        bound: dict[int, OrtBound] = {}

        def run(opened: Any) -> object:
            if not aliases:
                return fed(opened, names, inputs)
            if id(opened) not in bound:
                sizes = known_entry(entry, self.built.entries).bind(inputs)
                bound[id(opened)] = self._bound(lambda _: opened, entry, self._held(entry, inputs), sizes)
            return bound[id(opened)].run(inputs)

        if target != "cpu":
            raise RunError(f"profiling on {target} is not built yet", hint="compile with --target cpu")
        return profiled(
            lambda adjust: session(
                self.built.folder / file, self.built.weights, target, self.threads, lambda o: self._set(o, adjust)
            ),
            run, self.built.folder / file, self.threads,
            warmup=warmup, repeats=repeats,
        )  # fmt: skip

    def _chosen(
        self, entry: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None
    ) -> tuple[str, list[str]]:
        """The file for inputs of these sizes, and the names of the wanted outputs. Raises: RunError."""
        signature = known_entry(entry, self.built.entries)
        sizes = signature.bind(inputs)
        names = signature.select(outputs)
        variants = self._variants[entry]
        return variants[choose(variants, sizes)].function, names

    def close(self) -> None:
        """Frees the sessions."""
        self._sessions.clear()


def fed(opened: Any, names: list[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of an opened session, by these names in order."""
    taken = {i.name: i.type for i in opened.get_inputs()}
    given_back = {o.name: o.type for o in opened.get_outputs()}
    if not any(t in _NAMED for t in (*taken.values(), *(given_back[n] for n in names))):
        given = {name: np.asarray(inputs[name], order="C") for name in taken}
        results: list[np.ndarray] = opened.run(names, given)
        return results
    values = opened.run_with_ort_values(names, {name: _value(inputs[name]) for name in taken})
    return [_array(v) for v in values]


def _value(array: np.ndarray) -> Any:
    """An OrtValue; what numpy has no type for goes by its bits."""
    import onnxruntime as ort

    array = np.asarray(array, order="C")
    if array.dtype in BITS:
        bits = array.view(f"u{array.itemsize}")
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, BITS[array.dtype][1])
    return ort.OrtValue.ortvalue_from_numpy(array)


def _array(value: Any) -> np.ndarray:
    dtype = _NAMED.get(value.data_type())
    if dtype is None:
        result: np.ndarray = value.numpy()
        return result
    shape = tuple(value.shape())
    if not prod(shape):
        return np.zeros(shape, dtype)
    bits = (ctypes.c_uint8 * (prod(shape) * dtype.itemsize)).from_address(value.data_ptr())
    return np.array(bits, np.uint8).view(dtype).reshape(shape)  # a copy: the value owns its memory
