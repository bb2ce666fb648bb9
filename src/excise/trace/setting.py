"""Settings of torch and Python while a model runs; each is restored to what was found."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def slow_path() -> Iterator[None]:
    """Switch torch's fused transformer kernels off, which hide every axis, and restore them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Eager:
    """What a model has compiled runs as it was written: a compiled function hides its axes.

    The stance of torch's compiler is one for all threads, and runs in several may end in any order:
    the first one changes it, the last one restores it.
    """

    def __init__(self) -> None:
        self._lock, self._runs = threading.Lock(), 0
        self._stance: Any = None

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """One run; nothing to do if the compiler is not loaded."""
        if "torch._dynamo" not in sys.modules:
            yield
            return
        with self._lock:
            self._runs += 1
            if self._runs == 1:
                self._stance = torch.compiler.set_stance("force_eager")
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1
                if not self._runs:
                    self._stance.__exit__(None, None, None)


eager = _Eager()


@contextlib.contextmanager
def default_dtype(*, wide: bool) -> Iterator[None]:
    """What a wide run makes of Python floats is wide too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if wide else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def no_fake_log() -> Iterator[None]:
    """Keep torch from logging a traceback for each failing fake run; the failure itself is told."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Switch Python's cycle collector off, and restore it.

    A trace makes ten thousands of objects that all stay, and no garbage to speak of; the collector
    would search them, and all of torch, again and again: half of the time of a large trace.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """The settings of torch that a run changes, changed once around several runs side by side.

    Each run restores what it found. Of runs that overlap, the last to end would restore what the
    first one had set.
    """
    with slow_path(), no_fake_log():
        yield
