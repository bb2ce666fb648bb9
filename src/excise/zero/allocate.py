"""Allocation: how many zeros each layer takes, so that all of them together take what is asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from excise.errors import InvalidTargetError

_STEPS = 60  # of a bisection
_OUTLIER = 5.0  # times a layer's mean worth
_OWL_RANGE = 0.08  # how far a layer may be from the share of all


def allocated(how: str, worths: Mapping[str, Tensor], zeros: float) -> dict[str, float]:
    """Share of zeros of each layer.

    Args:
        how: "uniform"; "erk", more in layers with more weights per row and column; "lamp", by one
            threshold for squared weights as shares of what is left of their layer; "owl", fewer
            where more weights stand out.
        worths: layer -> worth of each weight, (groups, rows, features), at least 0.
        zeros: of all layers together.

    Raises:
        InvalidTargetError: no such allocation.

    Source:
        ERK: Evci et al., "RigL", ICML 2020, sec. 3 (scaled by the number of weights). LAMP: Lee et
        al., ICLR 2021, eq. 4. OWL: Yin et al., ICML 2024, sec. 3.3.
    """
    known: dict[str, Callable[[], dict[str, float]]] = {
        "uniform": lambda: dict.fromkeys(worths, zeros),
        "erk": lambda: _erk(worths, zeros),
        "lamp": lambda: _lamp(worths, zeros),
        "owl": lambda: _owl(worths, zeros),
    }
    if how not in known:
        raise InvalidTargetError("allocation", repr(how), f"one of {', '.join(known)}")
    return known[how]()


def _scaled(
    kept: Callable[[str, float], float], sizes: Mapping[str, int], zeros: float
) -> dict[str, float]:
    """Find the scale at which the shares kept, at most 1 each, add up to what is asked."""
    wanted, low, high = (1 - zeros) * sum(sizes.values()), 0.0, 1e12
    for _ in range(_STEPS):
        middle = math.sqrt(max(low, 1e-12) * high)
        total = sum(min(1.0, kept(name, middle)) * size for name, size in sizes.items())
        low, high = (middle, high) if total < wanted else (low, middle)
    return {name: 1 - min(1.0, kept(name, high)) for name in sizes}


def _erk(worths: Mapping[str, Tensor], zeros: float) -> dict[str, float]:
    density = {name: sum(w.shape) / w.numel() for name, w in worths.items()}
    sizes = {name: w.numel() for name, w in worths.items()}
    return _scaled(lambda name, scale: density[name] * scale, sizes, zeros)


def _lamp(worths: Mapping[str, Tensor], zeros: float) -> dict[str, float]:
    shares = {}
    for name, worth in worths.items():
        ranked = worth.flatten().double().sort().values
        left = ranked.flip(0).cumsum(0).flip(0).clamp_min(1e-300)
        shares[name] = (ranked / left).cummax(0).values
    sizes = {name: len(share) for name, share in shares.items()}

    def kept(name: str, scale: float) -> float:
        return float((shares[name] * scale >= 1).double().mean())

    return _scaled(kept, sizes, zeros)


def _owl(worths: Mapping[str, Tensor], zeros: float) -> dict[str, float]:
    out = {n: float((w > _OUTLIER * w.mean()).double().mean()) for n, w in worths.items()}
    low, high = min(out.values()), max(out.values())
    spread = {n: 2 * _OWL_RANGE * (v - low) / ((high - low) or 1.0) for n, v in out.items()}
    sizes = {name: w.numel() for name, w in worths.items()}
    mean = sum(spread[n] * size for n, size in sizes.items()) / sum(sizes.values())
    return {n: min(0.99, max(0.0, zeros - (spread[n] - mean))) for n in worths}
