"""Known layers: which attribute repeats which dimension."""

from excise.layers.table import TABLE, table_attributes

__all__ = ["TABLE", "table_attributes"]
