"""What branches cost, and `prune(depth=True)`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.calibration import Batch, batches
from excise.depth import branched
from excise.errors import InvalidTargetError
from excise.scores.curve import Curves
from tests.branch.network import Residual, Transformer, seeded

X = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def parts(x: Tensor) -> list[Batch]:
    return batches(list(x.split(12)), (x[:2],), {})


def idle(model: nn.Module, name: str, share: float = 0.0) -> nn.Module:
    """The same, of which one block does next to nothing."""
    norm = model.get_submodule(f"{name}.bn2")
    with torch.no_grad():
        for tensor in (*norm.parameters(), norm.get_buffer("running_mean")):
            tensor.mul_(share)
    return model


def costs(model: nn.Module, x: Tensor) -> dict[str, float]:
    found = branched(model, excise.trace(model, x[:2]), Curves({}), parts(x)).branches
    assert found is not None
    return dict(found)


def test_a_branch_that_does_nothing_costs_nothing() -> None:
    model = idle(seeded(Residual), "blocks.1")
    found = costs(model, X)
    assert list(found) == [f"blocks.{i}" for i in range(4)]
    assert found["blocks.1"] < 1e-6
    assert min(v for k, v in found.items() if k != "blocks.1") > 1e-4


def test_the_layers_behind_it_make_up_for_it() -> None:
    model = seeded(Residual)
    name = "blocks.1"
    with torch.no_grad():
        short = copy.deepcopy(model)
        setattr(short.blocks, "1", nn.Identity())
        wanted, found = model(X[48:]), short(X[48:])
        plain = float((wanted - found).square().mean() / wanted.var(correction=0))
    assert costs(model, X)[name] < 0.7 * plain


def test_nothing_is_touched_and_it_is_the_same_again() -> None:
    model = seeded(Transformer).train()
    x = torch.randn(40, 5, 4)
    before = copy.deepcopy(model.state_dict())
    first = costs(model, x)
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert first == costs(model, x)
    assert len(first) == 6


def test_curves_keep_what_they_had() -> None:
    model = seeded(Residual)
    graph = excise.trace(model, X[:2])
    known = excise.scores.obs(model, graph, parts(X))
    found = branched(model, graph, known, parts(X))
    assert found.values == known.values
    assert known.branches is None
    assert found.renamed(graph).branches == found.branches


def pruned(model: nn.Module, **options: Any) -> excise.Pruned:
    return excise.prune(model, X[:2], calibration=X, latency=False, depth=True, **options)


def test_depth_where_it_helps() -> None:
    model = idle(idle(seeded(lambda: Residual(4, 8, 12)), "blocks.1"), "blocks.2", 0.01)
    found = pruned(model, keep_macs=0.5)
    assert {"blocks.1", "blocks.2"} <= {b.name for b in found.plan.branches}
    assert found.verdict is not None
    assert found.verdict.passed
    assert 0.485 <= found.report.kept()["multiply-adds"] <= 0.515
    taken, other = found.rivals
    assert taken.plan == found.plan
    assert taken.apart < other.apart
    assert not other.plan.branches


def test_depth_where_it_does_not() -> None:
    """What the knapsack thought cheap was not: the outputs decide."""
    model = seeded(Residual)

    def wrong(model: nn.Module, graph: excise.AxisGraph) -> Curves:
        with torch.no_grad():
            known = excise.scores.obs(model.eval(), graph, parts(X))
        return Curves(known.values, {f"blocks.{i}": 1e-9 for i in range(4)})

    found = pruned(model, keep_macs=0.7, criterion=wrong)
    assert not found.plan.branches
    assert found.plan == found.rivals[1].plan
    assert found.rivals[1].apart < found.rivals[0].apart
    alone = excise.prune(model, X[:2], calibration=X, latency=False, keep_macs=0.7, criterion=wrong)
    assert alone.plan == found.plan
    assert all(
        map(torch.equal, alone.model.state_dict().values(), found.model.state_dict().values())
    )


@pytest.mark.usefixtures("paced")
def test_a_speed() -> None:
    model = idle(seeded(lambda: Residual(4, 16, 24)), "blocks.1")
    found = pruned(model, speedup=1.6, verify=True)
    assert "blocks.1" in [b.name for b in found.plan.branches]
    assert found.report.speedup is not None
    assert abs(found.report.speedup.ratio / 1.6 - 1) <= 0.03
    assert found.verdict is not None
    assert found.verdict.passed


def test_blocks_are_trained_without_branches() -> None:
    model = idle(seeded(Residual), "blocks.1")
    found = pruned(model, keep_macs=0.6, reconstruct=4)
    assert found.plan.branches
    assert found.reconstruction is not None
    blocks = excise.recover.Blocks(model, found.model, found.plan, X[:2])
    assert torch.isfinite(blocks.loss(X[:4]))


def test_it_is_refused_before_anything_is_done() -> None:
    model = seeded(Residual)
    given: dict[str, Any] = {"keep_macs": 0.5, "depth": True, "latency": False}
    with pytest.raises(InvalidTargetError, match="calibration data"):
        excise.prune(model, X[:2], **given)
    with pytest.raises(InvalidTargetError, match="uniform"):
        excise.prune(model, X[:2], calibration=X, uniform=True, **given)
    with pytest.raises(InvalidTargetError, match="costs"):
        excise.prune(model, X[:2], calibration=X, criterion="magnitude", **given)
    with pytest.raises(InvalidTargetError, match="zeros in place"):
        excise.prune(model, X[:2], calibration=X, sparsity=0.5, depth=True)
    with pytest.raises(InvalidTargetError, match="another budget"):
        excise.prune(model, X[:2], calibration=X, depth=True, keep_peak_memory=0.5)
