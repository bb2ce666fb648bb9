"""Where words go: results to stdout, progress and complaints to stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from rich.console import Console, RenderableType

from excise.errors import ExciseError
from excise.report.json import render

_WIDTH = 100  # of what is not a terminal


def show(*parts: RenderableType) -> None:
    """Print results for people."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    for part in parts:
        console.print(part, markup=False) if isinstance(part, str) else console.print(part)


def emit(data: Mapping[str, Any]) -> None:
    """Print one JSON object, and nothing else, to stdout."""
    typer.echo(render(data))


@contextlib.contextmanager
def progress(doing: str) -> Iterator[None]:
    """Say on stderr what takes so long; silent unless stderr is a terminal."""
    console = Console(stderr=True)
    with console.status(doing) if console.is_terminal else contextlib.nullcontext():
        yield


def complain(error: ExciseError) -> None:
    """Print an error as it explains itself, without a traceback, to stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"excise: {error}", markup=False)
