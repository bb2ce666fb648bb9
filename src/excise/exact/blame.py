"""Where two models part: the first operation whose needed results differ."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from excise.exact.equal import Trial, outputs
from excise.exact.live import Liveness
from excise.trace import Op
from excise.trace.tape import Tape


class Listener(Tape):
    """Runs in float64 as far as its tensors are, and keeps what every operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[tuple[str, list[Tensor]]] = []

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Keep the results of an operation."""
        out = self.inside(func, args, kwargs)
        flat = (
            [out]
            if isinstance(out, Tensor)
            else list(out)
            if isinstance(out, (tuple, list))
            else []
        )
        with self.pause():
            self.results.append((name, [t.clone() for t in flat if isinstance(t, Tensor)]))
        return out


def parting(
    live: Liveness, original: nn.Module, small: nn.Module, trial: Trial, tolerance: float
) -> Op | None:
    """The first operation whose needed, kept results differ by more than a tolerance."""
    heard: list[list[tuple[str, list[Tensor]]]] = []
    for model in (original, small):
        tape = Listener()
        outputs(model, trial, lambda tape=tape: tape)  # type: ignore[misc]
        heard.append(tape.results)
    steps = [s for s in live.k.program.steps if s.op in live.k.graph.trace.ops]
    for step, (name, before), (other, after) in zip(steps, *heard, strict=False):
        if name != step.op.name or other != name:
            return cast("Op", step.op)
        for version, a, b in zip(step.outs, before, after, strict=False):
            if _apart(live, version, a, b) > tolerance:
                return cast("Op", step.op)
    return None


def _apart(live: Liveness, version: int, before: Tensor, after: Tensor) -> float:
    need = live.needed.get(version)
    if need is None or not before.is_floating_point():
        return 0.0
    lost = live.marks(version)
    stays = need if lost is None else need & ~lost
    if stays.ndim != before.ndim:
        return 0.0
    try:
        kept = before[stays.expand(before.shape)] if before.numel() else before
        gone = torch.zeros_like(need) if lost is None else lost
        there = need.expand(before.shape)[~gone.expand(before.shape)]
        if after.numel() != there.numel():
            return float("inf")
        found = after.reshape(-1)[there]
    except RuntimeError:  # a resolution at which these marks do not apply
        return 0.0
    if not kept.numel():
        return 0.0
    return float((kept - found).abs().max() / kept.abs().max().clamp_min(1e-300))
