"""Attention in the ways that people write it, and experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from suites.micro import case


def tokens(width: int = 24, length: int = 7) -> Tensor:
    """A short sequence of vectors."""
    return torch.randn(2, length, width)


class Framed(nn.Module):
    """Embeds 6 numbers a token, runs a body, reads 5 out."""

    def __init__(self, body: nn.Module, width: int = 24) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(6, width), body, nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Stem, residual body, head."""
        x = self.stem(x)
        return self.head(x + self.body(x))  # type: ignore[no-any-return]


class Fused(nn.Module):
    """One projection for queries, keys and values, as timm writes it."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Softmax attention by hand."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))  # type: ignore[no-any-return]


@case()
def fused_qkv() -> Any:
    return Framed(Fused()), (tokens(6),)


class Grouped(nn.Module):
    """Grouped queries with rotary positions, causal, by the fused kernel."""

    def __init__(self, width: int = 24, heads: int = 4, shared: int = 2) -> None:
        super().__init__()
        self.heads, self.shared, self.dim = heads, shared, width // heads
        self.q, self.o = nn.Linear(width, width), nn.Linear(width, width)
        self.k, self.v = nn.Linear(width, width // 2), nn.Linear(width, width // 2)
        self.register_buffer("inv_freq", 1 / 100 ** (torch.arange(0, self.dim, 2) / self.dim))

    def rotate(self, x: Tensor) -> Tensor:
        """Rotary positions, halves layout."""
        angle = torch.arange(x.shape[-2])[:, None] * self.inv_freq  # type: ignore[operator]
        angle = torch.cat([angle, angle], -1)
        a, b = x.chunk(2, dim=-1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        """Keys and values serve a block of query heads each."""
        b, n, _ = x.shape
        q = self.rotate(self.q(x).view(b, n, self.heads, self.dim).transpose(1, 2))
        k = self.rotate(self.k(x).view(b, n, self.shared, self.dim).transpose(1, 2))
        v = self.v(x).view(b, n, self.shared, self.dim).transpose(1, 2)
        times = self.heads // self.shared
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(b, n, -1))  # type: ignore[no-any-return]


@case()
def grouped_query_rotary() -> Any:
    return Framed(Grouped()), (tokens(6),)


class GroupedKernel(Grouped):
    """The same with the kernel's own grouping."""

    def forward(self, x: Tensor) -> Tensor:
        """`enable_gqa`."""
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.dim).transpose(1, 2)
        k = self.k(x).view(b, n, self.shared, self.dim).transpose(1, 2)
        v = self.v(x).view(b, n, self.shared, self.dim).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.o(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


@case()
def grouped_query_kernel() -> Any:
    return Framed(GroupedKernel()), (tokens(6),)


class Interleaved(Fused):
    """Rotary positions of the other layout: neighbours are pairs, through complex numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """Pairs as complex numbers."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, self.head_dim).unbind(2)
        angle = torch.outer(torch.arange(n), torch.arange(self.head_dim // 2) + 1.0)
        turn = torch.polar(torch.ones_like(angle), angle)[None, :, None]
        q, k = (
            torch.view_as_real(torch.view_as_complex(t.reshape(*t.shape[:-1], -1, 2)) * turn)
            .flatten(3)
            .transpose(1, 2)
            for t in (q, k)
        )
        y = F.scaled_dot_product_attention(q, k, v.transpose(1, 2))
        return self.proj(y.transpose(1, 2).reshape(b, n, c))  # type: ignore[no-any-return]


@case()
def rotary_complex() -> Any:
    return Framed(Interleaved()), (tokens(6),)


class Partly(nn.Module):
    """Complex rotary positions on the last part of a head: torch wants its rows even."""

    def __init__(self, width: int = 24, heads: int = 2, plain: int = 6, turned: int = 4) -> None:
        super().__init__()
        self.heads, self.plain, self.turned = heads, plain, turned
        self.q, self.k = (nn.Linear(width, heads * (plain + turned)) for _ in range(2))
        self.v, self.o = nn.Linear(width, heads * 8), nn.Linear(heads * 8, width)

    def turn(self, x: Tensor) -> Tensor:
        """Turn the last part by its position."""
        plain, turned = x.split([self.plain, self.turned], dim=-1)
        angle = torch.outer(torch.arange(x.shape[2]), torch.arange(self.turned // 2) + 1.0)
        pairs = torch.view_as_complex(turned.reshape(*turned.shape[:-1], -1, 2))
        turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(3)
        return torch.cat([plain, turned], -1)

    def forward(self, x: Tensor) -> Tensor:
        """Attention with a part that does not turn."""
        b, n, _ = x.shape
        q, k, v = (
            f(x).view(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return self.o(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


@case()
def rotary_complex_on_a_part() -> Any:
    return Framed(Partly()), (tokens(6),)


class Windowed(Fused):
    """Attention within overlapping windows that are read by `as_strided`."""

    def forward(self, x: Tensor) -> Tensor:
        """Windows of four, two apart; each position is read back from the first that has it."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = (self.windows(t.reshape(b * self.num_heads, n, self.head_dim)) for t in (q, k, v))
        y = (q @ k.transpose(-2, -1) / 2.0).softmax(-1) @ v
        y = torch.cat([y[:, 0], y[:, 1:, 2:].flatten(1, 2)], 1)
        y = y.view(b, self.num_heads, n, self.head_dim).transpose(1, 2)
        return self.proj(y.reshape(b, n, c))  # type: ignore[no-any-return]

    @staticmethod
    def windows(x: Tensor) -> Tensor:
        """As Longformer cuts its chunks."""
        x = x.view(x.shape[0], x.shape[1] // 4, 4, x.shape[2])
        size, stride = list(x.shape), list(x.stride())
        size[1], stride[1] = size[1] * 2 - 1, stride[1] // 2
        return x.as_strided(size, stride)


@case()
def overlapping_windows() -> Any:
    return Framed(Windowed()), (torch.randn(2, 8, 6),)


class Einsum(nn.Module):
    """Weights with a dimension for each thing, and einsum."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.qkv = nn.Parameter(torch.randn(3, heads, width // heads, width) * 0.2)
        self.out = nn.Parameter(torch.randn(width, heads, width // heads) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        """No view anywhere."""
        q, k, v = torch.einsum("bne,khde->kbhnd", x, self.qkv)
        weights = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1)
        return torch.einsum("bhnm,bhmd,ehd->bne", weights, v, self.out)


@case()
def attention_einsum() -> Any:
    return Framed(Einsum()), (tokens(6),)


class Torch(nn.Module):
    """`nn.MultiheadAttention`."""

    def __init__(self, width: int = 24, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Self-attention; the weights are returned too, and ignored."""
        out: Tensor = self.attention(x, x, x)[0]
        return out


@case()
def multihead_attention() -> Any:
    return Framed(Torch()), (tokens(6),)


@case()
def multihead_attention_own_widths() -> Any:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(24, 4, kdim=16, vdim=12, batch_first=True)
            self.k, self.v = nn.Linear(24, 16), nn.Linear(24, 12)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.attention(x, self.k(x), self.v(x), need_weights=False)[0]
            return out

    return Framed(Cross()), (tokens(6),)


@case()
def transformer_encoder() -> Any:
    layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
    return Framed(nn.TransformerEncoder(layer, 2)), (tokens(6),)


@case()
def transformer_decoder() -> Any:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Transformer(24, 4, 1, 1, 48, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            mask = self.net.generate_square_subsequent_mask(x.shape[1])
            out: Tensor = self.net(x, x, tgt_mask=mask)
            return out

    return Framed(Both()), (tokens(6),)


class Window(nn.Module):
    """Swin: shifted windows with a table of relative positions."""

    def __init__(self, width: int = 24, heads: int = 4, side: int = 2) -> None:
        super().__init__()
        self.side, self.attention = side, Fused(width, heads)
        self.table = nn.Parameter(torch.randn((2 * side - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij")).flatten(1)
        apart = (grid[:, :, None] - grid[:, None]).permute(1, 2, 0) + side - 1
        self.register_buffer("index", apart[..., 0] * (2 * side - 1) + apart[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        """`b (h w) c` with h = w = 4."""
        b, _, c = x.shape
        s, a = self.side, self.attention
        x = torch.roll(x.view(b, 4, 4, c), (-1, -1), (1, 2))
        x = x.view(b, 4 // s, s, 4 // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        q, k, v = a.qkv(x).view(-1, s * s, 3, a.num_heads, a.head_dim).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(s * s, s * s, -1).permute(2, 0, 1)  # type: ignore[operator]
        y = ((q * a.scale) @ k.mT + bias[None]).softmax(-1) @ v
        y = a.proj(y.transpose(1, 2).reshape(-1, s * s, c))
        y = y.view(b, 4 // s, 4 // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(b, 4, 4, c)
        return torch.roll(y, (1, 1), (1, 2)).view(b, 16, c)


@case()
def window_attention() -> Any:
    return Framed(Window()), (tokens(6, 16),)


class Routed(nn.Module):
    """Experts as a list of modules; each takes the tokens that chose it."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 16), nn.SiLU(), nn.Linear(16, width)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Top two of four."""
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat).softmax(-1).topk(2)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows, slot = torch.where(chosen == i)
            out.index_add_(0, rows, weights[rows, slot, None] * expert(flat[rows]))
        return out.view_as(x)


@case()
def experts_in_a_list() -> Any:
    return Framed(Routed()), (tokens(6),)


class Stacked(nn.Module):
    """Experts stacked in three dimensions, all of them run, softly mixed."""

    def __init__(self, width: int = 24, experts: int = 6) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, 32) * 0.2)
        self.down = nn.Parameter(torch.randn(experts, 16, width) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Gated units in each expert."""
        flat = x.reshape(-1, x.shape[-1])
        weights = self.gate(flat).softmax(-1)
        a, b = torch.bmm(flat.expand(self.up.shape[0], -1, -1), self.up).chunk(2, -1)
        y = torch.bmm(F.silu(a) * b, self.down)
        return (y * weights.t()[:, :, None]).sum(0).view_as(x)  # type: ignore[no-any-return]


@case()
def experts_stacked() -> Any:
    return Framed(Stacked()), (tokens(6),)


class Chosen(Stacked):
    """Each token's two experts: their weights are picked by the number that `topk` gave."""

    def forward(self, x: Tensor) -> Tensor:
        """Picks stacked weights."""
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat).softmax(-1).topk(2)
        number = chosen.reshape(-1)
        rows = flat.repeat_interleave(2, 0)
        a, b = torch.bmm(rows[:, None], self.up[number])[:, 0].chunk(2, -1)
        y = torch.bmm((F.silu(a) * b)[:, None], self.down[number])[:, 0]
        return (y.view(*chosen.shape, -1) * weights[..., None]).sum(1).view_as(x)  # type: ignore[no-any-return]


@case(0.99)
def experts_chosen() -> Any:
    return Framed(Chosen()), (tokens(6),)


class Masked(Stacked):
    """All experts run, weighted by what `one_hot` and `scatter` make of the choice."""

    def forward(self, x: Tensor) -> Tensor:
        """Two ways to spread the weights, added."""
        flat = x.reshape(-1, x.shape[-1])
        scores = self.gate(flat).softmax(-1)
        weights, chosen = scores.topk(2)
        hot = F.one_hot(chosen, self.up.shape[0]).to(x.dtype)
        spread = (hot * weights[..., None]).sum(1) + torch.zeros_like(scores).scatter(
            1, chosen, weights
        )
        a, b = torch.bmm(flat.expand(self.up.shape[0], -1, -1), self.up).chunk(2, -1)
        y = torch.bmm(F.silu(a) * b, self.down)
        return (y * spread.t()[:, :, None]).sum(0).view_as(x)  # type: ignore[no-any-return]


@case(0.99)
def experts_masked() -> Any:
    return Framed(Masked()), (tokens(6),)


class Sorted(Stacked):
    """Tokens sorted by expert, counted, and multiplied group by group."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = 6

    def forward(self, x: Tensor) -> Tensor:
        """`grouped_mm`."""
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat).softmax(-1).topk(2)
        number, order = torch.sort(chosen.reshape(-1))
        counts = torch.histc(number.float(), bins=self.experts, min=0, max=self.experts - 1)
        ends = counts.cumsum(0, dtype=torch.int32)
        up, down = self.up, self.down
        a, b = torch.nn.functional.grouped_mm(flat[order // 2], up, offs=ends).chunk(2, -1)
        y = torch.nn.functional.grouped_mm(F.silu(a) * b, down, offs=ends)
        y = y * weights.reshape(-1)[order][:, None]
        out = torch.zeros_like(y).index_copy(0, order, y)
        return out.view(flat.shape[0], 2, -1).sum(1).view_as(x)


@case(0.99)
def experts_sorted() -> Any:
    return Framed(Sorted()), (tokens(6),)


@case(0.3)
def experts_told() -> Any:
    """The numbers of the chosen experts are an output, so no expert may go."""

    class Told(Chosen):
        def forward(self, x: Tensor) -> Any:
            flat = x.reshape(-1, x.shape[-1])
            chosen = self.gate(flat).softmax(-1).topk(2)[1]
            return super().forward(x), chosen

    class Both(Framed):
        def forward(self, x: Tensor) -> Any:
            x = self.stem(x)
            y, chosen = self.body(x)
            return self.head(x + y), chosen

    return Both(Told()), (tokens(6),)
