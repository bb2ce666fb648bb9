"""Refit of recurrent layers: a twin that is gone is made up for, over all steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import excise
from excise.calibration import batches, consumers
from excise.refit import refit
from excise.refit.work import Work
from tests.calibration.recurrent import Sequences, sequences
from tests.calibration.test_recurrent import KINDS, inputs


def cut(model: Sequences, part: str) -> tuple[nn.Module, excise.Plan]:
    """Without half of each pair: of inputs ("input") or of what the layer hears of itself."""
    graph = excise.trace(model, *inputs(model))
    reader = next(c for c in consumers(graph) if c.part is not None and c.part.reads == part)
    axes = {g.name: graph.axes[g.name] for g in graph.groups}
    (name,) = (n for n, axis in axes.items() if reader.units(graph.scope, axis) is not None)
    plan = excise.plan_units(graph, {name: range(axes[name].size // 2, axes[name].size)})
    return excise.remove(model, plan), plan


def data(model: Sequences, seed: int = 3) -> list[tuple[Any, ...]]:
    return [inputs(model, seed + i, 16) for i in range(10)]


def loss(model: nn.Module, small: nn.Module, given: list[tuple[Any, ...]]) -> float:
    with torch.no_grad():
        gaps = [(model(*args) - small(*args)).norm() / model(*args).std() for args in given]
    return float(torch.stack(gaps).mean())


CASES = [(name, part) for name in KINDS for part in ("input", "state")]
PACKED = [(name, part) for name, part in CASES if "packed" in name and part == "input"]
"""Packing has no rule that lets the units of what is packed go."""


@pytest.mark.parametrize(("name", "part"), [case for case in CASES if case not in PACKED])
def test_a_removed_twin_is_made_up_for(name: str, part: str) -> None:
    model = sequences(**KINDS[name])
    small, plan = cut(model, part)
    given, fresh = data(model), data(model, 50)
    before = loss(model, small, fresh)
    report = refit(model, small, plan, batches(given, given[0], {}))
    assert loss(model, small, fresh) < 0.02 * before
    names = [n for n, _ in model.named_parameters() if "weight" in n]
    assert sorted(r.weight for r in report.repairs) == sorted(names)
    assert all(r.after <= r.before + 1e-12 for r in report.repairs)


@pytest.mark.parametrize("name", ["GRU", "GRU, both directions, two layers"])
def test_means_alone_help_where_weights_may_not_change(name: str) -> None:
    model = sequences(**KINDS[name])
    with torch.no_grad():
        model.embed.bias.add_(1.0)
    small, plan = cut(model, "input")
    given, before = (
        data(model),
        {n: p.clone() for n, p in cut(model, "input")[0].named_parameters()},
    )
    left = loss(model, small, given)
    refit(model, small, plan, batches(given, given[0], {}), weights=False)
    assert loss(model, small, given) < left
    changed = {n for n, p in small.named_parameters() if not torch.equal(p, before[n])}
    assert "core.bias_ih_l0" in changed
    assert not any("weight" in n for n in changed)


def test_weights_stay_where_the_layer_alone_gets_no_nearer(monkeypatch: Any) -> None:
    model = sequences("LSTM")
    small, plan = cut(model, "state")
    before = {n: p.clone() for n, p in small.named_parameters()}
    far = iter([1.0, float("nan")])
    monkeypatch.setattr(Work, "strayed", lambda *_: next(far))
    given = data(model)
    report = refit(model, small, plan, batches(given, given[0], {}))
    for name, tensor in small.named_parameters():
        if name.startswith("core"):
            assert torch.equal(tensor, before[name])
    own = [r for r in report.repairs if r.weight.startswith("core")]
    assert len(own) == 2
    assert all(r.after == r.before and r.ridge is None for r in own)


def test_nothing_cut_nothing_changed() -> None:
    model = sequences("GRU", bidirectional=True)
    plan = excise.plan_units(excise.trace(model, *inputs(model)), {})
    small = excise.remove(model, plan)
    given = data(model)
    refit(model, small, plan, batches(given, given[0], {}))
    assert loss(model, small, data(model, 50)) < 1e-3


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_prune_finds_the_pairs(kind: str) -> None:
    """Half of the inputs and of the hidden units say nothing new."""
    model = sequences(kind, width=24)
    given = data(model)
    found = excise.prune(
        model, *inputs(model), calibration=given, keep_macs=0.5, latency=False, progress=False
    )
    core: Any = found.model.core
    assert core.input_size < 24
    assert loss(model, found.model, data(model, 50)) < 0.5
