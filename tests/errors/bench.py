"""What bad input is tried on: a small model in a telling state, and all that is made from it."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import excise

Act = Callable[[], object]


class Case(NamedTuple):
    """One row: a bench is made ready, and then the act must be refused with this error."""

    name: str
    ready: Callable[[Bench], Act]
    error: type[excise.ExciseError]
    mentions: str


class Net(nn.Sequential):
    """Convolutions with norms, and a head on a flattened map."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 12, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 5),
        )


class Bench:
    """A model with gradients, a hook and a frozen weight, in training mode but for one module."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.manual_seed(0)
        self.model: Any = Net()
        self.x: Any = torch.randn(2, 3, 8, 8)
        self.model(self.x).sum().backward()
        self.model[0].bias.requires_grad = False
        self.model[1].eval()
        self.model[2].register_forward_hook(_nothing)

    @cached_property
    def graph(self) -> excise.AxisGraph:
        """The model's axes."""
        return excise.trace(self.model, self.x)

    @cached_property
    def scores(self) -> excise.Scores:
        """By magnitude."""
        return excise.scores.magnitude(self.model, self.graph)

    @cached_property
    def plan(self) -> excise.Plan:
        """Half of the multiply-adds."""
        return excise.plan(self.graph, self.scores, keep_macs=0.5)

    @cached_property
    def small(self) -> nn.Module:
        """The model after the cut."""
        return excise.remove(self.model, self.plan)

    @cached_property
    def file(self) -> Path:
        """The small model in a file."""
        path = self.folder / "small.safetensors"
        excise.save(self.small, self.plan, path)
        return path

    def planned(self, **options: Any) -> Act:
        """Asking for a plan with these options."""
        graph, scores = self.graph, self.scores
        return lambda: excise.plan(graph, scores, **options)

    def loaded(self, change: Callable[[bytes], bytes]) -> Act:
        """Loading the file after its bytes were changed."""
        self.file.write_bytes(change(self.file.read_bytes()))
        return lambda: excise.load(self.file, Net)

    def state(self) -> dict[str, Any]:
        """Everything that an error must leave as it was, in a form that can be compared."""
        return {"model": fingerprint(self.model), **world()}


def compiled(model: Any) -> Any:
    """What torch.compile makes of a model; torch's own advice to itself, on the import, aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(model)


def fingerprint(model: Any) -> Any:
    """Identity and bytes of every tensor and gradient, modes, hooks, plain attributes."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return id(model)
    found: dict[str, Any] = {}
    for prefix, module in model.named_modules():
        for key, value in vars(module).items():
            place = f"{prefix}.{key}"
            if key in {"_parameters", "_buffers"}:
                for name, tensor in value.items():
                    found[f"{place}.{name}"] = _tensor(tensor)
            elif "hooks" in key:
                found[place] = [id(hook) for hook in value.values()]
            elif isinstance(value, (int, float, str, bool, tuple, list)):
                found[place] = repr(value)
            else:
                found[place] = id(value) if not isinstance(value, Tensor) else _tensor(value)
    return found


def _tensor(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    if is_lazy(tensor):
        return id(tensor)
    gradient = tensor.grad if tensor.is_leaf else None
    facts = (tensor.shape, tensor.dtype, tensor.stride(), tensor.requires_grad)
    return id(tensor), facts, tensor._version, _bytes(tensor), _tensor(gradient)


def _bytes(tensor: Tensor) -> str:
    out = io.BytesIO()
    torch.save(tensor.detach().clone(), out)
    return hashlib.sha256(out.getvalue()).hexdigest()


def world() -> dict[str, Any]:
    """Torch's switches and random state."""
    return {
        "random": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
    }


def _nothing(*_: Any) -> None:
    """A hook."""
