"""Criteria by name, against sums written out by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.calibration import Batch
from excise.errors import CalibrationError, InvalidTargetError
from excise.scores import CALIBRATED, CRITERIA
from tests.errors.bench import Net


class Fan(nn.Module):
    """Five hidden units read by two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 5)
        self.one, self.two = nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102 - the class says it
        hidden = self.up(x).tanh()
        return self.one(hidden), self.two(hidden)


@pytest.fixture
def fan() -> Any:
    torch.manual_seed(0)
    return Fan().double().eval()


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(64, 3, dtype=torch.float64)


def _approx(values: Any, rel: float = 1e-5) -> Any:
    return pytest.approx([float(v) for v in values], rel=rel)


@torch.no_grad()
def test_fpgm_is_the_sum_of_distances_between_all_that_goes() -> None:
    torch.manual_seed(0)
    model: Any = Net().eval()
    scores = excise.scores.fpgm(model, excise.trace(model, torch.randn(2, 3, 8, 8)))
    p = dict(model.named_parameters())
    units = [
        torch.cat([p["3.weight"][i].flatten(), p["3.bias"][[i]], columns.flatten()])
        for i, columns in enumerate(p["7.weight"].split(4, dim=1))
    ]
    wanted = [sum((u - v).double().norm() for v in units) for u in units]
    assert scores.values["3.weight"].tolist() == _approx(wanted)


def test_fpgm_lets_one_of_two_equal_units_go_first(fan: Any, x: Tensor) -> None:
    with torch.no_grad():
        for tensor in (fan.up.weight, fan.up.bias, fan.one.weight.T, fan.two.weight.T):
            tensor[3] = tensor[1]
    plan = excise.plan(
        (graph := excise.trace(fan, x)), excise.scores.fpgm(fan, graph), keep_units=0.8
    )
    assert plan.removed["up"] in {(1,), (3,)}


def test_lamp_is_the_share_of_what_is_left(fan: Any, x: Tensor) -> None:
    graph = excise.trace(fan, x)
    energy = excise.scores.magnitude(fan, graph).values["up"].square()
    scores = excise.scores.lamp(fan, graph)
    wanted = [e / sum(other for other in energy if other >= e) for e in energy]
    assert scores.comparable
    assert scores.values["up"].tolist() == _approx(wanted)
    assert float(scores.values["up"].max()) == 1.0


@torch.no_grad()
def test_wanda_and_flap_are_their_formulas(fan: Any, x: Tensor) -> None:
    graph, data = excise.trace(fan, x), [Batch((x[:40],), {}), Batch((x[40:],), {})]
    hidden = fan.up(x).tanh()
    weights = torch.cat([fan.one.weight, fan.two.weight])
    wanted = weights.abs().sum(0) * hidden.square().mean(0).sqrt()
    found = excise.scores.wanda(fan, graph, data)
    assert found.values["up"].tolist() == _approx(wanted)
    assert not found.comparable
    spread = weights.square().sum(0) * hidden.var(0, correction=0)
    wanted = (spread - spread.mean()) / spread.std(correction=0)
    found = excise.scores.flap(fan, graph, data)
    assert found.values["up"].tolist() == _approx(wanted, rel=1e-4)
    assert found.comparable


def test_fisher_is_the_mean_square_of_what_a_gate_does(fan: Any, x: Tensor) -> None:
    """Against central differences with the gate really there."""
    step, few = 1e-5, x[:6]

    def gated(sample: Tensor, unit: int, gate: float) -> float:
        hidden = fan.up(sample).tanh()
        hidden[:, unit] *= gate
        return float(fan.one(hidden).square().sum() + fan.two(hidden).exp().sum())

    with torch.no_grad():
        slopes = [
            [(gated(s, u, 1 + step) - gated(s, u, 1 - step)) / (2 * step) for s in few.split(1)]
            for u in range(5)
        ]
    wanted = torch.tensor(slopes).square().mean(1)
    found = excise.scores.fisher(
        fan,
        excise.trace(fan, x),
        [Batch((few[:4],), {}), Batch((x[4:],), {})],
        loss=lambda out: out[0].square().sum() + out[1].exp().sum(),
        samples=6,
    )
    assert found.values["up"].tolist() == _approx(wanted)
    assert all(p.grad is None and p.requires_grad for p in fan.parameters())


