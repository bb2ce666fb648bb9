"""The report as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from excise.measure import Measurement


def plain(
    before: Measurement,
    after: Measurement,
    extra: Mapping[str, tuple[float, float]],
    kept: Mapping[str, float],
) -> dict[str, Any]:
    """Plain data: both measurements, further rows, and what is kept as fractions in [0, 1]."""
    return {
        "before": before.to_dict(),
        "after": after.to_dict(),
        "extra": {name: {"before": a, "after": b} for name, (a, b) in extra.items()},
        "kept": dict(kept),
    }


def render(data: Mapping[str, Any]) -> str:
    """One JSON object; NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
