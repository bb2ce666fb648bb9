"""Residual branches: what can go as a whole, what has to stay and why, and the model without."""

from excise.branch.find import Branch, Branches, Refused
from excise.branch.shorten import Shorter, named, shorter
from excise.branch.shorten import removable as branches

__all__ = ["Branch", "Branches", "Refused", "Shorter", "branches", "named", "shorter"]
