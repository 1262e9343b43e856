"""A bundle as a model of lm-eval: `lm_eval --model tundish --model_args bundle=PATH`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ...backends.bundle import Bundle, open_bundle
from ...ir.diagnostics import RunError, TundishError
from ..report.progress import Progress
from .score import Scorer, Seen
from .words import Words
from .writing import Writer

NAME = "tundish"
NEW_TOKENS = 256  # where a task does not say how many: what the harness's own models take


class BundleModel:
    """What the harness asks of a model, answered by a bundle; `model_class` joins it with the harness's own base.

    bundle:         its folder, or an opened one.
    batch_size:     rows of one run at most; by default, and for `auto`, as many as fit.
    max_length:     tokens to read at most, fewer than the bundle allows.
    max_gen_toks:   new tokens, where a task does not say how many.
    threads:        where the bundle is opened here.
    progress:       told how far a request is, in place of the harness's own bars.
    max_batch_size, device: taken because the harness always passes them; the bundle knows its own.
    Raises: TundishError on a bundle that gives no logits or holds no tokenizer.
    """

    def __init__(
        self, bundle: str | Path | Bundle = "", batch_size: int | str | None = None,
        max_batch_size: int | None = None, device: str | None = None, threads: int | None = None,
        max_length: int | None = None, max_gen_toks: int = NEW_TOKENS, progress: Progress | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if bundle == "":
            raise TundishError("no bundle is named", hint=f"--model {NAME} --model_args bundle=PATH")
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, threads=threads)
        self.bundle, self.words = opened, Words(opened)
        self.rows = _rows(batch_size)
        self.scorer = Scorer(opened, self.rows)
        longest = [x for x in (self.scorer.longest, max_length) if x is not None]
        self.scorer.longest = min(map(int, longest), default=None)
        self.max_gen_toks, self.progress = int(max_gen_toks), progress

    # -- tokens --

    @property
    def eot_token_id(self) -> int:
        return self.words.end

    @property
    def prefix_token_id(self) -> int:
        return self.words.begin

    @property
    def max_length(self) -> int:
        return self.scorer.longest or 1 << 30

    # -- chats --

    @property
    def tokenizer_name(self) -> str:
        return self.words.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template as it is written; None where none is asked for. Raises: RunError on one asked for by name."""
        if isinstance(chat_template, str):
            raise RunError(f"a bundle has one chat template, and none named {chat_template!r}")
        return self.words.template_text if chat_template else None

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.words.chat(chat_history, add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self.words.ids(string, add_special_tokens)

    # -- requests --

    def _loglikelihood_tokens(self, requests: Sequence[Any], disable_tqdm: bool = False, **_: Any) -> list[Any]:
        """requests: (what was asked or None, ids of the context, ids of the continuation)."""
        with self._seen(len(requests), "log-likelihoods", disable_tqdm) as seen:
            scores = self.scorer.score([(r[1], r[2]) for r in requests], seen)
        for (asked, _, _), score in zip(requests, scores, strict=True):
            if asked is not None:
                self.cache_hook.add_partial("loglikelihood", asked, score)  # type: ignore[attr-defined]
        return scores

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of each whole text, in windows as long as the model can read, each token predicted once."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows: list[Any] = []
        owners: list[int] = []
        for place, request in enumerate(requests):
            cut = get_rolling_token_windows(
                self.tok_encode(request.args[0]), prefix_token=self.prefix_token_id, max_seq_len=self.max_length,
                context_len=1,
            )  # fmt: skip
            found = [(None, *make_disjoint_window(window)) for window in cut]
            windows, owners = windows + found, owners + [place] * len(found)
        sums = [0.0] * len(requests)
        for place, (score, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            sums[place] += score
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)  # type: ignore[attr-defined]
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What each context goes on with, up to the first of its stop texts."""
        with self._seen(len(requests), "texts to write", disable_tqdm) as seen:
            texts = self.writer.write([r.args for r in requests], seen)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)  # type: ignore[attr-defined]
        return texts

    @cached_property
    def writer(self) -> Writer:
        return Writer(self.bundle, self.words, self.rows, self.max_gen_toks)

    @contextmanager
    def _seen(self, total: int, what: str, hidden: bool) -> Iterator[Seen]:
        """What to call with how many requests are done since."""
        if self.progress is None:
            from tqdm import tqdm

            with tqdm(total=total, desc=what, disable=hidden) as bar:
                yield bar.update
            return
        done, told = 0, self.progress

        def count(more: int) -> None:
            nonlocal done
            done += more
            told(f"{total} {what}", done / total)

        yield count

    def get_model_info(self) -> dict[str, Any]:
        manifest = self.bundle.manifest
        return {"model_name": manifest.name, "model_dtype": manifest.info.get("precision"), "target": manifest.target}


@cache
def model_class() -> Any:
    """The class that the harness makes, registered under `tundish`. Raises: TundishError without the harness."""
    try:
        from lm_eval.api.model import TemplateLM
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise TundishError("evaluating needs lm-eval, which is not installed",
                           hint="pip install 'tundish[eval]'") from error  # fmt: skip
    made = type("TundishLM", (BundleModel, TemplateLM), {"__doc__": BundleModel.__doc__})
    model_registry.register(NAME, target=made)
    return made


def _rows(asked: int | str | None) -> int | None:
    if asked is None or str(asked).startswith("auto"):
        return None
    try:
        rows = int(asked)
    except ValueError:
        rows = 0
    if rows < 1:
        raise TundishError("a batch size is a whole number from 1 on, or auto", found=str(asked))
    return rows


__all__ = ["NAME", "BundleModel", "model_class"]
