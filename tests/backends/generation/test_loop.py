"""The loop on a tiny model, with sessions that compute everything anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation_kit import Recomputing, recomputing, talking  # noqa: F401

import tundish
from tundish.backends.generation.generator import Generator
from tundish.backends.generation.loop import Generation, room
from tundish.backends.generation.options import GenerationOptions
from tundish.backends.generation.prefixes import common_length
from tundish.ir.diagnostics import LoadError, RunError

PROMPTS = ["The foundry", "What flows first, cools first.", "a", "Grüße aus Köln: 東京 🙂 and so on"]
SAMPLED = {"temperature": 1.0, "seed": 7, "top_k": 60}


@pytest.fixture(scope="module")
def bundle(talking: Path) -> Iterator[Any]:
    with tundish.load(talking) as opened:
        yield opened


@pytest.fixture
def generator(bundle: Any) -> Generator:
    return recomputing(bundle)


def greedy(bundle: Any, prompt: list[int], count: int) -> list[int]:
    """By the definition: the likeliest next token, again and again."""
    tokens = list(prompt)
    for _ in range(count):
        ids = np.array([tokens])
        logits = bundle.run({"input_ids": ids, "attention_mask": np.ones_like(ids)}, entry="forward")["logits"]
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_greedy_takes_the_likeliest_token_each_time(bundle: Any, generator: Generator) -> None:
    found = generator.generate(PROMPTS, max_new_tokens=24, ignore_eos=True)
    for prompt, result in zip(PROMPTS, found, strict=True):
        ids = generator.text.encode(prompt)
        assert result.tokens == greedy(bundle, ids, 24)
        assert (result.finish_reason, result.prompt_tokens) == ("length", len(ids))
        assert result.text == generator.text.decode([*ids, *result.tokens])[len(prompt) :]
        assert result.time_to_first_token_s > 0 and result.tokens_per_s > 0 and not result.sampled


@pytest.mark.parametrize("asked", [{}, SAMPLED, {**SAMPLED, "top_p": 0.9, "repetition_penalty": 1.2}], ids=str)
def test_the_same_again_and_alone(bundle: Any, asked: dict[str, Any]) -> None:
    together = recomputing(bundle).generate(PROMPTS, max_new_tokens=16, **asked)
    again = recomputing(bundle).generate(PROMPTS, max_new_tokens=16, batch=2, **asked)
    assert [r.tokens for r in again] == [r.tokens for r in together]
    for i, (prompt, result) in enumerate(zip(PROMPTS, together, strict=True)):
        stream = recomputing(bundle).stream(prompt, max_new_tokens=16, first_row=i, **asked)
        assert "".join(p.text for p in stream) == result.text
        assert stream.results[0].tokens == result.tokens and stream.results[0].text == result.text


def test_another_seed_gives_another_text_and_is_told(generator: Generator) -> None:
    asked = {"temperature": 1.5, "max_new_tokens": 20}
    texts = {generator.generate("a", seed=s, **asked).text for s in range(3)}
    assert len(texts) == 3
    drawn = generator.generate("a", **asked)
    assert drawn.sampled and generator.generate("a", seed=drawn.seed, **asked).text == drawn.text


def test_ends_are_each_rows_own(generator: Generator) -> None:
    free = generator.generate(PROMPTS, max_new_tokens=24, ignore_eos=True)
    ends = [r.tokens[i + 2] for i, r in enumerate(free)]
    found = generator.generate(PROMPTS, max_new_tokens=24, stop_tokens=ends, ignore_eos=True, reuse=False)
    for whole, cut in zip(free, found, strict=True):
        at = next(i for i, t in enumerate(whole.tokens) if t in ends)
        assert cut.tokens == whole.tokens[: at + 1] and cut.finish_reason == "stop"
        assert whole.text.startswith(cut.text.rstrip("\ufffd"))
    rows = [s.rows for s in generator.opened]  # type: ignore[attr-defined]
    assert rows[0] == 4 and rows[1] == 4, "the first run kept its rows"
    assert sum(len(r.tokens) - 1 for r in found) == generator.opened[-1].read_tokens or len(rows) > 2  # type: ignore[attr-defined]


def test_rows_that_ended_are_left_out(bundle: Any) -> None:
    """Of four rows two end at once: the others go on in a session of their own, with the same tokens."""
    free = recomputing(bundle).generate(PROMPTS, max_new_tokens=20, ignore_eos=True)
    generator = recomputing(bundle)
    ends = [r.tokens[0] for r in free[:2]]
    found = generator.generate(PROMPTS, max_new_tokens=20, stop_tokens=ends, ignore_eos=True)
    lasting = [r for r in found if len(r.tokens) > 1]
    assert {len(r.tokens) for r in found[:2]} == {1} and len(lasting) == 2
    assert [s.rows for s in generator.opened] == [4, 2]  # type: ignore[attr-defined]
    for whole, cut in zip(free, found, strict=True):
        assert whole.tokens[: len(cut.tokens)] == cut.tokens


def test_the_models_own_end(bundle: Any, generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    free = generator.generate("The foundry", max_new_tokens=10, ignore_eos=True)
    monkeypatch.setattr(Generator, "eos", frozenset({free.tokens[4]}))
    ended = recomputing(bundle).generate("The foundry", max_new_tokens=10)
    at = free.tokens.index(free.tokens[4])
    assert ended.finish_reason == "eos" and ended.tokens == free.tokens[: at + 1]
    assert recomputing(bundle).generate("The foundry", max_new_tokens=10, ignore_eos=True).tokens == free.tokens


def test_the_end_is_the_tokenizers_where_the_model_names_none(generator: Generator) -> None:
    assert generator.eos == {0}
    assert generator.eos_of_chat == {0, generator.text.id_of("<|im_end|>")}


def test_a_stop_string_is_found_across_tokens(bundle: Any, generator: Generator) -> None:
    free = generator.generate("What", max_new_tokens=40, ignore_eos=True)
    texts = [p.text for p in recomputing(bundle).stream("What", max_new_tokens=40, ignore_eos=True)]
    at = next(i for i in range(8, 30) if len(texts[i]) and len(texts[i + 1]))
    stop = texts[at][-1] + texts[at + 1][0]  # the end of one token's text and the beginning of the next one's
    heard: list[str] = []
    result = generator.generate("What", max_new_tokens=40, ignore_eos=True, stop=[stop, "never said"],
                                on_piece=lambda p: heard.append(p.text))  # fmt: skip
    assert result.finish_reason == "stop" and stop not in result.text
    assert result.text == free.text[: free.text.index(stop)] == "".join(heard)
    assert result.tokens == free.tokens[: len(result.tokens)] and len(result.tokens) < 40


def test_what_waited_for_a_stop_string_comes_at_the_end(generator: Generator) -> None:
    free = generator.generate("What", max_new_tokens=8, ignore_eos=True)
    result = generator.generate("What", max_new_tokens=8, ignore_eos=True, stop=free.text[-1] + "\x00never")
    assert result.text == free.text and result.finish_reason == "length"


def test_padding_is_taken_off(generator: Generator) -> None:
    rows = [generator.text.encode(p) for p in PROMPTS[:3]]
    longest = max(map(len, rows))
    for left in (True, False):
        ids, mask = np.zeros((3, longest), np.int64), np.zeros((3, longest), np.int64)
        for i, row in enumerate(rows):
            at = slice(longest - len(row), None) if left else slice(0, len(row))
            ids[i, at], mask[i, at] = row, 1
        found = generator.generate({"input_ids": ids, "attention_mask": mask}, max_new_tokens=6)
        assert [r.tokens for r in found] == [r.tokens for r in generator.generate(PROMPTS[:3], max_new_tokens=6)]


def test_all_forms_of_a_prompt(generator: Generator) -> None:
    ids = generator.text.encode(PROMPTS[0])
    wanted = generator.generate(PROMPTS[0], max_new_tokens=4)
    for prompt in (ids, tuple(ids), np.array(ids)):
        assert generator.generate(prompt, max_new_tokens=4).tokens == wanted.tokens
    for batch in ([PROMPTS[0]], [ids], [np.array(ids)], np.array([ids]), {"input_ids": np.array([ids])}):
        (found,) = generator.generate(batch, max_new_tokens=4)
        assert found.tokens == wanted.tokens
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    forms = [
        generator.generate(chat, max_new_tokens=4), generator.generate([chat], max_new_tokens=4)[0],
        generator.generate("u", system="s", max_new_tokens=4),
        generator.generate(chat[1:], system="s", max_new_tokens=4),
        generator.generate(["u"], chat=True, system="s", max_new_tokens=4)[0],
    ]  # fmt: skip
    assert len({tuple(r.tokens) for r in forms}) == 1
    assert forms[0].prompt_tokens == len(generator.tokens_of(chat))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "prompt is empty"), ([], "prompt is empty"), (["a", ""], "prompt is empty"), ([[]], "prompt is empty"),
        (np.zeros((0, 3), int), "prompt is empty"), (3, "a prompt is a text"), ([1.5], "a prompt is a text"),
        ({"ids": 1}, "holds input_ids"), ({"input_ids": np.zeros(3, int)}, "whole numbers"),
        ({"input_ids": np.ones((1, 3), int), "attention_mask": np.array([[1, 0, 1]])}, "hides tokens between"),
        ({"input_ids": np.ones((2, 3), int), "attention_mask": np.zeros((2, 3))}, "row 0 is empty"),
        ([1, 320], "none of the model's 320"), ([-1], "none of the model's 320"),
        (["a"] * 5 + [1], "a prompt is a text"),
        ([{"role": "user"}, 3], "a message of a chat"), ("\ud800", "cannot be turned into tokens"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_prompt(generator: Generator, prompt: Any, said: str) -> None:
    with pytest.raises(RunError, match=said):
        generator.generate(prompt)


def test_token_ids_are_no_chat(generator: Generator) -> None:
    with pytest.raises(RunError, match="no chat"):
        generator.generate([1, 2], chat=True)


@pytest.mark.parametrize(
    ("longest", "asked", "context", "wanted"),
    [
        (10, {}, 1000, (256, 266)), (10, {}, 100, (90, 100)), (10, {"max_new_tokens": 5}, 100, (5, 15)),
        (10, {"capacity": 50}, 100, (40, 50)), (10, {"capacity": 50, "max_new_tokens": 3}, 100, (3, 50)),
        (10, {}, None, (256, 266)), (99, {}, 100, (1, 100)),
        (100, {}, 100, "the prompt has 100 tokens, and the model's context holds 100"),
        (90, {"max_new_tokens": 11}, 100, "90 tokens and 11 new ones are 101, and the model's context holds 100"),
        (90, {"capacity": 95, "max_new_tokens": 6}, 100, "are 96, and the context asked for holds 95"),
        (1, {"capacity": 101}, 100, "a context of 101 tokens was asked for, and the model takes at most 100"),
    ],
    ids=str,
)  # fmt: skip
def test_the_room_that_there_is(longest: int, asked: dict[str, int], context: int | None, wanted: Any) -> None:
    options = GenerationOptions(**asked)  # type: ignore[arg-type]
    if isinstance(wanted, tuple):
        assert room(longest, options, context) == wanted
        return
    with pytest.raises(RunError, match=wanted):
        room(longest, options, context)


def test_where_no_position_limits_a_text_its_caches_do(tmp_path: Path) -> None:
    """More tokens than any machine holds are refused before memory is asked for."""
    with tundish.compile("bloom-tiny", tmp_path / "b.tundish", batch="1..2") as made:
        assert made.generator.info["context"] is None
        for asked in ({"max_new_tokens": 10**30}, {"capacity": 10**9}):
            with pytest.raises(RunError, match="1048576"):
                made.generate([5, 6], **asked)
        assert len(made.generate([5, 6], max_new_tokens=3).tokens) == 3


def test_the_last_token_that_fits(generator: Generator) -> None:
    ids = [5] * 250
    full = generator.generate(ids, max_new_tokens=6, ignore_eos=True, capacity=256)
    assert len(full.tokens) == 6 and full.capacity == 256


def test_more_prompts_than_fit_are_read_in_turns(generator: Generator) -> None:
    found = generator.generate(["a"] * 6, max_new_tokens=3, temperature=1.0, seed=1)
    assert len(found) == 6 and len({tuple(r.tokens) for r in found}) > 1
    assert [s.rows for s in generator.opened if s.rows > 1] == [4, 2]  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="5 prompts at once, and the bundle was compiled for at most 4"):
        generator.stream(["a"] * 5)


def test_without_a_tokenizer_there_are_tokens_alone(
    bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = recomputing(bundle).generate([5, 6, 7], max_new_tokens=5, ignore_eos=True)
    monkeypatch.setattr(bundle, "path", tmp_path)
    generator = recomputing(bundle)
    result = generator.generate([5, 6, 7], max_new_tokens=5, ignore_eos=True)
    assert result.tokens == wanted.tokens and result.text is None
    for asked in ({"prompt": "a"}, {"prompt": "a", "chat": True}, {"prompt": [{"role": "user", "content": "a"}]}):
        with pytest.raises(LoadError, match="holds no tokenizer"):
            generator.generate(**asked)
    with pytest.raises(RunError, match="stop strings need a tokenizer"):
        generator.generate([5], stop="a")


# -- stored prefixes ---------------------------------------------------------------------------------------

SYSTEM = "You answer in one short line, and never of what flows into a mould before it is warm."


def test_a_system_prompt_is_read_once(bundle: Any) -> None:
    generator = recomputing(bundle)
    first = generator.generate("What is cast?", system=SYSTEM, max_new_tokens=4)
    second = generator.generate("Who pours?", system=SYSTEM, max_new_tokens=4)
    fresh = recomputing(bundle).generate("Who pours?", system=SYSTEM, max_new_tokens=4, reuse=False)
    assert first.reused_tokens == 0 == fresh.reused_tokens and second.tokens == fresh.tokens
    chats = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": q}] for q in ("What is", "Who")]
    one, two = (np.array(generator.tokens_of(c)) for c in chats)
    assert second.reused_tokens == common_length(one, two) > 40
    read = [s.read_tokens for s in generator.opened]  # type: ignore[attr-defined]
    assert read[1] == second.prompt_tokens - second.reused_tokens + 3
    short = generator.generate("?", system=SYSTEM, max_new_tokens=1)
    assert short.reused_tokens > 40, "a stored prefix may be longer than what is asked for now"
    again = generator.generate("Who pours?", system=SYSTEM, max_new_tokens=4)
    assert again.reused_tokens == again.prompt_tokens - 1 and again.tokens == second.tokens
    assert generator.generate("Who pours?", system=SYSTEM, max_new_tokens=4, reuse=False).reused_tokens == 0


def test_prompts_that_begin_alike_share_it_in_one_batch(bundle: Any) -> None:
    generator = recomputing(bundle)
    asked = ["What is cast?", "Who pours?", "Why?"]
    found = generator.generate(asked, system=SYSTEM, max_new_tokens=5)
    for question, result in zip(asked, found, strict=True):
        alone = recomputing(bundle).generate(question, system=SYSTEM, max_new_tokens=5)
        assert result.tokens == alone.tokens
    assert [r.reused_tokens > 40 for r in found] == [False, True, True]
    assert sum(r.prompt_tokens - r.reused_tokens for r in found) + 4 * 3 == sum(
        s.read_tokens for s in generator.opened  # type: ignore[attr-defined]
    )


class Sliding(Recomputing):
    """A session that cannot go back past what a window has slid over, as a bundle's cannot."""

    window = 8

    def restore(self, row: int, prefix: Any) -> None:
        super().restore(row, prefix)
        self.newest = len(prefix.tokens)

    def rewind(self, row: int, length: int = 0) -> None:
        if length and length < len(self._tokens[row]):
            raise RunError(f"a window of {self.window} tokens has slid past")
        super().rewind(row, length)


