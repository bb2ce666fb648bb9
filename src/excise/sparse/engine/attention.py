"""Torch's fused attention operators, taken apart so that their products can be seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten


def _heads(x: Tensor, weight: Tensor, bias: Tensor, count: int) -> Tensor:
    """Self-attention of x (n, tokens, width), before the last projection."""
    n, tokens, width = x.shape
    joint = functional.linear(x, weight, bias).view(n, tokens, 3, count, width // count)
    q, k, v = joint.permute(2, 0, 3, 1, 4).unbind(0)
    mixed = functional.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).reshape(n, tokens, width)


def native_attention(  # noqa: PLR0917 - as the operator has them
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,  # noqa: FBT001, FBT002
    average_attn_weights: bool = True,  # noqa: FBT001, FBT002
    mask_type: int | None = None,
) -> Any:
    """`aten._native_multi_head_attention` without masks, of one input with itself."""
    del embed_dim, average_attn_weights, mask_type
    if mask is not None or need_weights or query is not key or key is not value:
        return NotImplemented
    mixed = _heads(query, qkv_weight, qkv_bias, num_head)
    return functional.linear(mixed, proj_weight, proj_bias), query.new_empty(0)


def encoder_layer(  # noqa: PLR0917 - as the operator has them
    src: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,  # noqa: FBT001
    norm_first: bool,  # noqa: FBT001
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Any:
    """`aten._transformer_encoder_layer_fwd` without masks."""
    del mask_type
    if mask is not None:
        return NotImplemented

    def attended(x: Tensor) -> Tensor:
        mixed = _heads(x, qkv_weight, qkv_bias, num_heads)
        return functional.linear(mixed, proj_weight, proj_bias)

    def spread(x: Tensor) -> Tensor:
        hidden = functional.linear(x, ffn_weight_1, ffn_bias_1)
        hidden = functional.gelu(hidden) if use_gelu else functional.relu(hidden)
        return functional.linear(hidden, ffn_weight_2, ffn_bias_2)

    def one(x: Tensor) -> Tensor:
        return functional.layer_norm(x, (embed_dim,), norm_weight_1, norm_bias_1, eps)

    def two(x: Tensor) -> Tensor:
        return functional.layer_norm(x, (embed_dim,), norm_weight_2, norm_bias_2, eps)

    if norm_first:
        middle = src + attended(one(src))
        return middle + spread(two(middle))
    middle = one(src + attended(src))
    return two(middle + spread(middle))


DECOMPOSITIONS: dict[Any, Any] = {
    aten._native_multi_head_attention.default: native_attention,  # noqa: SLF001
    aten._transformer_encoder_layer_fwd.default: encoder_layer,  # noqa: SLF001
}
