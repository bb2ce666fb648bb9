"""Call the command line inside this process."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from typer.testing import CliRunner

from excise.cli import app

NET = "tests.cli.factory:net"
INPUT = ("--input", "2x3x8x8")


class Said(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    def data(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def call(*words: object) -> Said:
    """Run `excise WORDS`; what is no deliberate error is raised here."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


def succeed(*words: object) -> Said:
    """Run a command that has to succeed."""
    said = call(*words)
    assert said.code == 0, said.err
    return said
