"""How much a refit takes and holds, unless it is told otherwise."""

from __future__ import annotations

from typing import Any

from excise.errors import InvalidTargetError

DEFAULT_ROWS = 4096
DEFAULT_HELD_BYTES = 2**31


def check_bytes(name: str, value: Any) -> None:
    """Refuse what is no number of bytes.

    Raises:
        InvalidTargetError: naming the option.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidTargetError(name, repr(value), "a number of bytes, at least 1")
