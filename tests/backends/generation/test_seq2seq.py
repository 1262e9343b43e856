"""An encoder-decoder reads a text once and writes from there: what transformers writes, token for token."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import Command, command, environment, refused  # noqa: F401
from generation_kit import write_tokenizer

import tundish
from tundish import api
from tundish.backends.generation.seq2seq import Seq2SeqSession
from tundish.backends.generation.session import Session
from tundish.ir.diagnostics import RunError
from tundish.models import zoo

NEW, START, EOS, VOCAB, LONG = 24, 4, 2, 128, 40
WORDS = [f"{letter}{i}" for letter in "abcd" for i in range(30)]
LENGTHS = (9, 3, 14, 6)


@dataclasses.dataclass
class Made:
    """A bundle, and its original. BART's must write EOS last, and is made to write one first as well."""

    bundle: Any
    original: Any


def lively(name: str) -> Any:
    """The tiny model with weights that make it write many different tokens."""
    module: Any = zoo.load_named(name).module
    torch.manual_seed(3)
    config = module.config
    config.tie_word_embeddings, config.decoder_start_token_id = False, START
    module = type(module)(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.4)
    module.generation_config.decoder_start_token_id = START
    if name.startswith("bart"):
        module.generation_config.forced_bos_token_id = 11
    return module


