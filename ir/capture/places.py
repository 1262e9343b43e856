"""Which line of the user's model, and which module, a traced node comes from."""

from __future__ import annotations

import linecache
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


@lru_cache(maxsize=65536)
def model_frame(trace: str) -> tuple[str, int]:
    """(file, line) of the innermost frame of a stack trace that is the model's own; line 0 when there is none."""
    file, line = _innermost(trace)
    return (shown(file), line) if line else (file, 0)


def model_text(trace: str) -> str:
    """What stands in that line; "" where it cannot be read."""
    return linecache.getline(*_innermost(trace)).strip()


def _innermost(trace: str) -> tuple[str, int]:
    told = [(f, int(line)) for f, line, _ in _FRAME.findall(trace) if not f.startswith("<")]  # code out of a text
    frames = [(os.path.realpath(f), line) for f, line in told]
    own = [f for f in frames if not _is_library(f[0])]
    model = [f for f in own if not _PLUMBING.search(f[0])]
    return (model or own or [("<torch>", 0)])[-1]


def _is_library(real: str) -> bool:
    packages = os.path.realpath(sysconfig.get_paths()["purelib"]) + os.sep
    torch, own, standard = _libraries()
    if real.startswith("<") or real.startswith((torch, own)) or not os.path.isabs(real):
        return True
    return real.startswith(standard) and not real.startswith(packages)


def module_path(node: Any) -> str:
    """The innermost module, as state-dict names spell it; "" is the root."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = re.sub(r"@\d+$", "", list(stack.values())[-1][0])
    return path.removeprefix("m.") if path != "m" else ""


def where(node: Any) -> Where:
    """The place of an fx node."""
    file, line = model_frame(node.meta.get("stack_trace") or "")
    return Where(file, line, module_path(node))


def fixed_at(traced: Any) -> Where | None:
    """The line of the model where torch took a size for a number, if it remembers one."""
    tensors = (n.meta.get("val") for n in traced.graph.nodes if n.op == "placeholder")
    env = next((t.fake_mode.shape_env for t in tensors if hasattr(t, "fake_mode")), None)
    bounds = getattr(env, "var_to_range_sloc", {}).values()
    told = [s for b in bounds for s in (b.lower, b.upper)] + list(getattr(env, "replacements_slocs", {}).values())
    frames: list[Any] = [getattr(s, kind, None) for s in told for kind in ("maybe_user_loc", "framework_loc")]
    for frame in frames:
        file = os.path.realpath(getattr(frame, "filename", os.devnull))
        if file != os.devnull and not _is_library(file) and not _PLUMBING.search(file):
            return Where(shown(file), int(frame.lineno))
    return None
