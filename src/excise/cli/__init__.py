"""The command line: one file per command."""

from excise.cli.app import app, main

__all__ = ["app", "main"]
