"""Compensation: consumers of removed units are refitted on calibration data, in closed form."""

from excise.refit.refit import DEFAULT_HELD_BYTES, Refit, Repair, check_bytes, refit
from excise.refit.settle import settle
from excise.refit.statistic import recalibrate

__all__ = ["DEFAULT_HELD_BYTES", "Refit", "Repair", "check_bytes", "recalibrate", "refit", "settle"]
