"""A tape that follows a trace: each operation of a batch is known by its number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from excise.errors import ExampleError
from excise.trace import Op
from excise.trace.tape import Tape


class Follower(Tape):
    """Hands every operation with its number in the trace to `visit`.

    Raises:
        ExampleError: a batch takes another path through the model than the traced example did.
    """

    def __init__(self, ops: Sequence[Op]) -> None:
        super().__init__()
        self.ops = ops

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation, if it is the one that the trace has here."""
        number = self.count
        self.count += 1
        if number >= len(self.ops) or self.ops[number].name != name:
            reason = f"with this batch the model takes another path at {name}"
            raise ExampleError(self.module, "", reason)
        return self.visit(number, func, args, kwargs)

    @abstractmethod
    def visit(
        self, number: int, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one operation of the traced path."""
