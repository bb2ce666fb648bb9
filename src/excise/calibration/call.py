"""One operation of one batch, about to run on real tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from excise.errors import ExampleError


@dataclass
class Call:
    """An operation with its arguments.

    Attributes:
        module: the module that it runs in.
        func: what to call.
        args: with real tensors.
        kwargs: the same.
        result: what the operation gives; None before it has run.
    """

    module: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any = None

    def run(self) -> Any:
        """Run the operation, once; whoever stops here may replace the result.

        Raises:
            ExampleError: it does not run.
        """
        if self.result is None:
            try:
                self.result = self.func(*self.args, **self.kwargs)
            except Exception as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise ExampleError(self.module, "", reason) from error
        return self.result
