"""When each batch joins a refit: as many as memory holds, more of them where maps are smaller.

All batches stand before the same layer while it is solved. Early layers of a convolutional network
have the largest maps and the fewest features: a share of the images says enough there, and the
others follow through layers that have been solved by then. Each batch still runs once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from excise.calibration import Consumer, Share
from excise.calibration.data import HELD
from excise.graph import AxisGraph
from excise.measure.peak import lifetimes

_PER_FEATURE = 16
"""So many rows for each feature of a consumer are fitted, whatever they take, if there are any."""


def bytes_at(graph: AxisGraph, stops: Sequence[int]) -> npt.NDArray[np.float64]:
    """Bytes of intermediate results that one example holds at each of these operations.

    Args:
        graph: of the model, traced with that example.
        stops: numbers of operations; what each allocates is counted with it.
    """
    lives, found = lifetimes(graph), np.zeros(len(stops))
    for life in lives:
        found[[life.first <= stop <= life.last for stop in stops]] += life.size
    return found


def needed(graph: AxisGraph, reader: Consumer, rows: int) -> int:
    """How many batches like the example have enough rows for a consumer; at least two.

    Args:
        graph: of the model, traced with that example.
        reader: one of its consumers.
        rows: most rows of a batch that are used.
    """
    shape = graph.scope.shape(graph.trace.ops[reader.op].outs[0])
    positions = math.prod(shape) // max(1, shape[-len(reader.kernel) - 1 if reader.kernel else -1])
    wanted = _PER_FEATURE * reader.width(graph.scope)
    return max(2, -(-wanted // max(1, min(rows, positions))))


def joins(
    bytes_of: npt.NDArray[np.float64],
    least: Sequence[int],
    mine: Share,
    most: int,
) -> list[int]:
    """The stop at which each batch of this rank joins.

    A batch that has joined stays, so that before a layer no more may have joined than the widest
    layer behind it can hold. Of five batches the one that judges comes first.

    Args:
        bytes_of: what a sample holds at each stop.
        least: how many batches have to be there at each stop.
        mine: this rank's batches.
        most: bytes that all of them may hold.

    Returns:
        For each batch the place of a stop; as many as there are stops if it never joins.
    """
    order = sorted(
        range(len(mine.places)),
        key=lambda i: (mine.places[i] // HELD, mine.places[i] not in mine.judges, i),
    )
    samples = np.cumsum([mine.sizes[mine.places[i]] for i in order])
    fits = [int((each * samples <= most).sum()) for each in bytes_of]
    behind = np.minimum.accumulate(fits[::-1])[::-1]
    there = np.maximum.accumulate(np.maximum(behind, least)) if fits else behind
    found = [len(fits)] * len(order)
    for rank, i in enumerate(order):
        found[i] = next((stop for stop, n in enumerate(there) if n > rank), len(fits))
    return found
