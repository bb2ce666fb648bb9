"""How one operation relates axes: one file per family, one registered row per operation."""

from excise.rules import (
    attention,
    box,
    contract,
    convolution,
    create,
    index,
    norm,
    part,
    pointwise,
    recurrent,
    reduce,
    shape,
    space,
    spectral,
)
from excise.rules.call import CALLS, Demand, compared, demands
from excise.rules.table import POINTWISE, RULES, Mixing, Product, Scope, rule
from excise.trace import Op, Ref

__all__ = [
    "CALLS",
    "POINTWISE",
    "RULES",
    "Demand",
    "Mixing",
    "Op",
    "Product",
    "Ref",
    "Scope",
    "attention",
    "box",
    "compared",
    "contract",
    "convolution",
    "create",
    "demands",
    "index",
    "norm",
    "part",
    "pointwise",
    "recurrent",
    "reduce",
    "rule",
    "shape",
    "space",
    "spectral",
]
