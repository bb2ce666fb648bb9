"""A branch that is removed: the plan, the knife, the proof, files and optimizers."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.errors import (
    OptimizerStateError,
    PlanFormatError,
    StalePlanError,
    VerificationError,
)
from excise.layers import Bypass, Bypassed
from excise.plan import BranchCut, Plan, TensorCut
from excise.trace.skeleton import named_tensors
from tests.branch.network import IMAGE, ROWS, Residual, Transformer, cut_of, seeded

NETWORKS: dict[str, tuple[Any, Tensor]] = {
    "conv": (Residual, IMAGE),
    "transformer": (Transformer, ROWS),
}


@pytest.fixture(params=NETWORKS)
def subject(request: pytest.FixtureRequest) -> tuple[Any, nn.Module, Tensor, Plan]:
    build, x = NETWORKS[request.param]
    model = seeded(build)
    return build, model, x, cut_of(model, x)


def with_widths(model: nn.Module, x: Tensor, plan: Plan) -> Plan:
    """The same, and a unit of each group that is not tied to another."""
    graph = excise.trace(excise.remove(model, plan), x)
    made = excise.plan_units(graph, {g.name: [1] for g in graph.groups if not g.tied})
    return dataclasses.replace(made, shapes=plan.shapes, branches=plan.branches)


def test_what_is_left_is_the_stream(subject: Any) -> None:
    _, model, x, plan = subject
    short = excise.remove(model, plan)
    if isinstance(model, Residual):
        want = model.head(model.stem(x).relu().mean((2, 3)))
    else:
        want = model.head(model.norm(model.stem(x)).mean(1))
    assert torch.equal(short(x), want)
    assert all(not plan.gone(name) for name, _ in named_tensors(short))
    assert type(short) is type(model)


def test_the_model_is_not_touched_and_the_cut_is_deep(subject: Any) -> None:
    _, model, _, plan = subject
    before = copy.deepcopy(model.state_dict())
    short = excise.remove(model, plan)
    for parameter in short.parameters():
        parameter.data.zero_()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(isinstance(m, Bypass) for m in model.modules())


def test_removed_equals_silenced(subject: Any) -> None:
    _, model, x, plan = subject
    one = dataclasses.replace(plan, branches=plan.branches[:1])
    for cut in (plan, one, with_widths(model, x, plan), with_widths(model, x, one)):
        verdict = excise.verify(model, excise.remove(model, cut), cut, x)
        assert verdict.passed, verdict


def test_the_proof_can_fail(subject: Any) -> None:
    _, model, x, plan = subject
    small = excise.remove(model, plan)
    with torch.no_grad():
        next(small.parameters()).mul_(1.001)
    with pytest.raises(VerificationError):
        excise.verify(model, small, plan, x).check()
    with pytest.raises(VerificationError):  # the branches are still there
        excise.verify(model, model, plan, x).check()


def test_a_module_that_is_no_branch_is_no_proof() -> None:
    model = seeded(Residual)
    plan = cut_of(model, IMAGE)
    plain = dataclasses.replace(
        plan, branches=(BranchCut("bn", (Bypassed("blocks.0.bn1", "identity"),)),)
    )
    verdict = excise.verify(model, excise.remove(model, plain), plain, IMAGE)
    assert not verdict.passed
    assert "no residual branch" in str(verdict)


def test_a_stand_in_that_makes_something_else_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(Transformer)
    plan = cut_of(model, ROWS)
    monkeypatch.setattr(torch, "zeros_like", torch.ones_like)
    with pytest.raises(VerificationError):
        excise.verify(model, excise.remove(model, plan), plan, ROWS).check()


def test_json_and_versions() -> None:
    plan = cut_of(seeded(Transformer), ROWS)
    assert json.loads(plan.to_json())["version"] == 3
    assert Plan.from_json(plan.to_json()) == plan
    assert json.loads(plan.widths.to_json())["version"] == 1
    assert "layers.0.attn: the whole branch" in str(plan)


@pytest.mark.parametrize(
    "modules",
    [
        [["a", "nothing", 0, 0, 0]],
        [["a", "zeros", 0, 2, 2]],
        [["a", "zeros", -1, 0, 0]],
        [["a", "zeros", 0, 0]],
        [["", "identity", 0, 0, 0]],
        [["a", "identity", 0, 0, 0], ["a", "identity", 0, 0, 0]],
        [["a", "identity", 0, 0, 0], ["a.b", "identity", 0, 0, 0]],
        [[1, "identity", 0, 0, 0]],
        ["a"],
    ],
)
def test_branches_that_make_no_sense_are_refused(modules: Any) -> None:
    raw = json.loads(Plan({}, {}, ()).to_json()) | {"version": 3, "branches": [["a", modules]]}
    with pytest.raises(PlanFormatError):
        Plan.from_json(json.dumps(raw))


def test_a_cut_inside_a_branch_that_goes_is_refused() -> None:
    cuts = (BranchCut("a", (Bypassed("a", "identity"),)),)
    with pytest.raises(PlanFormatError, match="lies in a branch"):
        Plan({}, {"c": 2}, (TensorCut("a.weight", (2,), ("c",)),), branches=cuts).check()


def test_a_spent_plan_is_refused(subject: Any) -> None:
    _, model, _, plan = subject
    small = excise.remove(model, plan)
    with pytest.raises(StalePlanError):
        excise.remove(small, plan)
    if isinstance(model, Transformer):  # an `nn.Identity` may be the model's own
        with pytest.raises(StalePlanError, match="removed already"):
            excise.remove(small, dataclasses.replace(plan, shapes={}))


def test_a_module_that_is_not_there_is_refused() -> None:
    model = seeded(Residual)
    plan = dataclasses.replace(
        cut_of(model, IMAGE), branches=(BranchCut("x", (Bypassed("blocks.9", "identity"),)),)
    )
    with pytest.raises(StalePlanError, match=r"blocks\.9"):
        excise.remove(model, plan)


def test_files(subject: Any, tmp_path: Path) -> None:
    build, model, x, plan = subject
    cut = with_widths(model, x, plan)
    small = excise.remove(model, cut)
    excise.save(small, cut, tmp_path / "small.safetensors")
    again = excise.load(tmp_path / "small.safetensors", build).eval()
    assert torch.equal(again(x), small(x))
    assert again.state_dict().keys() == small.state_dict().keys()
    with pytest.raises(StalePlanError, match="branch that is gone"):
        excise.save(model, plan, tmp_path / "whole.safetensors")


def test_in_place_with_an_optimizer(subject: Any) -> None:
    _, model, x, plan = subject
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(x).square().sum().backward()
    optimizer.step()
    kept = next(model.stem.parameters())
    moment = optimizer.state[kept]["exp_avg"].clone()
    wanted = excise.remove(model, plan)
    assert excise.remove(model, plan, inplace=True, optimizer=optimizer) is model
    assert model.state_dict().keys() == wanted.state_dict().keys()
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in model.parameters()]
    assert set(map(id, optimizer.state)) == set(map(id, held))
    assert torch.equal(optimizer.state[kept]["exp_avg"], moment)
    model(x).square().sum().backward()
    optimizer.step()


def test_an_optimizer_follows(subject: Any) -> None:
    _, model, x, plan = subject
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model(x).square().sum().backward()
    optimizer.step()
    small = excise.remove(model, plan)
    excise.follow(optimizer, model, small, plan)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in small.parameters()]
    with pytest.raises((OptimizerStateError, StalePlanError)):
        excise.follow(optimizer, model, small, plan)


def test_a_branch_after_widths_and_widths_after_a_branch() -> None:
    model = seeded(Residual)
    graph = excise.trace(model, IMAGE)
    first = excise.plan(graph, excise.scores.magnitude(model, graph), keep_macs=0.7)
    middle = excise.remove(model, first)
    later = cut_of(middle, IMAGE, names=("blocks.1",))
    both = first.then(later)
    small = excise.remove(middle, later)
    assert torch.equal(excise.remove(model, both)(IMAGE), small(IMAGE))
    assert excise.verify(model, small, both, IMAGE).passed
    start = cut_of(model, IMAGE, names=("blocks.1",))
    short = excise.remove(model, start)
    graph = excise.trace(short, IMAGE)
    widths = excise.plan(graph, excise.scores.magnitude(short, graph), keep_macs=0.7)
    both = start.then(widths)
    assert torch.equal(excise.remove(model, both)(IMAGE), excise.remove(short, widths)(IMAGE))