def test_where_a_window_slid_the_common_beginning_is_kept_apart(bundle: Any) -> None:
    generator = Generator(bundle, lambda rows, capacity: Sliding(bundle, rows, capacity))
    found = [generator.generate(q, system=SYSTEM, max_new_tokens=4) for q in ("What?", "Who pours?", "Why is it?")]
    assert [r.reused_tokens > 40 for r in found] == [False, False, True]
    for question, result in zip(("What?", "Who pours?", "Why is it?"), found, strict=True):
        assert result.tokens == recomputing(bundle).generate(question, system=SYSTEM, max_new_tokens=4).tokens


# -- conversations and interruptions ------------------------------------------------------------------------


def test_a_conversation_reads_only_what_is_new(bundle: Any) -> None:
    generator = recomputing(bundle)
    chat = generator.chat(SYSTEM, max_new_tokens=6)
    first = chat.say("What is cast?")
    read = generator.opened[-1].read_tokens  # type: ignore[attr-defined]
    second = chat.say("And who pours it?")
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert chat.messages[2]["content"] == first.text and len(generator.opened) == 1  # type: ignore[attr-defined]
    fresh = recomputing(bundle).generate(chat.messages[:-1], max_new_tokens=6)
    assert second.tokens == fresh.tokens
    assert second.reused_tokens >= first.prompt_tokens
    new = generator.opened[-1].read_tokens - read  # type: ignore[attr-defined]
    assert new == second.prompt_tokens - second.reused_tokens + len(second.tokens) - 1
    with pytest.raises(RunError, match="empty"):
        chat.say("")
    assert len(chat.messages) == 5


