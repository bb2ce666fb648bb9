"""Cases: reductions."""

from __future__ import annotations

from typing import Any

import torch

from tests.rules.oracle import Case, Given, real

X = real(2, 3, 4)


def _along(function: Any, x: Given = X) -> tuple[Case, ...]:
    name = function.__name__
    return (
        Case(f"{name} of all", "n* c* h* -> ()", function, (x,)),
        Case(f"{name} along one", "n c* h -> n h", lambda x: function(x, dim=1), (x,)),
        Case(f"{name} kept", "n c* h -> n 1 h", lambda x: function(x, dim=1, keepdim=True), (x,)),
    )


def _along_two(function: Any) -> tuple[Case, ...]:
    name = function.__name__
    return (
        Case(
            f"{name} along two",
            "n* c h* -> c",
            lambda x: function(x, dim=(0, -1)),
            (real(2, 3, 4),),
        ),
        Case(
            f"{name} along two kept",
            "n c* h* -> n 1 1",
            lambda x: function(x, (1, 2), keepdim=True),
            (real(2, 3, 4),),
        ),
    )


MANY = (torch.mean, torch.sum, torch.nansum, torch.nanmean, torch.std, torch.var)
CASES = (
    *(case for f in MANY for case in (*_along(f), *_along_two(f))),
    *(case for f in (torch.amax, torch.amin) for case in (*_along(f), *_along_two(f))),
    *(case for f in (torch.prod, torch.any, torch.all) for case in _along(f)),
    Case("logsumexp", "n c* h -> n h", lambda x: x.logsumexp(1), (real(2, 3, 4),)),
    Case("logsumexp along two", "n* c h* -> c", lambda x: x.logsumexp((0, 2)), (real(2, 3, 4),)),
    Case("count_nonzero", "n c* -> n", lambda x: x.count_nonzero(1), (real(3, 4),)),
    Case("count_nonzero of all", "n* c* -> ()", torch.count_nonzero, (real(3, 4),)),
    Case("aminmax", "n c* -> n, n", lambda x: x.aminmax(dim=1), (real(3, 4),)),
    Case("aminmax of all", "n* c* -> (), ()", torch.aminmax, (real(3, 4),)),
    Case("sum of a vector", "c* -> ()", torch.sum, (real(4),)),
    Case(
        "mean in float64",
        "n c* -> n",
        lambda x: torch.mean(x, 1, dtype=torch.float64),
        (real(3, 4),),
    ),
    Case("var biased", "n c* -> n", lambda x: x.var(1, unbiased=False), (real(3, 4),)),
    Case("var of all biased", "n* c* -> ()", lambda x: x.var(unbiased=False), (real(3, 4),)),
    Case(
        "std kept",
        "n c* -> n 1",
        lambda x: torch.std(x, -1, correction=0, keepdim=True),
        (real(3, 4),),
    ),
    Case(
        "var_mean", "n c* -> n 1, n 1", lambda x: torch.var_mean(x, 1, keepdim=True), (real(3, 4),)
    ),
    Case("var_mean of all", "n* c* -> (), ()", torch.var_mean, (real(3, 4),)),
    Case("std_mean", "n c* -> n, n", lambda x: torch.std_mean(x, dim=[1]), (real(3, 4),)),
    Case("norm", "n c* -> n", lambda x: x.norm(dim=1), (real(3, 4),)),
    Case("norm of all", "n* c* -> ()", torch.norm, (real(3, 4),)),
    Case("norm p kept", "n c* -> n 1", lambda x: x.norm(p=1, dim=-1, keepdim=True), (real(3, 4),)),
    Case("vector_norm", "n* c -> c", lambda x: torch.linalg.vector_norm(x, 3, 0), (real(3, 4),)),
    Case(
        "aten norm",
        "n c* -> n",
        lambda x: torch.ops.aten.norm.ScalarOpt_dim(x, 2, [1]),
        (real(3, 4),),
    ),
    Case("max of all", "n* c* -> ()", torch.max, (real(3, 4),)),
    Case("min of all", "n* c* -> ()", torch.min, (real(3, 4),)),
    Case("max along one", "n C* -> n, n", lambda x: x.max(1), (real(3, 4),)),
    Case(
        "min along one kept", "n C* -> n 1, n 1", lambda x: x.min(-1, keepdim=True), (real(3, 4),)
    ),
    Case("argmax", "n C* -> n", lambda x: x.argmax(1), (real(3, 4),)),
    Case("argmax of all", "N* C* -> ()", torch.argmax, (real(3, 4),)),
    Case("argmin kept", "n C* -> n 1", lambda x: x.argmin(1, keepdim=True), (real(3, 4),)),
    Case("median", "n C* -> n, n", lambda x: x.median(1), (real(3, 5),)),
    Case("median of all", "N* C* -> ()", torch.median, (real(3, 5),)),
    Case("nanmedian", "n C* -> n, n", lambda x: x.nanmedian(dim=1), (real(3, 5),)),
    Case("mode", "n C* -> n, n", lambda x: x.mode(1), (real(3, 5),)),
    Case("mode by default", "n C* -> n, n", torch.mode, (real(3, 5),)),
    Case("kthvalue", "n C* -> n, n", lambda x: x.kthvalue(2, 1), (real(3, 5),)),
    Case("kthvalue by default", "n C* -> n, n", lambda x: x.kthvalue(2), (real(3, 5),)),
    Case(
        "cumulative max of a mean",
        "n c* H -> n H",
        lambda x: x.mean(1).cummax(1)[0],
        (real(2, 3, 4),),
    ),
)
