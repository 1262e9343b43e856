"""Tundish: one Transformer model in, a verified bundle for your hardware out.

    import tundish
    bundle = tundish.compile("path/to/model", target="cpu")
    outputs = bundle.run({"input_ids": ids, "attention_mask": mask})

The names below are those of `tundish.api`, opened on first use, so that `import tundish` costs milliseconds.
`tundish.models` is the folder of what can be compiled; the verb of that name is `tundish.api.models`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        Bundle,
        Program,
        TundishError,
        account,
        as_transformers,
        bench,
        calibrate,
        capture,
        compile,
        diff,
        doctor,
        evaluate,
        export,
        generate,
        load,
        ops,
        place,
        predictions,
        profile,
        record_routing,
        run,
        show,
        targets,
        tune,
        verify,
    )

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "Program",
    "TundishError",
    "account",
    "as_transformers",
    "bench",
    "calibrate",
    "capture",
    "compile",
    "diff",
    "doctor",
    "evaluate",
    "export",
    "generate",
    "load",
    "ops",
    "place",
    "predictions",
    "profile",
    "record_routing",
    "run",
    "show",
    "targets",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(".api", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
