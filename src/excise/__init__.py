"""Pruning that removes: read a network's axes, plan the cut, cut, prove it, keep it."""

from excise import errors, measure, recover, rules, scores
from excise.budget import plan, plan_units
from excise.errors import ExciseError
from excise.files import load, save
from excise.graph import AxisGraph, Group, Pin, trace
from excise.plan import Plan
from excise.prune import Pruned, prune
from excise.ranks import ranks
from excise.schedule import Step, schedule
from excise.scores import Scores
from excise.shrink import Shrinkage, Shrunk, explain, shrink
from excise.sparse import Sparsified, sparsify
from excise.surgery import follow, remove
from excise.verify import Verdict, verify

__version__ = "0.1.0"
__all__ = [
    "AxisGraph",
    "ExciseError",
    "Group",
    "Pin",
    "Plan",
    "Pruned",
    "Scores",
    "Shrinkage",
    "Shrunk",
    "Sparsified",
    "Step",
    "Verdict",
    "errors",
    "explain",
    "follow",
    "load",
    "measure",
    "plan",
    "plan_units",
    "prune",
    "ranks",
    "recover",
    "remove",
    "rules",
    "save",
    "schedule",
    "scores",
    "shrink",
    "sparsify",
    "trace",
    "verify",
]
