"""Cuts that must not be made, and proofs that cannot be given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import excise
from excise.errors import (
    NonFiniteWeightError,
    OptimizerStateError,
    PlanFormatError,
    StalePlanError,
    UnsupportedModelError,
    VerificationError,
)
from tests.errors.bench import Act, Bench, Case, Net, compiled


class Silent(Net):
    """Computes, and returns nothing."""

    def forward(self, x: Tensor) -> Any:
        """Nothing."""
        for layer in self:
            x = layer(x)


def _spoiled(index: tuple[int, ...], value: float) -> Callable[[Bench], Act]:
    """One weight is no number."""

    def ready(bench: Bench) -> Act:
        plan = bench.plan
        with torch.no_grad():
            bench.model[3].weight[index] = value
        return lambda: excise.remove(bench.model, plan)

    return ready


def _changed(change: Callable[[Any], Any], *, inplace: bool = False) -> Callable[[Bench], Act]:
    """The model was changed after it was planned."""

    def ready(bench: Bench) -> Act:
        plan = bench.plan
        change(bench)
        return lambda: excise.remove(bench.model, plan, inplace=inplace)

    return ready


def _planned(plan: Any) -> Callable[[Bench], Act]:
    """Something else is passed as a plan."""
    return lambda bench: lambda: excise.remove(bench.model, plan(bench))


def _optimized(
    make: Callable[[Bench], Any], *, steps: int = 1, inplace: bool = True
) -> Callable[[Bench], Act]:
    def ready(bench: Bench) -> Act:
        plan, optimizer = bench.plan, make(bench)
        for _ in range(steps):
            optimizer.step(lambda: bench.model(bench.x).sum())
        return lambda: excise.remove(bench.model, plan, inplace=inplace, optimizer=optimizer)

    return ready


def _checked(bench: Bench, small: Any, *inputs: Any) -> Act:
    plan = bench.plan
    return lambda: excise.verify(bench.model, small, plan, *inputs).check()


def _tampered(value: float) -> Callable[[Bench], Act]:
    """A weight of the small model is not what it was."""

    def ready(bench: Bench) -> Act:
        small: Any = bench.small
        with torch.no_grad():
            small[3].weight[0, 0, 1, 1] += value
        return _checked(bench, small, bench.x)

    return ready


def _silent(bench: Bench) -> Act:
    bench.model = Silent()
    graph = excise.trace(bench.model, bench.x)
    plan = excise.plan_units(graph, {"0.weight": [1]})
    small = excise.remove(bench.model, plan)
    return lambda: excise.verify(bench.model, small, plan, bench.x).check()


def _unplanned(bench: Bench) -> Act:
    small, none = bench.small, vars(bench).get("none")
    return lambda: excise.verify(bench.model, small, none, bench.x)  # type: ignore[arg-type]


REMOVE = [
    Case("a plan spent in place", _changed(lambda b: excise.remove(b.model, b.plan, inplace=True)),
         StalePlanError, "spent"),
    Case("a plan spent on the copy", lambda b: lambda: excise.remove(b.small, b.plan),
         StalePlanError, "was made when it was"),
    Case("a plan of a wider model", _changed(lambda b: vars(b).update(model=Net(16))),
         StalePlanError, "16"),
    Case("a plan of another model", _changed(lambda b: vars(b).update(model=nn.Linear(3, 3))),
         StalePlanError, "not in this model"),
    Case("a layer was added", _changed(lambda b: b.model.append(nn.Linear(5, 5))),
         StalePlanError, "8.weight"),
    Case("a layer was taken out", _changed(lambda b: b.model.pop(1)), StalePlanError, "1.weight"),
    Case("an attribute lies", _changed(lambda b: vars(b.model[0]).update(out_channels=9)),
         StalePlanError, "out_channels"),
    Case("an attribute is gone", _changed(lambda b: vars(b.model[0]).pop("out_channels")),
         StalePlanError, "out_channels"),
    Case("a NaN weight", _spoiled((0, 0, 0, 0), float("nan")), NonFiniteWeightError, "3.weight"),
    Case("an infinite weight", _spoiled((11, 7, 2, 2), float("inf")),
         NonFiniteWeightError, "1 values"),
    Case("many NaN weights", _changed(lambda b: b.model[7].bias.detach().fill_(float("nan"))),
         NonFiniteWeightError, "5 values"),
    Case("JSON as plan", _planned(lambda b: b.plan.to_json()), PlanFormatError, "a str is no Plan"),
    Case("units as plan", _planned(lambda _: {"0.weight": [0]}), PlanFormatError, "a dict"),
    Case("no plan", _planned(lambda _: None), PlanFormatError, "NoneType"),
    Case("a plan altered by hand",
         _planned(lambda b: dataclasses.replace(b.plan, removed={"0.weight": (99,)})),
         PlanFormatError, "8 units"),
    Case("a plan that empties a group",
         _planned(lambda b: dataclasses.replace(b.plan, removed={"0.weight": tuple(range(8))})),
         PlanFormatError, "8 units"),
    Case("cut data parallel", _changed(lambda b: vars(b).update(model=nn.DataParallel(b.model))),
         UnsupportedModelError, "model.module"),
    Case("cut compiled",
         _changed(lambda b: vars(b).update(model=compiled(b.model))),
         UnsupportedModelError, "compile the result"),
    Case("cut no module", _changed(lambda b: vars(b).update(model=3)),
         UnsupportedModelError, "int"),
    Case("the optimizer of another model",
         _optimized(lambda _: torch.optim.SGD(Net().parameters(), lr=0.1), steps=0),
         OptimizerStateError, "none of this model"),
    Case("no optimizer", _optimized(lambda _: "adam", steps=0), OptimizerStateError, "str"),
    Case("a scheduler as optimizer",
         _optimized(lambda b: torch.optim.lr_scheduler.ConstantLR(
             torch.optim.SGD(b.model.parameters(), lr=0.1)), steps=0),
         OptimizerStateError, "ConstantLR"),
    Case("factored moments", _optimized(lambda b: torch.optim.Adafactor(b.model.parameters())),
         OptimizerStateError, "row_var"),
    Case("factored moments, on a copy",
         _optimized(lambda b: torch.optim.Adafactor(b.model.parameters()), inplace=False),
         OptimizerStateError, "row_var"),
    Case("a flat history", _optimized(lambda b: torch.optim.LBFGS(b.model.parameters())),
         OptimizerStateError, "LBFGS"),
]  # fmt: skip
VERIFY = [
    Case("a weight changed after the cut", _tampered(0.1), VerificationError, "differs"),
    Case("a weight became NaN", _tampered(float("nan")), VerificationError, "nan"),
    Case("the uncut model as the small one", lambda b: _checked(b, b.model, b.x),
         VerificationError, "differs"),
    Case("another model as the small one", lambda b: _checked(b, nn.Flatten(), b.x),
         VerificationError, "another path"),
    Case("small and original swapped",
         lambda b: lambda: excise.verify(b.small, b.model, b.plan, b.x),
         StalePlanError, "spent"),
    Case("proof on no input", lambda b: _checked(b, b.small), VerificationError, "missing"),
    Case("proof on a wrong input", lambda b: _checked(b, b.small, torch.zeros(1, 4, 8, 8)),
         VerificationError, "does not run"),
    Case("proof of a model without outputs", _silent, VerificationError, "returns no tensor"),
    Case("proof without a plan",
         _unplanned,
         PlanFormatError, "NoneType"),
    Case("proof of no module", lambda b: _checked(b, "small.safetensors", b.x),
         UnsupportedModelError, "torch.nn.Module"),
    Case("proof of a compiled model", lambda b: _checked(b, compiled(b.small), b.x),
         UnsupportedModelError, "_orig_mod"),
]  # fmt: skip
