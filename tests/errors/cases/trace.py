"""Models that cannot be read, and examples that do not run."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import torch
from torch import Tensor, nn

import excise
from excise.errors import ExampleError, UnsupportedModelError
from tests.errors.bench import Act, Bench, Case, Net, compiled


class Broken(nn.Module):
    """Fails in its own code."""

    def forward(self, x: Tensor) -> Tensor:
        """Nothing."""
        del x
        message = "my own mistake"
        raise KeyError(message)


class Endless(nn.Module):
    """Never comes to an end."""

    def forward(self, x: Tensor) -> Any:
        """Once more."""
        return self.forward(x)


class Locked(nn.Linear):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.lock = threading.Lock()


def _on(model: Any, *inputs: Any, **kwargs: Any) -> Any:
    """Trace another model than the bench's."""

    def ready(bench: Bench) -> Act:
        bench.model = model() if isinstance(model, type) else model
        return lambda: excise.trace(bench.model, *inputs, **kwargs)

    return ready


def _with(*inputs: Any, **kwargs: Any) -> Any:
    return lambda b: lambda: excise.trace(b.model, *inputs, **kwargs)


def _compiled(bench: Bench) -> Act:
    model = compiled(bench.model)
    return lambda: excise.trace(model, bench.x)


def _scripted(bench: Bench) -> Act:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated, and still met
        bench.model = torch.jit.script(Net())
    return lambda: excise.trace(bench.model, bench.x)


def _traced(bench: Bench) -> Act:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench.model, x = torch.jit.trace(nn.Linear(3, 3), torch.ones(1, 3)), torch.ones(1, 3)
    return lambda: excise.trace(bench.model, x)


def _scripted_inside(bench: Bench) -> Act:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench.model = nn.Sequential(torch.jit.script(nn.ReLU()), nn.Linear(3, 3))
    return lambda: excise.trace(bench.model, torch.ones(1, 3))


def _ids(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long)


_IMAGE = torch.zeros(2, 3, 8, 8)
TRACE = [
    Case("no module", _on(len, _IMAGE), UnsupportedModelError, "torch.nn.Module"),
    Case("nothing", _on(None, _IMAGE), UnsupportedModelError, "NoneType"),
    Case(
        "a class instead of a module",
        lambda _: lambda: excise.trace(Net, _IMAGE),  # type: ignore[arg-type]
        UnsupportedModelError,
        "torch.nn.Module",
    ),
    Case("a state dict", _on(Net().state_dict(), _IMAGE), UnsupportedModelError, "OrderedDict"),
    Case(
        "compiled",
        _compiled,
        UnsupportedModelError,
        "_orig_mod",
    ),
    Case("data parallel", _on(nn.DataParallel(Net()), _IMAGE), UnsupportedModelError, "module"),
    Case("scripted", _scripted, UnsupportedModelError, "before scripting"),
    Case("traced by torch.jit", _traced, UnsupportedModelError, "before scripting"),
    Case("a scripted submodule", _scripted_inside, UnsupportedModelError, "submodule '0'"),
    Case("lazy", _on(nn.LazyLinear(4), torch.zeros(1, 3)), UnsupportedModelError, "lazy"),
    Case("cannot be copied", _on(Locked, torch.zeros(1, 3)), UnsupportedModelError, "deepcopy"),
    Case("no example", _with(), ExampleError, "missing"),
    Case("two inputs too many", _with(_IMAGE, _IMAGE, 3), ExampleError, "takes 2 positional"),
    Case("an unknown keyword", _with(_IMAGE, mask=None), ExampleError, "mask"),
    Case(
        "the wrong number of channels", _with(torch.zeros(2, 4, 8, 8)), ExampleError, "module '0'"
    ),
    Case("too few dimensions", _with(torch.zeros(8)), ExampleError, "module '0'"),
    Case("integers where floats are needed", _with(_ids(2, 3, 8, 8)), ExampleError, "module '0'"),
    Case("doubles where floats are needed", _with(_IMAGE.double()), ExampleError, "module '0'"),
    Case("text", _with("cat.jpg"), ExampleError, "str"),
    Case("nothing as example", _with(None), ExampleError, "NoneType"),
    Case(
        "floats where ids are needed",
        _on(nn.Embedding(7, 3), torch.zeros(1, 4)),
        ExampleError,
        "Long",
    ),
    Case("an error in the model's code", _on(Broken, _IMAGE), ExampleError, "my own mistake"),
    Case("an error says the line", _on(Broken, _IMAGE), ExampleError, "cases/trace.py:"),
    Case("endless recursion", _on(Endless, _IMAGE), ExampleError, "RecursionError"),
]
