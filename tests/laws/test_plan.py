"""Law: a plan survives being written down, and is spent once it has been applied."""

from __future__ import annotations

import dataclasses

import pytest

import excise
from excise.plan import TensorCut
from tests.laws.cut import Cut, cut, same, state
from tests.laws.test_silence import PLAIN
from tests.strategies import Network


def written(found: Cut) -> None:
    """JSON and back: the same plan, which makes the same model."""
    again = excise.Plan.from_json(found.plan.to_json())
    assert again == found.plan
    assert again.to_json() == found.plan.to_json()
    assert same(state(excise.remove(found.model, again)), state(found.small))


def spent(found: Cut) -> None:
    """A plan that removes something fits neither its own result nor another model."""
    if not found.plan.tensors:
        return
    with pytest.raises(excise.errors.StalePlanError):
        excise.remove(found.small, found.plan)
    with pytest.raises(excise.errors.StalePlanError):
        excise.remove(OTHER.build(), found.plan)


OTHER = Network("image", (("Shared", (("pairs", True),)),), (10, 14), (("head", "dict"),))


def test_a_changed_unit_is_seen() -> None:
    """Meta-test: a plan that came back with other units."""
    found = cut(PLAIN)
    written(found)
    name, units = next((n, u) for n, u in found.plan.removed.items() if len(u) < 5)
    free = next(i for i in range(found.plan.sizes[name]) if i not in units)
    other = {**found.plan.removed, name: tuple(sorted([*units[1:], free]))}
    wrong = dataclasses.replace(found, plan=dataclasses.replace(found.plan, removed=other))
    with pytest.raises(AssertionError):
        written(wrong)


def test_a_plan_without_shapes_is_not_spent() -> None:
    """Meta-test: a plan that says nothing of the model it was made for fits any."""
    found = cut(PLAIN)
    spent(found)
    tensor = TensorCut("fc.bias", tuple(found.small.state_dict()["fc.bias"].shape), ("3",))
    loose = dataclasses.replace(found.plan, tensors=(tensor,), attributes=(), shapes={})
    with pytest.raises(pytest.fail.Exception):
        spent(dataclasses.replace(found, plan=loose))


def test_an_empty_plan_changes_nothing() -> None:
    found = cut(dataclasses.replace(PLAIN, keep=1.0))
    assert not found.plan.tensors
    assert same(state(found.small), state(found.model))
