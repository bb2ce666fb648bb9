"""Proof: the cut model computes what the original computes with the same units silenced."""

from excise.verify.verdict import TOLERANCE, Verdict
from excise.verify.verify import verify

__all__ = ["TOLERANCE", "Verdict", "verify"]
