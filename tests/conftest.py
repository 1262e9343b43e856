"""What all tests share: no network, a skip with its reason where there is no GPU, golden files."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

# Tests are no package: this makes `from properties.programs import programs` work in all of them.
sys.path.append(str(Path(__file__).parent))

# Set before any test opens transformers: nothing here may reach for a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Kernels that tests compile are kept by what they are, so that the next run need not; apart from the user's own.
os.environ["TUNDISH_KERNELS"] = str(Path(__file__).resolve().parent.parent / "build" / "kernels")
os.environ["TUNDISH_TUNING"] = "none"  # nor may what was tuned on this machine change what tests compile


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden with what the code gives now")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background jobs with Ctrl-C ignored, and processes hand that on; tests send that signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden is for people, who read the difference; CI only compares")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if Path("/dev/nvidiactl").exists():
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU, and this machine has none")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))