@pytest.fixture(scope="module", params=["t5-tiny", "bart-tiny"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder, module = tmp_path_factory.mktemp("seq2seq"), lively(request.param)
    module.save_pretrained(folder / "model")
    vocab = {w: i for i, w in enumerate(["<pad>", "<unk>", "</s>", "<s>", "<start>", "e", "f", "g", *WORDS])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    words.add_special_tokens(["<pad>", "<unk>", "</s>", "<s>", "<start>"])
    write_tokenizer(folder / "model", words, eos_token="</s>")
    with tundish.compile(folder / "model", folder / "b.tundish", batch="1..4") as bundle:
        yield Made(bundle, module)


def texts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(7)
    return [rng.integers(5, VOCAB, n).tolist() for n in lengths]


def padded(rows: list[list[int]]) -> dict[str, np.ndarray]:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, text in zip(ids, rows, strict=True):
        row[: len(text)] = text
    lengths = np.array([len(r) for r in rows])
    return {"input_ids": ids, "attention_mask": (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)}


def written(original: Any, rows: list[list[int]], eos: int | None = None) -> list[list[int]]:
    """What transformers writes greedily, up to the end of each row."""
    given = {n: torch.from_numpy(a) for n, a in padded(rows).items()}
    original.generation_config.eos_token_id = eos
    found = original.generate(**given, max_new_tokens=NEW, do_sample=False, num_beams=1)[:, 1:].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in found]


@pytest.mark.parametrize("lengths", [LENGTHS[:1], LENGTHS])
def test_it_writes_what_transformers_writes(made: Made, lengths: tuple[int, ...]) -> None:
    rows = texts(*lengths)
    wanted = written(made.original, rows)
    found = made.bundle.generate(rows, max_new_tokens=NEW, ignore_eos=True)
    assert [f.tokens for f in found] == wanted
    assert all(len(w) == NEW for w in wanted) and len({tuple(w) for w in wanted}) > len(rows) // 2
    assert [f.prompt_tokens for f in found] == list(lengths)


def test_rows_that_end_leave_the_others_as_they_were(made: Made) -> None:
    rows = texts(*LENGTHS)
    free = written(made.original, rows)
    end = free[0][3]  # so that a row or more ends early
    wanted = written(made.original, rows, end)
    assert len({len(w) for w in wanted}) > 1
    found = made.bundle.generate(rows, max_new_tokens=NEW, ignore_eos=True, stop_tokens=[end])
    assert [f.tokens for f in found] == wanted


def test_padding_changes_nothing_of_what_is_kept_of_a_text(made: Made) -> None:
    rows = texts(*LENGTHS)
    together = made.bundle.run(padded(rows), entry="encode")
    for i, row in enumerate(rows):
        alone = made.bundle.run(padded([row]), entry="encode")
        for name, array in alone.items():
            np.testing.assert_allclose(together[name][i, :, : len(row)], array[0], rtol=1e-4, atol=1e-4)


def test_steps_add_up_to_the_whole_model(made: Made) -> None:
    """Decoder's texts of different lengths, in pieces: rows are at places of their own."""
    rows, targets = texts(*LENGTHS), [[START, *t] for t in texts(11, 4, 17, 8)]
    session = Seq2SeqSession(made.bundle, 4, LONG, max(LENGTHS), rows)
    first = session.score([t[:3] for t in targets])
    rest = session.score([t[3:] for t in targets])
    for i, (row, target) in enumerate(zip(rows, targets, strict=True)):
        given = {"input_ids": np.array([row]), "decoder_input_ids": np.array([target])}
        given |= {n.replace("input_ids", "attention_mask"): np.ones_like(a) for n, a in given.items()}
        wanted = made.bundle.run(given, entry="forward")["logits"][0]
        found = np.concatenate([first[i], rest[i]])
        np.testing.assert_allclose(found, wanted, atol=1e-5 * float(np.abs(wanted).max()))


def test_a_text_is_read_once_however_much_is_written(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, ran = made.bundle.runner(), []
    run = runner.run
    monkeypatch.setattr(runner, "run", lambda entry, *given: ran.append(entry) or run(entry, *given))
    made.bundle.generate(texts(*LENGTHS), max_new_tokens=5, ignore_eos=True)
    assert ran == ["encode"]


def test_a_prefix_moves_between_sessions_of_one_width_only(made: Made) -> None:
    rows = texts(8, 5)
    session = Seq2SeqSession(made.bundle, 2, LONG, 8, rows)
    session.read([[START], [START]])
    other = Seq2SeqSession(made.bundle, 1, LONG, 8)
    other.restore(0, session.save(1))
    wanted = session.read([[], [9]])[1]
    np.testing.assert_allclose(other.read([[9]])[0], wanted, atol=1e-5 * float(np.abs(wanted).max()))
    with pytest.raises(RunError, match="a text of 8 tokens does not fit into 7"):
        Seq2SeqSession(made.bundle, 1, LONG, 7).restore(0, session.save(0))


def test_every_rule_of_the_original_is_kept(tmp_path: Path) -> None:
    """A model that repeats itself and ends at once, and the settings that keep it from both."""
    module = lively("bart-tiny")
    rows = texts(*LENGTHS)
    free = written(module, rows)
    config = module.generation_config
    config.no_repeat_ngram_size, config.min_length, config.max_length = 2, 6, 19
    config.eos_token_id, config.suppress_tokens = free[0][2], [free[1][4]]
    config.num_beams, config.encoder_repetition_penalty = 3, 1.5
    module.save_pretrained(tmp_path / "model")
    with tundish.compile(tmp_path / "model", tmp_path / "b.tundish", batch="1..4") as bundle:
        found = [f.tokens for f in bundle.generate(rows)]
        (note,) = [n for n in bundle.manifest.info["notes"] if "leaves out" in n]
    assert "num_beams=3" in note and "encoder_repetition_penalty=1.5" in note
    config.num_beams, config.encoder_repetition_penalty = 1, 1.0
    given = {n: torch.from_numpy(a) for n, a in padded(rows).items()}
    wanted = module.generate(**given, do_sample=False)[:, 1:].tolist()
    end = config.eos_token_id
    assert found == [row[: row.index(end) + 1] if end in row else row for row in wanted]
    assert [len(row) for row in found] != [len(row) for row in free]


def test_a_bundle_says_what_is_kept_of_a_token(made: Made) -> None:
    """Of a token that is written and of one that is read: keys and values, 4 bytes a number, in every layer."""
    config = made.original.config
    layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
    width = config.num_heads * config.d_kv if hasattr(config, "d_kv") else config.d_model
    info = api.summary(made.bundle)["generation"]
    assert info["bytes_per_token"] == info["encoder_bytes_per_token"] == layers * 2 * width * 4
    told = [n["what"] for n in api.explain(made.bundle) if n["what"].startswith("caches of 'step'")]
    size = f"{info['bytes_per_token']:,} bytes for each of"
    assert len(told) == 1 and f"{size} capacity" in told[0] and f"{size} seq" in told[0]


def test_what_is_kept_of_a_text_is_read_where_it_lies(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from tundish.backends.onnxruntime import bound as module

    seen: dict[str, int] = {}
    plain = module._bind
    monkeypatch.setattr(module, "_bind", lambda b, n, a: (seen.__setitem__(n, a.ctypes.data), plain(b, n, a))[1])
    session = Seq2SeqSession(made.bundle, 2, LONG, 8, texts(8, 5))
    for _ in range(2):
        session.read([[START], [START]])
    assert {n: seen[n] for n in session._read_only} == {n: a.ctypes.data for n, a in session._read_only.items()}
    assert not session._all._rows, "one token a row is one run, however long the texts that were read"


def test_its_step_is_profiled_on_a_text_that_was_read(made: Made) -> None:
    """One token behind seven, on whole caches, none of the encoder's text hidden."""
    from tundish.profiling import stepped

    inputs = stepped(made.bundle, batch=2, past=7)
    sizes, longest = made.bundle.entries["step"].bind(inputs), min(128, made.bundle.generator.context or 128)
    assert sizes == {"batch": 2, "tokens": 1, "wanted": 1, "capacity": 8, "seq": longest}
    assert inputs["attention_mask"].all() and (inputs["position"] == 7).all()
    assert np.isfinite(made.bundle.run(inputs, entry="step")["logits"]).all()


@pytest.mark.parametrize("words", [("account",), ("bench",), ("profile",)])
def test_what_counts_a_decode_of_decoders_alone_says_so(made: Made, command: Command, words: tuple[str, ...]) -> None:
    refused(command(*words, "t5-tiny", "--phase", "decode"), "only decoders have a decode phase")


def test_it_is_no_transformers_decoder(made: Made) -> None:
    with pytest.raises(RunError, match="only decoders take the shape of a transformers model"):
        tundish.as_transformers(made.bundle)


def test_the_stored_cases_hold(made: Made) -> None:
    assert {c.entry for c in made.bundle.cases().cases} == {"forward", "encode", "step"}
    assert tundish.verify(made.bundle).passed


def test_the_command_writes_text(made: Made, command: Command) -> None:
    told = command("generate", made.bundle.path, "a1 b2 c3", "--max-new-tokens", 6)
    found = made.bundle.generate("a1 b2 c3", max_new_tokens=6)
    assert told.code == 0 and told.out == found.text + "\n" and "prompt 4 tokens" in told.err
    ids = [9, 40, 71, EOS]  # the words, and the tokenizer's end
    assert found.tokens == made.bundle.generate(ids, max_new_tokens=6).tokens


@pytest.mark.parametrize("words", [("--chat",), ("--system", "be brief")])
def test_it_does_not_chat(made: Made, command: Command, words: tuple[str, ...]) -> None:
    refused(command("generate", made.bundle.path, "a1", *words), "reads one text and writes another; it does not chat")


def test_what_does_not_fit_is_refused(made: Made) -> None:
    longest = made.bundle.entries["encode"].symbols["seq"][1]
    with pytest.raises(RunError, match=f"the encoder takes texts of 1..{longest} tokens, not {longest + 1}"):
        made.bundle.generate([5] * (longest + 1), max_new_tokens=2)
    with pytest.raises(RunError, match="it does not go on from a text"):
        Session(made.bundle, 1, LONG)
    with pytest.raises(RunError, match="it does not chat"):
        made.bundle.chat("be brief")
