"""Compensation: consumers of removed units are refitted on calibration data, in closed form."""

from excise.refit.refit import Refit, Repair, refit

__all__ = ["Refit", "Repair", "refit"]
