"""What is known of a tensor holds for every input: facts against what the operations return."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import excise
from excise.exact.blame import Listener
from excise.exact.bound import Bound
from excise.exact.effect import Effect
from excise.exact.fact import Fact
from excise.exact.knowledge import Knowledge, learn
from excise.exact.mask import duplicate
from excise.exact.program import OPAQUE
from excise.trace.run import run
from tests.exact.network import silence
from tests.strategies import Network, networks


def violations(knowledge: Knowledge, model: nn.Module, args: Any, kwargs: Any) -> list[str]:
    """Operations whose result is not what was said to be known, or out of bounds."""
    tape = Listener()
    run(model, tape, args, kwargs)
    steps = [s for s in knowledge.program.steps if s.op is not OPAQUE]
    wrong = []
    for step, (name, results) in zip(steps, tape.results, strict=True):
        assert name == step.op.name
        for version, result in zip(step.outs, results, strict=True):
            if not holds(knowledge.facts[version], result):
                wrong.append(f"{name} in {step.op.module}")
            bound = knowledge.bounds.get(version)
            if bound is not None and not within(bound, knowledge.facts[version], result):
                wrong.append(f"bounds of {name} in {step.op.module}")
    return wrong


def within(bound: Bound, fact: Fact, result: Tensor) -> bool:
    """Bounds leave room for rounding, so nothing is given here; constants are held above."""
    low, high, known = (t.expand(result.shape) for t in (*bound, fact.known))
    outside = (result.double() < low) | (result.double() > high)
    return not bool((outside & ~known).any())


def holds(fact: Fact, result: Tensor) -> bool:
    if not result.numel() or result.is_complex():
        return True
    value = fact.value.expand(result.shape).double()
    gap = (value - result.double()).abs() > 1e-9 * (1 + value.abs())
    return not bool((fact.known.expand(result.shape) & gap).any())


def double(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: double(v) for k, v in tree.items()}
    if isinstance(tree, tuple):
        return tuple(double(v) for v in tree)
    return tree.double() if tree.is_floating_point() else tree


@settings(max_examples=max(8, settings().max_examples // 10))
@given(networks(), st.integers(0, 10**6))
def test_what_is_known_holds_for_every_input(recipe: Network, seed: int) -> None:
    model = duplicate(recipe.build(seed), torch.float64)
    silence(model, seed)
    args, kwargs = double(recipe.inputs())
    knowledge = learn(excise.trace(model, *args, **kwargs))
    other = tuple(3 * torch.randn_like(a) if a.is_floating_point() else a.flip(0) for a in args)
    for given_ in (args, other):
        assert not violations(knowledge, model, given_, kwargs)


def zero_rows(layer: nn.Module, rows: int = 2) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter[:rows] = 0
    return layer


class Call(nn.Module):
    """A convolution with zero filters, some operation, and a head that reads it."""

    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.conv = zero_rows(nn.Conv2d(3, 6, 1))
        with torch.no_grad():
            self.conv.get_parameter("bias")[0] = 0.7
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        out: Tensor = self.operation(self.conv(x))
        return out


OPERATIONS: dict[str, tuple[Any, int]] = {
    # the operation, and how many of the two constant channels are known after it
    "relu": (torch.relu, 2),
    "product": (lambda x: x * x.flip(3), 2),
    "times a zero": (lambda x: x[:, :2] * x[:, 1:2] + x[:, 4:], 0),
    "zero wins": (lambda x: torch.cat([x[:, 1:2] * x[:, 5:], x[:, :1]], 1), 2),
    "where": (lambda x: torch.where(torch.ones_like(x) > 0, x, 0.0), 2),
    "max pool": (lambda x: functional.max_pool2d(x, 3, 1, 1), 2),
    "avg pool": (lambda x: functional.avg_pool2d(x, 3, 1), 2),
    "padded avg pool": (lambda x: functional.avg_pool2d(x, 3, 1, 1), 1),
    "resize": (lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"), 2),
    "zero pad": (lambda x: functional.pad(x, (1, 1, 1, 1)), 1),
    "reflect": (lambda x: functional.pad(x, (1, 1, 1, 1), "reflect"), 2),
    "mean": (lambda x: x.mean((2, 3)), 2),
    "sum over positions": (lambda x: x.sum((2, 3)), 1),
    "amax": (lambda x: x.amax((2, 3)), 2),
    "softmax": (lambda x: x.softmax(1), 0),
    "flatten": (lambda x: x.flatten(2).transpose(1, 2), 2),
    "in place": (lambda x: x.sigmoid().mul_(2).add_(1), 2),
    "random": (lambda x: torch.dropout(x, 0.5, True), 1),  # noqa: FBT003 - a zero stays one
    "shuffle": (lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2), 2),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_keeps_what_it_should(name: str) -> None:
    operation, count = OPERATIONS[name]
    torch.manual_seed(0)
    model = duplicate(Call(operation), torch.float64).eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    knowledge = learn(excise.trace(model, x))
    known = knowledge.facts[knowledge.program.outputs[0]].known
    assert int(known.flatten().sum()) == count
    if name != "random":
        assert not violations(knowledge, model, (2 * x,), {})


SPANS: dict[str, tuple[Any, int]] = {
    # the operation, and how many of six rectified channels are known after it
    "sum of what is below 0": (lambda x: torch.relu(-x.sum(1, keepdim=True)), 1),
    "mean of what is below 0": (lambda x: torch.relu(-x).mean(1, keepdim=True).relu(), 1),
    "minus a sigmoid": (lambda x: (-x.sigmoid()).relu(), 6),
    "beyond a clamp": (lambda x: (x.clamp(0, 1) + 2).clamp(4, 9) - 3, 6),
    "hardswish below -3": (lambda x: functional.hardswish(-x - 4), 6),
    "silu above 0": (lambda x: (-functional.silu(x)).relu(), 6),
    "silu below 0": (lambda x: (functional.silu(x - 1) - 0.1).relu(), 0),
    "squares": (lambda x: (-((x - 1) ** 2)).relu(), 6),
    "products": (lambda x: (x * -(x + 1)).relu(), 6),
    "quotients": (lambda x: (-x / (x + 1)).relu(), 6),
    "averages over positions": (lambda x: (-functional.avg_pool2d(x, 3, 1, 1)).relu(), 6),
    "bicubic": (lambda x: (-functional.interpolate(x, size=9, mode="bicubic")).relu(), 0),
    "bilinear": (lambda x: (-functional.interpolate(x, size=9, mode="bilinear")).relu(), 6),
    "softmax": (lambda x: (-x.softmax(1)).relu(), 6),
    "log of a softmax": (lambda x: x.log_softmax(1).relu(), 6),
    "moves": (lambda x: (-torch.cat([x[:, 3:], x[:, :3]], 1).flip(1)).relu(), 6),
    "half of them": (lambda x: torch.cat([(-x[:, :3]).relu(), (x[:, 3:]).relu()], 1), 3),
    "the larger": (lambda x: torch.minimum(x, -x).relu(), 6),
    "where": (lambda x: torch.where(x > 1, -x, x * 0 - 1).relu(), 6),
}


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_signs_make_constants(name: str, dtype: torch.dtype) -> None:
    operation, count = SPANS[name]
    torch.manual_seed(0)
    model = duplicate(Call(lambda x: operation(torch.relu(x))), dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    x = torch.randn(2, 3, 6, 6, dtype=dtype)
    knowledge = learn(excise.trace(model, x))
    last = knowledge.program.outputs[0]
    assert int(knowledge.facts[last].known.flatten().sum()) == count
    for scale in (0.01, 1.0, 1000.0):
        assert not violations(knowledge, model, (scale * x,), {})


def test_a_sum_with_one_term_that_may_be_positive_has_no_sign() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU())
    with torch.no_grad():
        weight, bias = layers[2].get_parameter("weight"), layers[2].get_parameter("bias")
        weight.copy_(-weight.abs())
        bias.fill_(-0.5)
        weight[1, 2] = 1e-30  # an input that is large enough outweighs the rest
        bias[2] = 1e-30
    knowledge = learn(excise.trace(layers.eval(), torch.randn(2, 3)))
    assert knowledge.facts[knowledge.program.outputs[0]].known.flatten().tolist() == [
        True, False, False,
    ]  # fmt: skip


def test_bounds_that_are_wrong_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta-test: a row of bounds that forgets the padding is caught."""
    monkeypatch.setattr("excise.exact.hull.counts_padding", lambda _: False)
    torch.manual_seed(0)
    model = duplicate(
        Call(lambda x: functional.avg_pool2d(x.sigmoid() + 1, 3, 1, 1)), torch.float64
    )
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert violations(learn(excise.trace(model.eval(), x)), model, (x,), {}) == [
        "bounds of avg_pool2d in conv"
    ]


def test_a_fact_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta-test: padding that is forgotten makes facts that do not hold."""
    monkeypatch.setattr("excise.exact.space.counts_padding", lambda _: False)
    torch.manual_seed(0)
    model = duplicate(Call(OPERATIONS["padded avg pool"][0]), torch.float64).eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert violations(learn(excise.trace(model, x)), model, (x,), {}) == ["avg_pool2d in conv"]


def test_an_operation_without_a_row_knows_nothing_and_needs_everything() -> None:
    torch.manual_seed(0)
    model = duplicate(Call(lambda x: torch.cumsum(x, 1)), torch.float64).eval()
    knowledge = learn(excise.trace(model, torch.randn(1, 3, 4, 4, dtype=torch.float64)))
    effect = knowledge.effects[-1]
    assert type(effect) is Effect
    (need,) = effect.need([torch.ones(1, 6, 1, 1, dtype=torch.bool)])
    assert need is not None
    assert bool(need.all())
