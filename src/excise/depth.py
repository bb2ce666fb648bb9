"""What a residual branch is worth: each is removed alone, made up for, and the outputs tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from excise.branch import Branch, branches
from excise.calibration import Batch, Share, share, told
from excise.graph import AxisGraph, traced
from excise.measure.latency import evaluated
from excise.plan import BranchCut, Plan
from excise.ranks import jointly
from excise.refit.limit import DEFAULT_HELD_BYTES, DEFAULT_ROWS
from excise.refit.pair import pair
from excise.refit.work import Work
from excise.scores import Curves
from excise.scores.probe import distance, outputs, results
from excise.surgery import remove

_PASSES = 6
"""All branches together run about so many times the calibration data, and one batch at least."""
_FOLLOWING = 2
"""So many layers that add to the stream behind a branch make up for it."""


@jointly
def branched(
    model: nn.Module,
    graph: AxisGraph,
    curves: Curves,
    batches: Sequence[Batch],
    *,
    rows: int = DEFAULT_ROWS,
    held_bytes: int = DEFAULT_HELD_BYTES,
) -> Curves:
    """Cost curves with what each residual branch costs as a whole, in the same unit.

    A branch is removed from a copy; the layers behind it are refitted as far as the second one that
    adds to the same stream; and the outputs on batches that are held out tell what that cost: their
    squared change as a share of their variance, as the probes of `excise.scores.obs` do it.

    Args:
        model: the model that was traced. Not touched; it runs in eval mode.
        graph: its axes.
        curves: of its groups, from `excise.scores.obs`.
        batches: calibration data, from `excise.calibration.batches`; labels are not needed.
        rows: most positions of each batch that are fitted.
        held_bytes: most bytes of activations at one time, as for `excise.refit.refit`.

    Returns:
        The curves, with `branches`. Which can go at all: `excise.branch.branches(graph)`.

    Raises:
        ExampleError: a batch does not run.
    """
    with evaluated(model):
        first = batches[0]
        dense = traced(model, first.args, first.kwargs, real=True)
        found = {b.modules: b for b in branches_of(dense)}
        wanted = [found[b.modules] for b in branches_of(graph) if b.modules in found]
        fit, judges = _folds(batches, len(wanted))
        ends = results(dense)
        before = [outputs(model, batch, ends) for batch in judges]
        costs = {}
        for branch in told(wanted, "removing branches", len(wanted)):
            small, work, behind = _without(model, dense, branch, fit, rows)
            if behind:
                with torch.no_grad():
                    work.run(fit, held_bytes, behind)
            costs[branch.name] = distance(before, (outputs(small, b, ends) for b in judges))
    return replace(curves, branches=costs)


def branches_of(graph: AxisGraph) -> tuple[Branch, ...]:
    """The branches of a graph that can go."""
    return branches(graph).found


def _folds(batches: Sequence[Batch], count: int) -> tuple[list[Batch], list[Batch]]:
    """Batches to refit on and to judge by, fewer where there are many branches.

    Every rank refits on one at least.
    """
    every = share(batches)
    most = max(1, _PASSES * every.samples // max(1, 3 * count))  # each runs in two models, or one
    numbers = set(range(every.batches))
    judges = set(every.judges) or numbers
    fit = _few(batches, every, numbers - every.judges, most)
    return fit or list(batches[:1]), _few(batches, every, judges, most)


def _few(batches: Sequence[Batch], mine: Share, numbers: set[int], most: int) -> list[Batch]:
    """Of these batches of all ranks the first ones, as far as they are here."""
    here = [batch for place, _, batch in mine.of(batches) if place in numbers]
    return [batch for _, start, batch in mine.only(numbers).of(here) if start < most]


def _without(
    model: nn.Module, dense: AxisGraph, branch: Branch, fit: Sequence[Batch], rows: int
) -> tuple[nn.Module, Work, list[int]]:
    """A copy without one branch, and the layers behind it that are to make up for it."""
    shapes = {name: tuple(dense.scope.shape(ref)) for name, ref in dense.trace.names.items()}
    plan = Plan({}, {}, (), shapes=shapes, branches=(BranchCut(branch.name, branch.modules),))
    small = remove(model, plan).eval()
    after = traced(small, fit[0].args, fit[0].kwargs, real=True)
    work = Work(pair(dense, after, plan), model, small, plan, rows=rows, weights=True)
    behind, adding = list[int](), 0
    for op in work.consumers:
        if work.graphs.numbers[op] > branch.add and adding < _FOLLOWING:
            behind.append(op)
            adding += op in work.streams
    return small, work, behind
