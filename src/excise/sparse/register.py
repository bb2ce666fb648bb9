"""The name by which `torch.compile` finds the engine."""

from __future__ import annotations

import sys
from typing import Any

NAME = "excise"


def register() -> None:
    """Tell torch's compiler of the backend, if it is loaded and does not know it.

    An installed excise is found without being imported, by its entry point in the group
    `torch_dynamo_backends`; this is for one that is only on the path. The compiler itself is not
    loaded: that takes longer than all of excise.
    """
    registry: Any = sys.modules.get("torch._dynamo.backends.registry")
    if registry is not None and NAME not in registry._BACKENDS:  # noqa: SLF001 - no other way to ask
        registry.register_backend(_excise, name=NAME)


def _excise(graph: Any, inputs: Any) -> Any:
    from excise.sparse.engine import excise  # noqa: PLC0415 - it loads the compiler

    return excise(graph, inputs)
