"""Consumers: their features times their matrix is what the operation computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.calibration import consumers, watch
from excise.calibration.data import Batch
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
    """One layer called twice, one depthwise, one transposed: none can be refitted."""

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


def test_what_is_read_twice_or_mixes_no_channels_is_left_out() -> None:
    graph = excise.trace(Shared(), torch.randn(2, 5, 4))
    assert [c.weight for c in consumers(graph)] == ["last.weight"]


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
