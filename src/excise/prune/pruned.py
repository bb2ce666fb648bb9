"""What pruning returns: the smaller model, and everything known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from excise.budget import Attempt
from excise.plan import Plan
from excise.recover import Reconstruction
from excise.refit import Refit
from excise.report import Report
from excise.verify import Verdict
from excise.zero import Zeroed


class Rival(NamedTuple):
    """A plan that was carried out and compared.

    Attributes:
        plan: the cut.
        apart: squared change of the outputs on held-out batches after the refit, as a share of
            their variance.
    """

    plan: Plan
    apart: float


@dataclass(frozen=True)
class Pruned:
    """A smaller model with everything that is known about how it came about.

    Attributes:
        model: smaller, of the same class.
        plan: what was removed.
        report: before and after, measured.
        verdict: the proof of the cut, as it was before weights were refitted; None only if it was
            not asked for.
        refit: what became of each consumer; None without calibration data.
        reconstruction: what training the blocks did; None if it was not asked for.
        attempts: the plans that were measured on the way to a speed, the last one taken; empty for
            other budgets.
        zeroed: the layers and their zeros, if `sparsity` or `pattern` was asked for; then nothing
            was removed, and there is nothing to prove.
        rivals: if whole branches could go, the best plan with and that without, both refitted; the
            one that is less apart was taken. Empty if no branch was worth it to begin with.
    """

    model: nn.Module
    plan: Plan
    report: Report
    verdict: Verdict | None
    refit: Refit | None = None
    reconstruction: Reconstruction | None = None
    attempts: tuple[Attempt, ...] = ()
    zeroed: Zeroed | None = None
    rivals: tuple[Rival, ...] = ()