def test_a_turn_that_was_left_before_its_end_leaves_nothing_behind(bundle: Any) -> None:
    """Nor do messages that were other ones for that turn: what the session holds is asked of it, not remembered."""
    generator = recomputing(bundle)
    chat = generator.chat(SYSTEM, max_new_tokens=6)
    chat.say("What is cast?")
    turns = list(chat.messages)
    chat.messages = turns[:1]
    next(chat.stream("And what is a mould, if it is not the thing that gives its form to what is poured?"))
    chat.stream("never read at all")
    chat.messages = turns
    found = chat.say("And who pours it?")
    fresh = recomputing(bundle).generate(chat.messages[:-1], max_new_tokens=6)
    assert found.tokens == fresh.tokens and [m["role"] for m in chat.messages[1:]] == ["user", "assistant"] * 2


def test_ctrl_c_leaves_what_there_is(generator: Generator) -> None:
    whole = generator.generate("The foundry", max_new_tokens=12, ignore_eos=True)
    heard: list[str] = []

    def hear(piece: Any) -> None:
        heard.append(piece.text)
        if len(heard) == 5:
            raise KeyboardInterrupt

    asked: dict[str, Any] = {"max_new_tokens": 12, "ignore_eos": True, "stop": "\x00", "on_piece": hear}
    result = generator.generate("The foundry", partial=True, **asked)
    assert result.finish_reason == "interrupted" and result.tokens == whole.tokens[:5]
    assert whole.text.startswith(result.text.rstrip("\ufffd")) and result.text == "".join(heard)
    heard.clear()
    with pytest.raises(KeyboardInterrupt):
        generator.generate("The foundry", **asked)


def test_pieces_come_one_by_one(generator: Generator) -> None:
    stream = generator.stream("The foundry", max_new_tokens=9, ignore_eos=True)
    assert isinstance(stream, Generation)
    first = next(stream)
    assert stream.results[0].tokens == [first.token] and stream.results[0].finish_reason == "interrupted"
    assert len(list(stream)) == 8 and stream.results[0].finish_reason == "length"


ODD = [
    {"eos": ["x"]}, {"eos": 2}, {"context": 0}, {"windows": [{}]}, {"windows": [{"window": 0}]}, [1],
    {"bytes_per_token": "9"},
]  # fmt: skip


@pytest.mark.parametrize("told", ODD, ids=str)
def test_a_manifest_that_says_odd_things(bundle: Any, monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    monkeypatch.setitem(bundle.manifest.info, "generation", told)
    with pytest.raises(LoadError, match="words on generation are broken"):
        recomputing(bundle).generate("a")
