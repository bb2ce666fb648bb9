"""Flow: which operation reads what another made, with a new value for every write in place."""

from __future__ import annotations

from collections.abc import Iterable

from excise.branch.call import Value
from excise.trace import Trace

_IDEMPOTENT = frozenset({"relu", "relu_"})
_NOT_NEGATIVE = _IDEMPOTENT | {"sigmoid", "sigmoid_", "softmax", "_softmax", "abs", "abs_"}
_KEEPS_SIGN = frozenset(
    ["max_pool2d_with_indices", "max_pool1d", "avg_pool2d", "_adaptive_avg_pool2d", "mean", "view",
     "permute", "transpose", "flatten", "native_dropout"]
)  # fmt: skip
"""Operations that make nothing negative of what is not."""


class Flow:
    """The operations of a trace as a graph of values."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        makers: dict[int, int] = {}
        self.reads: list[list[Value]] = []
        self.made: list[list[Value]] = []
        self.readers: dict[Value, list[int]] = {}
        for number, op in enumerate(trace.ops):
            given = [Value(ref.number, makers.get(ref.number, -1)) for ref in op.inputs()]
            for value in given:
                self.readers.setdefault(value, []).append(number)
            makers |= dict.fromkeys((ref.number for ref in op.outs), number)
            self.reads.append(given)
            self.made.append([Value(ref.number, number) for ref in op.outs])
        self.results = {
            Value(ref.number, makers.get(ref.number, -1)): path for path, ref in trace.outputs
        }
        self.idle = self._idle()

    def _idle(self) -> frozenset[int]:
        """Operations of whose results nothing is made; a count in a buffer is nobody's business."""
        found: set[int] = set()
        for number in reversed(range(len(self.made))):
            roles = {self.trace.tensors[value.number].role for value in self.made[number]}
            written = self.trace.ops[number].name.endswith("_")
            if (not written or roles <= {"buffer", "attribute"}) and all(
                value not in self.results and found.issuperset(self.readers.get(value, ()))
                for value in self.made[number]
            ):
                found.add(number)
        return frozenset(found)

    def between(self, start: Value, end: Value) -> set[int]:
        """The operations through which `end` depends on `start`; empty if it does not."""
        reached = {start}
        forward: list[int] = []
        for number in range(start.maker + 1, end.maker + 1):
            if reached.intersection(self.reads[number]):
                forward.append(number)
                reached.update(self.made[number])
        wanted, found = {end}, set[int]()
        for number in reversed(forward):
            if wanted.intersection(self.made[number]):
                found.add(number)
                wanted.update(self.reads[number])
        return found

    def private(self, end: Value, reader: int) -> set[int]:
        """The operations of whose results nothing is made but `end`, as `reader` reads it."""
        found: set[int] = set()
        if end in self.results or set(self.readers[end]) != {reader}:
            return found
        ready = {end.maker}
        while ready:
            number = max(ready)
            ready.remove(number)
            if number < 0 or (number != end.maker and self.user(number, found)):
                continue
            found.add(number)
            ready.update(value.maker for value in self.reads[number])
        return found

    def user(self, number: int, inside: Iterable[int]) -> str:
        """Who else reads what an operation makes, in words; empty if nobody does."""
        inside = set(inside) | self.idle
        for value in self.made[number]:
            if value in self.results:
                return f"it is a model output ({self.results[value]})"
            others = [n for n in self.readers.get(value, ()) if n not in inside]
            if others:
                op = self.trace.ops[others[0]]
                return f"{op.name} reads it ({op.where})"
        return ""

    def unchanged(self, number: int, value: Value) -> bool:
        """Whether an operation gives a value back as it is: a ReLU of what is not negative."""
        return self.trace.ops[number].name in _IDEMPOTENT and self._positive(value)

    def _positive(self, value: Value) -> bool:
        while value.maker >= 0:
            name = self.trace.ops[value.maker].name
            if name in _NOT_NEGATIVE:
                return True
            if name not in _KEEPS_SIGN:
                return False
            value = self.reads[value.maker][0]
        return False
