"""Peak activation memory: the most bytes of intermediate results that are held at one time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakIdKeyDictionary

from excise.errors import MeasureError
from excise.graph import AxisGraph
from excise.measure.latency import evaluated
from excise.trace import Op, Ref, skeleton
from excise.trace.run import run
from excise.trace.tape import Tape


class Life(NamedTuple):
    """A piece of memory that a run allocates.

    Attributes:
        ref: the traced tensor that it was allocated for, and whose shape it has; None without one.
        size: bytes.
        first: the operation that allocates it.
        last: the last operation during which it is held.
    """

    ref: Ref | None
    size: int
    first: int
    last: int


class _Alive(Tape):
    """Notes when the memory of a run is allocated and let go of, Python's references included."""

    def __init__(self, outside: Sequence[Tensor], ops: Sequence[Op] = ()) -> None:
        super().__init__()
        self.ops = ops
        self.known = {StorageWeakRef(t.untyped_storage()).cdata for t in outside}
        self.outside = outside  # held, so that their addresses are not given away
        self.held: dict[int, tuple[StorageWeakRef, Life]] = {}
        self.lives: list[Life] = []
        self.refs = WeakIdKeyDictionary()

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation; what was let go of before it, and what it allocates."""
        self.bury()
        if self.ops and (self.count >= len(self.ops) or self.ops[self.count].name != name):
            raise MeasureError("peak memory", "the model takes another path each time it runs")
        out = func(*args, **kwargs)
        refs = self.ops[self.count].outs if self.ops else ()
        for place, tensor in enumerate(_tensors(out)):
            ref = refs[place] if place < len(refs) else None
            self.refs[tensor] = ref
            self.born(tensor, ref)
        self.count += 1
        return out

    def alias(self, source: Tensor, out: Tensor) -> None:
        """A copy has memory of its own."""
        ref = self.refs.get(source)
        self.refs[out] = ref
        self.born(out, ref)

    def born(self, tensor: Tensor, ref: Ref | None) -> None:
        """Note memory that was not seen before."""
        if tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        weak = StorageWeakRef(storage)
        if weak.cdata not in self.known and weak.cdata not in self.held:
            self.held[weak.cdata] = weak, Life(ref, storage.nbytes(), self.count, self.count)

    def bury(self) -> None:
        """Note what nobody holds any more; it lived until the operation before."""
        gone = [key for key, (weak, _) in self.held.items() if weak.expired()]
        for key in gone:
            _, life = self.held.pop(key)
            self.lives.append(life._replace(last=max(life.first, self.count - 1)))

    def ended(self) -> list[Life]:
        """Every life, once the run is over; what is left is held to the end."""
        self.bury()
        last = max(0, self.count - 1)
        return self.lives + [life._replace(last=last) for _, life in self.held.values()]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def lifetimes(graph: AxisGraph) -> list[Life]:
    """When each intermediate result of a traced model is held, found on fake tensors.

    What a kernel needs for itself while it runs is not in it.

    Raises:
        MeasureError: the model does not take the path of its trace again.
    """
    stage = graph.stage
    if stage.mode is None:
        bones = skeleton.copied(stage.model, {})
        with torch.random.fork_rng(devices=[]):
            return _lived(bones, stage.args, stage.kwargs, graph.trace.ops)
    with stage.mode:
        bones = skeleton.fake(stage.model, stage.mode)
        return _lived(bones, stage.args, stage.kwargs, graph.trace.ops)


def _lived(model: nn.Module, args: Any, kwargs: Any, ops: Sequence[Op]) -> list[Life]:
    stored = [t for _, t in skeleton.named_tensors(model)]
    tape = _Alive([t for t in (*stored, *_tensors((args, kwargs))) if _is_strided(t)], ops)
    out = run(model, tape, args, kwargs)
    found = tape.ended()
    del out  # held until here: the caller gets it
    return found


def _is_strided(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided


def peak(lives: Sequence[Life]) -> int:
    """The most bytes that are held during one operation."""
    changes: dict[int, int] = {}
    for life in lives:
        changes[life.first] = changes.get(life.first, 0) + life.size
        changes[life.last + 1] = changes.get(life.last + 1, 0) - life.size
    most = held = 0
    for number in sorted(changes):
        held += changes[number]
        most = max(most, held)
    return most


def peak_memory(model: nn.Module, *inputs: Any, **kwargs: Any) -> int:
    """Measure the peak activation memory of a forward pass, in bytes.

    The most that intermediate results and outputs hold at one time while the model really runs, in
    eval mode and without gradients. Not in it: parameters, buffers and inputs, and what a kernel
    needs for itself while it runs.

    Args:
        model: any module. It runs once; its mode and torch's random state are restored.
        inputs: an example input; batch and resolution decide.
        kwargs: keyword inputs.

    Raises:
        ExampleError: the model does not run on these inputs.
        UnsupportedModelError: it cannot be looked into.
    """
    skeleton.check(model)
    shell = skeleton.copied(model, {id(t): t for _, t in skeleton.named_tensors(model)})
    with evaluated(shell), torch.random.fork_rng(devices=[]):
        return peak(_lived(shell, inputs, kwargs, ()))
