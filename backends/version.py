"""The version that artifacts are stamped with."""

from __future__ import annotations

import sys


def version() -> str:
    """That of the package we are part of, which Python has loaded before any module in it."""
    return str(sys.modules[__name__.partition(".")[0]].__version__)
