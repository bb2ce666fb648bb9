"""Run a model under a tape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from excise.errors import ExampleError, TraceError
from excise.trace.call import Calls
from excise.trace.memo import uncached
from excise.trace.place import outermost, raised_at
from excise.trace.setting import default_dtype, eager, no_fake_log, slow_path
from excise.trace.tape import Tape


@outermost
def run(model: nn.Module, tape: Tape, args: Any, kwargs: Any, *, grad: bool = False) -> Any:
    """Run a model under a tape, without gradients unless they are asked for.

    Raises:
        ExampleError: the model does not run on these inputs; names the module and the line.
    """
    calls = Calls(tape)
    try:
        with (
            slow_path(), eager.run(), no_fake_log(), _module_paths(model, tape), uncached(model),
            torch.set_grad_enabled(grad), default_dtype(wide=tape.wide), calls, tape,
        ):  # fmt: skip
            return model(*args, **kwargs)
    except TraceError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ExampleError(
            tape.module, raised_at(error), f"{type(error).__name__}: {reason}"
        ) from error


@contextlib.contextmanager
def _module_paths(model: nn.Module, tape: Tape) -> Iterator[None]:
    """Keep `tape.module` on the module that is running."""
    handles = []
    for name, module in model.named_modules():

        def enter(_m: Any, _a: Any, name: str = name) -> None:
            tape.module = name

        handles.append(module.register_forward_pre_hook(enter))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
