"""Depth: whole residual branches compete with widths for one budget.

A branch is removed, or its widths are chosen: which of the two is decided for all branches at once
by a price on what is kept, as widths are. The sets of branches that this comes to are then tried
one against the other, each with the best widths for what it leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from excise.axes import Axis, leaves
from excise.branch import Branch, branches, shorter
from excise.budget.allocate import State, allocate, priced
from excise.budget.bundle import Bundle, bundles
from excise.budget.choose import Asking, Budget, Options, chosen
from excise.budget.meter import Meter
from excise.budget.option import check_options, matching, protected
from excise.budget.presence import Presence
from excise.errors import InvalidTargetError, UnreachableTargetError
from excise.graph import AxisGraph
from excise.plan import BranchCut, Plan
from excise.scores.curve import Curves
from excise.scores.scores import Scores

_TRIES = 6
"""Branches that could as well have stayed, or gone, that are tried the other way."""
_ROUNDING = 1e-12
_SWEEPS = 12


def planned(graph: AxisGraph, scores: Scores | Curves, budget: Asking, options: Options) -> Plan:
    """As `plan`, for any budget.

    Raises:
        InvalidTargetError, UnreachableTargetError, UnknownModuleError, InvalidScoresError: as
            `plan`.
    """
    if not options.depth:
        return chosen(graph, scores, budget, options)
    asked = budget(graph)
    check_options(options.round_to, options.min_keep)
    check_depth(asked.name, uniform=options.uniform)
    curves = check_branches(scores)
    search = _Search(graph, curves, budget, options)
    missed: list[UnreachableTargetError] = []
    for gone in search.best():
        made = _tried(graph, curves, budget, options, gone)
        if isinstance(made, Plan):
            return made
        missed.append(made)
    raise min(missed, key=lambda error: abs(error.reachable - error.target))


def _tried(
    graph: AxisGraph, curves: Curves, budget: Asking, options: Options, gone: Sequence[Branch]
) -> Plan | UnreachableTargetError:
    """A plan, or why there is none: widths are too coarse, or the code needs some of them."""
    try:
        return _without(graph, curves, budget, options, gone)
    except UnreachableTargetError as error:
        return error


def check_depth(name: str, *, uniform: bool) -> None:
    """Refuse what stands against removing whole branches.

    Raises:
        InvalidTargetError: naming it.
    """
    if uniform:
        allowed = "one of depth and uniform: a configuration has no word for a branch that is gone"
        raise InvalidTargetError("depth", "True with uniform=True", allowed)
    if name == "keep_peak_memory":
        allowed = "another budget: at the peak a branch is not the sum of its parts"
        raise InvalidTargetError("depth", f"True with {name}", allowed)


def check_branches(scores: Scores | Curves) -> Curves:
    """The curves, if they say what branches cost.

    Raises:
        InvalidTargetError: they do not, or are scores.
    """
    if not isinstance(scores, Curves) or scores.branches is None:
        allowed = "cost curves with the costs of branches: see `excise.depth.branched`"
        raise InvalidTargetError("depth", "True without costs", allowed)
    return scores


def _without(
    graph: AxisGraph, curves: Curves, budget: Asking, options: Options, gone: Sequence[Branch]
) -> Plan:
    """The plan of least cost once these branches are gone."""
    if not gone:
        return chosen(graph, curves, budget, options)
    less, whole = shorter(graph, gone), budget(graph)
    if less.problem:
        raise UnreachableTargetError(whole.name, whole.target, 1.0, (less.problem,))

    def rest(graph: AxisGraph, presence: Presence | None = None) -> Budget:
        return budget(graph, presence)._replace(limit=whole.limit)

    made = chosen(less.graph, _carried(graph, curves, less.graph), rest, options)
    shapes = {name: tuple(graph.scope.shape(ref)) for name, ref in graph.trace.names.items()}
    cuts = tuple(BranchCut(branch.name, branch.modules) for branch in gone)
    return replace(made, shapes=shapes, branches=cuts)


def _carried(graph: AxisGraph, curves: Curves, less: AxisGraph) -> Curves:
    """Curves of a model's groups for those of a shorter one, which may have other names."""
    found = {}
    for group in less.groups:
        slot, axis = group.slots[0], less.axes[group.name]
        ours, theirs = (list(leaves(g.dims(slot.tensor)[slot.dim])) for g in (less, graph))
        same = len(ours) == len(theirs)
        old = [b for a, b in zip(ours, theirs, strict=False) if a is axis and b.size == a.size]
        if same and old and old[0].name in curves.values:
            found[group.name] = curves.values[old[0].name]
    return Curves(found)


