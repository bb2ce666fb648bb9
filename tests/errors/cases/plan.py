"""Budgets, options, units and plan texts that are not usable."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

import excise
from excise.errors import (
    InvalidScoresError,
    InvalidTargetError,
    InvalidUnitError,
    PlanFormatError,
    UnknownGroupError,
    UnknownModuleError,
    UnreachableTargetError,
)
from tests.errors.bench import Act, Bench, Case


class Pair(nn.Module):
    """Two layers that nothing but a comparison ties together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(3, 8)
        self.c, self.d = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors of 3 numbers to vectors of 2."""
        a, b = self.a(x), self.b(x)
        if a.shape[1] != b.shape[1]:
            raise ValueError
        return torch.add(self.c(a), self.d(b))


def _asked(**options: Any) -> Callable[[Bench], Act]:
    return lambda bench: bench.planned(**options)


def _scored(change: Callable[[dict[str, Any]], Any]) -> Callable[[Bench], Act]:
    """Plan with scores that were changed."""

    def ready(bench: Bench) -> Act:
        values: dict[str, Any] = dict(bench.scores.values)
        change(values)
        return lambda: excise.plan(bench.graph, excise.Scores(values), keep_macs=0.5)

    return ready


def _units(group: str, units: Any) -> Callable[[Bench], Act]:
    def ready(bench: Bench) -> Act:
        graph = bench.graph
        return lambda: excise.plan_units(graph, {group: units})

    return ready


def _read(change: Callable[[dict[str, Any]], Any]) -> Callable[[Bench], Act]:
    """Read the plan's JSON after it was changed."""

    def ready(bench: Bench) -> Act:
        raw = json.loads(bench.plan.to_json())
        change(raw)
        return lambda: excise.Plan.from_json(json.dumps(raw))

    return ready


def _text(text: Any) -> Callable[[Bench], Act]:
    return lambda _: lambda: excise.Plan.from_json(text)


def _in_step(bench: Bench) -> Act:
    """Widths that the code demands to be equal, one of them cut alone."""
    bench.model, bench.x = Pair(), torch.randn(1, 3)
    graph = excise.trace(bench.model, bench.x)
    tied = next(group for group in graph.groups if group.tied)
    return lambda: excise.plan_units(graph, {tied.name: [0]})


