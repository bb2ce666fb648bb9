"""Known layers: which attribute repeats which dimension, and what stands where a branch was."""

from excise.layers.bypass import Bypass, Bypassed, stand_ins
from excise.layers.table import TABLE, table_attributes

__all__ = ["TABLE", "Bypass", "Bypassed", "stand_ins", "table_attributes"]
