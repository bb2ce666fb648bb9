"""Equalities between lengths: what the model's own Python demands of a cut.

Every int that reached a size-taking call makes a *demand*: the value of its expression (over
attributes and other lengths) must equal the length of a term. As polynomials over axis lengths,
most demands cancel, many define what an attribute has to become, some tie axes together (`width ==
heads * head_dim`), and the rest pin their axes, each with its reason.
"""

from excise.equality.polynomial import value
from excise.equality.solver import Solution, Solver
from excise.equality.tie import Tie

__all__ = ["Solution", "Solver", "Tie", "value"]
