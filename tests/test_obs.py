"""Cost curves: what they say is what least squares loses."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.calibration import Batch, batches
from excise.refit import refit
from excise.scores import probe
from excise.scores.curve import Curve
from excise.scores.obs import Level, obs
from excise.trace.run import run
from tests.calibration.network import doubled
from tests.recover.network import Cached

N = 4000


class Fan(nn.Module):
    """Four hidden units read by two heads; a bottleneck makes them depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 5)
        self.one, self.two = nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102 - the class says it
        hidden = self.up(x).tanh()
        return self.one(hidden), self.two(hidden)


def curve(level: Level) -> tuple[Fan, Tensor, Curve]:
    torch.manual_seed(0)
    model, x = Fan().double().eval(), torch.randn(N, 3, dtype=torch.float64)
    graph = excise.trace(model, x[:2])
    found = obs(model, graph, [Batch((x,), {})], level=level, rows=N, damping=1e-6, probes=0)
    return model, x, found.values["up"]


@torch.no_grad()
def lost(model: Fan, x: Tensor, removed: tuple[int, ...], level: Level) -> float:
    """What is lost over both heads, each in units of its output's variance, found directly."""
    hidden = model.up(x).tanh()
    total = 0.0
    for head in (model.one, model.two):
        gone = (hidden[:, list(removed)] @ head.weight[:, list(removed)].T).detach()
        if level != "second":
            gone = gone - gone.mean(0)
        if level == "conditional":
            kept = [i for i in range(5) if i not in removed]
            rows = hidden[:, kept] - hidden[:, kept].mean(0)
            gone = gone - rows @ torch.linalg.lstsq(rows, gone).solution
        total += float(gone.square().mean(0).sum() / head(hidden).var(0, correction=0).sum())
    return total


@pytest.mark.parametrize("level", ["second", "variance", "conditional"])
def test_the_first_cost_is_what_is_lost_and_no_unit_is_cheaper(level: Level) -> None:
    model, x, found = curve(level)
    each = [lost(model, x, (unit,), level) for unit in range(5)]
    assert found.order[0] == min(range(5), key=lambda unit: each[unit])
    slack = 0.02 if level == "conditional" else 1e-3  # damping, and sums in float32
    assert found.cost[0] == pytest.approx(min(each), rel=slack)


def test_later_costs_are_those_of_all_removed_together() -> None:
    model, x, found = curve("conditional")
    assert list(found.cost) == sorted(found.cost)
    for count in (2, 3):
        assert found.cost[count - 1] == pytest.approx(
            lost(model, x, found.order[:count], "conditional"), rel=0.02
        )


def test_units_that_go_together_cost_what_they_cost_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["excise.scores.obs"], "_ROUNDS", 2)  # up to three at a time
    monkeypatch.setattr(sys.modules["excise.scores.obs"], "_TOGETHER", 1e9)
    model, x, found = curve("conditional")
    assert list(found.cost) == sorted(found.cost)
    for count in (3, 4):  # the ends of the two rounds
        assert found.cost[count - 1] == pytest.approx(
            lost(model, x, found.order[:count], "conditional"), rel=0.02
        )


