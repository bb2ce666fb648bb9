"""Two models on the same inputs: how far their outputs are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_map_only

from excise.errors import TraceError
from excise.trace.output import output_leaves
from excise.trace.run import run
from excise.trace.tape import Tape

_LARGE = 1e3
_SMALL_MAP = 64
_RANKS = {2: (1,), 3: (1, 2), 4: (2, 3), 5: (2, 3, 4)}


class Trial(NamedTuple):
    """One input: its kind, and the tensors."""

    kind: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def trials(args: tuple[Any, ...], kwargs: dict[str, Any], place: str) -> Iterator[Trial]:
    """The example itself, and random, zero, large and one-sided inputs of its shapes.

    Integers (token ids, masks) stay as they are: any other might be out of range.
    """
    source = torch.Generator().manual_seed(0)

    def noise(t: Tensor) -> Tensor:
        return torch.randn(t.shape, generator=source).to(t.device, t.dtype)

    def corner(t: Tensor) -> Tensor:
        out = torch.zeros_like(t)
        out[tuple([slice(None)] * min(2, t.ndim) + [0] * max(t.ndim - 2, 0))] = 1
        return out

    makers: dict[str, Callable[[Tensor], Tensor]] = {
        "example": lambda t: t,
        "random": noise,
        "zero": torch.zeros_like,
        "large": lambda t: _LARGE * noise(t),
        "corner": corner,
    }
    real = bool(_floats((args, kwargs)))
    for kind, make in makers.items():
        if real or kind == "example":
            yield Trial(f"{kind} input{place}", *_made(make, args, kwargs))


def _made(
    make: Callable[[Tensor], Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace the floating tensors of an input."""

    def one(t: Tensor) -> Tensor:
        return make(t.detach()) if t.is_floating_point() else t.detach()

    a, k = tree_map_only(Tensor, one, (args, kwargs))
    return a, k


def _floats(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, lambda t: found.append(t) if t.is_floating_point() else None, tree)
    return found


def resized(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], str]]:
    """The example at other resolutions or lengths, the cheapest first."""

    def at(change: Callable[[int], int]) -> Callable[[Tensor], Tensor]:
        def resize(t: Tensor) -> Tensor:
            out = t.detach()
            for dim in _RANKS.get(t.ndim, ())[-2:] if t.ndim > 3 else _RANKS.get(t.ndim, ())[:1]:  # noqa: PLR2004
                n = t.shape[dim]
                index = torch.arange(change(n), device=t.device) % max(n, 1)
                out = out.index_select(dim, index)
            return out

        return resize

    changes: list[Callable[[int], int]] = [
        lambda n: _SMALL_MAP if n > _SMALL_MAP else n + max(2, n // 4),
        lambda n: n // 2,
        lambda n: n + 32,
    ]
    for change in changes:
        a, k = tree_map_only(Tensor, at(change), (args, kwargs))
        shapes = "x".join(map(str, next((t.shape for t in _all((a, k))), ())))
        yield a, k, f" of {shapes}"


def _all(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, tree)
    return found


def outputs(model: nn.Module, trial: Trial, tape: Callable[[], Tape] | None) -> Any:
    """Run a model without gradients, with a fixed seed; under a tape if one is given.

    Raises:
        ExampleError: it does not run on that input.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if tape is not None:
            return run(model, tape(), trial.args, trial.kwargs)
        with torch.no_grad():
            return model(*trial.args, **trial.kwargs)


def runs(model: nn.Module, trial: Trial, tape: Callable[[], Tape] | None) -> bool:
    """Whether a model takes an input."""
    try:
        outputs(model, trial, tape)
    except (TraceError, RuntimeError, ValueError, IndexError, AssertionError, TypeError):
        return False
    return True


def differences(wanted: Any, found: Any) -> list[tuple[str, float]]:
    """Per output, the largest difference relative to its largest value; NaN never appears.

    An output that is not finite everywhere in the original says nothing, and is left out.
    """
    out = []
    for (path, a), (_, b) in zip(output_leaves(wanted), output_leaves(found), strict=True):
        name = keystr(path) or "output"
        if a.shape != b.shape:
            out.append((name, float("inf")))
        elif not a.numel() or (a.is_floating_point() and not bool(torch.isfinite(a).all())):
            continue
        elif not (a.is_floating_point() or a.is_complex()):
            out.append((name, 0.0 if torch.equal(a, b) else float("inf")))
        else:
            gap = (a - b).abs().max().item()
            scale = a.abs().max().item()
            ratio = gap / scale if scale else (0.0 if gap == 0 else float("inf"))
            out.append((name, ratio if ratio == ratio else float("inf")))  # noqa: PLR0124 - NaN
    return out