class _Joint(State):
    """Bundles of units, and branches: a branch is gone, or the bundles inside it are chosen."""

    def __init__(
        self,
        ready: Sequence[Bundle],
        allowed: Sequence[Sequence[int]],
        meter: Meter,
        inside: dict[int, list[int]],
    ) -> None:
        """`inside` names for each branch, by the place of its bundle, the bundles inside it."""
        super().__init__(ready, allowed, meter)
        self.inside = inside
        self.within = {i for inner in inside.values() for i in inner}
        self.regret: dict[int, float] = {}

    def settled(self, price: float) -> list[int]:
        """Every bundle at its cheapest, given the others, for one price."""
        steps = [0] * len(self.allowed)
        for _ in range(_SWEEPS):
            before = list(steps)
            for i in range(len(steps)):
                if i in self.inside:
                    self._weigh(steps, i, price)
                elif i not in self.within:
                    self._settle(steps, i, price)
            if steps == before:
                break
        return steps

    def _settle(self, steps: list[int], i: int, price: float) -> None:
        may = self.allowed[i]
        if len(may) > 1:
            pull = self.meter.pull(self.kept(steps), self.ready[i], may)
            steps[i] = may[int(np.argmin(self.costs[i] + price * pull))]

    def _weigh(self, steps: list[int], i: int, price: float) -> None:
        """Leave a branch out, or choose the widths inside it."""
        steps[i], inner = 0, self.inside[i]
        for j in inner:
            self._settle(steps, j, price)
        there, gone = self.meter.pull(self.kept(steps), self.ready[i], (0, 1))
        narrow = sum(float(self.costs[j][self.allowed[j].index(steps[j])]) for j in inner)
        self.regret[i] = float(self.costs[i][1] + price * gone - (narrow + price * there))
        if self.regret[i] < 0:
            steps[i] = 1
            for j in inner:
                steps[j] = 0


class _Fixed(State):
    """Bundles of units, with some branches gone."""

    def __init__(
        self,
        ready: Sequence[Bundle],
        allowed: Sequence[Sequence[int]],
        meter: Meter,
        gone: Sequence[Axis],
    ) -> None:
        super().__init__(ready, allowed, meter)
        self.gone = dict.fromkeys(gone, 0)

    def kept(self, steps: Sequence[int]) -> dict[Axis, int]:
        """Lengths of all axes after some steps of each bundle."""
        return super().kept(steps) | self.gone


class _Search:
    """Sets of branches, and what each costs with the best widths for what it leaves."""

    def __init__(self, graph: AxisGraph, curves: Curves, budget: Asking, options: Options) -> None:
        held, known = matching(graph, options.protect), curves.branches or {}
        every = branches(graph).found
        self.found = [b for b in every if b.name in known and not _holds(b, held)]
        self.costs = [float(known[branch.name]) for branch in self.found]
        self.presence = Presence(graph, self.found)
        self.meter = budget(graph, self.presence).meter
        self.limit = budget(graph).limit * (1 + _ROUNDING)
        guarded = protected(graph, options.protect)
        self.ready = bundles(graph, curves, options.min_keep, guarded, whole=options.whole)
        self.allowed = [bundle.allowed(options.round_to) for bundle in self.ready]
        self.places = [self.presence.inside(bundle) for bundle in self.ready]
        self.known: dict[frozenset[int], float] = {}

    def best(self) -> Iterator[list[Branch]]:
        """Sets of branches, the least cost first; none at all is among them."""
        start, near = self._priced()
        self._cost(frozenset())
        least = start
        for place in near:
            least = min(least, least ^ {place}, key=self._cost)
        for gone in sorted(self.known, key=lambda one: (self._cost(one), len(one))):
            yield [self.found[place] for place in sorted(gone)]

    def _priced(self) -> tuple[frozenset[int], list[int]]:
        """The branches that go at the price of this budget, and those nearest to the other."""
        count = len(self.ready)
        ready = [*self.ready, *map(self.presence.bundle, range(len(self.found)), self.costs)]
        allowed = [*self.allowed, *([0, 1] for _ in self.found)]
        inside = {
            count + place: [i for i, where in enumerate(self.places) if where == place]
            for place in range(len(self.found))
        }
        state = _Joint(ready, allowed, self.meter, inside)
        steps = priced(state, self.limit)
        gone = frozenset(place for place in range(len(self.found)) if steps[count + place])
        order = sorted(state.regret, key=lambda i: abs(state.regret[i]))
        return gone, [i - count for i in order[:_TRIES]]

    def _cost(self, gone: frozenset[int]) -> float:
        """What a set of branches and the best widths beside it cost; infinite if not enough."""
        if gone not in self.known:
            axes = [self.presence.axes[place] for place in gone]
            allowed = [
                [0] if where in gone else may
                for may, where in zip(self.allowed, self.places, strict=True)
            ]
            state = _Fixed(self.ready, allowed, self.meter, axes)
            smallest = self.meter.total(state.kept([may[-1] for may in allowed]))
            total = float("inf")
            if smallest <= self.limit:
                steps = allocate(state, self.limit)
                total = state.cost(steps) + sum(self.costs[place] for place in gone)
            self.known[gone] = total
        return self.known[gone]


def _holds(branch: Branch, names: set[str]) -> bool:
    """Whether a tensor that has to stay lies in a branch."""
    places = tuple(f"{module.module}." for module in branch.modules)
    return any(name.startswith(places) for name in names)
