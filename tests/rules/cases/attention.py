"""Cases: scaled dot product attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from tests.rules.oracle import Case, active, buffer, flags

sdpa = F.scaled_dot_product_attention
Q, K, V = active(2, 3, 4, 5), active(2, 3, 6, 5), active(2, 3, 6, 7)


def _grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return sdpa(q, k, v, enable_gqa=True)


def _by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) / 2.0).softmax(-1) @ v


def _several(function: Any) -> Any:
    return lambda q, k, v: function(q, k, v)[0]


def _written(name: str, place: int, *, mask: bool = False) -> Case:
    """A causal form that this machine never runs; its flag stands at a place of its own."""

    def write(q: Any, k: Any, v: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        between = [None, *[0.0] * (place - 4)] if mask else [0.0] * (place - 3)
        return name, (q, k, v, *between, True), {}

    flash = "flash" in name or "cudnn" in name
    out, value = ("e*", K) if flash else ("f", V)
    claim = f"n h T e*, n h S* e*, n h S* {out} -> n h T {out}"
    return Case(f"{name}, causal", claim, _causal, (Q, K, value), written=write)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return sdpa(q, k, v, is_causal=True)


CASES = (
    _written("_scaled_dot_product_attention_math", 5, mask=True),
    _written("_scaled_dot_product_fused_attention_overrideable", 5, mask=True),
    _written("_scaled_dot_product_efficient_attention", 6, mask=True),
    _written("_scaled_dot_product_cudnn_attention", 6, mask=True),
    _written("_scaled_dot_product_flash_attention", 4),
    _written("_scaled_dot_product_flash_attention_for_cpu", 4),
    Case("attention", "n h t e*, n h s* e*, n h s* f -> n h t f", sdpa, (Q, K, V)),
    Case(
        "attention without batch",
        "h t e*, h s* e*, h s* f -> h t f",
        sdpa,
        (active(3, 4, 5), active(3, 6, 5), active(3, 6, 7)),
    ),
    Case(
        "attention, causal",
        "n h T e*, n h S* e*, n h S* f -> n h T f",
        lambda q, k, v: sdpa(q, k, v, is_causal=True),
        (Q, K, V),
    ),
    Case(
        "attention with scale",
        "n h t e*, n h s* e*, n h s* f -> n h t f",
        lambda q, k, v: sdpa(q, k, v, scale=0.5),
        (Q, K, V),
    ),
    Case(
        "attention with a mask",
        "n h t e*, n h s* e*, n h s* f, t s* -> n h t f",
        sdpa,
        (Q, K, V, flags(4, 6)),
    ),
    Case(
        "attention with a bias",
        "n h t e*, n h s* e*, n h s* f, 1 h t s* -> n h t f",
        lambda q, k, v, m: sdpa(q, k, v, attn_mask=m),
        (Q, K, V, active(1, 3, 4, 6)),
    ),
    Case(
        "attention of grouped heads",
        "n (h g) t e*, n h s* e*, n h s* f -> n (h g) t f",
        _grouped,
        (active(2, 6, 4, 5), active(2, 3, 6, 5), active(2, 3, 6, 7)),
    ),
    Case(
        "attention of one key head",
        "n h t e*, n 1 s* e*, n 1 s* f -> n h t f",
        _grouped,
        (active(2, 4, 3, 5), active(2, 1, 6, 5), active(2, 1, 6, 7)),
    ),
    Case("attention by hand", "n h t e*, n h s* e*, n h s* f -> n h t f", _by_hand, (Q, K, V)),
    Case(
        "flash attention",
        "n h t e*, n h s* e*, n h s* e* -> n h t e*",
        _several(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu),
        (active(2, 3, 4, 5), active(2, 3, 6, 5), active(2, 3, 6, 5)),
    ),
    Case(
        "flash attention with a mask",
        "n h t e*, n h s* e*, n h s* e*, 1 1 t s* -> n h t e*",
        lambda q, k, v, m: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, attn_mask=m
        )[0],
        (active(2, 3, 4, 5), active(2, 3, 6, 5), active(2, 3, 6, 5), buffer(1, 1, 4, 6)),
    ),
)
