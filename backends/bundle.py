"""The bundle: a folder that runs without torch, transformers or onnx."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compiler.hardware.machine import this_machine
from ..ir.diagnostics import LoadError
from . import registry
from .base import WEIGHTS, Built, Runner
from .bundle_write import PLAN, check_place, write_bundle
from .cases import Cases, read_cases
from .manifest import Manifest, check_files, read_manifest
from .options import OPTIONS, typed
from .plan_text import read_program
from .signature import Signature, TensorSpec

if TYPE_CHECKING:
    from ..ir.graph import Program
    from .generation.generator import Chat, Generation, Generator

FORWARD = "forward"


class Bundle:
    """An opened bundle. Its backend's library is loaded when it first runs."""

    def __init__(self, path: Path, manifest: Manifest, threads: int | None = None) -> None:
        self.path, self.manifest, self._threads = path, manifest, threads
        self.run_options: Mapping[str, str] = {}  # in place of the manifest's, to measure what else could be set
        first = sorted(manifest.entries.items(), key=lambda e: e[0] != FORWARD)  # the whole model, where it is there
        self.entries: dict[str, Signature] = {name: e.signature for name, e in first}
        self._runners: dict[int | None, Runner] = {}

    @property
    def target(self) -> str:
        """The target it was compiled for."""
        return self.manifest.target

    @property
    def plan_backend(self) -> str:
        """The backend that its plan was made for."""
        return self.manifest.backend

    @property
    def weights(self) -> Path:
        """The safetensors file with its weights."""
        return self.path / WEIGHTS

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the first entry takes."""
        return next(iter(self.entries.values())).inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the first entry gives."""
        return next(iter(self.entries.values())).outputs

    @cached_property
    def program(self) -> Program:
        """The program as it was built, its weights referring to the bundle's file."""
        return read_program(self.path / PLAN)

    def cases(self) -> Cases:
        """The stored cases of the original model."""
        return read_cases(self.path)

    def run(
        self, inputs: Mapping[str, np.ndarray], entry: str | None = None, outputs: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Runs an entry once, the first by default.

        outputs: the names of those wanted. threads: as given when it was opened, else one per core.
        Raises: RunError on inputs that do not fit; LoadError where the backend cannot be opened.
        """
        return self.runner(threads).run(entry or next(iter(self.entries)), inputs, outputs)

    @cached_property
    def generator(self) -> Generator:
        """What generates with it, and keeps tokenizer and stored prefixes. Raises: RunError where it cannot."""
        from .generation.generator import Generator

        return Generator(self, threads=self._threads)

    def generate(self, prompt: Any, **asked: Any) -> Any:
        """Goes on from a prompt, or from each of a list: a `Generated`, or a list of them.

        prompt: a text, token ids, messages of a chat, a list of these, or arrays `input_ids` and `attention_mask`.
        asked:  `chat`, `system`, `on_piece`, `batch`, and the fields of `generation.options.GenerationOptions`.
        """
        return self.generator.generate(prompt, **asked)

    def stream(self, prompt: Any, **asked: Any) -> Generation:
        """An iterator over the pieces of text as they come; its `results` are what there is so far."""
        return self.generator.stream(prompt, **asked)

    def chat(self, system: str | None = None, **asked: Any) -> Chat:
        """A conversation: `say` gives an answer, and only what is new of the next turn is read."""
        return self.generator.chat(system, **asked)

    def threads(self, asked: int | None = None) -> int:
        """How many it runs with: as asked, as given when it was opened, as was measured to be best, or one per core."""
        kind = OPTIONS.get(self.manifest.backend)
        own = typed(self.manifest.options, kind).threads if kind is not None else None
        return asked or self._threads or own or len(os.sched_getaffinity(0))

    def runner(self, threads: int | None = None) -> Runner:
        """The backend's runner with so many threads, opened once."""
        threads = threads or self._threads
        if threads not in self._runners:
            m = self.manifest
            options = {**m.options, "run": dict(self.run_options)} if self.run_options else m.options
            built = Built(self.path / m.backend, self.weights, self.entries, options)
            self._runners[threads] = registry.get(m.backend).open(built, threads=threads)
        return self._runners[threads]

    def close(self) -> None:
        """Frees the sessions; the bundle opens them again when it runs again."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()
        self.__dict__.pop("generator", None)

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        m = self.manifest
        return f"<Bundle {m.name}: {m.backend} for {m.target}, entries {', '.join(m.entries)}>"


def open_bundle(path: str | Path, *, threads: int | None = None) -> Bundle:
    """Opens a bundle after checking it: schema, CPU features, then the size and hash of every file.

    No library but numpy is loaded before all checks passed.
    Raises: LoadError naming the file, or the feature, that is wrong.
    """
    path = Path(path)
    if path.is_symlink() or not path.is_dir():
        raise LoadError(f"{path.name} is not a bundle", hint="a bundle is the folder that `tundish compile -o` wrote")
    manifest = read_manifest(path)
    missing = sorted(set(manifest.features) - this_machine().features)
    if missing:
        raise LoadError(
            f"{path.name} needs CPU features that this machine lacks: {', '.join(missing)}",
            hint="compile it again on, or for, this machine",
        )
    check_files(path, manifest.files)
    return Bundle(path, manifest, threads)


__all__ = ["Bundle", "check_place", "open_bundle", "write_bundle"]
