"""A trace with each version of a tensor numbered once, so that writes in place are ordinary ops."""

from __future__ import annotations

from dataclasses import dataclass

from excise.trace import Op, Ref, Trace

OPAQUE = Op("written in place through a view", (), {}, (), "", "")
_VIEWS = frozenset((
    "_unsafe_view", "adjoint", "as_strided", "chunk", "diagonal", "expand", "flatten", "mT",
    "movedim", "narrow", "numpy_T", "permute", "select", "slice", "split", "split_with_sizes",
    "squeeze", "swapaxes", "t", "transpose", "unbind", "unflatten", "unfold", "unsqueeze",
    "view", "view_as_complex", "view_as_real",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One operation; `ins` and `outs` are versions, in the order of `op.inputs()` and `op.outs`."""

    op: Op
    ins: tuple[int, ...]
    outs: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """Steps over versions.

    Attributes:
        steps: in order.
        refs: version -> the traced tensor that it is a version of.
        outputs: versions that the model returns.
        written: numbers of the traced tensors that a step writes in place.
    """

    steps: tuple[Step, ...]
    refs: tuple[Ref, ...]
    outputs: tuple[int, ...]
    written: frozenset[int]

    def readers(self) -> dict[int, list[int]]:
        """Version -> the numbers of the steps that read it, repeats included."""
        found: dict[int, list[int]] = {}
        for number, step in enumerate(self.steps):
            for version in step.ins:
                found.setdefault(version, []).append(number)
        return found


def program(trace: Trace) -> Program:
    """Number the versions of a trace's tensors.

    A write through a view changes tensors that the operation does not name. Where such a tensor is
    read later, a step of its own stands for it, which no rule understands.
    """
    builder = _Builder(trace)
    for number, op in enumerate(trace.ops):
        builder.add(number, op)
    outputs = tuple(builder.version(ref) for _, ref in trace.outputs)
    return Program(tuple(builder.steps), tuple(builder.refs), outputs, frozenset(builder.written))


class _Builder:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.steps: list[Step] = []
        self.refs: list[Ref] = []
        self.current: dict[int, int] = {}
        self.written: set[int] = set()
        self.memory: dict[int, set[int]] = {}
        self.last: dict[int, int] = {}
        for number, op in enumerate(trace.ops):
            for ref in op.inputs():
                self.last[ref.number] = number
        for _, ref in trace.outputs:
            self.last[ref.number] = len(trace.ops)

    def version(self, ref: Ref) -> int:
        """The present version of a tensor."""
        if ref.number not in self.current:
            return self.fresh(ref)
        return self.current[ref.number]

    def fresh(self, ref: Ref) -> int:
        """A new version of a tensor."""
        self.refs.append(ref)
        self.current[ref.number] = len(self.refs) - 1
        return len(self.refs) - 1

    def add(self, number: int, op: Op) -> None:
        """Append an operation."""
        ins = tuple(self.version(ref) for ref in op.inputs())
        sources = {ref.number for ref in op.inputs()}
        hit = [ref for ref in op.outs if ref.number in sources or ref.number in self.current]
        outs = tuple(self.fresh(ref) for ref in op.outs)
        self.steps.append(Step(op, ins, outs))
        if op.name in _VIEWS and op.inputs():
            family = self.memory.setdefault(op.inputs()[0].number, {op.inputs()[0].number})
            for ref in op.outs:
                family.add(ref.number)
                self.memory[ref.number] = family
        for ref in hit:
            self.written.add(ref.number)
            self._spoil(number, ref)

    def _spoil(self, number: int, ref: Ref) -> None:
        family = self.memory.get(ref.number, set()) - {ref.number}
        later = [n for n in family if self.last.get(n, -1) > number and n in self.current]
        if later:
            ins = (self.current[ref.number], *(self.current[n] for n in later))
            outs = tuple(self.fresh(Ref(n)) for n in later)
            self.steps.append(Step(OPAQUE, ins, outs))
            self.written.update(later)
