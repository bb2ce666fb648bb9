"""Law: what is removed was silent; the rest computes what it computed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import excise
from excise import surgery
from tests.laws.cut import Cut, Request, cut, outputs
from tests.strategies import Network

CLOSE = 1e-9  # relative, float64


def holds(found: Cut) -> None:
    """`excise.verify` proves it, and so does silencing by hand where no operation mixes units."""
    verdict = found.verdict
    assert verdict.passed, str(verdict)
    assert verdict.worst < CLOSE
    if not verdict.mixing:
        assert difference(found) < CLOSE


def silenced(model: nn.Module, plan: excise.Plan) -> nn.Module:
    """A float64 copy with every removed slice of every parameter set to zero, index by index."""
    quiet = copy.deepcopy(model).double()
    parameters = dict(quiet.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for cut_ in plan.tensors:
            if cut_.name not in parameters:
                continue
            for dim, words in enumerate(cut_.dims):
                kept = {int(i) for i in plan.indices(words)}
                for i in range(cut_.shape[dim]):
                    if i not in kept:
                        parameters[cut_.name].select(dim, i).zero_()
    return quiet


def difference(found: Cut) -> float:
    """Largest difference to the silenced original, relative to each output's largest value."""
    args = tuple(_double(a) for a in found.args)
    kwargs = {k: _double(v) for k, v in found.kwargs.items()}
    wanted = outputs(silenced(found.model, found.plan), args, kwargs)
    given = outputs(copy.deepcopy(found.small).double(), args, kwargs)
    assert [t.shape for t in wanted] == [t.shape for t in given]
    worst = 0.0
    for a, b in zip(wanted, given, strict=True):
        worst = max(worst, float((a - b).abs().max()) / (float(a.abs().max()) or 1.0))
    return worst


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


PLAIN = Request(
    Network("image", (("Residual", (("kind", "batch"),)),), (6, 6), (("head", "flatten"),)), 3
)
MIXED = Request(
    Network("image", (("Residual", (("kind", "layer"),)),), (6, 6), (("head", "flatten"),)), 3
)


def _shifted(tensor: Tensor, indices: list[Tensor] | None) -> Tensor:
    """A knife that takes the neighbour of every unit it should keep, in the first dimension."""
    if indices is None:
        return tensor.clone()
    wrong = [(indices[0] + 1) % tensor.shape[0], *indices[1:]]
    return _SLICED(tensor, wrong)


_SLICED = surgery.sliced


@pytest.mark.parametrize("request_", [PLAIN, MIXED], ids=["plain", "mixed"])
def test_a_knife_that_slips_is_seen(monkeypatch: pytest.MonkeyPatch, request_: Request) -> None:
    """Meta-test: both proofs notice one unit too far."""
    holds(cut(request_))
    monkeypatch.setattr(surgery, "sliced", _shifted)
    wrong = cut(request_)
    assert not wrong.verdict.passed
    assert difference(wrong) > CLOSE


def test_a_weight_that_changed_is_seen() -> None:
    """Meta-test: one weight of the small model, off by a thousandth."""
    found = cut(PLAIN)
    with torch.no_grad():
        next(found.small.parameters()).view(-1)[0] += 1e-3
    assert not found.verdict.passed
    assert difference(found) > CLOSE


def test_mixing_differs_from_silence() -> None:
    """Meta-test: where units are mixed the two references differ, and the verdict says so."""
    found = cut(MIXED)
    assert found.verdict.mixing
    assert difference(found) > CLOSE
