"""Zero: where zeros come from: patterns, methods, allocation, and the walk through a model."""

from excise.zero.method import METHODS
from excise.zero.pattern import Pattern
from excise.zero.zero import Zero, Zeroed, zero

__all__ = ["METHODS", "Pattern", "Zero", "Zeroed", "zero"]
