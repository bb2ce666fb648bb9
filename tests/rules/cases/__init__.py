"""Every family's cases, as one table."""

from __future__ import annotations

from tests.rules.cases import (
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
from tests.rules.oracle import Case

FAMILIES = {
    module.__name__.rpartition(".")[2]: module.CASES
    for module in (
        attention, box, contract, convolution, create, index, norm, part, pointwise, recurrent,
        reduce, shape, space, spectral,
    )
}  # fmt: skip
CASES: dict[str, Case] = {
    f"{family}-{case.name.replace(' ', '_')}": case
    for family, cases in FAMILIES.items()
    for case in cases
}
