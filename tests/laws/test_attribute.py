"""Law: every number that a layer prints is the length of one of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tests.laws import token
from tests.laws.cut import Cut, Request, cut, outputs
from tests.strategies import Network


def holds(found: Cut) -> None:
    """Attributes agree with tensors, are plain ints, and the model gives the same shapes."""
    wrong = list(complaints(found.small))
    assert not wrong, wrong
    wanted = outputs(found.model, found.args, found.kwargs)
    given = outputs(found.small, found.args, found.kwargs)
    shapes = [t.shape for t in given], [t.shape for t in wanted]
    assert shapes[0] == shapes[1], shapes
    assert all(bool(torch.isfinite(t).all()) for t in given)
    for name, module in found.small.named_modules():
        assert type(module) is type(found.model.get_submodule(name))


def _linear(m: Any) -> Iterator[tuple[object, object]]:
    yield (m.out_features, m.in_features), tuple(m.weight.shape)
    if m.bias is not None:
        yield m.out_features, m.bias.numel()


def _convolution(m: Any) -> Iterator[tuple[object, object]]:
    out, wide = (m.in_channels, m.out_channels) if m.transposed else (m.out_channels, m.in_channels)
    yield (out, wide // m.groups), tuple(m.weight.shape[:2])
    yield (m.in_channels % m.groups, m.out_channels % m.groups), (0, 0)
    yield tuple(m.kernel_size), tuple(m.weight.shape[2:])
    if m.bias is not None:
        yield m.out_channels, m.bias.numel()


def _batch_norm(m: Any) -> Iterator[tuple[object, object]]:
    for tensor in (m.weight, m.bias, m.running_mean, m.running_var):
        if tensor is not None:
            yield m.num_features, tensor.numel()


def _layer_norm(m: Any) -> Iterator[tuple[object, object]]:
    yield tuple(m.normalized_shape), tuple(m.weight.shape)


def _group_norm(m: Any) -> Iterator[tuple[object, object]]:
    yield m.num_channels, m.weight.numel()
    yield m.num_channels % m.num_groups, 0


def _embedding(m: Any) -> Iterator[tuple[object, object]]:
    yield (m.num_embeddings, m.embedding_dim), tuple(m.weight.shape)


def _attention(m: Any) -> Iterator[tuple[object, object]]:
    if m.in_proj_weight is not None:
        yield (3 * m.embed_dim, m.kdim), tuple(m.in_proj_weight.shape)
    else:
        yield (m.embed_dim, m.kdim), tuple(m.k_proj_weight.shape)
        yield m.vdim, m.v_proj_weight.shape[1]
    yield m.num_heads * m.head_dim, m.embed_dim
    yield m.vdim, m.kdim


def _recurrent(m: Any) -> Iterator[tuple[object, object]]:
    gates = {"LSTM": 4, "GRU": 3}.get(m.mode, 1)
    yield (gates * m.hidden_size, m.input_size), tuple(m.weight_ih_l0.shape)
    yield (gates * m.hidden_size, m.proj_size or m.hidden_size), tuple(m.weight_hh_l0.shape)


def _fused(m: Any) -> Iterator[tuple[object, object]]:
    yield 3 * m.proj.in_features, m.qkv.out_features
    if m.how == "chunk":  # the other ways do not read `head_dim`
        yield m.num_heads * m.head_dim, m.proj.in_features
    else:
        yield m.inner, m.proj.in_features
        yield m.inner % m.num_heads, 0


def _separate(m: Any) -> Iterator[tuple[object, object]]:
    yield m.num_heads * m.head_dim, m.q.out_features
    yield m.num_kv * m.head_dim, m.k.out_features
    yield m.cos.shape[1] if m.how == "rotary" else m.head_dim, m.head_dim


TABLE: dict[type[nn.Module], Callable[[Any], Iterator[tuple[object, object]]]] = {
    nn.Linear: _linear,
    nn.modules.conv._ConvNd: _convolution,
    nn.modules.batchnorm._NormBase: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _recurrent,
    token.Fused: _fused,
    token.Separate: _separate,
}


def complaints(model: nn.Module) -> Iterator[str]:
    """Every attribute that is not the length it repeats, and every int that is not just an int."""
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            many = value if isinstance(value, (tuple, list)) else (value,)
            if any(isinstance(v, int) and type(v) not in (int, bool) for v in many):
                yield f"{path}.{key} is a {type(value).__name__}"
        for kind, row in TABLE.items():
            if isinstance(module, kind):
                for number, (said, measured) in enumerate(row(module)):
                    if said != measured:
                        yield f"{path} ({kind.__name__}, {number}) says {said}, has {measured}"


CASES = {
    "image": (
        Network(
            "image",
            (("Conv", (("kind", "batch"), ("groups", 1), ("size", 3))),),
            (6, 6),
            (("head", "pool"),),
        ),
        "blocks.0.norm",
        "num_features",
    ),
    "token": (
        Network(
            "token",
            (("Separate", (("heads", 4), ("head_dim", 4), ("kv", 2), ("how", "gqa"))),),
            (6,),
            (
                ("front", "linear"),
                ("head", "all"),
                ("kind", "layer"),
                ("before", True),
                ("shared", False),
            ),
        ),
        "blocks.0.inner",
        "num_kv",
    ),
    "series": (
        Network(
            "series",
            (),
            (),
            (
                ("kind", "GRU"),
                ("wide", 4),
                ("hidden", 8),
                ("layers", 1),
                ("both", False),
                ("project", 0),
                ("head", "last"),
            ),
        ),
        "rnn",
        "hidden_size",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_stale_attribute_is_seen(name: str) -> None:
    """Meta-test: one attribute keeps the value it had."""
    network, path, attribute = CASES[name]
    found = cut(Request(network, 1, 0.5))
    holds(found)
    module = found.small.get_submodule(path)
    vars(module)[attribute] += 1
    with pytest.raises((AssertionError, RuntimeError)):
        holds(found)
