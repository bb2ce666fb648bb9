"""Choose units under a budget: one global ranking, exact costs, equal lengths kept equal."""

from __future__ import annotations

import difflib
import fnmatch
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import torch

from excise.axes import Axis, Why, leaves, notation
from excise.errors import (
    InvalidScoresError,
    InvalidTargetError,
    InvalidUnitError,
    UnknownGroupError,
    UnknownModuleError,
    UnreachableTargetError,
)
from excise.graph import AxisGraph, Lengths, infer
from excise.layers import table_attributes
from excise.plan import AttributeCut, Plan, TensorCut
from excise.rules.told import numbers, predicted
from excise.scores.scores import Scores
from excise.trace import Op, Ref, Trace
from excise.trace.skeleton import read

_ROUNDS = 64
_PASSES = 12
DEFAULT_MIN_KEEP = 0.1


class Step(NamedTuple):
    """One removal: the next-worst units of a bundle, `cost` in normalised score."""

    cost: float
    bundle: int


@dataclass(frozen=True)
class Bundle:
    """Axes that lose units in step; `order` lists each axis' units, worst first."""

    members: tuple[tuple[Axis, int], ...]
    order: tuple[tuple[int, ...], ...]
    costs: tuple[float, ...]
    multiples: tuple[int, ...]

    def kept(self, steps: int, round_to: int) -> dict[Axis, int]:
        """Units left of each axis after some steps, rounded up to whole multiples."""
        steps = min(steps, len(self.costs))
        of = [math.lcm(round_to, multiple) for multiple in self.multiples]
        if max(of) > 1:
            pairs = list(zip(self.members, of, strict=True))
            while steps and any((a.size - steps * w) % m for (a, w), m in pairs):
                steps -= 1
        return {axis: axis.size - steps * weight for axis, weight in self.members}


def plan(
    graph: AxisGraph,
    scores: Scores,
    *,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_units: float | None = None,
    round_to: int = 1,
    min_keep: float = DEFAULT_MIN_KEEP,
    protect: str | Iterable[str] = (),
) -> Plan:
    """Choose the units to remove: the lowest scores first, over all groups, within one budget.

    The plan is rehearsed on fake tensors before it is returned. Where the model's own code turns
    out to need a length that the axis graph did not know of, the axes of that operation are pinned,
    with the line, and the plan is made again.

    Args:
        graph: from `trace`.
        scores: one number per unit of every group; larger = keep.
        keep_macs: fraction of multiply-adds to keep, in (0, 1]. Exact: computed from the graph.
        keep_params: fraction of parameters to keep, in (0, 1].
        keep_units: fraction of units (over all groups) to keep, in (0, 1].
        round_to: keep a multiple of this many units in each group that is cut.
        min_keep: least to keep of each group: units if >= 1, else a fraction of the group.
        protect: names or patterns (`layer1.*`) of modules or parameters whose axes stay whole.

    Returns:
        The plan with the largest model that meets the budget along the ranking.

    Raises:
        InvalidTargetError: not exactly one budget, or an option out of range.
        UnreachableTargetError: even the smallest allowed model is larger; says what is reachable.
        UnknownModuleError: `protect` matches nothing.
        InvalidScoresError: scores are missing, not finite, or of the wrong length.
    """
    _check_values(graph, scores)
    name, target = _target(keep_macs=keep_macs, keep_params=keep_params, keep_units=keep_units)
    _check_options(round_to, min_keep)
    patterns = _patterns(protect)
    check_scores(graph, scores)
    extra: list[tuple[int, Why]] = []
    for _ in range(_ROUNDS):
        guarded = protected(graph, patterns)
        kept, removed = choose(
            graph, scores, name, target, round_to=round_to, min_keep=min_keep, guarded=guarded
        )
        made = build(graph, kept, removed)
        found = rehearse(graph, made, kept)
        if not found:
            return made
        extra += found
        graph = infer(graph.trace, graph.stage, extra)
        scores = scores.renamed(graph)
    raise UnreachableTargetError(name, target, 1.0, tuple(why.reason for _, why in extra[:5]))


def _target(**budgets: Any) -> tuple[str, float]:
    given = {k: v for k, v in budgets.items() if v is not None}
    if len(given) != 1:
        names = ", ".join(budgets)
        raise InvalidTargetError("budget", " and ".join(given) or "none", f"exactly one of {names}")
    ((name, target),) = given.items()
    wanted = math.nan if isinstance(target, bool) or not isinstance(target, Real) else float(target)
    if not 0 < wanted <= 1:
        raise InvalidTargetError(name, repr(target), "a fraction of what is kept, in (0, 1]")
    return name, wanted


