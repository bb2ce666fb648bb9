"""Calibration data of any usual form, as batches of positional and keyword inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from excise.errors import CalibrationError


class Batch(NamedTuple):
    """Inputs of one call of a model: `model(*args, **kwargs)`."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def samples(self) -> int:
        """Length of the first dimension of the first tensor; 1 if there is none."""
        every = (*self.args, *self.kwargs.values())
        return next((len(v) for v in every if isinstance(v, Tensor) and v.dim()), 1)


def batches(
    calibration: Any,
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    samples: int | None = None,
) -> list[Batch]:
    """Read calibration data into batches.

    The example input says what a model takes. A batch may hold more, as the labels in a loader's
    `(images, labels)` or in a dictionary: what the example does not have is left out.

    Args:
        calibration: one tensor or dictionary (one batch), or an iterable of batches, each a tensor,
            a tuple or list of positional inputs, or a dictionary of keyword inputs.
        inputs: the positional example inputs.
        kwargs: the keyword example inputs.
        samples: stop after the batch with which this many samples are reached; None reads all.

    Raises:
        CalibrationError: there is no batch, or one cannot be the input of this model.
    """
    found: list[Batch] = []
    single = isinstance(calibration, (Tensor, Mapping))
    if not single and not isinstance(calibration, Iterable):
        raise CalibrationError(f"a {type(calibration).__name__} holds no batches")
    seen = 0
    for place, item in enumerate([calibration] if single else calibration):
        found.append(_batch(item, place, inputs, kwargs))
        seen += found[-1].samples
        if samples is not None and seen >= samples:
            break
    if not found:
        raise CalibrationError("it holds no batch")
    return found


def _batch(item: Any, place: int, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batch:
    if isinstance(item, Mapping):
        if not kwargs and len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return Batch((item,), {})
        if not kwargs and len(inputs) <= len(item):  # the example was given by position
            return Batch(tuple(itertools.islice(item.values(), len(inputs))), {})
        missing = [name for name in kwargs if name not in item]
        if missing:
            raise CalibrationError(f"batch {place} has no {missing[0]!r}, as the example has")
        return Batch(tuple(inputs), {name: item[name] for name in kwargs})
    given = (item,) if isinstance(item, Tensor) else item
    if not isinstance(given, (tuple, list)):
        raise CalibrationError(f"batch {place} is a {type(item).__name__}")
    if not inputs and kwargs:
        if len(given) < len(kwargs):
            raise CalibrationError(f"batch {place} has {len(given)} inputs of {len(kwargs)}")
        return Batch((), dict(zip(kwargs, given, strict=False)))
    if len(given) < len(inputs):
        raise CalibrationError(f"batch {place} has {len(given)} inputs of {len(inputs)}")
    return Batch(tuple(given[: len(inputs)]), dict(kwargs))
