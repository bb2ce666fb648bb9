"""Hand memory that was freed back to the system.

The C library keeps what a thread has freed for that thread. Batches run in threads of their own, so
that a calibration would seem to hold several times what it holds, and would take it from others.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """GNU's `malloc_trim`; None where the C library has none."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # no C library of that kind: macOS, Windows, musl
        return None
    return found


def give_back() -> bool:
    """Give pages that nothing uses back; whether there is a way to. No tensor is touched."""
    trim = _trim()
    if trim is None:
        return False
    trim(0)
    return True