def test_twins_do_not_go_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["excise.scores.obs"], "_ROUNDS", 2)  # up to four at a time
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for tensor in model[0].parameters():
            tensor[1::2] = tensor[::2]
    x = torch.randn(500, 3, dtype=torch.float64)
    graph = excise.trace(model, x[:2])
    (found,) = obs(model, graph, [Batch((x,), {})], damping=1e-6, probes=0).values.values()
    assert {unit // 2 for unit in found.order[:4]} == {0, 1, 2, 3}
    assert found.cost[3] < 0.01 * found.cost[4]


def test_greedy_is_near_the_best_subset() -> None:
    model, x, found = curve("conditional")
    best = min(lost(model, x, pair, "conditional") for pair in itertools.combinations(range(5), 2))
    assert lost(model, x, found.order[:2], "conditional") <= 1.5 * best


def test_conditional_never_exceeds_variance_nor_that_the_second_moment() -> None:
    first = [curve(level)[2].cost[0] for level in ("conditional", "variance", "second")]
    assert first == sorted(first)


def test_a_twin_costs_nothing_until_its_other_half_goes() -> None:
    model = doubled()
    x = torch.randn(32, 3, 8, 8, dtype=torch.float64)
    graph = excise.trace(model, x[:2])
    found = obs(model, graph, [Batch((x,), {})], damping=1e-6, probes=0).values["conv1"]
    assert {unit % 4 for unit in found.order[:4]} == {0, 1, 2, 3}
    assert found.cost[3] < 0.01 * found.cost[5]


def test_heads_are_blocks_and_what_nobody_sums_has_no_curve() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval()
    x = torch.randn(4, 6, 8)
    model = nn.Sequential(layer, nn.Linear(8, 3)).eval()
    graph = excise.trace(model, x)
    found = obs(model, graph, [Batch((x,), {})])
    sizes = {group.name: group.size for group in graph.groups}
    assert len(found.values["0.linear1"].order) == sizes["0.linear1"] - 1
    assert all(len(c.order) == sizes[name] - 1 for name, c in found.values.items())


class Uneven(nn.Module):
    """Two branches alike, of which the output hardly hears the second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up1, self.down1 = nn.Linear(6, 12), nn.Linear(12, 4)
        self.up2, self.down2 = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        out: Tensor = self.down1(self.up1(x).tanh()) + 0.1 * self.down2(self.up2(x).tanh())
        return out


def test_probes_weigh_groups_by_what_the_output_hears() -> None:
    model, x = Uneven().double().eval(), torch.randn(1024, 6, dtype=torch.float64)
    graph = excise.trace(model, x[:2])
    data = [Batch((part,), {}) for part in x.split(256)]
    local = obs(model, graph, data[:3], probes=0).values  # the last one is held out
    heard = obs(model, graph, data, probes=128).values
    for name in ("up1", "up2"):
        assert local[name].order == heard[name].order
    ratio = [(heard[n].cost[3] / local[n].cost[3]) for n in ("up1", "up2")]
    with torch.no_grad():  # local costs are shares of what each branch gives
        one, two = model.down1(model.up1(x).tanh()), model.down2(model.up2(x).tanh())
    wanted = float(one.var(0).sum() / (0.1 * two).var(0).sum())
    assert 0.6 < ratio[0] / ratio[1] / wanted < 1.6


def test_probing_changes_nothing() -> None:
    model, x = Uneven().double().eval(), torch.randn(64, 6, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    obs(model, excise.trace(model, x[:2]), [Batch((x,), {})])
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_a_cache_does_not_weigh_what_the_result_hears() -> None:
    """Handed-out values of a later layer are no results: their changes count for nothing."""

    class Plain(Cached):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            found: Tensor = super().forward(x)[0]
            return found

    torch.manual_seed(0)
    cached, plain = Cached(), Plain()
    plain.load_state_dict(cached.state_dict())
    x = torch.randn(256, 6, dtype=torch.float64)
    with_cache, without = (
        obs(m, excise.trace(m, x[:2]), [Batch((x,), {})]).values for m in (cached, plain)
    )
    assert with_cache["stem"].cost == pytest.approx(without["stem"].cost)


def test_a_curve_goes_through_what_several_probes_measured() -> None:
    curve = Curve(tuple(range(7)), (0.0, 0.1, 0.2, 0.3, 0.7, 0.8, 1.6))
    once = probe._through(curve, [2], [0.3])
    assert once.cost == tuple(0.3 / 0.1 * cost for cost in curve.cost)
    thrice = probe._through(curve, [2, 4, 6], [0.01, 0.03, 0.02])  # the last one is noise
    assert thrice.order == curve.order
    assert thrice.cost == pytest.approx((0.0, 0.01, 0.02, 0.03, 0.03, 0.03, 0.03))
    steep = probe._through(curve, [2, 6], [0.01, 0.71])
    assert steep.cost == pytest.approx((0.0, 0.01, 0.11, 0.21, 0.61, 0.71, 1.51))
    flat = probe._through(Curve((0, 1, 2), (0.0, 0.0, 1.0)), [1, 2, 3], [0.0, 0.5, 0.4])
    assert flat.cost == (0.0, 0.0, 0.5)


def test_large_outputs_are_thinned_alike_and_probes_stay_affordable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = doubled(), torch.randn(64, 3, 8, 8, dtype=torch.float64)
    graph = excise.trace(model, x[:2])
    given = [Batch((part,), {}) for part in x.split(4)]
    whole = obs(model, graph, given).values
    monkeypatch.setattr(probe, "_MOST", 4)
    thin = obs(model, graph, given).values
    assert whole.keys() == thin.keys()
    ends = probe.results(graph)
    assert [t.numel() for t in probe.outputs(model, given[0], ends)] == [4]  # of 20, every fifth
    ran: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        ran.append(1)
        return run(*args, **kwargs)

    monkeypatch.setattr(probe, "run", counted)
    obs(model, graph, given)
    whole_passes = len(ran)
    ran.clear()
    monkeypatch.setattr(sys.modules["excise.scores.obs"], "_PASSES", 0.1)  # not the function
    obs(model, graph, given)
    assert len(thin) < len(ran)
    assert 3 * len(ran) == whole_passes  # one of the three batches that are held out


@pytest.mark.parametrize("count", [1, 8])
def test_a_wide_layer_is_not_free_because_samples_are_few(count: int) -> None:
    """With 40 samples and 96 features any output can be fitted, and is not known."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 96), nn.Tanh(), nn.Linear(96, 24)).eval()
    x, fresh = torch.randn(40, 24), torch.randn(4000, 24)
    graph = excise.trace(model, x[:1])
    data = batches(list(x.chunk(count)), (x[:1],), {})
    ((name, found),) = obs(model, graph, data).values.items()
    plan = excise.plan_units(graph, {name: list(found.order[:48])})
    small = excise.remove(model, plan)
    refit(model, small, plan, data)
    with torch.no_grad():
        wanted = model(fresh)
        lost = float((small(fresh) - wanted).square().mean() / wanted.var())
    assert lost > 0.02
    assert 0.5 < found.cost[47] / lost < 2


def test_a_bound_on_memory_takes_more_passes_and_finds_the_same() -> None:
    torch.manual_seed(0)
    model, x = doubled().eval(), torch.randn(32, 3, 8, 8, dtype=torch.float64)
    graph = excise.trace(model, x[:2])
    given = [Batch((x,), {})]
    module = sys.modules["excise.scores.obs"]
    whole = list(module._parts(graph, 2**30))
    assert [len(names) for names, _ in whole] == [len(obs(model, graph, given).values)]
    least = 6 * 6 * 8
    split = list(module._parts(graph, least))
    assert all(len(names) == 1 for names, _ in split)
    sizes = [sum(module._gram_bytes(graph, c) for c in readers) for _, readers in whole]
    passes = list(module._parts(graph, sizes[0] - 1))
    assert len(passes) == 2
    for names, readers in passes:
        held = {c.reading: module._gram_bytes(graph, c) for c in readers}
        assert len(names) == 1 or sum(held.values()) < sizes[0]
    for bound in (least, sizes[0] - 1):
        again = obs(model, graph, given, gram_bytes=bound).values
        for name, found in obs(model, graph, given).values.items():
            assert again[name].order == found.order
            assert again[name].cost == pytest.approx(found.cost)
    (first,) = (c for c in whole[0][1] if c.weight == "conv2.weight")
    matrix = first.matrix(model.conv2.weight)
    assert module._gram_bytes(graph, first) == matrix.shape[-1] ** 2 * 8


def test_few_rows_are_believed_less() -> None:
    """Unless the damping is told, a covariance of 20 rows and 64 features is shrunk first."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4)), torch.randn(20, 16)
    graph = excise.trace(model.eval(), x[:1])
    data = [Batch((x,), {})]
    (shrunk,) = obs(model, graph, data, probes=0).values.values()
    (plain,) = obs(model, graph, data, probes=0, damping=1e-2).values.values()
    assert shrunk.cost[40] > 2 * plain.cost[40]
