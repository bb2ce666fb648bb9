"""Integers that remember where they came from.

While a model is traced, every int attribute of its modules and every size read from a tensor is a
`TracedInt`: an ordinary int for Python and for torch, plus an *origin*, an expression over
attributes and sizes that survives arithmetic. Where such an int later becomes the length of a
dimension, the axis graph knows what the attribute has to be after a cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

_DEEPEST = 24


class Attribute(NamedTuple):
    """An int attribute of a module: `Attribute("blocks.0.attn", "num_heads")`."""

    module: str
    path: str

    def __str__(self) -> str:
        return f"{self.module}.{self.path}" if self.module else self.path


class SizeOf(NamedTuple):
    """The length of one dimension of a traced tensor."""

    tensor: int
    dim: int


class Apply(NamedTuple):
    """An arithmetic operation on two expressions; `op` is one of `+ - * // %`."""

    op: str
    left: Expr
    right: Expr


Expr: TypeAlias = "int | Attribute | SizeOf | Apply"


class Guard(NamedTuple):
    """Two expressions that the model's own code compared and found equal."""

    left: Expr
    right: Expr


class Bound(NamedTuple):
    """An expression that the model's own code found to be at least so much, and acted upon."""

    expr: Expr
    least: int


_OPS: dict[str, Callable[[int, int], int]] = {
    "+": int.__add__,
    "-": int.__sub__,
    "*": int.__mul__,
    "//": int.__floordiv__,
    "%": int.__mod__,
}
guards: list[Guard] = []
"""Filled while a trace runs, emptied when one starts."""
bounds: dict[Bound, None] = {}
"""The same, in order, each once."""


class Run:
    """Which trace is under way: an int that code kept from an earlier one has no origin in it."""

    number = 0


class TracedInt(int):
    """An int with an origin. Equal to, hashed as, and pickled as the plain int."""

    origin: Expr
    depth: int
    run: int

    @classmethod
    def of(cls, value: int, origin: Expr, depth: int = 0) -> TracedInt:
        """Wrap a value."""
        made = cls(value)
        made.origin, made.depth, made.run = origin, depth, Run.number
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedInt:
        return self

    def __copy__(self) -> TracedInt:
        return self

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other) is True
        if same and isinstance(other, TracedInt):
            if other.origin != self.origin and now(self) and now(other):
                guards.append(Guard(self.origin, other.origin))
        elif not same and type(other) is int and 0 < other < self:
            _note(self, other + 1)
        return same

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __gt__(self, other: Any) -> bool:
        larger = int.__gt__(self, other)
        if larger is True and type(other) is int and other > 0:
            _note(self, other + 1)
        return larger

    def __ge__(self, other: Any) -> bool:
        enough = int.__ge__(self, other)
        if enough is True and type(other) is int and other > 1:
            _note(self, other)
        return enough

    def __le__(self, other: Any) -> bool:
        fewer = int.__le__(self, other)
        if fewer is False and type(other) is int and other > 0:
            _note(self, other + 1)
        return fewer

    def __lt__(self, other: Any) -> bool:
        fewer = int.__lt__(self, other)
        if fewer is False and type(other) is int and other > 1:
            _note(self, other)
        return fewer

    def __add__(self, other: int) -> int:
        return _apply("+", self, other)

    def __radd__(self, other: int) -> int:
        return _apply("+", other, self)

    def __sub__(self, other: int) -> int:
        return _apply("-", self, other)

    def __rsub__(self, other: int) -> int:
        return _apply("-", other, self)

    def __mul__(self, other: int) -> int:
        return _apply("*", self, other)

    def __rmul__(self, other: int) -> int:
        return _apply("*", other, self)

    def __floordiv__(self, other: int) -> int:
        return _apply("//", self, other)

    def __rfloordiv__(self, other: int) -> int:
        return _apply("//", other, self)

    def __mod__(self, other: int) -> int:
        return _apply("%", self, other)

    def __neg__(self) -> int:
        return _apply("-", 0, self)


def _note(value: TracedInt, least: int) -> None:
    if now(value):
        bounds[Bound(value.origin, least)] = None


def now(value: int) -> bool:
    """Whether an int has no origin, or one in the trace that is under way."""
    return not isinstance(value, TracedInt) or value.run == Run.number


def _apply(op: str, left: int, right: int) -> int:
    if not _ints(left, right):
        return NotImplemented  # type: ignore[no-any-return]  # Python asks the other operand
    if not (now(left) and now(right)):
        return _apply(op, *(side if now(side) else int(side) for side in (left, right)))
    result = _OPS[op](int(left), int(right))
    depth = 1 + max(getattr(left, "depth", 0), getattr(right, "depth", 0))
    if depth > _DEEPEST:  # a counter, not a size
        return result
    return TracedInt.of(result, Apply(op, origin(left), origin(right)), depth)


def _ints(left: object, right: object) -> bool:
    return isinstance(left, int) and isinstance(right, int)


def origin(value: int) -> Expr:
    """Where an int came from; a plain int came from the code itself."""
    return value.origin if isinstance(value, TracedInt) else int(value)


def atoms(expr: Expr) -> Iterator[Attribute | SizeOf]:
    """The attributes and sizes in an expression."""
    if isinstance(expr, Apply):
        yield from atoms(expr.left)
        yield from atoms(expr.right)
    elif not isinstance(expr, int):
        yield expr


def evaluate(expr: Expr, value: Callable[[Attribute | SizeOf], int]) -> int:
    """Compute an expression, asking `value` for each attribute and size."""
    if isinstance(expr, Apply):
        left, right = evaluate(expr.left, value), evaluate(expr.right, value)
        if expr.op in {"//", "%"} and right == 0:
            return -1  # no size is negative, so whoever compares sees a difference
        return _OPS[expr.op](left, right)
    return expr if isinstance(expr, int) else value(expr)