def test_fisher_without_a_loss_needs_no_labels_and_repeats(fan: Any, x: Tensor) -> None:
    graph, data = excise.trace(fan, x), [Batch((x,), {})]
    state = torch.get_rng_state()
    one, two = (excise.scores.fisher(fan, graph, data).values["up"] for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        fan.one.weight[:, 2], fan.two.weight[:, 2] = 0.0, 0.0
    silent = excise.scores.fisher(fan, graph, data).values["up"]
    assert float(silent[2]) == 0.0
    assert float(silent.sort().values[1]) > 0.0


def test_fisher_where_no_layer_reads_a_group_uses_all_its_slices() -> None:
    class Queries(nn.Module):
        """Queries and keys meet in a product; nothing with weights reads their width."""

        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            """Rows to their products."""
            out: Tensor = self.q(x) @ self.k(x).T
            return out

    torch.manual_seed(0)
    model: Any = Queries().double().eval()
    sample = torch.randn(1, 3, dtype=torch.float64)
    graph = excise.trace(model, sample)
    with torch.no_grad():
        wanted = (2 * model.q(sample) * model.k(sample)).square().flatten()
    found = excise.scores.fisher(
        model, graph, [Batch((sample,), {})], loss=lambda out: out.sum(), samples=1
    )
    (group,) = graph.groups
    assert found.values[group.name].tolist() == _approx(wanted)


@pytest.mark.parametrize(
    "loss",
    [lambda out: out[0], lambda _: 3.0, lambda _: torch.zeros(())],
    ids=["a tensor", "a number", "a constant"],
)
def test_a_loss_that_is_no_scalar_of_the_parameters_is_refused(
    fan: Any, x: Tensor, loss: Any
) -> None:
    with pytest.raises(CalibrationError, match="no scalar"):
        excise.scores.fisher(fan, excise.trace(fan, x), [Batch((x,), {})], loss=loss)


def test_comparable_scores_are_not_divided_by_their_mean(fan: Any, x: Tensor) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = excise.trace(model, x.float())
    values = {"0.weight": torch.tensor([4.0, 5, 6, 7]), "2.weight": torch.tensor([1.0, 2, 3, 90])}
    values = dict(zip((g.name for g in graph.groups), values.values(), strict=True))
    first, second = values
    plan = excise.plan(graph, excise.Scores(values, comparable=True), keep_units=0.75)
    assert plan.removed == {second: (0, 1)}
    plan = excise.plan(graph, excise.Scores(values), keep_units=0.75)
    assert plan.removed == {second: (0, 1)}
    values[first] = values[first] / 100
    plan = excise.plan(graph, excise.Scores(values, comparable=True), keep_units=0.75)
    assert plan.removed == {first: (0, 1)}
    plan = excise.plan(graph, excise.Scores(values), keep_units=0.75)
    assert plan.removed == {second: (0, 1)}
    assert str(fan)


@pytest.mark.parametrize("name", [*CRITERIA, *CALIBRATED])
def test_every_criterion_cuts_by_its_name(fan: Any, x: Tensor, name: str) -> None:
    before = {n: p.detach().clone() for n, p in fan.named_parameters()}
    fan.train()
    if name == "taylor":
        (fan(x)[0].sum() + fan(x)[1].sum()).backward()
    data = None if name in CRITERIA else [(x,)]
    cut = excise.prune(fan, x[:2], keep_units=0.6, criterion=name, calibration=data, latency=False)
    assert sum(len(units) for units in cut.plan.removed.values()) == 2
    assert fan.training
    assert all(torch.equal(p, before[n]) for n, p in fan.named_parameters())


@pytest.mark.parametrize("name", CALIBRATED)
def test_what_needs_data_says_so(fan: Any, x: Tensor, name: str) -> None:
    for criterion in (name, CALIBRATED[name]):
        with pytest.raises(InvalidTargetError, match=f"'{name}' without data"):
            excise.prune(fan, x[:2], keep_units=0.6, criterion=criterion)


def test_names_are_told_apart() -> None:
    for one, two in itertools.combinations([*CRITERIA, *CALIBRATED], 2):
        assert excise.scores.by_name(one) is not excise.scores.by_name(two)
