"""Functions with a cache remember nothing of a trace, and tell it nothing from before.

A cached function that is given sizes (einops compiles its patterns so) would hand out what it
computed for another tensor of the same sizes: ints with another origin, or with none. One that
makes tensors would hand them from a trace, where they are fake, to the user. While a model runs
here, cached functions run uncached: those of the modules that the model's classes come from
whenever they take an argument, all others when an argument has an origin.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

from torch import nn

from excise.trace.provenance import TracedInt

_CACHED: Any = functools._lru_cache_wrapper  # noqa: SLF001 - the type has no public name
_DEEPEST = 3
_known: dict[str, tuple[int, tuple[str, ...]]] = {}


class Place(NamedTuple):
    """Where a cached function is held, and how to put another there."""

    held: Any
    put: Callable[[Any], None]


def _names(module: ModuleType) -> tuple[str, ...]:
    """The cached functions among a module's globals; searched again only if it has grown."""
    scope = vars(module)
    known = _known.get(module.__name__)
    if known is None or known[0] != len(scope):
        found = tuple(name for name, value in scope.items() if type(value) is _CACHED)
        known = _known[module.__name__] = (len(scope), found)
    return known[1]


def _global(module: ModuleType) -> Iterator[Place]:
    for name in _names(module):
        held = vars(module).get(name)
        if type(held) is _CACHED:
            yield Place(held, functools.partial(vars(module).__setitem__, name))


def _inside(module: ModuleType) -> Iterator[Place]:
    """Cached functions that decorators hold, and cached methods."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, type):
            for name, method in list(vars(value).items()):
                if type(method) is _CACHED:
                    yield Place(method, functools.partial(setattr, value, name))
                yield from _enclosed(
                    getattr(method, "__func__", method)
                )  # static and class methods
        yield from _enclosed(value)


def _enclosed(function: Any, depth: int = 0) -> Iterator[Place]:
    if type(function) is not FunctionType or depth > _DEEPEST:
        return
    for cell in function.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # an empty cell
            continue
        if type(held) is _CACHED:
            yield Place(held, functools.partial(_fill, cell))
        yield from _enclosed(held, depth + 1)


def _fill(cell: CellType, value: Any) -> None:
    cell.cell_contents = value


def _traced(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (tuple, list)) and depth < _DEEPEST:
        return any(_traced(item, depth + 1) for item in value)
    return type(value) is TracedInt


def _around(cached: Any, *, always: bool) -> Any:
    @functools.wraps(cached)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if (always and given) or _traced(given):
            return cached.__wrapped__(*args, **kwargs)
        return cached(*args, **kwargs)

    for name in ("cache_clear", "cache_info", "cache_parameters"):
        setattr(call, name, getattr(cached, name))
    return call


@contextlib.contextmanager
def uncached(model: nn.Module) -> Iterator[None]:
    """Put a pass-through before cached functions, and take it away again."""
    changed: list[Place] = []
    own = {kind.__module__ for module in model.modules() for kind in type(module).__mro__}
    try:
        for key, module in list(sys.modules.items()):
            if type(module) is not ModuleType or key.startswith(("torch.", "excise.")):
                continue
            if key not in own and not _names(module):  # nearly all of some thousand modules
                continue
            places = [*_global(module), *(_inside(module) if key in own else ())]
            for place in places:
                place.put(_around(place.held, always=key in own))
                changed.append(place)
        yield
    finally:
        for place in reversed(changed):
            place.put(place.held)
