"""Progress: how far a long calculation is, and how long it will take, for whoever wants to see it.

Whoever loops says so with `told`; whoever waits opens `shown`. Without the one the other is silent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
_OPEN: ContextVar[Progress | None] = ContextVar("excise_progress", default=None)


@contextlib.contextmanager
def shown(console: Console | None = None) -> Iterator[None]:
    """Show a bar for each loop inside, with the time left; on standard error by default.

    The bars go when the block ends.
    """
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        transient=True,
    )
    token = _OPEN.set(bars)
    try:
        with bars:
            yield
    finally:
        _OPEN.reset(token)


def told(loop: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items of a loop, with word of each to the bar that is open."""
    bars = _OPEN.get()
    if bars is None:
        yield from loop
        return
    task = bars.add_task(what, total=total)
    for item in loop:
        yield item
        bars.advance(task)
