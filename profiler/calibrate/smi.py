"""What the NVIDIA driver says of its first GPU, through the tool that comes with it."""

from __future__ import annotations

import subprocess

from ...ir.diagnostics import TundishError

_TIMEOUT_S = 20


def query(*fields: str) -> dict[str, str]:
    """The fields' values. Raises: TundishError where the tool is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise TundishError("nvidia-smi does not answer", found=str(error)[:200], hint="check the driver") from error
    return dict(zip(fields, (w.strip() for w in done.stdout.strip().split(",")), strict=False))


def watts() -> float | None:
    """What the GPU draws now, None where it does not say."""
    try:
        return float(query("power.draw")["power.draw"])
    except (ValueError, KeyError):
        return None
