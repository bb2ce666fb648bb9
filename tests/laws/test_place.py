"""Law: a cut in place is the cut of a copy; the parameters stay objects, and Adam follows them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

import excise
from excise import surgery
from tests.laws.cut import Cut, cut, same, state
from tests.laws.test_silence import PLAIN


def holds(found: Cut) -> None:
    """Objects, flags and moments stay with their parameters; the next step can be taken."""
    model = copy.deepcopy(found.model)
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 != 2)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad])
    step(model, optimizer, found)
    twin = excise.remove(model, found.plan)
    objects = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    moments = {name: optimizer.state.get(p, {}) for name, p in model.named_parameters()}
    moments = {name: dict(known) for name, known in moments.items()}
    assert excise.remove(model, found.plan, inplace=True, optimizer=optimizer) is model
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == objects
    assert same(state(model), state(twin))
    cuts = {c.name: c for c in found.plan.tensors}
    for name, parameter in model.named_parameters():
        for key, before in moments[name].items():
            after = optimizer.state[parameter][key]
            if name in cuts and before.dim():
                for dim, words in enumerate(cuts[name].dims):
                    before = before.index_select(dim, torch.from_numpy(found.plan.indices(words)))  # noqa: PLW2901 - dimension by dimension
            assert torch.equal(after, before), f"{key} of {name}"
    step(model, optimizer, found)


def step(model: nn.Module, optimizer: AdamW, found: Cut) -> None:
    """One step of training on the sum of all outputs, in eval mode."""
    optimizer.zero_grad()
    with torch.enable_grad():
        out = torch.utils._pytree.tree_leaves(model(*found.args, **found.kwargs))
        loss = sum((t.square().mean() for t in out if t is not None), start=torch.zeros(()))
        if loss.requires_grad:
            loss.backward()
    optimizer.step()


def test_moments_of_other_units_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta-test: the optimizer keeps the first units instead of those that stay."""
    found = cut(PLAIN)
    holds(found)
    true = surgery._states

    def first(optimizer: AdamW, model: nn.Module, keep: dict[int, list[Tensor]]) -> object:
        wrong = {k: [torch.arange(len(i)) for i in dims] for k, dims in keep.items()}
        return true(optimizer, model, wrong)

    monkeypatch.setattr(surgery, "_states", first)
    with pytest.raises(AssertionError, match="exp_avg"):
        holds(found)
