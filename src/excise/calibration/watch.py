"""Watch a dense model run: the moments of everything that its consumers read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from excise.calibration.call import Call
from excise.calibration.consumer import Consumer, by_op
from excise.calibration.data import Batch, Share, share
from excise.calibration.moment import Moments, thinned
from excise.calibration.path import Follower
from excise.calibration.progress import told
from excise.trace import Op
from excise.trace.run import run
from excise.trace.skeleton import copied, named_tensors


class _Watcher(Follower):
    """Hands what chosen consumers read to `see`."""

    def __init__(self, ops: Sequence[Op], readers: dict[int, list[Consumer]], see: Any) -> None:
        super().__init__(ops)
        self.readers, self.see = readers, see

    def visit(self, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation, after a look at what it reads."""
        for consumer in self.readers.get(number, ()):
            with self.pause():
                self.see(consumer, consumer.read(Call(self.module, func, args, kwargs)))
        return func(*args, **kwargs)


def watch(
    model: nn.Module,
    ops: Sequence[Op],
    consumers: Iterable[Consumer],
    batches: Sequence[Batch],
    *,
    rows: int,
    mine: Share | None = None,
) -> dict[tuple[Any, ...], Moments]:
    """Run a model on every batch and add up the moments of what its consumers read.

    One pass over the data, one batch in memory at a time; consumers with the same reading share.

    Args:
        model: in the mode in which it is to run. Not touched; it runs as a shell that shares its
            tensors.
        ops: the operations of its trace.
        consumers: which to watch.
        batches: the calibration data; of this rank, and where others have some it may be none.
        rows: at most this many positions of each batch, drawn alike in every run.
        mine: which of all ranks' batches these are, if that is known.

    Returns:
        Reading -> moments, of the batches of all ranks.

    Raises:
        ExampleError: a batch does not run, or leaves the traced path.
    """
    found: dict[tuple[Any, ...], Moments] = {}
    readers = sorted({c.reading: c for c in consumers}.values(), key=lambda c: c.op)
    mine = share(batches) if mine is None else mine
    for place, _, batch in told(mine.of(batches), "watching layers", len(batches)):

        def see(consumer: Consumer, tensor: Tensor, place: int = place) -> None:
            seen = Moments.of(thinned(consumer.features(tensor), rows, place))
            known = found.setdefault(consumer.reading, seen)
            if known is not seen:
                known.add(seen)

        shell = copied(model, {id(t): t for _, t in named_tensors(model)})
        with torch.no_grad():
            run(shell, _Watcher(ops, by_op(readers), see), batch.args, batch.kwargs)
    weights = dict(model.named_parameters(remove_duplicate=False))
    for consumer in readers:
        if consumer.reading not in found and not batches:  # on other ranks there are some
            matrix = consumer.matrix(weights[consumer.weight].detach())
            none = matrix.new_zeros(len(matrix), 0, matrix.shape[2])
            found[consumer.reading] = Moments.of(none)
    return {c.reading: found[c.reading].joined() for c in readers}
