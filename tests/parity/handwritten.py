"""Attention as people write it in plain torch: one small module a form, with what it should become."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

B, S, H, D = 3, 9, 4, 8  # batch, length, heads, size of a head
WIDTH = H * D
LONGEST = 24


@dataclass(frozen=True)
class Form:
    """make: the module. inputs: `x` [b, s, width], `mask` [b, s] i64 (1 is real), `memory` [b, t, width].

    raised: how many `attention` ops it becomes; the attributes that each must have.
    blind: what eager gives in a row that may look at nothing: `nan`, `zero`, `uniform`, or "" where there is none such.
    """

    make: Callable[[], nn.Module]
    inputs: tuple[str, ...] = ("x",)
    raised: int = 1
    attrs: tuple[tuple[str, object], ...] = ()
    blind: str = ""
    declines: str = ""


FORMS: dict[str, Form] = {}


def form(*inputs: str, raised: int = 1, blind: str = "", declines: str = "", **attrs: object) -> Callable:
    def enter(cls: type[nn.Module]) -> type[nn.Module]:
        FORMS[cls.__name__] = Form(cls, inputs or ("x",), raised, tuple(attrs.items()), blind, declines)
        return cls

    return enter


class Projected(nn.Module):
    """q, k, v by three linears, heads first."""

    groups = H

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, WIDTH)
        self.k, self.v = nn.Linear(WIDTH, self.groups * D), nn.Linear(WIDTH, self.groups * D)
        self.out = nn.Linear(WIDTH, WIDTH)

    def heads(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        y = x if memory is None else memory
        b, s, t = x.shape[0], x.shape[1], y.shape[1]
        q = self.q(x).view(b, s, H, D).transpose(1, 2)
        k, v = (f(y).view(b, t, self.groups, D).transpose(1, 2) for f in (self.k, self.v))
        return q, k, v

    def join(self, y: Tensor) -> Tensor:
        b, h, s, d = y.shape
        return self.out(y.transpose(1, 2).contiguous().view(b, s, h * d))


@form()
class Plain(Projected):
    """matmul, / sqrt(d), softmax, dropout, matmul."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(D)
        return self.join(torch.matmul(self.dropout(F.softmax(scores, dim=-1)), v))


@form(causal=True)
class NanoGPT(nn.Module):
    """A registered tril buffer sliced to the length, one qkv linear split in three."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("bias", torch.tril(torch.ones(LONGEST, LONGEST)).view(1, 1, LONGEST, LONGEST))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(WIDTH, dim=2)
        k = k.view(b, t, H, c // H).transpose(1, 2)
        q = q.view(b, t, H, c // H).transpose(1, 2)
        v = v.view(b, t, H, c // H).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))


@form(causal=True)
class GPT2Where(Projected):
    """GPT-2's own: a boolean tril buffer cut at both ends, torch.where with finfo.min."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.tril(torch.ones((LONGEST, LONGEST), dtype=torch.bool)).view(1, 1, LONGEST, LONGEST)
        self.register_buffer("bias", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        w = torch.matmul(q, k.transpose(-1, -2))
        w = w / torch.full([], v.size(-1) ** 0.5, dtype=w.dtype)
        lengths = q.size(-2), k.size(-2)
        keep = self.bias[:, :, lengths[1] - lengths[0] : lengths[1], : lengths[1]]
        w = torch.where(keep, w.to(w.dtype), torch.full([], torch.finfo(w.dtype).min, dtype=w.dtype))
        return self.join(torch.matmul(F.softmax(w, dim=-1).type(v.dtype), v))


@form(causal=True)
class TriuInside(Projected):
    """A boolean triu made in forward, masked_fill with -inf, the query scaled beforehand."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        s = x.shape[1]
        ahead = torch.triu(torch.ones(s, s, dtype=torch.bool), diagonal=1)
        scores = (q * D**-0.5) @ k.mT
        return self.join(scores.masked_fill(ahead, float("-inf")).softmax(-1) @ v)


@form(causal=True)
class AdditiveTriu(Projected):
    """The annotated Transformer's square mask: triu of -inf, added."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.triu(torch.full((LONGEST, LONGEST), float("-inf")), diagonal=1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        s = x.shape[1]
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(D) + self.mask[:s, :s]
        return self.join(torch.matmul(F.softmax(scores.float(), dim=-1).type_as(q), v))


@form("x", "mask", blind="uniform")
class PaddedFinite(Projected):
    """A padding mask by masked_fill with -1e9, as the annotated Transformer does."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(D)
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e9)
        return self.join(torch.matmul(scores.softmax(dim=-1), v))


@form("x", "mask", blind="nan")
class PaddedInf(Projected):
    """A padding mask by torch.where with -inf."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * D**-0.5
        scores = torch.where(mask[:, None, None].bool(), scores, torch.tensor(float("-inf")))
        return self.join(torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v))


