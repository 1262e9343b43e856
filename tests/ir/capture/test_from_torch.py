"""Plain torch modules and the three transformers families, captured and held against eager."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tundish.ir.capture.from_torch import capture
from tundish.ir.diagnostics import CaptureError
from tundish.ir.dims import Range
from tundish.ir.evaluate import evaluate

AXES = {0: "batch", 1: "seq"}


def close(module: nn.Module, program, arrays: dict[str, np.ndarray], keep: np.ndarray | None = None, **constants):
    """Every output within 1e-5 · max(1, max|eager|), at rows `keep`."""
    given = {k: torch.from_numpy(v) for k, v in arrays.items()}
    with torch.no_grad():
        eager = module(**given, **constants)
    eager = eager if hasattr(eager, "items") else {"output": eager}
    for name, got in evaluate(program, arrays).items():
        want = eager[name].numpy()
        if keep is not None and want.shape[:2] == keep.shape:
            got, want = got[keep], want[keep]
        assert got.shape == want.shape and got.dtype == want.dtype
        got, want = got.astype(np.float64), want.astype(np.float64)
        assert np.abs(got - want).max(initial=0) <= 1e-5 * max(1.0, np.abs(want).max(initial=0)), name


class Hand(nn.Module):
    """Attention written by hand, with a fused projection, a softmax and a residual norm."""

    def __init__(self, size: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, d = x.shape
        q, k, v = (t.view(b, s, self.heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        scores = q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5
        later = torch.ones(s, s, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        return self.norm(x + self.out((weights @ v).transpose(1, 2).reshape(b, s, d)))


class Sdpa(Hand):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, d = x.shape
        q, k, v = (t.view(b, s, self.heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.norm(x + self.out(y.transpose(1, 2).reshape(b, s, d)))


@pytest.mark.parametrize("kind", [Hand, Sdpa])
def test_plain_modules_stay_dynamic_and_equal(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = kind().eval()
    program = capture(module, {"x": torch.randn(2, 7, 16)}, {"x": AXES})
    assert str(program.entry.inputs[0].type) == "f32[batch, seq, 16]"
    for batch, seq in ((1, 1), (3, 5), (2, 33)):
        close(module, program, {"x": np.random.default_rng(1).standard_normal((batch, seq, 16), np.float32)})


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.clamp(-0.5, 0.5) + x.pow(2).mean(-1, keepdim=True).rsqrt(),
        lambda x: torch.where(x > 0, x, 0.1 * x).cumsum(1),
        lambda x: torch.cat([x[:, :, :4], -x[:, :, 4:]], -1).permute(0, 2, 1).sum((0, 2), keepdim=True),
        lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1).flatten(1, 2),
        lambda x: torch.stack([x, 2 * x], 2).amax(2) - x.std(-1, keepdim=True),
        lambda x: x.topk(3, -1)[0] + x.argmax(-1, keepdim=True),
        lambda x: F.gelu(x, approximate="tanh") + F.silu(x) * F.log_softmax(x, -1) + F.relu(x),
        lambda x: torch.tril(x @ x.transpose(1, 2)) @ x,
        lambda x: x.repeat(1, 2, 1)[:, 1:],
        lambda x: (x * x.shape[1] + torch.arange(x.shape[1])[None, :, None]) // 3,
        lambda x: F.pad(x, (1, 2), value=0.5).chunk(2, -1)[0] % 2.0,
        lambda x: (x > 0).any(-1, keepdim=True) & ~(x < -1).all(-1, keepdim=True),
        lambda x: x[:, :, [-2, 0, 3]] * x[..., [1]],
        lambda x: x[[0, -1, 0], :, [1, 2, 3]] + x[:, 0, [4]].sum(),
        lambda x: torch.diff(x, dim=1, prepend=x[:, :1] - 1, append=x[:, -1:]),
        lambda x: F.softplus(30 * x) + F.softplus(x, beta=3) + torch.expm1(x) / torch.expm1(x * 1e-3).abs().clamp(1e-3),
        lambda x: x + torch.arange(0, 2, 0.25) - torch.arange(0.5, 8.5),
        lambda x: torch.view_as_real(torch.view_as_complex(x.view(*x.shape[:-1], 4, 2)) * torch.polar(
            torch.ones(4), 0.1 * torch.arange(4.0))[None, None]).flatten(2),
        lambda x: (torch.view_as_complex(x.view(*x.shape[:-1], 4, 2))[:, :, 1:].conj() * 2).imag,
        lambda x: x.masked_fill(x.isnan() | (x.abs() > 2), 0.0).select(-1, 3).exp().log1p(),
    ],
)
def test_ops_mean_what_torch_means(f) -> None:
    class Module(nn.Module):
        def forward(self, x):
            return f(x)

    module = Module().eval()
    program = capture(module, {"x": torch.randn(2, 7, 8)}, {"x": AXES})
    close(module, program, {"x": np.random.default_rng(0).standard_normal((3, 5, 8), np.float32)})


class Kept(nn.Module):
    """Writes to a buffer, before or after it reads it."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            self.last.copy_(x.mean((0, 1)))
            return x + self.last
        y = x + self.last
        self.last.copy_(x.mean((0, 1)))
        return y


def test_a_buffer_written_before_it_is_read_is_no_state() -> None:
    module = Kept(first=True).eval()
    program = capture(module, {"x": torch.rand(2, 7, 4)}, {"x": AXES})
    assert len(program.entry.outputs) == 1
    close(module, program, {"x": np.random.default_rng(0).random((2, 3, 4), np.float32)})


