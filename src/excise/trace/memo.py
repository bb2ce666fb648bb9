"""Functions with a cache must not remember traced ints.

A cached function that is given sizes (einops compiles its patterns so) would hand out what it
computed for another tensor of the same sizes: ints with another origin, or with none. While a model
is traced, such functions run uncached whenever one of their arguments has an origin.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from excise.trace.provenance import TracedInt

_CACHED = functools._lru_cache_wrapper  # noqa: SLF001 - the type has no public name
_DEEPEST = 3
_known: dict[str, tuple[int, tuple[str, ...]]] = {}


def _names(module: ModuleType) -> tuple[str, ...]:
    """The cached functions among a module's globals; searched again only if it has grown."""
    scope = vars(module)
    known = _known.get(module.__name__)
    if known is None or known[0] != len(scope):
        found = tuple(name for name, value in scope.items() if type(value) is _CACHED)
        known = _known[module.__name__] = (len(scope), found)
    return known[1]


def _traced(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (tuple, list)) and depth < _DEEPEST:
        return any(_traced(item, depth + 1) for item in value)
    return type(value) is TracedInt


def _around(cached: Any) -> Any:
    @functools.wraps(cached)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _traced(args) or _traced(tuple(kwargs.values())):
            return cached.__wrapped__(*args, **kwargs)
        return cached(*args, **kwargs)

    for name in ("cache_clear", "cache_info", "cache_parameters"):
        setattr(call, name, getattr(cached, name))
    return call


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Put a pass-through before every cached module-level function, and take it away again."""
    changed: list[tuple[dict[str, Any], str, Any, Any]] = []
    around: dict[int, Any] = {}
    for key, module in list(sys.modules.items()):
        if type(module) is not ModuleType or key.startswith(("torch.", "excise.")):
            continue
        for name in _names(module):
            cached = vars(module).get(name)
            if type(cached) is _CACHED:
                passing = around.setdefault(id(cached), _around(cached))
                vars(module)[name] = passing
                changed.append((vars(module), name, cached, passing))
    try:
        yield
    finally:
        for scope, name, cached, passing in changed:
            if scope.get(name) is passing:
                scope[name] = cached
