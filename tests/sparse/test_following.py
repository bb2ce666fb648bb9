"""Sparse layers follow what is done to a model, or say why they cannot."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import excise
from excise.sparse import SparseConv2d, SparseLinear
from excise.sparse.kernels import Missing, available
from tests.sparse.test_sparsify import masked

needs_kernels = pytest.mark.skipif(
    isinstance(available(), Missing), reason="nothing runs sparse layers here"
)
KINDS = pytest.mark.parametrize("kind", ["linear", "conv"])


def made(kind: str, share: float = 0.8) -> tuple[Any, Any, Tensor]:
    """A dense layer, its sparse form, an input."""
    torch.manual_seed(0)
    if kind == "linear":
        dense: Any = masked(nn.Linear(40, 24), share)
        return dense, SparseLinear.of(dense), torch.randn(3, 5, 40)
    dense = masked(nn.Conv2d(6, 8, 3, stride=2, padding=1), share)
    return dense, SparseConv2d.of(dense), torch.randn(2, 6, 15, 12)


def by_weight(dense: Any, layer: Any, x: Tensor) -> Tensor:
    """What the layer's present weight gives."""
    with torch.no_grad():
        run = functional.linear if isinstance(dense, nn.Linear) else dense._conv_forward
        out: Tensor = run(x, layer.weight(), layer.bias)
    return out


@KINDS
def test_there_and_back_is_the_same_layer(kind: str) -> None:
    dense, layer, x = made(kind)
    again = layer.train(mode=False).dense()
    assert type(again) is type(dense)
    assert again.extra_repr() == dense.extra_repr()
    assert torch.equal(again.weight, dense.weight)
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(x), dense(x))
        again.weight.zero_()
    assert torch.equal(layer.weight(), dense.weight)


@KINDS
@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {}])
def test_any_optimizer_is_followed(kind: str, options: dict[str, Any]) -> None:
    dense, layer, x = made(kind)
    with torch.no_grad():
        before = layer(x)
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, **options)
    layer(x).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        after = layer(x)
    assert not torch.allclose(after, before)
    assert torch.allclose(after, by_weight(dense, layer, x), atol=1e-5)


@KINDS
def test_a_change_of_mode_makes_it_look_again(kind: str) -> None:
    dense, layer, x = made(kind)
    layer.train(mode=False)
    with torch.no_grad():
        layer(x)
        layer.train()
        layer.value.data.mul_(2)  # what an average of weights does; torch does not count it
        layer.train(mode=False)
        assert torch.allclose(layer(x), by_weight(dense, layer, x), atol=1e-5)


@KINDS
def test_frozen_weights_let_gradients_through(kind: str) -> None:
    dense, layer, x = made(kind)
    dense.requires_grad_(False)  # noqa: FBT003 - torch's own name for it
    layer.requires_grad_(False)  # noqa: FBT003 - as above
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    dense(one).square().sum().backward()
    layer(two).square().sum().backward()
    assert torch.allclose(one.grad, two.grad, atol=1e-5)  # type: ignore[arg-type]
    assert layer.value.grad is None
    assert SparseLinear.of(nn.Linear(2, 2).requires_grad_(False)).value.requires_grad is False  # noqa: FBT003


@KINDS
def test_a_state_of_another_support_is_taken(kind: str) -> None:
    _, one, x = made(kind)
    _, two, _ = made(kind, 0.5)
    with torch.no_grad():
        two(x)
        parameter = two.value
        two.load_state_dict(one.state_dict())
        assert two.value is parameter
        assert torch.equal(two.weight(), one.weight())
        assert torch.equal(two(x), one(x))
        three = copy.deepcopy(two)
        three.load_state_dict(one.state_dict(), assign=True)
        assert torch.equal(three(x), one(x))


@KINDS
def test_states_that_do_not_fit_are_refused_and_change_nothing(kind: str) -> None:
    dense, layer, x = made(kind)
    with torch.no_grad():
        before = layer(x)
        with pytest.raises(RuntimeError, match="is dense"):
            layer.load_state_dict(dense.state_dict())
        short = layer.state_dict() | {"value": layer.value[:-1].clone()}
        with pytest.raises(RuntimeError, match="numbers"):
            layer.load_state_dict(short)
        with pytest.raises(RuntimeError, match="bits"):
            layer.load_state_dict({"mask": torch.zeros_like(layer.mask)}, strict=False)
        with pytest.raises(RuntimeError, match="size mismatch for mask"):
            layer.load_state_dict(layer.state_dict() | {"mask": layer.mask[:-1]})
        assert torch.equal(layer(x), before)


@KINDS
def test_inference_mode_makes_and_runs_layers(kind: str) -> None:
    with torch.inference_mode():
        dense, layer, x = made(kind)
        assert torch.allclose(layer(x), dense(x), atol=1e-5)
        assert torch.allclose(layer(x), dense(x), atol=1e-5)


@KINDS
def test_without_numbers_there_are_shapes(kind: str) -> None:
    dense, layer, x = made(kind)
    bare = copy.deepcopy(layer).to("meta")
    assert bare(x.to("meta")).shape == dense(x).shape
    exported = torch.export.export(layer, (x,))  # which has not run yet
    with torch.no_grad():
        assert torch.allclose(exported.module()(x), dense(x), atol=1e-5)


@needs_kernels
def test_a_model_with_sparse_layers_is_traced_and_pinned() -> None:
    _, layer, _ = made("linear")
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(24, 5)).eval()
    x = torch.randn(3, 40)
    with torch.no_grad():
        wanted = model(x)
    graph = excise.trace(model, x)
    assert "0.value" in str(graph)
    with torch.no_grad():
        assert torch.equal(model(x), wanted)


@KINDS
def test_autocast_runs(kind: str) -> None:
    dense, layer, x = made(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for sample in (x, x.bfloat16()):
            assert torch.allclose(layer(sample).float(), dense(sample).float(), atol=0.1)
