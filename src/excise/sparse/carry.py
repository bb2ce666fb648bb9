"""A model that runs compiled, and whose copies do as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_ATTRIBUTE = "_excise_compiled"


class Carried:
    """Kept by a compiled model, so that what copies or pickles it compiles the copy.

    Torch leaves the compiled form out of both: a plan holds memory and addresses of its own, and is
    made anew when the copy first runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a copy, or from a pickle; the model itself may still be empty."""
        self.__dict__.update(state)
        _compile(self.model)


def compiled(model: nn.Module) -> nn.Module:
    """Compile a model in place by the engine, and all that will be copied of it.

    Its class, its layers, its `state_dict` and what it does in training stay.
    """
    setattr(model, _ATTRIBUTE, Carried(model))
    _compile(model)
    return model


def is_compiled(model: nn.Module) -> bool:
    """Whether `compiled` made it."""
    return hasattr(model, _ATTRIBUTE)


def _compile(model: nn.Module) -> None:
    from excise.sparse.engine import excise  # noqa: PLC0415 - it loads torch's compiler

    call: Any = model._call_impl  # noqa: SLF001 - as nn.Module.compile

    def whole(*args: Any, **kwargs: Any) -> Any:  # torch does not compile functions of its own,
        return call(*args, **kwargs)  # as those of an nn.Sequential, unless they are called by one

    object.__setattr__(model, "_compiled_call_impl", torch.compile(whole, backend=excise))
