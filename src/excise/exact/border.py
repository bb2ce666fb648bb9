"""Constants that a padded convolution reads: one number for each kind of place at the border.

A padded convolution makes of a constant channel a map that is one number inside and others at the
border, depending only on which taps fall outside. Whatever the resolution, there are no more kinds
of places than ways to cut taps off at both ends of each dimension, and a map is known once it is
known at each kind. Such *profiles* are followed through norms and activations to the next
convolution over single positions. What that one loses with some of them, it gets back from others:
as many stay as are linearly independent (with its bias, which is the same at every place).
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from excise.exact.affine import Affine
from excise.exact.effect import Context, Effect
from excise.exact.fact import Fact
from excise.exact.norm import BatchNorm
from excise.exact.pointwise import RANDOM, Pointwise

_INDEPENDENT = 1e-10
_EQUAL = 2e-13
_LARGE = 100.0


class Profile(NamedTuple):
    """What each channel is at each kind of place: `value` is (channels, kinds).

    Attributes:
        value: in float64; 0 where nothing is known.
        known: one boolean per channel.
    """

    value: Tensor
    known: Tensor


class Borders:
    """Profiles of versions, step by step; where all kinds of places agree, a fact is found."""

    def __init__(self, facts: dict[int, Fact]) -> None:
        self.facts = facts
        self.profiles: dict[int, Profile] = {}

    def add(self, c: Context, effect: Effect) -> None:
        """The profile of one step's result, and the facts that follow."""
        if not c.outs:
            return
        version, shape = c.step.outs[0], c.layout.small(c.outs[0])
        if len(shape) < 3 or any(n != 1 for i, n in enumerate(shape) if i != 1):  # noqa: PLR2004
            return
        made = self._made(c, effect)
        if made is None or made.value.shape[0] != shape[1]:
            return
        value, known = self.facts[version]
        value, before = value.double().reshape(-1, 1), known.reshape(-1)
        made = Profile(torch.where(before.unsqueeze(-1), value, made.value), made.known | before)
        if not bool((made.known & ~before).any()):
            return
        self.profiles[version] = made
        same = made.known & (made.value == made.value[:, :1]).all(1) & ~before
        if bool(same.any()):
            fresh = torch.where(same, made.value[:, 0], value[:, 0]).reshape(shape)
            self.facts[version] = effect.outs[0] = Fact(fresh, known | same.reshape(shape))

    def _made(self, c: Context, effect: Effect) -> Profile | None:
        if isinstance(effect, Affine):
            return _padded(effect) if not effect.shape.even and effect.shape.channel != -1 else None
        places = [i for i, v in enumerate(c.step.ins) if v in self.profiles]
        if len(places) != 1:
            return None
        profile = self.profiles[c.step.ins[places[0]]]
        if isinstance(effect, BatchNorm):
            return _normed(effect, profile) if places[0] == 0 else None
        plain = isinstance(effect, Pointwise) and c.name not in RANDOM and len(c.outs) == 1
        return _mapped(c, places[0], profile) if plain else None


