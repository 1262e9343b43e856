"""`tundish generate` as a person and a script meet it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Command, command, environment, made, refused  # noqa: F401
from generation_kit import byte_tokenizer, talking, write_tokenizer  # noqa: F401

import tundish
from tundish import api

ROOT = Path(tundish.__file__).resolve().parent
SYSTEM = "You answer in one short line, and never of what flows into a mould."


def test_the_text_goes_to_stdout_and_its_speed_to_stderr(command: Command, talking: Path) -> None:
    told = command("generate", talking, "The foundry", "--max-new-tokens", 12)
    with tundish.load(talking) as bundle:
        wanted = bundle.generate("The foundry", max_new_tokens=12)
    assert told.code == 0 and told.out == wanted.text + "\n"
    line = r"12 tokens \(length\), [\d.]+ tokens/s, first token after [\d.]+ s, prompt 7 tokens\n"
    assert re.fullmatch(line, told.err)


def test_it_streams_the_same_text(command: Command, talking: Path) -> None:
    asked = ("generate", talking, "The foundry", "--max-new-tokens", 12, "--temperature", 0.8, "--seed", 3)
    told, streamed = command(*asked), command(*asked, "--stream")
    assert told.out == streamed.out and "seed 3" in told.err


def test_json_is_one_object(command: Command, talking: Path) -> None:
    asked = ("--system", SYSTEM, "--max-new-tokens", 5, "--top-p", 0.9, "--top-k", 50, "--min-p", 0.01, "--json")
    found: Any = command("generate", talking, "Who?", *asked, "--context", 200, "--repetition-penalty", 1.1).json
    assert set(found) == {
        "text", "tokens", "finish_reason", "prompt_tokens", "reused_tokens", "time_to_first_token_s", "tokens_per_s",
        "seed", "sampled", "capacity", "kv_bytes_per_token",
    }  # fmt: skip
    assert found["capacity"] == 200 and len(found["tokens"]) == 5 and found["sampled"]
    assert found["kv_bytes_per_token"] == 2 * 2 * 2 * 8 * 4, "layers x (keys, values) x heads x size x 4 bytes"
    again: Any = command("generate", talking, "Who?", *asked, "--seed", found["seed"], "--context", 200,
                         "--repetition-penalty", 1.1).json  # fmt: skip
    assert again["text"] == found["text"]


def test_a_prompt_from_stdin(
    command: Command, talking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    wanted = command("generate", talking, "Grüße 🙂", "--max-new-tokens", 4).out

    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    give("Grüße 🙂\n".encode())
    assert command("generate", talking, "-", "--max-new-tokens", 4).out == wanted
    give(b"\xff\xfe")
    refused(command("generate", talking, "-"), "no text in UTF-8")
    give(b"\n")
    refused(command("generate", talking, "-"), "prompt is empty")


def test_letters_that_stdout_does_not_take(talking: Path) -> None:
    asked = [sys.executable, "-m", "tundish", "generate", str(talking), "Grüße 🙂 東京", "--max-new-tokens", "24"]
    plain, narrow = (
        subprocess.run(asked, capture_output=True, env={**environment(), "PYTHONIOENCODING": coding})
        for coding in ("utf-8", "ascii")
    )
    assert plain.returncode == narrow.returncode == 0, narrow.stderr
    wanted = plain.stdout.decode()
    assert narrow.stdout == wanted.encode("ascii", "backslashreplace") != plain.stdout


def test_no_stdin_and_a_reader_that_leaves(talking: Path) -> None:
    base = [sys.executable, "-m", "tundish", "generate", str(talking)]
    closed = subprocess.run(
        [*base, "-"], capture_output=True, text=True, env=environment(), preexec_fn=lambda: os.close(0)
    )
    assert closed.returncode == 2 and closed.stderr == "tundish: there is no stdin to read the prompt from\n"
    with subprocess.Popen([*base, "a", "--stream", "--max-new-tokens", "250"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=environment()) as left:  # fmt: skip
        assert left.stdout is not None and left.stderr is not None
        left.stdout.read(1)
        left.stdout.close()
        assert left.stderr.read() == b"" and left.wait() == 141


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["a", "--top-p", "1.5"], "top_p must be above 0 and at most 1, got 1.5"),
        (["a", "--top-p", "0"], "top_p must be above 0"),
        (["a", "--temperature", "-1"], "temperature must be 0 or above"),
        (["a", "--top-k", "-1"], "top_k must be a whole number"),
        (["a", "--min-p", "2"], "min_p must be from 0 to 1"),
        (["a", "--max-new-tokens", "0"], "max_new_tokens must be a whole number of at least 1"),
        (["a", "--stop", ""], "stop takes texts"),
        (["a", "--seed", "-4"], "seed must be"),
        (["a", "--repetition-penalty", "0"], "repetition_penalty must be above 0"),
        (["a", "--threads", "0"], "threads"),
        (["a", "--stream", "--json"], "--stream and --json do not go together"),
        ([""], "the prompt is empty"),
        (["a" * 2000], "and the model's context holds 256"),
        (["a", "--max-new-tokens", "256"], "a prompt of 1 tokens and 256 new ones are 257"),
        (["a", "--context", "300"], "the model takes at most 256"),
        (["a", "--context", "8", "--max-new-tokens", "9"], "the context asked for holds 8"),
    ],
    ids=str,
)
def test_what_cannot_be(command: Command, talking: Path, asked: list[str], said: str) -> None:
    refused(command("generate", talking, *asked), said)


def test_a_model_that_writes_no_text(command: Command, made: Path) -> None:
    refused(command("generate", made / "bert.tundish", "a"), "cannot generate")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("bert-tiny", "does not generate text token by token"),
        ("transformer-tiny", "no transformers model"),
        ("graph.tir", "is a captured graph"),
        ("model.onnx", "is a captured graph"),
    ],
)
def test_a_model_that_writes_no_text_is_not_compiled_first(
    command: Command, made: Path, monkeypatch: pytest.MonkeyPatch, model: str, said: str
) -> None:  # fmt: skip
    def compile(*args: Any, **options: Any) -> Any:
        raise AssertionError("it was compiled")

    monkeypatch.setattr(api, "compile", compile)
    shutil.copytree(made / "bert.tir", "graph.tir")
    refused(command("generate", model, "a"), said, "give a decoder")


@pytest.fixture
def bare(talking: Path, tmp_path: Path) -> Path:
    """The bundle without its tokenizer, its manifest told so."""
    return without(talking, tmp_path / "bare.tundish", "tokenizer.json", "tokenizer_config.json")


def without(bundle: Path, place: Path, *names: str) -> Path:
    shutil.copytree(bundle, place)
    manifest = json.loads((place / "manifest.json").read_text())
    for name in names:
        (place / name).unlink()
        del manifest["files"][name]
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def test_a_bundle_without_a_tokenizer(command: Command, bare: Path) -> None:
    refused(command("generate", bare, "a"), "holds no tokenizer")
    refused(command("generate", bare, "a", "--chat"), "holds no tokenizer")
    with tundish.load(bare) as bundle:
        found = bundle.generate([5, 6, 7], max_new_tokens=4)
    assert len(found.tokens) == 4 and found.text is None


def test_a_tokenizer_without_a_template(command: Command, talking: Path, tmp_path: Path) -> None:
    plain = without(talking, tmp_path / "plain.tundish", "tokenizer_config.json")
    for asked in (("--chat",), ("--system", "be brief")):
        refused(command("generate", plain, "a", *asked), "has no chat template")
    assert command("generate", plain, "a", "--max-new-tokens", 3).code == 0


def test_what_is_no_bundle_is_compiled_first(command: Command, talking: Path) -> None:
    told = command("generate", talking.parent / "model", "The foundry", "--max-new-tokens", 6)
    assert told.code == 0
    assert told.out == command("generate", talking, "The foundry", "--max-new-tokens", 6).out
    refused(command("generate", "no-such-model", "a"), "'no-such-model' is no model")
    refused(command("generate", "gpt2-tiny", "a"), "gpt2-tiny.tundish holds no tokenizer")


def test_ctrl_c_prints_what_there_is(
    command: Command, talking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from tundish.backends.generation.session import Session

    whole = command("generate", talking, "The foundry", "--max-new-tokens", 40).out
    read, calls = Session.read, []

    def reads(self: Any, tokens: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return read(self, tokens)

    monkeypatch.setattr(Session, "read", reads)
    told = command("generate", talking, "The foundry", "--max-new-tokens", 40)
    assert told.code == 130 and "5 tokens (interrupted)" in told.err
    assert whole.startswith(told.out.rstrip("\n\ufffd")) and len(told.out) > 1


def test_the_verb_and_the_method_are_one(talking: Path) -> None:
    with tundish.load(talking) as bundle:
        heard: list[Any] = []
        found = api.generate(bundle, ["a", "The foundry"], max_new_tokens=5, on_piece=heard.append)
        again = bundle.generate(["a", "The foundry"], max_new_tokens=5, reuse=False)
        assert [r.text for r in found] == [r.text for r in again]
        assert ["".join(p.text for p in heard if p.row == i) for i in (0, 1)] == [r.text for r in found]
        assert "".join(p.text for p in bundle.stream("a", max_new_tokens=5)) == found[0].text
        chat = bundle.chat(SYSTEM, max_new_tokens=5)
        assert chat.say("Who?").text == bundle.generate("Who?", system=SYSTEM, max_new_tokens=5).text
        assert chat.say("And why?").reused_tokens > 20


# -- the base install ------------------------------------------------------------------------------------

BLOCKED = """
import sys
sys.path[:0] = {path!r}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from tundish.cli import main
main({arguments!r})
"""
COMPILING = (
    "torch", "transformers", "onnx", "onnxscript", "safetensors", "accelerate", "gguf", "scipy", "numba", "lm_eval",
)  # fmt: skip


def test_it_needs_nothing_that_only_compiling_needs(talking: Path) -> None:
    arguments = ["generate", str(talking), "Who pours?", "--system", SYSTEM, "--max-new-tokens", "8"]
    code = BLOCKED.format(path=[p for p in sys.path if p], names=COMPILING, arguments=arguments)
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with tundish.load(talking) as bundle:
        assert done.stdout == bundle.generate("Who pours?", system=SYSTEM, max_new_tokens=8).text + "\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the base install and nothing else."""
    folder = tmp_path_factory.mktemp("base")
    copy, venv = folder / "copy", folder / "venv"
    junk = shutil.ignore_patterns(".*", "build", "dist", "demo", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=junk)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    fetched = subprocess.run([venv / "bin" / "pip", "install", "-q", copy], capture_output=True, text=True)
    if fetched.returncode and re.search(r"No matching distribution|Connection|Temporary failure|Retry", fetched.stderr):
        pytest.skip(f"the packages cannot be fetched: {fetched.stderr.strip().splitlines()[-1][:200]}")
    assert fetched.returncode == 0, fetched.stderr
    held = subprocess.run([venv / "bin" / "pip", "list", "--format=freeze"], capture_output=True, text=True).stdout
    assert not re.search(r"^(torch|transformers|onnx|safetensors|apache-tvm|llvmlite)=", held, re.M)
    return venv / "bin"