def _patterns(protect: Any) -> tuple[str, ...]:
    given = (protect,) if isinstance(protect, str) else protect
    patterns = tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise InvalidTargetError("protect", repr(protect), "a name or pattern, or several")
    return patterns


def _check_values(graph: Any, scores: Any) -> None:
    if not isinstance(graph, AxisGraph):
        raise InvalidTargetError(
            "graph", f"a {type(graph).__name__}", "what `excise.trace(model, *inputs)` returned"
        )
    if not isinstance(scores, Scores):
        raise InvalidScoresError("every group", f"a {type(scores).__name__} is no excise.Scores")


def _check_options(round_to: int, min_keep: float) -> None:
    if not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1:
        raise InvalidTargetError("round_to", repr(round_to), "a whole number of units, at least 1")
    number = isinstance(min_keep, (int, float)) and not isinstance(min_keep, bool)
    if not number or not 0 < min_keep < math.inf or (min_keep >= 1 and min_keep != int(min_keep)):
        raise InvalidTargetError(
            "min_keep", repr(min_keep), "a fraction below 1, or a whole number of units"
        )


def check_scores(graph: AxisGraph, scores: Scores) -> None:
    """Refuse scores that do not cover every group with finite numbers.

    Raises:
        InvalidScoresError: naming the group.
    """
    for group in graph.groups:
        values = scores.values.get(group.name)
        if values is None:
            raise InvalidScoresError(group.name, "there are none")
        if not isinstance(values, torch.Tensor):
            raise InvalidScoresError(group.name, f"a {type(values).__name__} is no tensor")
        if tuple(values.shape) != (group.size,):
            raise InvalidScoresError(
                group.name,
                f"their shape is {tuple(values.shape)}, the group has {group.size} units",
            )
        if values.is_complex() or not torch.isfinite(values).all():
            raise InvalidScoresError(group.name, "some are NaN, infinite or complex")


def protected(graph: AxisGraph, patterns: Iterable[str]) -> set[Axis]:
    """The axes carried by tensors of the modules or parameters that match.

    Raises:
        UnknownModuleError: a pattern that matches nothing.
    """
    names = list(graph.trace.names)
    modules = {name for name, _ in graph.stage.model.named_modules() if name}
    found: set[Axis] = set()
    for pattern in patterns:
        inside = [n for n in names if _matches(n, pattern)]
        if not inside and not any(fnmatch.fnmatchcase(m, pattern) for m in modules):
            close = difflib.get_close_matches(pattern, [*modules, *names], n=3)
            raise UnknownModuleError(pattern, tuple(close))
        for name in inside:
            found |= {leaf for term in graph.dims(name) for leaf in leaves(term)}
    return found


def _matches(tensor: str, pattern: str) -> bool:
    parts = tensor.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:i]), pattern) for i in range(1, len(parts) + 1))


def bundles(graph: AxisGraph, scores: Scores, min_keep: float, guarded: set[Axis]) -> list[Bundle]:
    """Groups that may be cut, tied ones together, with their units in order of removal.

    Each group's scores are divided by their mean, so that groups of different scale compare.
    """
    out: list[Bundle] = []
    seen: set[int] = set()
    for group in graph.groups:
        members = graph.tie(group)
        if id(members[0][0]) in seen:
            continue
        seen.add(id(members[0][0]))
        if any(axis in guarded or axis.pin is not None for axis, _ in members):
            continue
        orders, costs = [], None
        least = graph.scope.least
        steps = min(
            _spare(axis, weight, max(least.get(axis, 0), _floor(axis, min_keep)))
            for axis, weight in members
        )
        for axis, weight in members:
            values = scores.values[axis.name].double()
            mean = float(values.abs().mean()) or 1.0
            ranked, order = torch.sort(values / mean, stable=True)
            orders.append(tuple(order.tolist()))
            cost = ranked[: steps * weight].reshape(steps, weight).mean(1)
            costs = cost if costs is None else costs + cost
        assert costs is not None  # noqa: S101 - a tie has members
        each = tuple((costs / len(members)).tolist())
        multiples = tuple(graph.scope.multiple.get(axis, 1) for axis, _ in members)
        out.append(Bundle(members, tuple(orders), each, multiples))
    return out


def _floor(axis: Axis, min_keep: float) -> int:
    return int(min_keep) if min_keep >= 1 else math.ceil(min_keep * axis.size)