@form("x", "mask", blind="uniform")
class BertExtended(Projected):
    """BERT's extended mask: (1 - mask) * -10000 added to the scores."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        extended = (1.0 - mask[:, None, None, :].to(x.dtype)) * -10000.0
        q, k, v = self.heads(x)
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(D)
        return self.join(torch.matmul(nn.Softmax(dim=-1)(scores + extended), v))


@form("x", "mask", blind="uniform")
class BertMin(Projected):
    """The newer extended mask, of the dtype's least number."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        extended = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        q, k, v = self.heads(x)
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(D)
        return self.join(torch.matmul(F.softmax(scores + extended, dim=-1), v))


@form("x", "mask", blind="uniform")
class CausalAndPadded(Projected):
    """Both in one boolean mask, filled with the least number."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        s = x.shape[1]
        seen = torch.tril(torch.ones(s, s, dtype=torch.bool))[None, None] & (mask[:, None, None, :] != 0)
        scores = (q @ k.transpose(-2, -1) * D**-0.5).masked_fill(~seen, torch.finfo(q.dtype).min)
        return self.join(scores.softmax(-1) @ v)


@form("x", "mask", causal=True, blind="nan")
class CausalThenPadded(Projected):
    """Two fills, one after the other."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        s = x.shape[1]
        scores = q @ k.transpose(-2, -1) * D**-0.5
        scores = scores.masked_fill(torch.ones(s, s, dtype=torch.bool).triu(1), float("-inf"))
        scores = scores.masked_fill(mask[:, None, None, :] == 0, float("-inf"))
        return self.join(scores.softmax(-1) @ v)


@form()
class HeadsLastEinsum(nn.Module):
    """einsum on [b, s, h, d], the projections by einsum too."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterList([nn.Parameter(torch.randn(WIDTH, H, D) * 0.2) for _ in range(3)])
        self.o = nn.Parameter(torch.randn(H, D, WIDTH) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bsm,mhd->bshd", x, w) for w in self.w)
        logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(D)
        context = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v)
        return torch.einsum("bqhd,hdm->bqm", context, self.o)


@form()
class ViTUnbind(nn.Module):
    """timm's: one qkv linear, reshape, permute(2, 0, 3, 1, 4), unbind."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
        attn = (q * D**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))


