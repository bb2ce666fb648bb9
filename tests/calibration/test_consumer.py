"""Consumers: their features times their matrix is what the operation computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import excise
from excise.calibration import consumers, watch
from excise.calibration.data import Batch
from excise.refit import refit
from tests.calibration.network import doubled

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "linear of tokens": (nn.Linear(6, 4), (2, 5, 6)),
    "conv": (nn.Conv2d(6, 4, 3, padding=1), (2, 6, 5, 7)),
    "conv, strided and dilated": (nn.Conv2d(6, 4, 3, 2, 2, 2), (2, 6, 9, 8)),
    "conv, uneven": (nn.Conv2d(6, 4, (1, 3), (1, 2), (0, 1)), (2, 6, 5, 7)),
    "conv of one pixel, strided": (nn.Conv2d(6, 4, 1, 2), (2, 6, 5, 7)),
    "conv, grouped": (nn.Conv2d(6, 4, 3, groups=2), (2, 6, 5, 7)),
    "conv of sequences": (nn.Conv1d(6, 4, 3, 2, 1), (2, 6, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_features_times_matrix_is_the_output(name: str) -> None:
    layer, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    (found,) = consumers(excise.trace(nn.Sequential(layer), x))
    matrix = found.matrix(layer.weight)
    made = found.features(x) @ matrix.mT + layer.bias.reshape(found.groups, 1, -1)
    assert torch.allclose(made, found.targets(layer(x)), rtol=1e-12, atol=1e-12)
    assert torch.equal(found.weight_of(matrix, layer.weight), layer.weight)


class Shared(nn.Module):
    """One layer called twice, one depthwise, one transposed: no one alone can be refitted."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.depth = nn.Conv1d(4, 4, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose1d(4, 4, 2)
        self.last = nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        x = self.twice(self.twice(x).relu())
        out: Tensor = self.last(self.up(self.depth(x.mT)))
        return out


def test_what_mixes_no_channels_is_left_out_and_what_is_read_twice_marked() -> None:
    graph = excise.trace(Shared(), torch.randn(2, 5, 4))
    found = [(c.weight, c.shared) for c in consumers(graph)]
    assert found == [("twice.weight", True), ("twice.weight", True), ("last.weight", False)]


class Tied(nn.Module):
    """Tokens, a layer beside the stream, and the embedding once more at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(12, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        stream = self.embed(x)
        stream = stream + self.mix(stream).tanh()
        return functional.linear(stream, self.embed.weight)


def test_a_tied_embedding_is_read_at_the_end_and_not_refitted() -> None:
    torch.manual_seed(0)
    model, x = Tied().double().eval(), torch.randint(12, (64, 10))
    graph = excise.trace(model, x[:2])
    first, last = consumers(graph)
    assert (first.shared, last.shared) == (False, True)
    (group,) = (g for g in graph.groups if g.size == 6)
    data = [Batch((part,), {}) for part in x.split(8)]
    curves = excise.scores.obs(model, graph, data, probes=0, damping=1e-9)
    alone = excise.scores.obs(model, graph, data, level="second", probes=0).values[group.name]
    with torch.no_grad():  # both readers, each as a share of what it gives
        embedded = model.embed(x)
        stream = embedded + model.mix(embedded).tanh()
        cost = torch.zeros(6, dtype=torch.float64)
        for rows, weight in ((embedded, model.mix.weight), (stream, model.embed.weight)):
            flat = rows.reshape(-1, 6)
            spread = (flat @ weight.T).var(0, correction=0).sum()
            cost += flat.square().mean(0) * weight.square().sum(0) / spread
    assert alone.cost[0] == pytest.approx(float(cost.min()), rel=1e-6)
    assert alone.order[0] == int(cost.argmin())
    assert group.name in curves.values
    plan = excise.plan_units(graph, {group.name: [0]})
    small = excise.remove(model, plan)
    before = small.embed.weight.detach().clone()  # type: ignore[union-attr,operator]
    report = refit(model, small, plan, data)
    assert [repair.weight for repair in report.repairs] == ["mix.weight"]
    assert torch.equal(small.embed.weight, before)  # type: ignore[union-attr,arg-type]


def test_units_of_a_flattened_map_own_blocks_of_columns() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 2))
    graph = excise.trace(model, torch.randn(1, 1, 2, 2))
    axis = graph.axes[graph.groups[0].name]
    last = consumers(graph)[-1]
    units = last.units(graph.scope, axis)
    assert units is not None
    assert units.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_moments_are_those_of_all_rows_at_once() -> None:
    model = doubled()
    x = torch.randn(8, 3, 6, 6, dtype=torch.float64)
    graph = excise.trace(model, x)
    found = consumers(graph)
    seen = watch(model, graph.trace.ops, found, [Batch((b,), {}) for b in x.split(3)], rows=10_000)
    rows = found[0].features(x)[0]
    moments = seen[found[0].reading]
    assert moments.count == len(rows)
    assert torch.allclose(moments.mean()[0], rows.mean(0), atol=1e-5)
    assert torch.allclose(moments.covariance()[0], torch.cov(rows.T, correction=0), atol=1e-4)


def test_a_rank_without_a_batch_gives_moments_of_no_rows() -> None:
    """All of its batches may be held out; it still takes part in the sums."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5))
    data = torch.randn(3, 4, 4, 4)
    graph = excise.trace(model.eval(), data)
    found = consumers(graph)
    some = watch(model, graph.trace.ops, found, [Batch((data,), {})], rows=99)
    none = watch(model, graph.trace.ops, found, [], rows=99)
    assert some.keys() == none.keys()
    for reading, moments in none.items():
        assert moments.count == 0
        assert moments.xx.shape == some[reading].xx.shape
        assert not moments.xx.any()
