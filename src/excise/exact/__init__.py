"""What a mask lets go for free: constants forwards, liveness backwards, folds where they meet."""

from excise.exact.cut import Exact, carry_out, exact, widened
from excise.exact.diagnosis import Diagnosis, Layer, diagnose
from excise.exact.mask import flush, merged, plain, unmerged

__all__ = [
    "Diagnosis",
    "Exact",
    "Layer",
    "carry_out",
    "diagnose",
    "exact",
    "flush",
    "merged",
    "plain",
    "unmerged",
    "widened",
]
