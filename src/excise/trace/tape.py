"""What sees every operation that a model runs, under the dispatcher, composite ones decomposed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from excise.trace.wide import KERNELS, wider

_IDENTITIES = frozenset({"detach", "alias", "lift", "lift_fresh", "_to_copy", "clone"})
"""Not operations: the same units, and fake, real and widened runs differ in where they occur."""

_RESTRIDES = frozenset({"as_strided", "as_strided_"})

_RENAMED = {"_unsafe_view": "view", "_reshape_alias": "view", "reshape": "view"}


class Tape(TorchDispatchMode):
    """Sees every dispatched operation, and hands it to `step`.

    Functions in `aside` run unseen.
    """

    aside: frozenset[Any] = frozenset()

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.paused = False
        self.wide = False
        self.module = ""
        self.count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would wrap each call in a guard against its compiler, at 5 us a call."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused or func.namespace == "prim":
            return self.inside(func, args, kwargs)
        name = func.overloadpacket.__name__
        if func.namespace != "aten":
            name = f"{func.namespace}::{name}"
        if name in _IDENTITIES or (name in _RESTRIDES and _only_unit_strides(args)):
            out = self.inside(func, args, kwargs)
            self.alias(args[0], out)
            return out
        return self.step(_RENAMED.get(name, name), func, args, kwargs)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Operations in this block are not steps of the model."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def alias(self, source: Tensor, out: Tensor) -> None:
        """Note that two tensor objects are the same tensor."""

    def inside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation that is part of a larger recorded one."""
        return func(*args, **kwargs)

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one recorded operation."""
        raise NotImplementedError


class Whole(NamedTuple):
    """A composite function that runs without its parts being written down."""

    tape: Tape
    whole: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        with self.tape.pause():
            return self.whole(*args, **kwargs)


def widened(tape: Tape, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """An operation in float64, written in others where torch has no such kernel."""
    kernel = KERNELS.get(func)
    wide = func if kernel is None else Whole(tape, kernel)
    return wide, wider(args), wider(kwargs)


def _only_unit_strides(args: tuple[Any, ...]) -> bool:
    """Whether `as_strided` changes strides of dimensions of length 1 only: a layout, no values.

    Pooling to one pixel does so if its input is channels-last, which the same model may or may not
    be in two runs.
    """
    tensor, shape, strides = args[:3]
    if len(args) > 3 and args[3] is not None:  # noqa: PLR2004
        return False  # it counts from where the memory begins, which a fake view does not know
    same = zip(tensor.size(), shape, tensor.stride(), strides, strict=False)
    return len(shape) == tensor.dim() and all(
        n == m and (n == 1 or old == new) for n, m, old, new in same
    )
