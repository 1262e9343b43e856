"""A bundle in the shape of a transformers model, for code that was written for one: `pipeline`, `generate`, a forward.

Needs torch and transformers, which the code that calls it has: tensors come in and go out.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.diagnostics import LoadError, RunError, TundishError
from .transformers_options import asked_of

if TYPE_CHECKING:
    from .bundle import Bundle

CLASS = "TundishForCausalLM"
CONFIG = "config.json"


def as_transformers(bundle: Bundle) -> Any:
    """A `PreTrainedModel` that computes nothing itself.

    Raises: LoadError where the bundle has no config of a model; RunError where it is an encoder-decoder.
    """
    if any(s.name == "decoder_input_ids" for s in bundle.inputs):
        raise RunError(f"{bundle.manifest.name} reads one text and writes another; only decoders take the shape of a "
                       "transformers model", hint="bundle.generate writes what its `generate` does")  # fmt: skip
    return _model_class()(bundle)


class BundleMethods:
    """The methods of a transformers model that a bundle answers, joined with transformers' own bases below.

    config, generation_config: as the original's. bundle: what computes.
    Gradients, hidden states, attentions and caches in and out are refused by name.
    """

    def __init__(self, bundle: Bundle) -> None:
        from transformers import AutoConfig

        if not (bundle.path / CONFIG).is_file():
            raise LoadError(f"{bundle.path.name} holds no {CONFIG} of a transformers model",
                            hint="compile it again, from a transformers folder or a .gguf file")  # fmt: skip
        super().__init__(AutoConfig.from_pretrained(bundle.path, local_files_only=True))  # type: ignore[call-arg]
        self.bundle = bundle
        self.generation_config: Any = _settings(bundle, self.config)  # type: ignore[attr-defined]
        self.name_or_path = str(bundle.path)
        self.eval()  # type: ignore[attr-defined]

    @property
    def device(self) -> Any:
        import torch

        return torch.device("cpu")

    @property
    def dtype(self) -> Any:
        import torch

        return torch.float32

    def to(self, *_: Any, **__: Any) -> Any:
        """It computes where the bundle was compiled to; tensors from elsewhere are fetched."""
        return self

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Raises: RunError; the weights are the bundle's."""
        raise RunError("a bundle is not saved as a transformers folder", hint=f"copy {self.bundle.path}")

    # -- whole texts ----------------------------------------------------------------------------------------

    def forward(
        self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, return_dict: bool = True,
        **asked: Any,
    ) -> Any:  # fmt: skip
        """`logits` f32 [batch, seq, vocabulary]; with `labels` [batch, seq] also the mean `loss` of the next tokens.

        Raises: RunError on anything else that is asked for.
        """
        import torch
        from transformers.modeling_outputs import CausalLMOutput

        wrong = sorted(n for n, v in asked.items() if v is not None and v is not False and n != "use_cache")
        if wrong or input_ids is None:
            raise RunError(f"a bundle's forward does not take {wrong[0]}" if wrong else "there are no input_ids",
                           hint="it takes input_ids, attention_mask and labels")  # fmt: skip
        logits = torch.from_numpy(self._logits(_array(input_ids), _array(attention_mask)))
        loss = None
        if labels is not None:
            ahead = torch.as_tensor(_array(labels))[:, 1:].reshape(-1)
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(len(ahead), -1), ahead)
        found = CausalLMOutput(loss=loss, logits=logits)
        return found if return_dict else found.to_tuple()

    def _logits(self, ids: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """As many rows a run as the bundle takes."""
        entry = next(iter(self.bundle.entries))
        signature = self.bundle.entries[entry]
        names = {s.name for s in signature.inputs}
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids) if mask is None else mask}
        most = signature.symbols.get("batch", (1, None))[1] or len(ids)
        runs = [
            self.bundle.run({n: a[i : i + most] for n, a in given.items() if n in names}, entry, ["logits"])["logits"]
            for i in range(0, len(ids), most)
        ]
        return np.concatenate(runs).astype(np.float32, copy=False)

    # -- token by token -------------------------------------------------------------------------------------

    def generate(
        self, inputs: Any = None, generation_config: Any = None, streamer: Any = None, tokenizer: Any = None,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        """The prompts with what was generated after them, i64 [rows, prompt + new], padded as transformers pads.

        Everything that `generation_config` and `kwargs` may say as transformers resolves it: do_sample, temperature,
        top_k, top_p, min_p, repetition_penalty, max_new_tokens, max_length, eos_token_id, pad_token_id, stop_strings,
        num_return_sequences. Random numbers are seeded from torch's. tokenizer: taken, as transformers asks for it with
        stop_strings; the bundle reads them with its own.
        Raises: RunError on what it cannot do, by name.
        """
        import torch

        config, rest = self._prepare_generation_config(generation_config, **kwargs)  # type: ignore[attr-defined]
        ids, mask = _prompts(inputs, rest, config)
        given = (kwargs.get("max_length"), getattr(generation_config, "max_length", None))
        if all(length is None for length in (*given, self.generation_config.max_length)):
            config.max_length = None  # transformers' own default, which counts new tokens
        asked = asked_of(config, rest, ids.shape[1], getattr(self.config, "max_position_embeddings", None))  # type: ignore[attr-defined]
        if asked.copies > 1:
            ids, mask = np.repeat(ids, asked.copies, 0), np.repeat(mask, asked.copies, 0)
        if config.do_sample:
            asked.options["seed"] = int(torch.randint(2**63 - 1, (1,)))
        stream = None if streamer is None else _Stream(streamer, ids, asked.pad)
        prompts = {"input_ids": ids, "attention_mask": mask}
        found = self.bundle.generator.generate(prompts, on_piece=stream.hear if stream else None, **asked.options)
        if stream is not None:
            stream.end()
        longest = max(len(g.tokens) for g in found)
        new = np.full((len(ids), longest), asked.pad, np.int64)
        for row, generated in enumerate(found):
            new[row, : len(generated.tokens)] = generated.tokens
        sequences: Any = torch.from_numpy(np.concatenate([ids, new], axis=1))
        if not config.return_dict_in_generate:
            return sequences
        from transformers.generation import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(sequences=sequences)


class _Stream:
    """Gives a streamer the prompts and then, round by round, a token of every row; `pad` of those that have ended."""

    def __init__(self, streamer: Any, ids: np.ndarray, pad: int) -> None:
        self._streamer, self._pad, self._rows, self._round = streamer, pad, len(ids), {}  # type: ignore[var-annotated]
        self._put(ids)

    def hear(self, piece: Any) -> None:
        if piece.token is None:
            return
        if self._round and piece.row <= max(self._round):
            self._flush()
        self._round[piece.row] = piece.token

    def end(self) -> None:
        self._flush()
        self._streamer.end()

    def _flush(self) -> None:
        if self._round:
            self._put(np.array([self._round.get(row, self._pad) for row in range(self._rows)]))
        self._round = {}

    def _put(self, tokens: np.ndarray) -> None:
        import torch

        self._streamer.put(torch.from_numpy(tokens))


def _prompts(inputs: Any, rest: dict[str, Any], config: Any) -> tuple[np.ndarray, np.ndarray]:
    """ids and mask, i64 [rows, tokens]. Without ids one text that begins, as transformers has it.

    Without a mask padding is what bears the padding's id, unless that id also ends texts.
    """
    given = rest.pop("input_ids", None)
    found = given if inputs is None else inputs
    mask = rest.pop("attention_mask", None)
    if found is None:
        if config.bos_token_id is None:
            raise RunError("there is no prompt, and the model has no token that begins a text")
        found, mask = np.array([[config.bos_token_id]], np.int64), None
    ids = _array(found)
    if ids.ndim != 2 or not ids.size:
        raise RunError("input_ids are whole numbers [rows, tokens]", found=str(list(ids.shape)))
    if mask is not None:
        return ids, _array(mask)
    pad, ends = config.pad_token_id, config.eos_token_id
    told = pad is not None and pad not in (ends if isinstance(ends, list) else [ends])
    return ids, (ids != pad).astype(np.int64) if told and (ids == pad).any() else np.ones_like(ids)


def _settings(bundle: Bundle, config: Any) -> Any:
    """How the original generates: as its own file says, else as its config does."""
    from transformers import GenerationConfig

    if (bundle.path / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(bundle.path, local_files_only=True)
    return GenerationConfig.from_model_config(config)


def _array(tensor: Any) -> Any:
    """i64 on this side, of a tensor of any device, an array or lists; None stays None."""
    if tensor is None:
        return None
    plain = tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)
    return plain.astype(np.int64)


@cache
def _model_class() -> Any:
    """The class, which transformers' pipelines know by its name from then on. Raises: TundishError."""
    try:
        from transformers import GenerationMixin, PreTrainedModel
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError as error:
        raise TundishError("the shape of a transformers model needs transformers and torch",
                           hint="pip install 'tundish[compile]'; without them: bundle.generate") from error  # fmt: skip
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["tundish"] = CLASS
    return type(CLASS, (BundleMethods, PreTrainedModel, GenerationMixin), {"__doc__": BundleMethods.__doc__})


__all__ = ["as_transformers"]
