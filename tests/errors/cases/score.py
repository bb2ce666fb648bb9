"""Criteria, measurements and the one-liner, asked for what they cannot give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import excise
from excise.errors import (
    ExampleError,
    InvalidScoresError,
    InvalidTargetError,
    MeasureError,
    NonFiniteWeightError,
    UnknownModuleError,
    UnreachableTargetError,
    UnsupportedModelError,
)
from excise.report import Report
from tests.errors.bench import Act, Bench, Case, Net


def _no_gradient(bench: Bench) -> Act:
    bench.model.zero_grad()
    graph = bench.graph
    return lambda: excise.scores.taylor(bench.model, graph)


def _of_another(criterion: Callable[..., Any]) -> Callable[[Bench], Act]:
    def ready(bench: Bench) -> Act:
        graph, other = bench.graph, Net(16)
        other(bench.x).sum().backward()
        return lambda: criterion(other, graph)

    return ready


def _norm(p: Any) -> Callable[[Bench], Act]:
    def ready(bench: Bench) -> Act:
        graph = bench.graph
        return lambda: excise.scores.magnitude(bench.model, graph, p=p)

    return ready


def _pruned(*inputs: Any, **options: Any) -> Callable[[Bench], Act]:
    def ready(bench: Bench) -> Act:
        given = inputs or (bench.x,)
        return lambda: excise.prune(bench.model, *given, **options)

    return ready


def _poisoned(bench: Bench) -> Act:
    bench.model[0].weight.detach()[0] = float("nan")
    return lambda: excise.prune(bench.model, bench.x, keep_macs=0.5)


def _wide(bench: Bench) -> Act:
    bench.model = nn.ParameterList([nn.Parameter(torch.zeros(2, dtype=torch.complex128))])
    return lambda: excise.measure.file_bytes(bench.model)


def _unitless(bench: Bench) -> Act:
    found = excise.measure.everything(bench.model)
    return lambda: Report(found, found, {"accuracy": (1, 2)})


def _wrapped(bench: Bench) -> Act:
    bench.model = nn.DataParallel(bench.model)
    return lambda: excise.prune(bench.model, bench.x, keep_macs=0.5)


SCORES = [
    Case("Taylor without gradients", _no_gradient, InvalidScoresError, "backward"),
    Case("magnitude of another model", _of_another(excise.scores.magnitude),
         InvalidScoresError, "0.weight"),
    Case("Taylor of another model", _of_another(excise.scores.taylor),
         InvalidScoresError, "0.weight"),
    Case("BN scale of another model", _of_another(excise.scores.bn_scale),
         InvalidScoresError, "0.weight"),
    Case("a norm of order 0", _norm(0), InvalidTargetError, "p=0"),
    Case("a norm below 0", _norm(-1), InvalidTargetError, "p=-1"),
    Case("a norm of order infinity", _norm(float("inf")), InvalidTargetError, "p=inf"),
    Case("a norm in words", _norm("l2"), InvalidTargetError, "'l2'"),
    Case("an unknown criterion", lambda _: lambda: excise.scores.by_name("hessian"),
         InvalidTargetError, "magnitude"),
]  # fmt: skip
MEASURE = [
    Case("latency on no input", lambda b: lambda: excise.measure.latency(b.model),
         MeasureError, "latency"),
    Case("latency on a wrong input",
         lambda b: lambda: excise.measure.latency(b.model, torch.zeros(1, 4, 8, 8)),
         MeasureError, "channels"),
    Case("latency of one run", lambda b: lambda: excise.measure.latency(b.model, b.x, repeats=1),
         MeasureError, "repeats=1"),
    Case("MACs on a wrong input",
         lambda b: lambda: excise.measure.macs(b.model, torch.zeros(1, 4, 8, 8)),
         ExampleError, "module '0'"),
    Case("MACs of no module", lambda _: lambda: excise.measure.macs(3),  # type: ignore[arg-type]
         UnsupportedModelError, "int"),
    Case("parameters of a lazy layer", lambda _: lambda: excise.measure.params(nn.LazyLinear(3)),
         MeasureError, "lazy"),
    Case("file bytes of a dtype without a code", _wide, MeasureError, "complex128"),
    Case("everything on a wrong input",
         lambda b: lambda: excise.measure.everything(b.model, torch.zeros(1, 4, 8, 8)),
         ExampleError, "module '0'"),
    Case("a row without a unit",
         _unitless,
         InvalidTargetError, "accuracy [%]"),
]  # fmt: skip
PRUNE = [
    Case("prune without a budget", _pruned(), InvalidTargetError, "exactly one of"),
    Case("prune to two budgets", _pruned(keep_macs=0.5, keep_units=0.5),
         InvalidTargetError, "keep_macs and keep_units"),
    Case("prune to NaN", _pruned(keep_macs=float("nan")), InvalidTargetError, "nan"),
    Case("prune in no bytes", _pruned(keep_macs=0.5, calibration_bytes=0),
         InvalidTargetError, "bytes=0"),
    Case("prune in a broken byte", _pruned(keep_macs=0.5, calibration_bytes=1e9),
         InvalidTargetError, "a number of bytes"),
    Case("prune out of reach", _pruned(keep_macs=1e-6), UnreachableTargetError, "1e-06"),
    Case("prune by an unknown criterion", _pruned(keep_macs=0.5, criterion="l0"),
         InvalidTargetError, "'l0'"),
    Case("prune by a number", _pruned(keep_macs=0.5, criterion=3),
         InvalidTargetError, "3"),
    Case("prune by obs without data", _pruned(keep_macs=0.5, criterion="obs"),
         InvalidTargetError, "calibration data"),
    Case("prune by a criterion that gives a list",
         _pruned(keep_macs=0.5, criterion=lambda _m, _g: [1, 2]), InvalidScoresError, "list"),
    Case("prune with a guard that matches nothing", _pruned(keep_macs=0.5, protect="head"),
         UnknownModuleError, "'head'"),
    Case("prune on a wrong input", _pruned(torch.zeros(1, 4, 8, 8), keep_macs=0.5),
         ExampleError, "module '0'"),
    Case("prune on integers", _pruned(torch.zeros(2, 3, 8, 8, dtype=torch.long), keep_macs=0.5),
         ExampleError, "module '0'"),
    Case("prune NaN weights", _poisoned, NonFiniteWeightError, "0.weight"),
    Case("prune data parallel",
         _wrapped,
         UnsupportedModelError, "model.module"),
]  # fmt: skip
