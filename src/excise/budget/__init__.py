"""Choose units under a budget, write the cut down as a plan, and rehearse it."""

from excise.budget.draft import build
from excise.budget.option import DEFAULT_MIN_KEEP, TIMED
from excise.budget.plan import plan
from excise.budget.reading import Reading, kept_indices, read_plan
from excise.budget.rehearsal import rehearse
from excise.budget.speed import Asked, Attempt, timed
from excise.budget.unit import plan_units

__all__ = [
    "DEFAULT_MIN_KEEP",
    "TIMED",
    "Asked",
    "Attempt",
    "Reading",
    "build",
    "kept_indices",
    "plan",
    "plan_units",
    "read_plan",
    "rehearse",
    "timed",
]
