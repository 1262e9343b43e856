"""Environments for other people's loaders, each made once under build/loaders and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "tests/loaders"
# optimum-onnx 0.1.0 wants transformers below 4.58; torch, onnx and onnxruntime are those of the environment it lies on.
OPTIMUM = (
    "optimum-onnx==0.1.0", "optimum==2.1.0", "transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2",
    "requests==2.34.2", "charset-normalizer", "urllib3", "certifi", "idna",
)  # fmt: skip
GENAI = ("onnxruntime-genai==0.18.0", "onnxruntime==1.32.0")
TRANSFORMERS_JS = ("@huggingface/transformers@4.3.1",)


def answers(loader: str, asked: dict[str, Any]) -> dict[str, Any]:
    """What a loader generates: `asked` and the answer as loaders/optimum_generate.py says."""
    command, place = _LOADERS[loader]()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, input=json.dumps(asked), cwd=place, text=True, capture_output=True, env=environment)
    assert ran.returncode == 0, f"{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    return json.loads(ran.stdout.strip().splitlines()[-1])


def _optimum() -> tuple[list[str], Path]:
    """Only what it needs in other versions is installed, before the packages of this environment."""
    python = _python("optimum", ("--no-deps", *OPTIMUM), [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return [str(python), str(SCRIPTS / "optimum_generate.py")], ROOT


def _genai() -> tuple[list[str], Path]:
    return [str(_python("genai", GENAI, [])), str(SCRIPTS / "genai_generate.py")], ROOT


def _transformers_js() -> tuple[list[str], Path]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Transformers.js needs node and npm")
    folder = _folder("transformers_js", TRANSFORMERS_JS)
    if not (folder / "made").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        _install([npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", *TRANSFORMERS_JS], folder)
    return [node, str(SCRIPTS / "transformers_generate.mjs")], folder


_LOADERS = {"optimum": _optimum, "genai": _genai, "transformers_js": _transformers_js}


def _folder(name: str, wanted: tuple[str, ...]) -> Path:
    key = hashlib.sha256(repr((wanted, sys.prefix, sys.version)).encode()).hexdigest()[:12]
    return ROOT / "build/loaders" / f"{name}-{key}"


def _python(name: str, wanted: tuple[str, ...], behind: list[str]) -> Path:
    """The interpreter of an environment that holds `wanted`; `behind`: folders whose packages it sees after its own."""
    folder = _folder(name, wanted)
    python = folder / "bin/python"
    if (folder / "made").exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    _install([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *wanted], folder)
    (site / "behind.pth").write_text("\n".join(dict.fromkeys(behind)))
    return python


def _install(command: list[str], folder: Path) -> None:
    """Skips where the packages cannot be had."""
    ran = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    if ran.returncode:
        pytest.skip(f"cannot be installed here: {(ran.stderr.strip().splitlines() or ['no word why'])[-1][:300]}")
    (folder / "made").touch()