def tried(base: Path, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run([base / "tundish", *map(str, words)], capture_output=True, text=True, env=clean, cwd=folder)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_runs_where_only_the_base_is_installed(talking: Path, base: Path, tmp_path: Path) -> None:
    done = tried(base, tmp_path, "generate", talking, "Who pours?", "--system", SYSTEM, "--max-new-tokens", 8)
    assert done.returncode == 0, done.stderr
    with tundish.load(talking) as bundle:
        assert done.stdout == bundle.generate("Who pours?", system=SYSTEM, max_new_tokens=8).text + "\n"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_bundle_of_tvms_runs_where_only_the_base_is_installed(base: Path, tmp_path: Path) -> None:
    """With the run-time library that it brings; what only compiling needs is told in one line."""
    made = tundish.compile("shakespeare", tmp_path / "tvm.tundish", backend="tvm", batch="1..4", seq="1..64")
    said = made.generate("ROMEO:", max_new_tokens=8).text
    done = tried(base, tmp_path, "generate", made.path, "ROMEO:", "--max-new-tokens", 8)
    assert (done.returncode, done.stdout) == (0, f"{said}\n"), done.stderr
    done = tried(base, tmp_path, "verify", made.path, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["passed"], done.stderr
    given = [f"--input={name}=random" for name in ("input_ids", "attention_mask")]
    done = tried(base, tmp_path, "run", made.path, *given, "--output", "answers")
    assert done.returncode == 0 and (tmp_path / "answers" / "logits.npy").is_file(), done.stderr
    done = tried(base, tmp_path, "profile", made.path, "--repeats", 1, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["backend"] == "tvm", done.stderr
    for verb, part in (("ops", "needs pip install"), ("targets", "needs TVM to compile"), ("doctor", "compiles none")):
        done = tried(base, tmp_path, verb, "--json")
        assert done.returncode == 0 and part in done.stdout, done.stderr
    for backend in ("tvm", "auto"):
        done = tried(base, tmp_path, "compile", "bert-tiny", "-o", "x", "--backend", backend)
        lines = done.stderr.splitlines()
        assert done.returncode == 2 and sum(line.startswith("tundish: ") for line in lines) == 1, done.stderr
        assert "pip install 'tundish[compile]'" in done.stderr and not (tmp_path / "x").exists()
