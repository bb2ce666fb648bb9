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
SCALES = (0.1, 1.0, 10.0, 1000.0)
MODELS = 40


def drawn(seed: int) -> tuple[nn.Module, Tensor]:
    """A network with zeros."""
    model, x = network(seed)
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


@pytest.mark.parametrize("seed", [281])
def test_constants_that_a_padded_convolution_reads_come_and_go_together(seed: int) -> None:
    """Bounds of a sum know that; else a second shrink, of one carrier, would find more units."""
    model, x = drawn(seed)
    small, _ = excise.shrink(model, x, latency=False)
    assert not excise.shrink(small, x, latency=False)[1].plan.removed


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


class Oracle:
    """Deletes one unit and compares outputs, on 64 inputs and for many sizes of the weights.

    A unit is removable if its zeros and signs let it go, and not because some size happens to
    outweigh another, or because no input happened to wake its activation. So where a model does not
    miss a unit, the same is asked of models with other weights: same zeros, same signs, and sizes
    that differ by orders of magnitude. Inputs are of four scales, from a tenth to a thousand, and
    anew for each model. Only what none of them misses counts.
    """

    def __init__(self, model: nn.Module, x: Tensor, seed: int) -> None:
        self.model, self.x, self.seed = model, x, seed
        self.asked: list[tuple[nn.Module, Tensor, Tensor]] = []

    def at(self, number: int) -> tuple[nn.Module, Tensor, Tensor]:
        """The model itself and then others, with inputs and outputs."""
        while len(self.asked) <= number:
            own = not self.asked
            model = self.model if own else copy.deepcopy(self.model)
            if not own:
                redraw(model, self.seed + len(self.asked), wild=True)
            source = torch.Generator().manual_seed(self.seed + len(self.asked))
            shape = (16, *self.x.shape[1:])
            noise = [torch.randn(shape, dtype=self.x.dtype, generator=source) for _ in SCALES]
            inputs = torch.cat([scale * part for scale, part in zip(SCALES, noise, strict=True)])
            with torch.no_grad():
                self.asked.append((model, inputs, model(inputs)))
        return self.asked[number]

    def removable(self, plan: excise.Plan) -> bool:
        """Whether no model misses what a plan removes."""
        return all(self._same(number, plan) for number in range(MODELS))

    def _same(self, number: int, plan: excise.Plan) -> bool:
        model, inputs, wanted = self.at(number)
        with torch.no_grad():
            found = excise.remove(model, plan)(inputs)
        return torch.allclose(found, wanted, rtol=1e-9, atol=1e-11)


def missed(model: nn.Module, x: Tensor, seed: int) -> dict[str, list[int]]:
    """Units that stay although the oracle calls them removable."""
    report = excise.shrink(model, x, latency=False).report
    graph = excise.trace(model, x)
    oracle = Oracle(model, x, seed)
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
            if oracle.removable(plan):
                found.setdefault(group.name, []).append(unit)
    return found


@FEW
@given(SEEDS)
def test_the_oracle_finds_nothing_more(seed: int) -> None:
    model, x = drawn(seed)
    assert not missed(model, x, seed)


def test_the_oracle_can_find_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta-test: a liveness that keeps everything is caught by the oracle."""
    monkeypatch.setattr(live.Liveness, "_sweep", lambda self: self._keep_all())
    monkeypatch.setattr(live.Liveness, "_keep_all", keep_all, raising=False)
    model, x = drawn(2)
    assert missed(model, x, 2)


def signed() -> tuple[nn.Sequential, Tensor]:
    """Rectified sums of rectified values whose coefficients and bias are all negative."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        for name in ("weight", "bias"):
            rows = model[2].get_parameter(name)[1:3]
            rows.copy_(-rows.abs())
    return model.double().eval(), torch.randn(4, 3, dtype=torch.float64)


def test_units_that_are_dead_by_their_signs_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """And without bounds the oracle finds them."""
    model, x = signed()
    assert excise.shrink(model, x, latency=False).report.plan.removed == {"2.weight": (1, 2)}
    assert not missed(model, x, 0)
    monkeypatch.setattr("excise.exact.knowledge.BOUNDS", {})
    assert missed(model, x, 0) == {"2.weight": [1, 2]}


def test_what_an_input_can_wake_stays() -> None:
    """Meta-test of the oracle: none of 64 ordinary inputs wakes a unit, but a large one does."""
    model, x = signed()
    with torch.no_grad():
        model[2].get_parameter("weight")[1] = 0.1
        model[2].get_parameter("bias")[1] = -100.0
        ordinary = model[:3](torch.randn(64, 3, dtype=x.dtype))[:, 1]
        large = model[:3](1e5 * torch.randn(64, 3, dtype=x.dtype))[:, 1]
    assert bool((ordinary <= 0).all())
    assert bool((large > 0).any())
    assert excise.shrink(model, x, latency=False).report.plan.removed == {"2.weight": (2,)}
    assert not missed(model, x, 0)


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
