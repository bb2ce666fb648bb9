"""Compensation: consumers of removed units are refitted on calibration data, in closed form."""

from excise.refit.limit import DEFAULT_HELD_BYTES, check_bytes
from excise.refit.refit import refit
from excise.refit.repair import Refit, Repair
from excise.refit.settle import settle
from excise.refit.statistic import recalibrate

__all__ = ["DEFAULT_HELD_BYTES", "Refit", "Repair", "check_bytes", "recalibrate", "refit", "settle"]
