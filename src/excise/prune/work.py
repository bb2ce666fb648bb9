"""Make a plan, and carry it out: cut, prove, refit."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from excise.budget import TIMED, Attempt
from excise.budget.choose import Options, counted
from excise.budget.depth import planned
from excise.calibration import Batch, share, shown
from excise.errors import UnreachableTargetError
from excise.graph import AxisGraph, traced
from excise.measure.latency import evaluated
from excise.plan import Plan
from excise.prune.measured import attempted
from excise.prune.pruned import Rival
from excise.ranks import present
from excise.refit import Refit, refit
from excise.scores import Curves, Scores
from excise.scores.probe import distance, outputs, results
from excise.surgery import remove
from excise.verify import Verdict
from excise.verify import verify as prove


class Made(NamedTuple):
    """One plan, carried out."""

    plan: Plan
    attempts: list[Attempt]
    small: nn.Module
    verdict: Verdict | None
    repaired: Refit | None


@dataclass(frozen=True)
class Work:
    """What it takes to make a plan and to carry it out."""

    model: nn.Module
    example: Batch
    graph: AxisGraph
    scores: Scores | Curves
    budget: tuple[str, float]
    data: list[Batch] | None
    verify: bool
    progress: bool
    held_bytes: int

    def best(self, options: Options) -> tuple[Made, tuple[Rival, ...]]:
        """A plan, carried out; of two, with branches and without, what is less apart.

        What branches cost together is more than the sum of what each does alone, and what widths
        cost together often less: so the knapsack proposes, and the outputs decide.
        """
        first = self.made(options)
        if not first.plan.branches:
            return first, ()
        try:
            second = self.made(options._replace(depth=False))
        except UnreachableTargetError:
            return first, (Rival(first.plan, self.apart(first.small)),)
        both = [(made, self.apart(made.small)) for made in (first, second)]
        rivals = tuple(Rival(made.plan, apart) for made, apart in both)
        place = present().first(lambda: int(both[1][1] <= both[0][1]))
        return both[place][0], rivals

    def made(self, options: Options) -> Made:
        """Plan, cut, prove, refit."""
        attempts: list[Attempt] = []
        if self.budget[0] in TIMED:
            with evaluated(self.model):
                attempts = present().first(
                    lambda: attempted(
                        self.model, self.graph, self.scores,
                        asked=self.budget, options=options, example=self.example,
                    )
                )  # fmt: skip
            plan = attempts[-1].plan
        else:
            asked = counted(*self.budget)
            plan = present().first(lambda: planned(self.graph, self.scores, asked, options))
        small = remove(self.model, plan)
        verdict = repaired = None
        if self.verify:
            args, kwargs = self.example
            verdict = present().first(lambda: prove(self.model, small, plan, *args, **kwargs))
            verdict.check()
        if self.data is not None:
            with shown() if self.progress else contextlib.nullcontext():
                repaired = refit(self.model, small, plan, self.data, held_bytes=self.held_bytes)
        return Made(plan, attempts, small, verdict, repaired)

    def apart(self, small: nn.Module) -> float:
        """How far a cut model's results are from the dense one's on batches that are held out."""
        assert self.data is not None  # noqa: S101 - branches are not weighed without
        mine = share(self.data)
        judges = mine.parts(self.data)[1] if mine.judges else self.data
        first = self.data[0]
        with evaluated(self.model), evaluated(small):
            ends = results(traced(self.model, first.args, first.kwargs, real=True))
            wanted = [outputs(self.model, batch, ends) for batch in judges]
            return distance(wanted, (outputs(small, batch, ends) for batch in judges))
