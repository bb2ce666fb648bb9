"""Blocks on tokens, `batch positions width`, written as users write them."""

# ruff: noqa: D102 - the class says what its forward does

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name


class HandNorm(nn.Module):
    """RMSNorm as language models spell it out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def norm(kind: str, width: int) -> nn.Module:
    """A normalisation layer of the given kind."""
    if kind == "layer":
        return nn.LayerNorm(width)
    return {"rms": nn.RMSNorm, "hand": HandNorm}[kind](width) if kind != "none" else nn.Identity()


class Fused(nn.Module):
    """Attention with one projection for queries, keys and values (timm's)."""

    def __init__(self, width: int, heads: int, head_dim: int, *, how: str) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.how = heads, head_dim, how
        self.inner = heads * head_dim
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(width, 3 * self.inner, bias=how != "shape")
        self.proj = nn.Linear(self.inner, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if self.how == "chunk":
            q, k, v = (
                t.view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
                for t in self.qkv(x).chunk(3, dim=-1)
            )
        else:
            heads = self.num_heads
            qkv = self.qkv(x).reshape(b, n, 3, heads, self.inner // heads).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0) if self.how == "attribute" else (qkv[0], qkv[1], qkv[2])
        if self.how == "shape":
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        x = x.transpose(1, 2)
        out: Tensor = self.proj(x.reshape(b, n, -1 if self.how == "shape" else self.inner))
        return out


class Separate(nn.Module):
    """Attention with projections of their own, and fewer heads of keys and values."""

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, heads: int, head_dim: int, kv: int, *, how: str) -> None:
        super().__init__()
        self.num_heads, self.num_kv, self.head_dim, self.how = heads, kv, head_dim, how
        self.q, self.k = nn.Linear(width, heads * head_dim), nn.Linear(width, kv * head_dim)
        self.v, self.o = nn.Linear(width, kv * head_dim), nn.Linear(heads * head_dim, width)
        half = torch.arange(head_dim // 2) / head_dim
        angle = torch.outer(torch.arange(16), half + 0.1).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def turned(self, x: Tensor) -> Tensor:
        """Rotary positions."""
        n = x.shape[-2]
        a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * self.cos[:n] + torch.cat([-b, a], -1) * self.sin[:n]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, _ = x.size()
        q = self.q(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(b, n, self.num_kv, self.head_dim).transpose(1, 2)
        v = self.v(x).view(b, n, self.num_kv, self.head_dim).transpose(1, 2)
        if self.how == "rotary":
            q, k = self.turned(q), self.turned(k)
        times = self.num_heads // self.num_kv
        if self.how == "gqa":
            y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        else:
            if self.how == "expand":
                k = k[:, :, None].expand(-1, -1, times, -1, -1).flatten(1, 2)
                v = v[:, :, None].expand(-1, -1, times, -1, -1).flatten(1, 2)
            else:
                k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, dim=1)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.o(
            y.transpose(1, 2).contiguous().view(b, n, self.num_heads * self.head_dim)
        )
        return out


class Torch(nn.Module):
    """Torch's own attention layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attn(x, x, x, need_weights=False)[0]
        return out


class Encoder(nn.Module):
    """Torch's own encoder layer, behind or around which the block adds once more."""

    def __init__(self, width: int, heads: int, *, first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=10, batch_first=True, norm_first=first
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class Cross(nn.Module):
    """Attention to a memory of another width, with weights that are returned."""

    def __init__(self, width: int, heads: int, memory: int) -> None:
        super().__init__()
        self.memory = nn.Linear(width, memory)
        self.attn = nn.MultiheadAttention(
            width, heads, kdim=memory, vdim=memory, batch_first=True, bias=memory > 5
        )

    def forward(self, x: Tensor) -> Tensor:
        memory = self.memory(x).relu()
        y: Tensor
        y, weights = self.attn(x, memory, memory)
        out: Tensor = y * weights.amax((1, 2))[:, None, None]
        return out


class Loop(nn.Module):
    """Heads one by one, by positions that Python computes, and a scale computed on the way."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.q, self.k = nn.Linear(width, heads * head_dim), nn.Linear(width, heads * head_dim)
        self.v, self.o = nn.Linear(width, heads * head_dim), nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        made = []
        for i in range(self.heads):
            part = slice(i * self.head_dim, (i + 1) * self.head_dim)
            scores = q[..., part] @ k[..., part].mT / self.head_dim**0.5
            made.append(scores.softmax(-1) @ v[..., part])
        out: Tensor = self.o(torch.cat(made, -1))
        return out


class Mlp(nn.Module):
    """Feed-forward: plain, gated by a second projection, or gated by half of one."""

    def __init__(self, width: int, hidden: int, *, how: str) -> None:
        super().__init__()
        self.how, self.hidden = how, hidden
        self.up = nn.Linear(width, 2 * hidden if how in {"chunk", "split"} else hidden)
        self.gate = nn.Linear(width, hidden, bias=False) if how == "gated" else None
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        if self.how == "chunk":
            a, b = y.chunk(2, -1)
            y = a * F.silu(b)
        elif self.how == "split":
            a, b = y.split(self.hidden, -1)
            y = F.gelu(a) * b
        else:
            y = F.gelu(y) if self.gate is None else F.silu(self.gate(x)) * y
        out: Tensor = self.down(y)
        return out


class Experts(nn.Module):
    """Stacked experts, mixed by a softmax."""

    def __init__(self, width: int, hidden: int, count: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, count, bias=False)
        self.up = nn.Parameter(torch.empty(count, width, hidden))
        self.down = nn.Parameter(torch.empty(count, hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.router(x).softmax(-1)
        y = torch.einsum("bnd,edh->bneh", x, self.up).relu()
        return torch.einsum("bneh,ehd,bne->bnd", y, self.down, weight)


class Mixing(nn.Module):
    """A linear layer over positions, and one over the width by `matmul` (MLP-Mixer)."""

    def __init__(self, width: int, positions: int) -> None:
        super().__init__()
        self.across = nn.Linear(positions, 6)
        self.back = nn.Conv1d(6, positions, 1)
        self.weight = nn.Parameter(torch.empty(width, width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.back(self.across(x.transpose(1, 2)).transpose(1, 2).relu())
        return y @ self.weight


class Block(nn.Module):
    """A residual branch, its norm in front or behind."""

    def __init__(self, inner: nn.Module, width: int, kind: str, *, before: bool) -> None:
        super().__init__()
        self.norm, self.inner, self.before = norm(kind, width), inner, before

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.inner(self.norm(x)) if self.before else self.norm(x + self.inner(x))
        return out
