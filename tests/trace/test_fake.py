"""Remembered and drawn outcomes are what torch's fake tensor mode would have said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves, tree_map_only

from excise.trace import fake, skeleton
from excise.trace.fake import Fakes
from excise.trace.outline import ROWS, outline

aten = torch.ops.aten
X, W = torch.randn(2, 4, 6), torch.randn(4)
UNARY = ("relu", "silu", "gelu", "sigmoid", "tanh", "hardswish", "hardsigmoid")
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    **{name: (getattr(aten, name).default, (X,)) for name in UNARY},
    "_softmax": (aten._softmax.default, (X, -1, False)),
    "_safe_softmax": (aten._safe_softmax.default, (X, 1)),
    **{name: (getattr(aten, name).Tensor, (X, X)) for name in ("add", "sub", "mul", "div")},
    "native_batch_norm": (aten.native_batch_norm.default, (X, W, W, W, W, False, 0.1, 1e-5)),
    "native_layer_norm": (aten.native_layer_norm.default, (X, [4, 6], X[0], X[0], 1e-5)),
    "view": (aten.view.default, (X, [4, -1])),
    "_unsafe_view": (aten._unsafe_view.default, (X, [8, 1, 6])),
    "cat": (aten.cat.default, ([X, X[:, :1].contiguous()], -2)),
    "linear": (torch._C._nn.linear, (X, torch.randn(5, 6), torch.randn(5))),
}
UNTOLD: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "statistics of the batch": (aten.native_batch_norm.default, (X, W, W, W, W, True, 0.1, 1e-5)),
    "another layout": (aten.relu.default, (X.mT,)),
    "statistics in another type": (
        aten.native_layer_norm.default,
        (X.half(), [6], None, None, 1e-5),
    ),
    "two types": (aten.add.Tensor, (X, X.double())),
    "two shapes": (aten.add.Tensor, (X, X[0])),
    "nothing there": (aten.cat.default, ([X, torch.randn(0)], 0)),
    "a wider result": (aten._softmax.default, (X, -1, True)),
}


def told(tree: Any) -> list[Any]:
    """All that is known of the tensors in a result."""
    return [
        (tuple(t.shape), t.stride(), t.dtype, t.device) if isinstance(t, Tensor) else t
        for t in tree_leaves(tree)
    ]


def faked(mode: Fakes, args: tuple[Any, ...]) -> Any:
    return tree_map_only(Tensor, lambda t: mode.from_tensor(t, static_shapes=True), args)


def test_every_row_has_a_case() -> None:
    assert {id(function) for function, _ in CASES.values()} == set(map(id, ROWS))


@pytest.mark.parametrize("name", CASES)
def test_a_row_says_what_torch_says(name: str) -> None:
    function, args = CASES[name]
    mode = Fakes()
    given = faked(mode, args)
    with mode:
        wanted = function(*given)
    shapes = outline(function, given, {})
    assert shapes is not None
    assert told(mode._drawn(shapes, given)) == told(wanted)


@pytest.mark.parametrize("name", UNTOLD)
def test_a_row_says_nothing_of_what_it_does_not_know(name: str) -> None:
    function, args = UNTOLD[name]
    assert outline(function, faked(Fakes(), args), {}) is None


@pytest.mark.parametrize("name", [*CASES, *UNTOLD])
def test_a_remembered_outcome_is_the_first_one(name: str) -> None:
    function, args = {**CASES, **UNTOLD}[name]
    mode = Fakes()
    given = faked(mode, args)
    try:
        with mode:
            wanted = told(function(*given))
    except (RuntimeError, AssertionError):  # torch refuses it
        pytest.skip("no call to remember")
    fake._outcomes.clear()
    with mode:
        assert told(mode.outcome(function, given, {})) == wanted
        assert len(fake._outcomes) == 1
        assert told(mode.outcome(function, given, {})) == wanted


def test_types_of_numbers_are_told_apart() -> None:
    mode = Fakes()
    (x,) = faked(mode, (torch.arange(3),))
    with mode:
        kinds = [mode.outcome(aten.mul.Tensor, (x, n), {}).dtype for n in (2, 2.0, 2, True, 1)]
    assert kinds == [torch.int64, torch.float32, torch.int64, torch.int64, torch.int64]


def test_in_place_is_the_same_object_and_a_reshape_in_place_is_not_remembered() -> None:
    mode = Fakes()
    (x,) = faked(mode, (X.clone(),))
    with mode:
        for _ in range(2):
            assert mode.outcome(aten.relu_.default, (x,), {}) is x
        for shape in ((2, 6, 4), (2, 4, 6), (2, 6, 4)):
            assert tuple(mode.outcome(aten.transpose_.default, (x, 1, 2), {}).shape) == shape


def test_known_values_stay_known() -> None:
    mode = Fakes()
    with mode:
        two = mode.outcome(aten.lift_fresh.default, (torch.tensor(2.0),), {})
        for _ in range(2):
            assert float(mode.outcome(aten.add.Tensor, (two, two), {})) == 4.0


def test_parameters_stay_parameters() -> None:
    mode, real = Fakes(), nn.Parameter(torch.randn(3, 2).mT, requires_grad=False)
    made = mode.parameter(real)
    assert isinstance(made, FakeTensor)
    assert isinstance(made, nn.Parameter)
    assert told(made) == told(real)
    assert not made.requires_grad
    assert not isinstance(mode.parameter(torch.randn(2)), nn.Parameter)


class Odd(nn.Module):
    """Everything that a copy could get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.a = self.b = nn.Linear(2, 2)  # shared
        self.a.weight = self.a.weight
        self.owner = [self]  # a cycle
        self.table = {"x": [1, 2], "y": self.a}
        self.rnn = nn.GRU(2, 2)
        self.mask = torch.ones(2)
        self.a.register_forward_hook(lambda *_: None)


def test_a_quick_copy_is_a_deep_copy() -> None:
    model = Odd()
    quick, deep = skeleton.copied(model, {}), copy.deepcopy(model)
    assert isinstance(quick, Odd)
    assert quick.a is quick.b is quick.table["y"]
    assert quick.owner[0] is quick
    assert quick.table["x"] == [1, 2]
    assert quick.table["x"] is not model.table["x"]
    assert repr(quick) == repr(deep)
    assert vars(quick.a).keys() == vars(deep.a).keys()
    assert len(quick.a._forward_hooks) == 1
    for (name, new), (_, old) in zip(
        skeleton.named_tensors(quick), skeleton.named_tensors(model), strict=True
    ):
        assert torch.equal(new, old), name
        assert new is not old
