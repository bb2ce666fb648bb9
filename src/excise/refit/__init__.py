"""Compensation: consumers of removed units are refitted on calibration data, in closed form."""

from excise.refit.refit import Refit, Repair, refit
from excise.refit.statistic import recalibrate

__all__ = ["Refit", "Repair", "recalibrate", "refit"]
