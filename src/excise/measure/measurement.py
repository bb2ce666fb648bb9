"""Everything that is measured of one model, together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from excise import units
from excise.errors import UnsupportedModelError
from excise.measure.bytes import file_bytes, memory_bytes
from excise.measure.latency import Latency
from excise.measure.latency import latency as time_passes
from excise.measure.macs import macs
from excise.measure.params import params


@dataclass(frozen=True)
class Measurement:
    """What one model costs.

    Attributes:
        params: distinct parameters, ties counted once.
        macs: multiply-adds of one pass on the example input; None if the model cannot be read.
        file_bytes: size of its safetensors file.
        memory_bytes: what its parameters and buffers hold.
        latency: milliseconds of one pass; None if it was not asked for.
    """

    params: int
    macs: int | None
    file_bytes: int
    memory_bytes: int
    latency: Latency | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            units.count(self.params, "parameters"),
            "MACs unknown" if self.macs is None else units.count(self.macs, "MACs"),
            f"{units.size(self.file_bytes)} in a file",
            f"{units.size(self.memory_bytes)} in memory",
        ]
        return ", ".join(lines + ([] if self.latency is None else [str(self.latency)]))


def everything(model: nn.Module, *inputs: Any, latency: bool = True, **kwargs: Any) -> Measurement:
    """Measure a model: parameters, MACs, bytes in a file and in memory, milliseconds.

    Args:
        model: any module. Its mode, weights and torch's random state are as before afterwards.
        inputs: an example input. Without any, MACs and latency are None.
        latency: whether to time it; takes about a second.
        kwargs: keyword inputs.

    Raises:
        ExampleError: the model does not run on these inputs.
        MeasureError: a quantity cannot be measured.
    """
    given = bool(inputs or kwargs)
    return Measurement(
        params(model),
        _macs(model, inputs, kwargs) if given else None,
        file_bytes(model),
        memory_bytes(model),
        time_passes(model, *inputs, **kwargs) if given and latency else None,
    )


def _macs(model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    try:
        return macs(model, *inputs, **kwargs)
    except UnsupportedModelError:  # compiled or wrapped: it has a size and a speed all the same
        return None
