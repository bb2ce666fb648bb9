"""Law: two cuts, one after the other, are one cut."""

from __future__ import annotations

import random

import pytest

import excise
from tests.laws.cut import Cut, cut, same, state
from tests.laws.test_silence import PLAIN


def holds(found: Cut) -> None:
    """Some units first, the rest from the retraced small model: the same weights and attributes.

    Cuts of which one half alone is refused are left out; the others are noted and counted.
    """
    first, rest = parted(found)
    if not first or not rest:
        return
    try:
        middle = excise.remove(found.model, excise.plan_units(found.graph, first))
        graph = excise.trace(middle, *found.args, **found.kwargs)
        second = excise.plan_units(graph, renumbered(first, rest, found.plan))
    except excise.errors.UnknownGroupError:
        found.notes.add("half a cut refused")
        return
    found.notes.add("two cuts compared")
    twice = excise.remove(middle, second)
    different = [n for n, t in state(twice).items() if not same({n: t}, {n: state(found.small)[n]})]
    assert not different, different
    for name, module in twice.named_modules():
        mine = {k: v for k, v in vars(found.small.get_submodule(name)).items() if type(v) is int}
        assert mine == {k: v for k, v in vars(module).items() if type(v) is int}


Units = dict[str, tuple[int, ...]]


def parted(found: Cut) -> tuple[Units, Units]:
    """The plan's units in two random shares; tied groups are shared out in proportion."""
    source = random.Random(found.request.seed)  # noqa: S311 - no secrets here
    first: Units = {}
    rest: Units = {}
    for group in found.graph.groups:
        if group.name in first or group.name in rest or group.name not in found.plan.removed:
            continue
        members = found.graph.tie(group)
        taken = [len(found.plan.removed.get(axis.name, ())) // weight for axis, weight in members]
        share = source.randint(0, min(taken))
        while any(axis.size - share * weight < 2 for axis, weight in members):
            share -= 1  # an axis of one unit has no name in the graph of the smaller model
        for axis, weight in members:
            units = list(found.plan.removed[axis.name])
            source.shuffle(units)
            for part, chosen in ((first, units[: share * weight]), (rest, units[share * weight :])):
                if chosen:
                    part[axis.name] = tuple(sorted(chosen))
    return first, rest


def renumbered(first: Units, rest: Units, plan: excise.Plan) -> Units:
    """The numbers that units have once the first share is gone."""
    out: Units = {}
    for name, units in rest.items():
        left = [i for i in range(plan.sizes[name]) if i not in first.get(name, ())]
        out[name] = tuple(left.index(unit) for unit in units)
    return out


def test_units_that_were_not_renumbered_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta-test: the second cut takes the neighbours of the units it should take."""
    found = cut(PLAIN)
    first, rest = parted(found)
    assert first
    assert rest
    holds(found)
    true = renumbered

    def wrong(*given: object) -> Units:
        right = true(*given)  # type: ignore[arg-type]
        name = max(right, key=lambda n: found.plan.sizes[n] - len(first.get(n, ())))
        left = found.plan.sizes[name] - len(first.get(name, ()))
        return {**right, name: tuple(sorted((u + 1) % left for u in right[name]))}

    monkeypatch.setattr("tests.laws.test_twice.renumbered", wrong)
    with pytest.raises(AssertionError):
        holds(found)