def _padded(effect: Affine) -> Profile | None:
    """Sums of the taps that fall inside, for each way to cut some off at the ends."""
    c, shape = effect.c, effect.shape
    lost = effect.ahead(~effect.known)[0].reshape(-1)
    if shape.transposed or bool(lost.all()) or not bool((effect.value != 0).any()):
        return None
    args = c.op.args
    weight = c.facts[effect.weight].value.detach().double()
    constant = (effect.value[0] * effect.known[0]).double()  # (groups, in)
    blocks = weight.reshape(shape.groups, -1, *weight.shape[1:])
    taps = torch.einsum("goi...,gi->go...", blocks, constant).flatten(0, 1)  # (out, taps...)
    cuts = []
    for size, padding, dilation in zip(weight.shape[2:], args[4], args[5], strict=True):
        most = min(-(-int(padding) // int(dilation)), size)
        cuts.append([slice(a, max(size - b, a)) for a in range(most + 1) for b in range(most + 1)])
    columns = [taps[(slice(None), *places)].flatten(1).sum(-1) for places in product(*cuts)]
    value = torch.stack(columns, -1)
    if effect.bias is not None:
        bias = c.facts[effect.bias]
        if not bias.full:
            return None
        value = value + bias.value.detach().double().reshape(-1, 1)
    return Profile(torch.where(lost.unsqueeze(-1), 0.0, value), ~lost)


def _normed(effect: BatchNorm, profile: Profile) -> Profile | None:
    if effect.line is None:
        return None
    scale, mean, bias = (t.double().reshape(-1, 1) for t in effect.line)
    return profile._replace(value=(profile.value - mean) * scale + bias)


def _mapped(c: Context, place: int, profile: Profile) -> Profile | None:
    """A function of single numbers, where all it reads besides is known channel by channel."""
    rank, tensors = len(c.layout.small(c.outs[0])), []
    for i, fact in enumerate(c.facts):
        if i == place:
            tensors.append(profile.value.reshape(1, *profile.value.shape, *([1] * (rank - 3))))
        elif fact.full and all(n == 1 for n in fact.value.shape[-(rank - 2) :]):
            real = fact.value.is_floating_point()
            tensors.append(fact.value.double() if real else fact.value)
        else:
            return None
    try:
        value = c.run(tensors)[0]
    except (RuntimeError, TypeError, NotImplementedError):  # a dtype that the trace does not tell
        return None
    if value.shape != tensors[place].shape:
        return None
    value = value.reshape(profile.value.shape).double()
    return Profile(value, profile.known & torch.isfinite(value).all(1))


class Span(NamedTuple):
    """What one convolution over single positions loses, and what it can get it back from.

    Attributes:
        profile: of its input.
        lost: channels that go, as booleans.
        stays: channels that stay and have a profile.
        bias: whether it can take up a number that is the same everywhere.
    """

    profile: Profile
    lost: Tensor
    stays: Tensor
    bias: bool

    def basis(self) -> Tensor:
        """What is there: (kinds, 1 + stays), or without the first column if there is no bias."""
        ones = torch.ones(self.profile.value.shape[1], int(self.bias), dtype=torch.float64)
        return torch.cat([ones, self.profile.value[self.stays].mT], 1)

    def lacking(self) -> list[int]:
        """Channels that have to stay after all, so that they span the others."""
        channels = self.lost.nonzero().flatten()
        columns = self.profile.value[self.lost].mT
        sizes = columns.norm(dim=0)
        left = _outside(self.basis(), columns)
        picked = []
        while left.numel():
            norms = left.norm(dim=0)
            ratio = torch.where(norms > _INDEPENDENT * sizes, norms / norms.max(), 0.0)
            best = int(ratio.argmax())
            if not bool(ratio[best] > 0):
                break
            picked.append(int(channels[best]))
            unit = (left[:, best] / norms[best]).unsqueeze(-1)
            left = left - unit @ (unit.mT @ left)
        return picked

    def shares(self) -> Tensor | None:
        """Coefficients of the basis that make the lost columns; None if they are not exact."""
        basis, wanted = self.basis(), self.profile.value[self.lost].mT
        sizes = basis.norm(dim=0).clamp_min(1e-300)
        if not basis.shape[1]:
            return None
        u, s, vh = torch.linalg.svd(basis / sizes, full_matrices=False)
        inverse = torch.where(s > _INDEPENDENT * s.max(), 1 / s, 0.0)
        found = (vh.mT * inverse) @ (u.mT @ wanted)
        gap = (basis / sizes) @ found - wanted
        found = found / sizes.unsqueeze(-1)
        exact = bool(gap.abs().max() <= _EQUAL * wanted.abs().max())
        return found if exact and bool(found.abs().max() <= _LARGE) else None


def _outside(basis: Tensor, columns: Tensor) -> Tensor:
    """What of some columns no combination of a basis makes."""
    if not basis.shape[1]:
        return columns
    sizes = basis.norm(dim=0).clamp_min(1e-300)
    u, s, _ = torch.linalg.svd(basis / sizes, full_matrices=False)
    kept = u[:, s > _INDEPENDENT * s.max()]
    left = columns - kept @ (kept.mT @ columns)
    return torch.sub(left, kept @ (kept.mT @ left))
