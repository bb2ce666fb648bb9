"""How many numbers a model learns."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from excise.errors import MeasureError
from excise.measure.view import View, check


def params(model: nn.Module) -> int:
    """Count the distinct parameters of a model; a tied weight counts once.

    Zeros count: a mask does not lower this number. Buffers do not count.

    Args:
        model: any module. Not touched, and not run.

    Raises:
        MeasureError: a lazy parameter has no shape yet, or the model is no module.
    """
    check(model, "parameters")
    seen: set[View] = set()
    total = 0
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise MeasureError("parameters", f"the lazy parameter {name!r} has no shape yet")
        view = View.of(parameter)
        if view not in seen:
            seen.add(view)
            total += parameter.numel()
    return total
