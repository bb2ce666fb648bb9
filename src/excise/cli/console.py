"""Where words go: results to stdout, progress and complaints to stderr."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from excise.errors import ExciseError
from excise.report.json import render

_WIDTH = 100  # of what is not a terminal
_QUIET_S = 1.0
Tell = Callable[[str], None]


def show(*parts: RenderableType) -> None:
    """Print results for people."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    for part in parts:
        if isinstance(part, str):  # a sentence breaks where the reader's window does
            console.print(part, markup=False, soft_wrap=True)
        else:
            console.print(part)


def emit(data: Mapping[str, Any]) -> None:
    """Print one JSON object, and nothing else, to stdout."""
    typer.echo(render(data))


@contextlib.contextmanager
def progress(doing: str) -> Iterator[Tell]:
    """Say on stderr what takes longer than a second; call what it yields when the work changes.

    On a terminal a line with the time that has passed, which disappears; elsewhere (a log) one
    line for each thing that took more than a second.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        with _lines(doing) as tell:
            yield tell
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda now: bar.update(task, description=now)


@contextlib.contextmanager
def _lines(doing: str) -> Iterator[Tell]:
    timers: list[threading.Timer] = []

    def tell(now: str) -> None:
        for timer in timers:
            timer.cancel()
        timer = threading.Timer(_QUIET_S, typer.echo, (f"excise: {now}",), {"err": True})
        timer.daemon = True
        timer.start()
        timers[:] = [timer]

    tell(doing)
    try:
        yield tell
    finally:
        for timer in timers:
            timer.cancel()


def complain(error: ExciseError) -> None:
    """Print an error as it explains itself, without a traceback, to stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"excise: {error}", markup=False)
