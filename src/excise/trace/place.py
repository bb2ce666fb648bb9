"""Where an operation stands in the user's own code: file and line."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_TORCH = torch.__path__[0]
_HERE = __file__.rsplit("/", 2)[0]
_OUTERMOST: set[int] = set()  # by identity: code is hashed anew each time

_F = TypeVar("_F", bound=Callable[..., Any])


def outermost(function: _F) -> _F:
    """Mark the function that runs a model: whoever called it is no longer the model's code."""
    _OUTERMOST.add(id(function.__code__))
    return function


def where() -> str:
    """The innermost line of the user's own code, as `file.py:12`; torch's lines are skipped."""
    frame = sys._getframe(2)  # noqa: SLF001 - whoever asks is a recorder
    last = ""
    while frame is not None:
        code = frame.f_code
        if not _is_foreign(code.co_filename):
            return _place(code.co_filename, frame.f_lineno)
        if not last and code.co_name == "forward":
            last = _place(code.co_filename, frame.f_lineno)
        if id(code) in _OUTERMOST:
            break
        frame = frame.f_back  # type: ignore[assignment]
    return last


@functools.cache  # asked ten times for each operation, about a few dozen files
def _is_foreign(file: str) -> bool:
    return file.startswith((_TORCH, _HERE))


@functools.lru_cache(4096)
def _place(file: str, line: int) -> str:
    return f"{'/'.join(file.rsplit('/', 2)[-2:])}:{line}"


def raised_at(error: BaseException) -> str:
    """The innermost line of the user's own code that an error went through; empty if none."""
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not _is_foreign(file):
            place = _place(file, trace.tb_lineno)
        trace = trace.tb_next
    return place
