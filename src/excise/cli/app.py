"""The commands, put together."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from excise.cli.console import complain
from excise.cli.demo import demo
from excise.cli.explain import explain
from excise.cli.inspect import inspect
from excise.cli.prune import prune
from excise.cli.report import report
from excise.cli.shrink import shrink
from excise.cli.verify import verify
from excise.errors import ExciseError

_REFUSED = 2  # the exit code of every deliberate error; 1 means a check said no


class Commands(TyperGroup):
    """Turns every deliberate error into a message and an exit code; others are bugs, and raise."""

    def invoke(self, ctx: Any) -> Any:  # a click Context: of click's own, or of the one in typer
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except ExciseError as error:
            complain(error)
            raise typer.Exit(_REFUSED) from error


app = typer.Typer(
    name="excise",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (inspect, explain, shrink, prune, verify, report, demo):
    app.command()(_command)


@app.callback()
def front() -> None:
    """Pruning that removes: read a network's axes, plan the cut, cut, prove it, keep it."""


def main() -> None:
    """Run the command line on `sys.argv`, and exit."""
    app()
