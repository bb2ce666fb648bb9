"""The reference: the original with units silenced, which mixing operations do not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from excise.axes import Axis, leaves
from excise.budget import kept_indices
from excise.graph import AxisGraph
from excise.trace import Ref
from excise.trace.choice import Choice, alike, followed
from excise.verify.path import Removed, constants
from excise.verify.tape import Wide
from excise.verify.tree import flatten, refill
from excise.verify.verdict import TOLERANCE


class Silenced(Wide):
    """Runs the silenced original; mixing operations see only the units that exist.

    With `choices`, those of the cut model are made where both had the same numbers.
    """

    def __init__(
        self,
        before: AxisGraph,
        after: AxisGraph,
        removed: Removed,
        mixing: set[int],
        choices: Mapping[int, Choice] | None = None,
    ) -> None:
        super().__init__()
        self.before, self.after, self.removed, self.mixing = before, after, removed, mixing
        self.choices = choices or {}
        self.ties: dict[int, str] = {}
        self.lost = ""
        self.undefined: dict[int, str] = {}

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation; a mixing one on the units that exist."""
        number, ops = self.count, self.before.trace.ops
        if not self.lost and (number >= len(ops) or ops[number].name != name):
            self.lost = f"with real data the original takes another path at operation {number}"
        if self.lost:
            return super().step(name, func, args, kwargs)
        if number in self.choices:
            return self._follow(number, name, func, args, kwargs)
        return self._plain(number, name, func, args, kwargs)

    def _plain(self, number: int, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation as it is, or on the units that exist if it mixes them."""
        if number not in self.mixing:
            out = super().step(name, func, args, kwargs)
            with self.pause():
                self._define(number, out)
            return out
        old, new = self.before.trace.ops[number], self.after.trace.ops[number]
        given = flatten((args, kwargs))
        with self.pause():
            small = [self._gather(t, ref) for t, ref in zip(given, old.inputs(), strict=True)]
            for i, value in enumerate(constants(self.after, new)):
                if value is not None:  # computed from a length that the cut changes
                    small[i] = torch.full_like(small[i], value)
        there = iter(small)
        new_args = refill(new.args, there)
        new_kwargs = refill(new.kwargs, there)
        out = super().step(name, func, new_args, new_kwargs)
        with self.pause():
            wide = [self._scatter(t, ref) for t, ref in zip(flatten(out), old.outs, strict=True)]
        if name.endswith("_") and not name.endswith("__") and isinstance(args[0], Tensor):
            with self.pause():
                return args[0].copy_(wide[0])
        spread = iter(wide)
        return tree_map(lambda v: next(spread) if isinstance(v, Tensor) else v, out)

    def _follow(self, number: int, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation; of numbers that agree, choose what the cut model chose."""
        op, choice = self.before.trace.ops[number], self.choices[number]
        with self.pause():
            tensors = zip(flatten((args, kwargs)), op.inputs(), strict=True)
            same = alike([self._gather(t, r) for t, r in tensors], choice.given, TOLERANCE)
        out = self._plain(number, name, func, args, kwargs)
        if not same or not isinstance(out, (Tensor, tuple, list)):
            return out
        with self.pause():
            own = flatten(out)
            mine = [self._gather(t, r) for t, r in zip(own, op.outs, strict=True)]
            made = followed(name, mine, choice.made)
            if all(a is b or torch.equal(a, b) for a, b in zip(mine, made, strict=True)):
                return out
            self.ties[number] = f"{name} in {op.module}"
            there = zip(own, mine, made, op.outs, strict=True)
            taken = [t if a is b else self._overlaid(t, b, r) for t, a, b, r in there]
            if name.endswith("_") and isinstance(args[0], Tensor):
                return args[0].copy_(taken[0])
        spread = iter(taken)
        return tree_map(lambda v: next(spread) if isinstance(v, Tensor) else v, out)

    def _overlaid(self, own: Tensor, made: Tensor, ref: Ref) -> Tensor:
        """What the cut model has, at the units that it has; the rest stays as it is."""
        wide = self._scatter(made, ref)
        if wide.shape != own.shape:
            return wide
        shape = [n if kept is None else len(kept) for n, kept in zip(own.shape, self._kept(ref))]  # noqa: B905
        there = own.new_ones(shape, dtype=torch.bool)
        return torch.where(self._spread(there, ref), wide, own)

    def _define(self, number: int, out: Any) -> None:
        """A silent unit may have no value (0 / 0 of a normalised weight); nobody reads it: zero."""
        op = self.before.trace.ops[number]
        for tensor, ref in zip(flatten(out), op.outs, strict=True):
            if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
                continue
            gone = torch.zeros([1] * tensor.dim(), dtype=torch.bool, device=tensor.device)
            for dim, kept in enumerate(self._kept(ref)):
                if kept is not None:
                    here = torch.ones(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
                    here[kept.to(tensor.device)] = False
                    gone = gone | here.reshape([-1 if d == dim else 1 for d in range(tensor.dim())])
            lost = gone & ~torch.isfinite(tensor)
            if bool(lost.any()):
                tensor.masked_fill_(lost, 0.0)
                self.undefined[number] = f"{op.name} (a silent unit has no value) in {op.module}"

    def _kept(self, ref: Ref) -> list[Tensor | None]:
        """Indices that stay of each dimension; None where all do."""
        found: list[Tensor | None] = []
        for term in self.before.scope.get(ref):
            cut = any(leaf in self.removed for leaf in leaves(term))
            found.append(self._indices(term) if cut else None)
        return found

    def _indices(self, term: list[Axis]) -> Tensor:
        return torch.from_numpy(kept_indices(term, self.removed)).nonzero().flatten()

    def _numbers(self, ref: Ref) -> Tensor | None:
        """The units that stay, if the values of a tensor number the units of a cut axis."""
        term = self.before.scope.numbered(ref)
        cut = term is not None and any(leaf in self.removed for leaf in leaves(term))
        return self._indices(term) if cut and term is not None else None

    def _gather(self, tensor: Tensor, ref: Ref) -> Tensor:
        kept = self._numbers(ref)
        if kept is not None:
            tensor = torch.searchsorted(kept.to(tensor.device), tensor).to(tensor.dtype)
        for dim, index in enumerate(self._kept(ref)):
            if index is not None:
                tensor = tensor.index_select(dim, index.to(tensor.device))
        return tensor

    def _scatter(self, tensor: Tensor, ref: Ref) -> Tensor:
        kept = self._numbers(ref)
        if kept is not None:
            tensor = kept.to(tensor.device)[tensor.long()].to(tensor.dtype)
        return self._spread(tensor, ref)

    def _spread(self, tensor: Tensor, ref: Ref) -> Tensor:
        for dim, index in enumerate(self._kept(ref)):
            if index is not None:
                shape = list(tensor.shape)
                shape[dim] = self.before.scope.shape(ref)[dim]
                wide = tensor.new_zeros(shape)
                tensor = wide.index_copy_(dim, index.to(tensor.device), tensor)
        return tensor
