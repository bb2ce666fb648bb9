"""Memory that threads have freed goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest

from excise.calibration import freed

SCRIPT = """
import os, threading, torch
from excise.calibration.freed import give_back

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def work():
    blocks = [torch.ones(2**14) for _ in range(4000)]  # 250 MiB in 64 KiB, which no thread maps
    last.append(blocks[-1])  # what lies on top keeps the rest from going back by itself
    del blocks
    ready.set()
    done.wait()

last, ready, done = [], threading.Event(), threading.Event()
thread = threading.Thread(target=work)
thread.start()
ready.wait()
before = held()
assert give_back()
print(before - held())
done.set()
"""


def has_trim() -> bool:
    return hasattr(ctypes.CDLL(None), "malloc_trim") if sys.platform == "linux" else False


@pytest.mark.skipif(not has_trim(), reason="the C library is not GNU's")
def test_what_a_thread_has_freed_goes_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) > 100


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_another_c_library_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def none(_: Any) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", none)
    freed._trim.cache_clear()
    try:
        assert not freed.give_back()
    finally:
        freed._trim.cache_clear()