PLAN = [
    Case("no budget", _asked(), InvalidTargetError, "exactly one of"),
    Case("two budgets", _asked(keep_macs=0.5, keep_params=0.5), InvalidTargetError, "keep_params"),
    Case("keep nothing", _asked(keep_macs=0), InvalidTargetError, "keep_macs=0"),
    Case("keep less than nothing", _asked(keep_params=-0.5), InvalidTargetError, "-0.5"),
    Case("keep more than all", _asked(keep_units=1.5), InvalidTargetError, "(0, 1]"),
    Case("a percentage", _asked(keep_macs=50), InvalidTargetError, "a fraction"),
    Case("NaN as target", _asked(keep_macs=float("nan")), InvalidTargetError, "nan"),
    Case("infinity as target", _asked(keep_macs=float("inf")), InvalidTargetError, "inf"),
    Case("a boolean as target", _asked(keep_macs=True), InvalidTargetError, "True"),
    Case("text as target", _asked(keep_macs="0.5"), InvalidTargetError, "'0.5'"),
    Case("a tensor as target", _asked(keep_macs=torch.tensor(0.5)), InvalidTargetError, "tensor"),
    Case("a complex target", _asked(keep_macs=0.5 + 0j), InvalidTargetError, "0j"),
    Case("round to nothing", _asked(keep_macs=0.5, round_to=0), InvalidTargetError, "round_to=0"),
    Case("round to 2.5", _asked(keep_macs=0.5, round_to=2.5), InvalidTargetError, "whole number"),
    Case("round to True", _asked(keep_macs=0.5, round_to=True), InvalidTargetError, "=True"),
    Case("keep no unit", _asked(keep_macs=0.5, min_keep=0), InvalidTargetError, "min_keep=0"),
    Case("min_keep below 0", _asked(keep_macs=0.5, min_keep=-1), InvalidTargetError, "-1"),
    Case("2.5 units", _asked(keep_macs=0.5, min_keep=2.5), InvalidTargetError, "min_keep=2.5"),
    Case("min_keep NaN", _asked(keep_macs=0.5, min_keep=float("nan")), InvalidTargetError, "nan"),
    Case("min_keep inf", _asked(keep_macs=0.5, min_keep=float("inf")), InvalidTargetError, "inf"),
    Case("min_keep as text", _asked(keep_macs=0.5, min_keep="4"), InvalidTargetError, "'4'"),
    Case("protect no such module", _asked(keep_macs=0.5, protect="9"), UnknownModuleError, "'9'"),
    Case(
        "protect no such pattern",
        _asked(keep_macs=0.5, protect=["0", "layer*.conv"]),
        UnknownModuleError,
        "layer*.conv",
    ),
    Case("protect says what is close", _asked(keep_macs=0.5, protect="0.wieght"),
         UnknownModuleError, "0.weight"),
    Case("protect a number", _asked(keep_macs=0.5, protect=0), InvalidTargetError, "protect=0"),
    Case("protect nothing", _asked(keep_macs=0.5, protect=None), InvalidTargetError, "None"),
    Case("protect a module", _asked(keep_macs=0.5, protect=nn.ReLU()), InvalidTargetError, "ReLU"),
    Case("out of reach", _asked(keep_macs=0.001), UnreachableTargetError, "0.001"),
    Case(
        "out of reach with half protected",
        _asked(keep_params=0.3, protect="*"),
        UnreachableTargetError,
        "ask for keep_params>=1",
    ),
    Case("out of reach by min_keep", _asked(keep_units=0.2, min_keep=0.9),
         UnreachableTargetError, "min_keep"),
    Case("a model as graph", lambda b: lambda: excise.plan(b.model, b.scores, keep_macs=0.5),
         InvalidTargetError, "excise.trace"),
    Case("scores of one group missing", _scored(dict.popitem),
         InvalidScoresError, "there are none"),
    Case("scores of another length", _scored(lambda v: v.update({"0.weight": v["0.weight"][:-1]})),
         InvalidScoresError, "8 units"),
    Case("scores in a matrix", _scored(lambda v: v.update({"0.weight": v["0.weight"][:, None]})),
         InvalidScoresError, "(8, 1)"),
    Case("a NaN score", _scored(lambda v: v.update({"0.weight": v["0.weight"] * math.nan})),
         InvalidScoresError, "NaN"),
    Case("an infinite score", _scored(lambda v: v.update({"0.weight": v["0.weight"] / 0})),
         InvalidScoresError, "infinite"),
    Case("scores in a list", _scored(lambda v: v.update({"0.weight": v["0.weight"].tolist()})),
         InvalidScoresError, "list"),
    Case("scores as a dict", lambda b: lambda: excise.plan(b.graph, cast("Any", {}), keep_macs=0.5),
         InvalidScoresError, "dict"),
]  # fmt: skip
PLAN_UNITS = [
    Case("an unknown group", _units("nine", [0]), UnknownGroupError, "no such group"),
    Case("a pinned group", _units("7.weight", [0]), UnknownGroupError, "a model output"),
    Case("a group emptied", _units("0.weight", range(8)), InvalidUnitError, "one has to stay"),
    Case("a unit too far", _units("0.weight", [8]), InvalidUnitError, "from 0 to 7"),
    Case("a unit below 0", _units("0.weight", [-1]), InvalidUnitError, "unit -1"),
    Case("a unit twice", _units("0.weight", [3, 1, 3]), InvalidUnitError, "once"),
    Case("half a unit", _units("0.weight", [1.5]), InvalidUnitError, "1.5"),
    Case("a mask", _units("0.weight", [True, False]), InvalidUnitError, "True"),
    Case("a mask as tensor", _units("0.weight", torch.ones(8).bool()), InvalidUnitError, "tensor"),
    Case("units as text", _units("0.weight", "12"), InvalidUnitError, "'12'"),
    Case("units as a number", _units("0.weight", 3), InvalidUnitError, "unit 3 "),
    Case("units as None", _units("0.weight", None), InvalidUnitError, "None"),
    Case("a tied group alone", _in_step, UnknownGroupError, "in step with"),
    Case("a model as graph of units", lambda b: lambda: excise.plan_units(b.model, {}),
         InvalidTargetError, "excise.trace"),
]  # fmt: skip
PLAN_JSON = [
    Case("no JSON", _text("{'a': 1"), PlanFormatError, "no JSON"),
    Case("empty text", _text(""), PlanFormatError, "no JSON"),
    Case("no text", _text(None), PlanFormatError, "no JSON"),
    Case("a list", _text("[1, 2]"), PlanFormatError, "version"),
    Case("no version", _text("{}"), PlanFormatError, "version"),
    Case("a newer version", _read(lambda r: r.update(version=99)), PlanFormatError, "99"),
    Case("version 0", _read(lambda r: r.update(version=0)), PlanFormatError, "its version is 0"),
    Case("a boolean version", _read(lambda r: r.update(version=True)), PlanFormatError, "True"),
    Case("a field missing", _read(lambda r: r.pop("tensors")), PlanFormatError, "tensors"),
    Case("a field of another kind", _read(lambda r: r.update(sizes=[1])), PlanFormatError, "field"),
    Case("half a unit in JSON", _read(lambda r: r.update(removed={"0.weight": [0.5]})),
         PlanFormatError, "0.5"),
    Case("a unit too far in JSON", _read(lambda r: r.update(removed={"0.weight": [8]})),
         PlanFormatError, "its 8 units"),
    Case("an axis without a size", _read(lambda r: r.update(removed={"nine": [0]})),
         PlanFormatError, "'nine'"),
    Case("all units removed in JSON",
         _read(lambda r: r["removed"].update({"0.weight": list(range(8))})),
         PlanFormatError, "do not fit"),
    Case("a size that does not multiply up", _read(lambda r: r["sizes"].update({"0.weight": 9})),
         PlanFormatError, "dimensions say"),
    Case("a hostile size", _read(lambda r: r["sizes"].update({"0.weight": 10**15})),
         PlanFormatError, "dimensions say"),
    Case("an open bracket", _read(lambda r: r["tensors"][0][2].__setitem__(0, "(0.weight")),
         PlanFormatError, "unreadable"),
    Case("brackets without end", _read(lambda r: r["tensors"][0][2].__setitem__(0, "(" * 9999)),
         PlanFormatError, "unreadable"),
    Case("brackets too deep",
         _read(lambda r: r["tensors"][0][2].__setitem__(0, "(" * 999 + "0.weight" + ")" * 999)),
         PlanFormatError, "unreadable"),
]  # fmt: skip
