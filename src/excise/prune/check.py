"""What is refused before anything is done."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from excise.budget.depth import check_depth
from excise.calibration import Batch
from excise.errors import InvalidTargetError
from excise.zero import METHODS


def check_whole_branches(name: str, calibration: Any, *, depth: bool, uniform: bool) -> None:
    """Refuse what stands against removing whole branches, before anything is done."""
    if depth:
        check_depth(name, uniform=uniform)
        if calibration is None:
            raise InvalidTargetError("depth", "True without data", "calibration data with it")


def check_alone(budgets: dict[str, Any], criterion: Any, **options: Any) -> None:
    """Zeros in place and units removed are two requests."""
    asked = [name for name, value in budgets.items() if value is not None]
    asked += [name for name, value in options.items() if value]
    if asked:
        raise InvalidTargetError("budget", f"{asked[0]} and zeros in place", "one of the two")
    if criterion is not None and not isinstance(criterion, str):
        names = ", ".join(METHODS)
        raise InvalidTargetError("criterion", repr(criterion), f"{names} for zeros in place")


def check_timed(model: nn.Module, example: Batch, budget: tuple[str, float]) -> None:
    """Refuse what takes no time, before anything is done."""
    tensors = [*model.parameters(), *model.buffers(), *tree_leaves(tuple(example))]
    if any(isinstance(t, Tensor) and t.is_meta for t in tensors):
        name, target = budget
        allowed = "it with weights and inputs that are there: on the meta device nothing runs"
        raise InvalidTargetError(name, repr(target), allowed)
