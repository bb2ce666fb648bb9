"""Boundaries: one tensor passes, as late as possible; caches hide none, changes in place do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import excise
from excise.recover.boundary import boundaries
from tests.recover.network import Cached, data, residual


def names(model: nn.Module, x: Tensor, **how: int) -> list[str]:
    graph = excise.trace(model, x)
    return [graph.trace.ops[found.op].name for found in boundaries(graph, **how)]


def test_a_residual_block_ends_with_its_addition() -> None:
    graph = excise.trace(residual(), data(size=2))
    found = [graph.trace.ops[b.op].name for b in boundaries(graph)]
    assert found == ["add", "tanh", "linear"]  # stem and first block, second block, head
    assert graph.trace.outputs[0][1] == boundaries(graph)[-1].ref


def test_a_cache_is_no_end_and_hides_none() -> None:
    graph = excise.trace(Cached(), data(size=2))
    found = boundaries(graph)
    assert [graph.trace.ops[b.op].name for b in found] == ["add", "linear"]
    assert graph.trace.outputs[1][1] not in {b.ref for b in found}


class Overwritten(nn.Module):
    """Whether the second layer's output is changed in place after the third layer has read it."""

    def __init__(self, *, late: bool) -> None:
        super().__init__()
        self.late = late
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        a, b, c, d = self.layers
        x = b(a(x).tanh())
        if not self.late:
            out: Tensor = d(c(x).tanh())
        else:
            out = d(c(x).tanh() + x.relu_())
        return out


def test_what_is_changed_in_place_later_is_no_boundary() -> None:
    x = torch.randn(2, 6)
    assert names(Overwritten(late=False), x) == ["linear", "linear"]
    graph = excise.trace(Overwritten(late=True), x)
    assert [graph.trace.ops[b.op].name for b in boundaries(graph)] == ["add", "linear"]
