"""The promises of shrink, on random networks with random structured zeros."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import excise
from excise.errors import NotExactError
from excise.exact import fold, live
from excise.exact.affine import Affine
from tests.exact.network import network, redraw, silence
from tests.strategies import Network, networks

FEW = settings(max_examples=max(8, settings().max_examples // 10))
SEEDS = st.integers(0, 10**6)


def drawn(seed: int, *, smooth: bool = False) -> tuple[nn.Module, Tensor]:
    """A network with zeros; `smooth` ones have no activation that is flat somewhere."""
    model, x = network(seed)
    if smooth:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, (nn.ReLU, nn.ReLU6, nn.Hardswish)):
                    setattr(parent, name, nn.GELU())
    silence(model, seed)
    return model, x


@FEW
@given(SEEDS)
def test_outputs_stay_at_any_resolution_and_nothing_is_left_to_remove(seed: int) -> None:
    model, x = drawn(seed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small, report = excise.shrink(model, x, latency=False)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for given_ in (x, 100 * torch.randn_like(x), torch.randn(1, 3, 13, 9, dtype=x.dtype)):
        torch.testing.assert_close(small(given_), model(given_), rtol=1e-9, atol=1e-11)
    left = sum(p.numel() for p in small.parameters())
    gone = report.diagnosis.removed_params - report.diagnosis.created_params
    assert sum(p.numel() for p in model.parameters()) - gone == left
    _, again = excise.shrink(small, x, latency=False)
    assert not again.plan.removed


@FEW
@given(networks(), SEEDS)
def test_ordinary_modules_shrink_exactly(recipe: Network, seed: int) -> None:
    model = recipe.build(seed)
    silence(model, seed)
    given_: Any = recipe.inputs()
    args, kwargs = given_
    small, report = excise.shrink(model, *args, latency=False, **kwargs)
    assert report.checks
    assert all(check.worst <= check.allowed for check in report.checks)
    assert type(small) is type(model)


def missed(model: nn.Module, x: Tensor, seed: int) -> dict[str, list[int]]:
    """Units that stay although deleting any one of them changes no output on 64 inputs.

    Weights are drawn twice, so that a unit counts only if its zeros let it go, and not its values.
    """
    report = excise.shrink(model, x, latency=False).report
    graph = excise.trace(model, x)
    other = copy.deepcopy(model)
    redraw(other, seed + 1)
    inputs = 3 * torch.randn(32, *x.shape[1:], dtype=x.dtype)
    found: dict[str, list[int]] = {}
    for group in graph.groups:
        gone = report.plan.removed.get(group.name, ())
        if group.tied or len(gone) >= group.size - 1:  # the last unit has to stay
            continue
        for unit in sorted(set(range(group.size)) - set(gone)):
            try:
                plan = excise.plan_units(graph, {group.name: [unit]})
            except excise.ExciseError:
                continue
            if all(
                torch.allclose(m(inputs), excise.remove(m, plan)(inputs), rtol=1e-9, atol=1e-11)
                for m in (model, other)
            ):
                found.setdefault(group.name, []).append(unit)
    return found


@FEW
@given(SEEDS)
def test_the_oracle_finds_nothing_more(seed: int) -> None:
    model, x = drawn(seed, smooth=True)
    assert not missed(model, x, seed)


def test_the_oracle_can_find_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta-test: a liveness that keeps everything is caught by the oracle."""
    monkeypatch.setattr(live.Liveness, "_sweep", lambda self: self._keep_all())
    monkeypatch.setattr(live.Liveness, "_keep_all", keep_all, raising=False)
    model, x = drawn(2, smooth=True)
    assert missed(model, x, 2)


def keep_all(self: live.Liveness) -> bool:
    self.gone = {axis: torch.zeros_like(gone) for axis, gone in self.gone.items()}
    return False


def constant() -> tuple[nn.Sequential, Tensor]:
    """A padded convolution that reads constants which are not zero."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Sigmoid(), nn.Conv2d(6, 4, 3, padding=1)
    )
    with torch.no_grad():
        model[0].get_parameter("weight")[:4] = 0
    return model.double().eval(), torch.randn(1, 3, 8, 8, dtype=torch.float64)


def test_a_fold_that_is_forgotten_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta-test: without the carrier's new columns nothing is returned, and the op is named."""
    model, x = constant()
    excise.shrink(model, x, latency=False)
    monkeypatch.setattr(fold, "_carried", lambda _effect, weight, *_: weight)
    with pytest.raises(NotExactError) as caught:
        excise.shrink(model, x, latency=False)
    assert caught.value.op == "convolution"


def test_a_constant_called_uniform_at_the_border_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta-test: ignoring the padding is wrong, and noticed."""
    model, x = constant()
    first = Affine.__init__

    def careless(self: Affine, c: Any, shape: Any, *rest: Any) -> None:
        first(self, c, replace(shape, even=True), *rest)

    monkeypatch.setattr(Affine, "__init__", careless)
    with pytest.raises(NotExactError):
        excise.shrink(model, x, latency=False)
