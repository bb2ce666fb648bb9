"""The constructor, asked what it makes of a changed configuration, on the meta device."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from excise.axes import Axis
from excise.graph import AxisGraph, Lengths
from excise.trace.skeleton import named_tensors, read, write


@dataclass
class Holder:
    """A place for a configuration, as a model is one."""

    config: Any


class _Numbers(TorchFunctionMode):
    """Tensors of a single number keep it, even where all else is on the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function, a tensor of one number on the CPU."""
        given = dict(kwargs or {})
        if func in {torch.tensor, torch.as_tensor} and args and type(args[0]) in {int, float}:
            given["device"] = "cpu"
        return func(*args, **given)


def built(model: nn.Module, numbers: Mapping[str, int]) -> nn.Module | None:
    """The model, on the meta device, that the constructor makes of a changed configuration.

    Not touched: the model, its configuration, torch's random state. None if it refuses.
    """
    for numbers_kept in (_Numbers(), contextlib.nullcontext()):  # some lay tables out by a number
        with contextlib.suppress(Exception), quiet(), torch.device("meta"), numbers_kept:
            again = _changed(model, numbers)
            made: nn.Module | None = None if again is None else type(model)(again)
            return made
    return None  # a constructor refuses in its own words


def accepts(model: nn.Module, numbers: Mapping[str, int]) -> bool:
    """Whether a model's configuration can be written and read with other numbers in it."""
    try:
        with quiet():
            return _changed(model, numbers) is not None
    except Exception:  # noqa: BLE001 - a configuration refuses in its own words
        return False


def _changed(model: nn.Module, numbers: Mapping[str, int]) -> Any:
    """A copy of the configuration with other numbers, as a reload reads it; None if it forgets."""
    holder = Holder(copy.deepcopy(model.config))
    for path, value in numbers.items():
        write(holder, path, value)
    again = reread(holder.config)
    kept = all(read(Holder(again), path) == value for path, value in numbers.items())
    return again if kept else None


def reread(config: Any) -> Any:
    """A configuration as a reload reads it."""
    return type(config).from_dict(config.to_dict())


def matches(graph: AxisGraph, kept: Mapping[Axis, int], made: nn.Module) -> bool:
    """Whether a model is what a cut makes: names, shapes, attributes, what follows from numbers.

    A cut leaves factors such as `head_dim ** -0.5` and tables such as rotary frequencies as they
    were; a constructor works them out again. Where it comes to others, the two are not the same.
    """
    if not faithful(graph, made) or not takes(graph, kept, made):
        return False
    lengths, saved = Lengths(kept), set(graph.stage.model.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(made)}
    for name in graph.trace.names.keys() - saved:  # a table that no file holds
        if shapes.get(name, wanted := _shape(graph, lengths, name)) != wanted:
            return False
        if wanted != graph.scope.shape(graph.trace.names[name]):
            return False
    for attribute, value in graph.attributes(kept):
        with contextlib.suppress(AttributeError, IndexError, KeyError, TypeError):
            found = read(made.get_submodule(attribute.module), attribute.path)
            if type(found) is int and found != value:
                return False
    return True


def takes(graph: AxisGraph, kept: Mapping[Axis, int], made: nn.Module) -> bool:
    """Whether a model takes the weights of a cut: the same names, and their shapes."""
    lengths, saved = Lengths(kept), set(graph.stage.model.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    return shapes.keys() == saved and all(
        shapes[name] == _shape(graph, lengths, name) for name in saved & graph.trace.names.keys()
    )


def _shape(graph: AxisGraph, lengths: Lengths, name: str) -> tuple[int, ...]:
    """The shape of a named tensor after a cut."""
    return tuple(math.prod(lengths[a] for a in term) for term in graph.dims(name))


def faithful(graph: AxisGraph, made: nn.Module) -> bool:
    """Whether a constructor's factors and its tables that no file holds are those of the model."""
    model = graph.stage.model
    saved = set(model.state_dict())
    tables = {name: buffer for name, buffer in model.named_buffers() if name not in saved}
    others = dict(made.named_buffers())
    return _same_factors(model, made) and all(
        _same(buffer, others[name]) for name, buffer in tables.items() if name in others
    )


def _same_factors(model: nn.Module, made: nn.Module) -> bool:
    """Whether all modules hold the same fractions."""
    others = dict(made.named_modules())
    for name, module in model.named_modules():
        other = others.get(name)
        for key, value in vars(module).items() if other is not None else ():
            if type(value) is float and vars(other).get(key) != value:
                return False
    return True


def _same(one: Tensor, two: Tensor) -> bool:
    """Whether two buffers have the same shape, and are the same where they are single numbers."""
    if one.is_meta or two.is_meta or one.numel() != 1 or two.numel() != 1:
        return one.shape == two.shape
    return one.detach().cpu().to(two.dtype).item() == two.item()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log of a constructor that is only asked."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
