"""Plans: which units of which axes to remove, as plain data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from excise.errors import PlanFormatError, StalePlanError
from excise.layers import Bypassed
from excise.layers.bypass import KINDS

VERSION = 3
"""What this excise reads; a plan is written as the first version that has all its fields."""
_DEEPEST = 200  # brackets in brackets; a network of that many nested concatenations is none


class TensorCut(NamedTuple):
    """One tensor that shrinks: its shape before, and each dimension in einops notation."""

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]


class AttributeCut(NamedTuple):
    """One int attribute that repeats a length: `("layer1.0.conv1", "out_channels", 64, 32)`."""

    module: str
    attribute: str
    before: int
    after: int


class BranchCut(NamedTuple):
    """One residual branch that is removed: its name, and the modules that are replaced for it."""

    name: str
    modules: tuple[Bypassed, ...]


@dataclass(frozen=True)
class Plan:
    """A complete, checkable description of a cut: no tensors, no model, no hidden state.

    A plan can be printed, compared, stored beside the weights and applied on another machine. It
    fits one architecture before the cut, and is spent once it has been applied.

    Attributes:
        removed: group name -> units to remove, ascending, from 0.
        sizes: name -> length before the cut, for each axis that a dimension below mentions.
        tensors: every parameter, buffer and tensor attribute that shrinks.
        attributes: every int that repeats a length which changes.
        shapes: name -> shape of every tensor of the model before the cut, to recognise it.
        biases: linear layers and convolutions without a bias that get one (since version 2).
        branches: residual branches that are removed (since version 3). What lies inside one is in
            `shapes` and in none of the other fields.
    """

    removed: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    tensors: tuple[TensorCut, ...]
    attributes: tuple[AttributeCut, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    biases: tuple[str, ...] = ()
    branches: tuple[BranchCut, ...] = ()

    @property
    def bypassed(self) -> tuple[Bypassed, ...]:
        """Every module that is replaced."""
        return tuple(module for branch in self.branches for module in branch.modules)

    def gone(self, name: str) -> bool:
        """Whether a module, or the tensor of that name, lies in a branch that is removed.

        >>> plan = Plan({}, {}, (), branches=(BranchCut("b", (Bypassed("b", "identity"),)),))
        >>> plan.gone("b.0.weight"), plan.gone("b"), plan.gone("body.weight")
        (True, True, False)
        """
        return any(f"{name}.".startswith(f"{each.module}.") for each in self.bypassed)

    @property
    def widths(self) -> Plan:
        """The same cut of a model without the branches."""
        if not self.branches:
            return self
        left = {name: shape for name, shape in self.shapes.items() if not self.gone(name)}
        return replace(self, branches=(), shapes=left)

    def kept(self, axis: str) -> npt.NDArray[np.bool_]:
        """Which units of an axis stay: one boolean per unit.

        >>> Plan({"c": (1,)}, {"c": 3}, ()).kept("c").tolist()
        [True, False, True]
        """
        mask = np.ones(self.sizes[axis], dtype=bool)
        mask[list(self.removed.get(axis, ()))] = False
        return mask

    def indices(self, notation: str) -> npt.NDArray[np.int64]:
        """The indices that stay of a dimension in einops notation.

        >>> plan = Plan({"c": (1,)}, {"c": 3}, ())
        >>> plan.indices("(2 c)").tolist(), plan.indices("(c + 1)").tolist()
        ([0, 2, 3, 5], [0, 2, 3])
        """
        return np.flatnonzero(mask(notation, self))

    def shape_after(self, cut: TensorCut) -> tuple[int, ...]:
        """The shape of a tensor after the cut."""
        return tuple(len(self.indices(dim)) for dim in cut.dims)

    def to_json(self) -> str:
        """Render as JSON; the keys are the field names, ranges of removed units stay lists."""
        new: dict[str, Any] = {"biases": list(self.biases)} if self.biases else {}
        if self.branches:
            new["branches"] = [[b.name, [list(m) for m in b.modules]] for b in self.branches]
        return json.dumps(
            {
                "version": 3 if self.branches else 2 if self.biases else 1,
                "removed": {k: list(v) for k, v in self.removed.items()},
                "sizes": dict(sorted(self.sizes.items())),
                "tensors": [[c.name, list(c.shape), list(c.dims)] for c in self.tensors],
                "attributes": [list(a) for a in self.attributes],
                "shapes": {k: list(v) for k, v in self.shapes.items()},
                **new,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            PlanFormatError: not JSON, not a plan, a plan of a newer version, or one that
                contradicts itself (units outside their axis, dimensions that do not multiply up).
        """
        try:
            raw = json.loads(text)
            version = raw["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise PlanFormatError("it is no JSON object with a version") from error
        if type(version) is not int or not 0 < version <= VERSION:
            raise PlanFormatError(f"its version is {version}, this excise reads 1 to {VERSION}")
        try:
            plan = _read(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanFormatError(f"a field is missing or malformed ({error!r})") from error
        plan.check()
        return plan

    def check(self) -> None:
        """Refuse a plan that contradicts itself.

        Raises:
            PlanFormatError: naming the field.
        """
        for name, units in self.removed.items():
            length = self.sizes.get(name)
            if length is None:
                raise PlanFormatError(f"axis {name!r} has no size")
            good = list(units) == sorted(set(units)) and all(0 <= u < length for u in units)
            if not good or len(units) >= length:
                raise PlanFormatError(
                    f"the removed units of {name!r} do not fit its {length} units"
                )
        self._check_branches()
        for cut in self.tensors:
            try:
                found = tuple(_length(dim, self.sizes) for dim in cut.dims)
            except (KeyError, ValueError, IndexError, RecursionError) as error:
                raise PlanFormatError(f"{cut.name} has an unreadable dimension") from error
            if found != cut.shape:
                raise PlanFormatError(f"{cut.name} is {cut.shape}, its dimensions say {found}")

    def _check_branches(self) -> None:
        names = [each.module for each in self.bypassed]
        for each in self.bypassed:
            inside = [n for n in names if n != each.module and n.startswith(f"{each.module}.")]
            good = not inside and names.count(each.module) == 1 and each.place >= 0
            good = good and each.makes in KINDS and each.place <= max(0, each.outputs - 1)
            if not good or not each.module:
                raise PlanFormatError(f"what stands in for {each.module!r} contradicts itself")
        touched = [cut.name for cut in self.tensors] + [cut.module for cut in self.attributes]
        for name in (*touched, *self.biases):
            if self.gone(name):
                raise PlanFormatError(f"{name} is cut, and lies in a branch that is removed")

    def then(self, later: Plan) -> Plan:
        """This cut and a later one of its result, as one cut.

        Args:
            later: the plan of a model that was cut by this one.

        Raises:
            StalePlanError: `later` was made for another model.

        >>> one = Plan({"c": (1,)}, {"c": 4}, ())
        >>> one.then(Plan({"c": (1,)}, {"c": 3}, ())).removed
        {'c': (1, 2)}
        """
        between = {cut.name: self.shape_after(cut) for cut in self.tensors}
        for name, shape in later.shapes.items():
            wanted = between.get(name, self.shapes.get(name, shape))
            if wanted != shape:
                raise StalePlanError(name, f"of shape {shape}", f"of shape {wanted}")
        removed = dict(self.removed)
        for axis, units in later.removed.items():
            left = np.flatnonzero(self.kept(axis)) if axis in self.sizes else None
            gone = units if left is None else left[list(units)].tolist()
            removed[axis] = tuple(sorted({*removed.get(axis, ()), *gone}))
        joined = Plan(
            removed,
            {**later.sizes, **self.sizes},
            self._tensors_with(later),
            _attributes(self.attributes, later.attributes),
            self.shapes or later.shapes,
            self.biases + later.biases,
            _branches(self.branches, later),
        )
        made = joined.without_gone()
        made.check_joined(self, later)
        return made

    def without_gone(self) -> Plan:
        """The same without what an earlier cut did inside a branch that is removed now."""
        if not self.branches:
            return self
        tensors = tuple(cut for cut in self.tensors if not self.gone(cut.name))
        words = {word for cut in tensors for dim in cut.dims for word in _split(dim)}
        return replace(
            self,
            tensors=tensors,
            attributes=tuple(cut for cut in self.attributes if not self.gone(cut.module)),
            biases=tuple(name for name in self.biases if not self.gone(name)),
            removed={axis: units for axis, units in self.removed.items() if axis in words},
            sizes={axis: size for axis, size in self.sizes.items() if axis in words},
        )

    def _tensors_with(self, later: Plan) -> tuple[TensorCut, ...]:
        """Tensors that one of two cuts shrinks, at their first shape."""
        mine = {cut.name: cut for cut in self.tensors}
        ours = {f"{layer}.bias" if layer else "bias" for layer in self.biases}
        theirs = (cut for cut in later.tensors if cut.name not in mine | dict.fromkeys(ours))
        return (*self.tensors, *theirs)

    def check_joined(self, first: Plan, later: Plan) -> None:
        """Refuse two cuts that do not name their axes alike: each tensor has to end the same."""
        self.check()
        one = {cut.name: [first.indices(dim) for dim in cut.dims] for cut in first.tensors}
        two = {cut.name: [later.indices(dim) for dim in cut.dims] for cut in later.tensors}
        for cut in self.tensors:
            found = [self.indices(dim) for dim in cut.dims]
            wanted = one.get(cut.name) or [np.arange(n) for n in cut.shape]
            if cut.name in two:
                wanted = [w[left] for w, left in zip(wanted, two[cut.name], strict=True)]
            if not all(np.array_equal(f, w) for f, w in zip(found, wanted, strict=True)):
                raise StalePlanError(cut.name, "cut along the same axes", "cut along others")

    def __str__(self) -> str:
        lines = [
            f"{name}: {self.sizes[name]} -> {self.sizes[name] - len(units)} units"
            for name, units in self.removed.items()
        ]
        lines += [f"{name}: gets a bias" for name in self.biases]
        lines = [f"{branch.name}: the whole branch" for branch in self.branches] + lines
        return "\n".join(lines) or "nothing is removed"


def _attributes(
    first: Iterable[AttributeCut], later: Iterable[AttributeCut]
) -> tuple[AttributeCut, ...]:
    """Numbers that one of two cuts changes: before both, and after both."""
    found = {(cut.module, cut.attribute): cut for cut in first}
    for cut in later:
        known = found.get((cut.module, cut.attribute))
        found[cut.module, cut.attribute] = cut if known is None else known._replace(after=cut.after)
    return tuple(cut for cut in found.values() if cut.before != cut.after)


def _branches(first: tuple[BranchCut, ...], later: Plan) -> tuple[BranchCut, ...]:
    """Branches that one of two cuts removes; modules inside a later one are gone with it."""
    left = ((b, tuple(m for m in b.modules if not later.gone(m.module))) for b in first)
    return (*(b._replace(modules=modules) for b, modules in left if modules), *later.branches)


def checked(plan: Any) -> Plan:
    """The plan, if it is one and does not contradict itself.

    Raises:
        PlanFormatError: something else, or a plan made by hand that does.
    """
    if not isinstance(plan, Plan):
        raise PlanFormatError(f"a {type(plan).__name__} is no Plan")
    plan.check()
    return plan


def _read(raw: dict[str, Any]) -> Plan:
    return Plan(
        removed={k: _ints(v) for k, v in raw["removed"].items()},
        sizes=dict(zip(raw["sizes"], _ints(raw["sizes"].values()), strict=True)),
        tensors=tuple(TensorCut(_word(n), _ints(s), _words(d)) for n, s, d in raw["tensors"]),
        attributes=tuple(
            AttributeCut(_word(m), _word(a), *_ints((b, c))) for m, a, b, c in raw["attributes"]
        ),
        shapes={k: _ints(v) for k, v in raw["shapes"].items()},
        biases=_words(raw.get("biases", [])),
        branches=tuple(
            BranchCut(_word(name), tuple(_bypassed(*each) for each in modules))
            for name, modules in raw.get("branches", [])
        ),
    )


def _bypassed(module: Any, makes: Any, given: Any, *form: Any) -> Bypassed:
    which = given if isinstance(given, str) else _ints([given])[0]
    outputs, place = _ints(form)
    return Bypassed(_word(module), _word(makes), which, outputs, place)


def _ints(values: Iterable[Any]) -> tuple[int, ...]:
    """Lengths and units: whole, not negative, and no booleans."""
    found = tuple(values)
    if not all(type(value) is int and value >= 0 for value in found):
        raise ValueError(found)
    return found


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _words(values: list[Any]) -> tuple[str, ...]:
    return tuple(_word(value) for value in values)


def _length(notation: str, sizes: Mapping[str, int]) -> int:
    """How many indices a dimension has, by arithmetic: a hostile size costs no memory."""
    lengths: list[list[int]] = [[1]]  # of each open bracket, the terms of its sum
    for word in _split(notation):
        if word == "(":
            lengths.append([1])
            if len(lengths) > _DEEPEST:
                raise ValueError(notation)
        elif word == "+" and len(lengths) > 1:
            lengths[-1].append(1)
        elif word == ")" and len(lengths) > 1:
            inner = sum(lengths.pop())
            lengths[-1][-1] *= inner
        else:
            lengths[-1][-1] *= int(word) if word.isdigit() else sizes[word]
    if len(lengths) > 1:
        raise ValueError(notation)
    return lengths[0][0]


def mask(notation: str, plan: Plan) -> npt.NDArray[np.bool_]:
    """Which indices of a dimension stay: products by row-major order, sums end to end."""
    found, rest = _product(_split(notation), plan)
    if rest:
        raise ValueError(notation)
    return found


def _split(notation: str) -> list[str]:
    return notation.replace("(", " ( ").replace(")", " ) ").split()


def _product(words: list[str], plan: Plan) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Read factors up to a closing bracket or a plus."""
    out = np.ones(1, dtype=bool)
    while words and words[0] not in {")", "+"}:
        word, words = words[0], words[1:]
        if word == "(":
            factor, words = _sum(words, plan)
            if not words or words[0] != ")":
                raise ValueError(word)
            words = words[1:]
        else:
            factor = np.ones(int(word), dtype=bool) if word.isdigit() else plan.kept(word)
        out = (out[:, None] & factor[None, :]).reshape(-1)
    return out, words


def _sum(words: list[str], plan: Plan) -> tuple[npt.NDArray[np.bool_], list[str]]:
    first, words = _product(words, plan)
    parts = [first]
    while words and words[0] == "+":
        part, words = _product(words[1:], plan)
        parts.append(part)
    return np.concatenate(parts), words
