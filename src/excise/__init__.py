"""Pruning that removes: read a network's axes, plan the cut, cut, prove it, keep it."""

from excise import measure, scores
from excise.axes import Axis
from excise.budget import plan, plan_units
from excise.errors import ExciseError
from excise.graph import AxisGraph, Group, Pin, trace
from excise.plan import Plan
from excise.scores import Scores
from excise.surgery import remove
from excise.verify import Verdict, verify