@form()
class LucidrainsChunk(nn.Module):
    """vit-pytorch's: chunk(3), rearrange, einsum with dots, scale after."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv, self.to_out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (t.reshape(b, n, H, D).permute(0, 2, 1, 3) for t in self.to_qkv(x).chunk(3, dim=-1))
        dots = torch.einsum("...id,...jd->...ij", q, k) * D**-0.5
        return self.to_out((dots.softmax(-1) @ v).permute(0, 2, 1, 3).reshape(b, n, -1))


@form(causal=True)
class GroupedInterleave(Projected):
    """Grouped keys and values by repeat_interleave."""

    groups = 2

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        k, v = (y.repeat_interleave(H // self.groups, dim=1) for y in (k, v))
        s = x.shape[1]
        scores = q @ k.transpose(-2, -1) / math.sqrt(D)
        scores = scores.masked_fill(~torch.ones(s, s, dtype=torch.bool).tril(), float("-inf"))
        return self.join(scores.softmax(-1) @ v)


@form()
class GroupedExpand(Projected):
    """Grouped keys and values by expand and reshape, as transformers' repeat_kv."""

    groups = 2

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        b, g, t, d = k.shape
        k, v = (y[:, :, None].expand(b, g, H // g, t, d).reshape(b, H, t, d) for y in (k, v))
        return self.join((q @ k.transpose(2, 3) * D**-0.5).softmax(-1, dtype=torch.float32).to(q.dtype) @ v)


@form()
class MultiQuery(nn.Module):
    """One key and value head for all, by broadcasting."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * D), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, s, _ = x.shape
        q = self.q(x).view(b, s, H, D).transpose(1, 2)
        k, v = self.kv(x).split([D, D], dim=-1)
        scores = torch.matmul(q, k[:, None].transpose(-1, -2)) * D**-0.5
        y = torch.matmul(scores.softmax(-1), v[:, None])
        return self.out(y.transpose(1, 2).reshape(b, s, WIDTH))


@form()
class MultiQueryEinsum(nn.Module):
    """One key and value head for all, by einsum, as PaLM is written."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * D), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, s, _ = x.shape
        q = self.q(x).view(b, s, H, D).transpose(1, 2) * D**-0.5
        k, v = self.kv(x).chunk(2, dim=-1)
        sim = torch.einsum("b h i d, b j d -> b h i j", q, k)
        sim = sim - sim.amax(dim=-1, keepdim=True).detach()
        y = torch.einsum("b h i j, b j d -> b h i d", sim.softmax(-1), v)
        return self.out(y.transpose(1, 2).reshape(b, s, WIDTH))


@form()
class GroupedEinsum(Projected):
    """Grouped queries by einsum over five letters."""

    groups = 2

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        b, _, s, d = q.shape
        q = q.reshape(b, self.groups, H // self.groups, s, d)
        scores = torch.einsum("bgnqd,bgkd->bgnqk", q, k) / math.sqrt(D)
        y = torch.einsum("bgnqk,bgkd->bgnqd", scores.softmax(-1), v)
        return self.join(y.reshape(b, H, s, d))


@form("x", "mask", blind="zero")
class SdpaMask(Projected):
    """F.scaled_dot_product_attention with a boolean mask."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.join(F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].bool()))


@form("x", "mask", blind="zero")
class SdpaAdditive(Projected):
    """F.scaled_dot_product_attention with a mask of 0 and -inf."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill(mask == 0, float("-inf"))[:, None, None]
        return self.join(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))


@form(causal=True)
class SdpaGrouped(Projected):
    """F.scaled_dot_product_attention, causal, with fewer key heads."""

    groups = 2

    def forward(self, x: Tensor) -> Tensor:
        return self.join(F.scaled_dot_product_attention(*self.heads(x), is_causal=True, enable_gqa=True))


@form(softcap=20.0, causal=True)
class Softcapped(Projected):
    """Gemma 2's: tanh(scores / cap) * cap before the mask."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        s = x.shape[1]
        scores = torch.matmul(q, k.transpose(2, 3)) * D**-0.5
        scores = torch.tanh(scores / 20.0) * 20.0
        i = torch.arange(s)
        scores = scores.masked_fill(i[None, :] > i[:, None], float("-inf"))
        return self.join(torch.matmul(F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype), v))


@form(causal=True)
class Alibi(Projected):
    """ALiBi: slopes times distance, and a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor([2.0 ** (-2 * (i + 1)) for i in range(H)]))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        at = torch.arange(x.shape[1])
        distance = at[None, :] - at[:, None]
        bias = self.slopes[:, None, None] * distance[None].to(x.dtype)
        scores = q @ k.transpose(-1, -2) * D**-0.5 + bias
        scores = scores.masked_fill((distance > 0)[None, None], float("-inf"))
        return self.join(scores.softmax(-1) @ v)


@form()
class RelativeTable(Projected):
    """A learned table of biases by relative position, as T5 and Swin look them up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(2 * LONGEST, H)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        at = torch.arange(x.shape[1])
        bias = self.table(at[None, :] - at[:, None] + LONGEST).permute(2, 0, 1).unsqueeze(0)
        return self.join((q @ k.transpose(-1, -2) + bias).softmax(-1) @ v)


@form("x", "memory")
class Cross(Projected):
    """Keys and values from another sequence."""

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k, v = self.heads(x, memory)
        return self.join(torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(D), dim=-1) @ v)


@form("x", "mask", blind="uniform")
class BmmMerged(nn.Module):
    """fairseq's: batch and heads in one axis, bmm, the mask viewed back and forth."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, s, _ = x.shape
        q, k, v = (f(x).view(b, s, H, D).transpose(1, 2).reshape(b * H, s, D) for f in (self.q, self.k, self.v))
        scores = torch.bmm(q * D**-0.5, k.transpose(1, 2)).view(b, H, s, s)
        scores = scores.masked_fill(mask[:, None, None, :] == 0, torch.finfo(x.dtype).min).view(b * H, s, s)
        y = torch.bmm(torch.softmax(scores, dim=-1), v).view(b, H, s, D)
        return self.out(y.transpose(1, 2).reshape(b, s, WIDTH))


@form()
class OneHead(nn.Module):
    """A single head without a head axis, as in first lessons."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(-2, -1) / math.sqrt(WIDTH), dim=-1)
        return weights @ self.v(x)


@form("x", "mask", blind="zero")
class LearnedFirst(nn.Module):
    """nn.MultiheadAttention, length first, with a key padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, H)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = x.transpose(0, 1)
        return self.attention(y, y, y, key_padding_mask=mask == 0, need_weights=False)[0].transpose(0, 1)


@form()
class LearnedScale(Projected):
    """Swin v2's: cosines of queries and keys, a learned factor for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.linspace(1.0, 3.0, H).view(H, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return self.join((scores * self.logit_scale.clamp(max=2.5).exp()).softmax(dim=-1) @ v)


@form(causal=True, window=4)
class SlidingWindow(Projected):
    """Causal and near, as local attention is written."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        at = torch.arange(x.shape[1])
        distance = at[:, None] - at[None, :]
        seen = (distance >= 0) & (distance < 4)
        scores = (q @ k.transpose(-2, -1) * D**-0.5).masked_fill(~seen, torch.finfo(q.dtype).min)
        return self.join(scores.softmax(-1) @ v)


@form("x", "mask", raised=0, declines="still gives them weight")
class WeakFill(Projected):
    """A fill of -10 is no mask: it must stay as it is written."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        scores = (q @ k.transpose(-2, -1) * D**-0.5).masked_fill(mask[:, None, None, :] == 0, -10.0)
        return self.join(scores.softmax(-1) @ v)


@form(raised=0, declines="not over the keys")
class OtherAxis(Projected):
    """A softmax over the queries is no attention."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.join((q @ k.transpose(-2, -1) * D**-0.5).softmax(-2) @ v)


@form(raised=0, declines="used elsewhere")
class WeightsKept(Projected):
    """The weights are an output too, so they must be computed."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.heads(x)
        weights = (q @ k.transpose(-2, -1) * D**-0.5).softmax(-1)
        return self.join(weights @ v), weights