def _spare(axis: Axis, weight: int, floor: int) -> int:
    """How many steps an axis can give."""
    return max(0, (axis.size - max(1, floor)) // weight)


def choose(
    graph: AxisGraph,
    scores: Scores,
    name: str,
    target: float,
    *,
    round_to: int,
    min_keep: float,
    guarded: set[Axis],
) -> tuple[dict[Axis, int], dict[str, tuple[int, ...]]]:
    """Take steps off one global ranking until the budget is met.

    Returns:
        Units kept per axis, and the removed units per group name.

    Raises:
        UnreachableTargetError: even all steps together do not meet the budget.
    """
    ready = bundles(graph, scores, min_keep, guarded)
    steps = sorted(Step(cost, i) for i, b in enumerate(ready) for cost in b.costs)
    measure = _measure(graph, name)
    full = measure({})

    def lengths(chosen: list[Step]) -> dict[Axis, int]:
        taken = [0] * len(ready)
        for step in chosen:
            taken[step.bundle] += 1
        return {
            a: n for b, t in zip(ready, taken, strict=True) for a, n in b.kept(t, round_to).items()
        }

    smallest = measure(lengths(steps)) / full if full else 1.0
    if smallest > target:
        reasons = tuple(str(p) for p in graph.pins[:5])
        raise UnreachableTargetError(name, target, smallest, reasons)
    taken = _shortest(steps, lambda chosen: measure(lengths(chosen)) <= target * full)
    kept = lengths(taken)
    removed = {
        axis.name: tuple(sorted(order[: axis.size - kept[axis]]))
        for bundle in ready
        for (axis, _), order in zip(bundle.members, bundle.order, strict=True)
        if kept[axis] < axis.size
    }
    return kept, removed


def _shortest(steps: list[Step], enough: Callable[[list[Step]], bool]) -> list[Step]:
    """The fewest steps, in order, that are enough; a last step that overshoots is passed over.

    One step of a wide bundle (a residual stream) can cost as much as many of the others. Where the
    step that crosses the line can be left out, with all later ones of its bundle, and the rest
    still suffices, the result ends closer to the budget.
    """
    best: list[Step] = []
    for _ in range(_PASSES):
        low, high = 0, len(steps)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(steps[:middle]) else (middle + 1, high)
        best = steps[:low]
        if not low:
            break
        crossing = best[-1].bundle
        without = best[:-1] + [s for s in steps[low:] if s.bundle != crossing]
        if not enough(without):
            break
        steps = without
    return best


def _measure(graph: AxisGraph, name: str) -> Callable[[Mapping[Axis, int]], int]:
    if name == "keep_macs":
        return graph.macs
    if name == "keep_params":
        return graph.params
    axes = [graph.axes[g.name] for g in graph.groups]
    return lambda kept: sum(kept.get(axis, axis.size) for axis in axes)


def plan_units(graph: AxisGraph, removed: Mapping[str, Iterable[int]]) -> Plan:
    """A plan from units chosen by hand, checked and rehearsed.

    Args:
        graph: from `trace`.
        removed: group name -> units to remove, from 0.

    Raises:
        UnknownGroupError: no such group, it is pinned, a tied group is not cut in step, or the
            model does not run with that cut.
        InvalidUnitError: a unit is no whole number, out of range, given twice, or the last one.
    """
    _check_values(graph, Scores({}))
    kept: dict[Axis, int] = {}
    units: dict[str, tuple[int, ...]] = {}
    for name, given in removed.items():
        axis = graph.axes.get(name)
        if axis is None:
            raise UnknownGroupError(name, "there is no such group")
        if axis.pin is not None:
            raise UnknownGroupError(name, axis.pin.reason)
        chosen = tuple(sorted(_unit(name, unit, axis.size) for unit in _each(name, given, axis)))
        for i, unit in enumerate(chosen):
            if not 0 <= unit < axis.size or unit in chosen[:i] or len(chosen) >= axis.size:
                raise InvalidUnitError(name, unit, axis.size)
        if chosen:
            kept[axis], units[name] = axis.size - len(chosen), chosen
    for name in units:
        members = graph.tie(graph.group(name))
        steps = {(axis.size - kept.get(axis, axis.size)) / weight for axis, weight in members}
        if len(steps) > 1:
            others = ", ".join(axis.name for axis, _ in members if axis.name != name)
            raise UnknownGroupError(name, f"it has to be cut in step with {others}")
    made = build(graph, kept, units)
    found = rehearse(graph, made, kept)
    if found:
        raise UnknownGroupError(next(iter(units)), found[0][1].reason)
    return made


def _each(group: str, given: Any, axis: Axis) -> list[Any]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidUnitError(group, repr(given), axis.size)
    return list(given)


def _unit(group: str, given: Any, size: int) -> int:
    """A unit as an int; a boolean (of a mask) or a fraction is none."""
    kind = str(getattr(given, "dtype", type(given).__name__))
    try:
        if "bool" in kind:
            raise InvalidUnitError(group, repr(given), size)
        return operator.index(given)
    except TypeError as error:
        raise InvalidUnitError(group, repr(given), size) from error


def build(
    graph: AxisGraph, kept: Mapping[Axis, int], removed: Mapping[str, tuple[int, ...]]
) -> Plan:
    """Write a cut down as a plan: tensors, dimensions, attributes."""
    lengths = Lengths(kept)
    tensors: list[TensorCut] = []
    after: dict[str, tuple[int, ...]] = {}
    used: set[Axis] = set()
    for name in graph.trace.names:
        dims = graph.dims(name)
        shape = tuple(graph.scope.shape(graph.trace.names[name]))
        new = tuple(_length(lengths, term) for term in dims)
        after[name] = new
        if new != shape:
            tensors.append(TensorCut(name, shape, tuple(notation(term) for term in dims)))
            used |= {leaf for term in dims for leaf in leaves(term)}
    before = {n: tuple(graph.scope.shape(r)) for n, r in graph.trace.names.items()}
    return Plan(
        removed=dict(removed),
        sizes={axis.name: axis.size for axis in used},
        tensors=tuple(tensors),
        attributes=_attributes(graph, kept, after),
        shapes=before,
    )


def _length(lengths: Lengths, term: Iterable[Axis]) -> int:
    total = 1
    for axis in term:
        total *= lengths[axis]
    return total


def _attributes(
    graph: AxisGraph, kept: Mapping[Axis, int], after: Mapping[str, tuple[int, ...]]
) -> tuple[AttributeCut, ...]:
    """Attributes by provenance, then those of known layers; only the ones that change."""
    model = graph.stage.model
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for attribute, new in graph.attributes(kept):
        old = int(read(model.get_submodule(attribute.module), attribute.path))
        found[attribute.module, attribute.path] = (old, new)
    for module, path, old, new in table_attributes(model, after, _new(found)):
        found[module, path] = (old, new)
    return tuple(
        AttributeCut(module, path, old, new)
        for (module, path), (old, new) in found.items()
        if old != new
    )


def _new(found: Mapping[tuple[str, str], tuple[int, int]]) -> dict[tuple[str, str], int]:
    return {place: after for place, (_, after) in found.items()}


def _as_told(graph: AxisGraph, old: Op, new: Op, after: Trace, lengths: Lengths) -> bool:
    """Whether positions and groups, which no shape shows, are what the graph predicts."""
    if not old.outs or not new.args or not isinstance(new.args[0], Ref):
        return True
    given = numbers(new, after.tensors[new.args[0].number].shape)
    return given == predicted(graph.scope, old, lengths.__getitem__)


def rehearse(graph: AxisGraph, made: Plan, kept: Mapping[Axis, int]) -> list[tuple[int, Why]]:
    """Run the cut skeleton and compare every shape with the graph's prediction.

    Returns:
        Nothing if all is well; else the operations whose axes must stay, with the reason.
    """
    shapes = {cut.name: made.shape_after(cut) for cut in made.tensors}
    after, failure = graph.stage.rehearse(
        shapes, [(a.module, a.attribute, a.after) for a in made.attributes]
    )
    lengths = Lengths(kept)
    first = None
    for number, (old, new) in enumerate(zip(graph.trace.ops, after.ops, strict=False)):
        same = old.name == new.name and len(old.outs) == len(new.outs)
        if same:
            for a, b in zip(old.outs, new.outs, strict=True):
                wanted = tuple(_length(lengths, term) for term in graph.scope.get(a))
                same = same and wanted == after.tensors[b.number].shape
            same = same and _as_told(graph, old, new, after, lengths)
        if not same:
            first = number
            break
    if first is None and failure is None and len(after.ops) == len(graph.trace.ops):
        return []
    if first is None:
        first = min(len(after.ops), len(graph.trace.ops) - 1)
    op = graph.trace.ops[first]
    reason = (
        f"the cut model fails here: {failure.reason}" if failure else "the code needs this length"
    )
    why = Why(reason, f"{op.where} in {op.module}")
    alike = [
        i
        for i, o in enumerate(graph.trace.ops)
        if o.name == op.name and o.where == op.where and o.where
    ]
    return [(i, why) for i in {first, *alike}]