def test_a_buffer_that_a_later_call_finds_changed_is_refused() -> None:
    with pytest.raises(CaptureError, match="keeps a state in its buffer last"):
        capture(Kept(first=False).eval(), {"x": torch.rand(2, 7, 4)}, {"x": AXES})


def test_a_table_sliced_from_its_end_has_the_length_that_the_range_allows() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(16.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.table[max(0, 16 - x.shape[1]) :][None, :, None]

    program = capture(Table().eval(), {"x": torch.rand(2, 7, 4)}, {"x": AXES}, ranges={"seq": Range(1, 16)})
    close(Table().eval(), program, {"x": np.random.default_rng(0).random((2, 16, 4), np.float32)})
    close(Table().eval(), program, {"x": np.random.default_rng(0).random((1, 1, 4), np.float32)})


def test_tied_weights_are_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.head = nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    program = capture(Tied().eval(), {"ids": torch.zeros(2, 3, dtype=torch.long)}, {"ids": AXES})
    assert list(program.weights) == ["embed.weight"]
    shared = program.weights["embed.weight"].source.array
    assert shared is not None and not shared.flags.owndata, "the parameter's storage is shared, not copied"


def test_every_unknown_op_is_named_at_once_with_its_line() -> None:
    class Odd(nn.Module):
        def forward(self, x):
            y = torch.special.bessel_j0(x)
            return torch.digamma(y) + torch.digamma(x)

    with pytest.raises(CaptureError) as caught:
        capture(Odd().eval(), {"x": torch.rand(2, 3)}, {"x": AXES})
    text = str(caught.value)
    assert "bessel_j0" in text and "digamma" in text and "2 times" in text
    assert "test_from_torch.py:" in text and "2 kinds of op" in text


def test_a_branch_on_values_names_the_line() -> None:
    class Branch(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(CaptureError, match=r"test_from_torch.py:\d+"):
        capture(Branch().eval(), {"x": torch.rand(2, 3)}, {"x": AXES})


def test_a_frozen_size_is_refused() -> None:
    class Frozen(nn.Module):
        def forward(self, x):
            return x + torch.ones(7, 4)

    with pytest.raises(CaptureError, match="seq of 'x' became 7"):
        capture(Frozen().eval(), {"x": torch.rand(2, 7, 4)}, {"x": AXES})


def test_dropout_that_is_on_is_refused() -> None:
    class Noisy(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5, training=True)

    with pytest.raises(CaptureError, match="dropout is on"):
        capture(Noisy().eval(), {"x": torch.rand(2, 7, 4)}, {"x": AXES})


def test_in_place_ops_are_captured_as_values() -> None:
    class InPlace(nn.Module):
        def forward(self, x):
            y = x * 2
            y.add_(1)
            y[:, :1] = 0
            return y.masked_fill_(y > 1, 0.5)

    program = capture(InPlace().eval(), {"x": torch.rand(2, 7, 4)}, {"x": AXES})
    close(InPlace().eval(), program, {"x": np.random.default_rng(0).random((2, 3, 4), np.float32)})


def test_ranges_meet_what_tracing_proved() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                        num_attention_heads=2, max_position_embeddings=20)  # fmt: skip
    ids = torch.zeros(2, 7, dtype=torch.long)
    program = capture(BertModel(config).eval(), {"input_ids": ids}, {"input_ids": AXES},
                      constants={"return_dict": True}, ranges={"seq": Range(1, 512), "batch": Range(1, 4)})  # fmt: skip
    assert program.symbols == {"batch": Range(1, 4), "seq": Range(1, 20)}


def _models():
    from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "max_position_embeddings": 64}  # fmt: skip
    gpt2 = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0)
    return {
        "bert": lambda: BertModel(BertConfig(**sizes)),
        "gpt2": lambda: GPT2LMHeadModel(gpt2),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2)),
    }


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_families_keep_one_attention_per_layer(name: str) -> None:
    torch.manual_seed(0)
    module = _models()[name]().eval()
    for p in module.parameters():  # norms of all ones and biases of zero would hide a swap
        if p.dim() == 1:
            nn.init.normal_(p, 0.5, 0.3)
    constants = {"return_dict": True} if name == "bert" else {"return_dict": True, "use_cache": False}
    sample = {"input_ids": torch.randint(0, 64, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    program = capture(module, sample, dict.fromkeys(sample, AXES), constants=constants)
    attention = [n for n in program.entry.nodes if n.op.name == "attention"]
    assert len(attention) == 2
    assert all(n.attrs["causal"] is (name != "bert") and n.inputs[3].type.rank == 2 for n in attention)
    assert all(n.where.line and n.where.file.startswith("transformers/models/") for n in attention)
    rng = np.random.default_rng(0)
    for seq, real in ((9, slice(None)), (12, slice(5, None)), (13, slice(None, 8)), (1, slice(None))):
        mask = np.zeros((3, seq), np.int64)
        mask[:, real] = 1
        arrays = {"input_ids": rng.integers(0, 64, (3, seq)), "attention_mask": mask}
        close(module, program, arrays, mask.astype(bool), **constants)


@pytest.mark.parametrize("seq", [1, 4, 6, 9])
def test_padding_by_a_size_that_varies_and_by_less_than_nothing(seq: int):
    class Pads(nn.Module):
        def forward(self, x):
            n = x.shape[1]
            return {"whole": F.pad(x, (1, 2, -n % 4, n), value=3.0), "cut": F.pad(x, (-1, 0)), "odd": F.pad(x, (-2, 5))}

    module = Pads().eval()
    program = capture(module, {"x": torch.zeros(2, 7, 4)}, {"x": AXES})
    close(module, program, {"x": np.random.default_rng(seq).standard_normal((2, seq, 4)).astype(np.float32)})
