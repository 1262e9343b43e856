"""Which line of the user's model, and which module, a traced node comes from."""

from __future__ import annotations

import os
import re
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..diagnostics import Where

_FRAME = re.compile(r'  File "([^"]+)", line (\d+), in (\S+)')
# transformers' shared machinery: a line there says less than the model's line that called it.
_PLUMBING = re.compile(
    r"transformers/(utils/|integrations/|masking_utils|modeling_layers|pytorch_utils|activations|modeling_utils)"
)


@lru_cache(maxsize=1)
def _libraries() -> tuple[str, ...]:
    import torch

    own = Path(__file__).resolve().parent
    roots = (Path(torch.__file__).resolve().parent, own, Path(sysconfig.get_paths()["stdlib"]).resolve())
    return tuple(str(r) + os.sep for r in roots)


@lru_cache(maxsize=4096)
def shown(path: str) -> str:
    """A file as users see it: relative to its packages folder or the working folder, else its name only."""
    real = os.path.realpath(path)
    for root in (sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], os.getcwd()):
        base = os.path.realpath(root) + os.sep
        if real.startswith(base):
            return real[len(base) :]
    return os.path.basename(real)


def _is_site_package(real: str) -> bool:
    return real.startswith(os.path.realpath(sysconfig.get_paths()["purelib"]) + os.sep)


@lru_cache(maxsize=65536)
def _place(trace: str) -> tuple[str, int]:
    frames = [(os.path.realpath(f), int(line)) for f, line, _ in _FRAME.findall(trace)]
    skip = _libraries()
    own = [f for f in frames if _is_site_package(f[0]) and not f[0].startswith(skip[0]) or not f[0].startswith(skip)]
    model = [f for f in own if not _PLUMBING.search(f[0])]
    best = (model or own or frames or [("<torch>", 0)])[-1]
    return shown(best[0]) if best[1] else best[0], best[1]


def module_path(node: Any) -> str:
    """The innermost module, as state-dict names spell it; "" is the root."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = re.sub(r"@\d+$", "", list(stack.values())[-1][0])
    return path.removeprefix("m.") if path != "m" else ""


def where(node: Any) -> Where:
    """The place of an fx node."""
    file, line = _place(node.meta.get("stack_trace") or "")
    return Where(file, line, module_path(node))
