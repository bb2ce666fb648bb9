"""How the samples of a batch lie in a value, and what a rule for an operator may ask."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, fx


class Along(NamedTuple):
    """How samples lie in a value.

    Entry `(b * samples + n) * each + j` of the dimension belongs to sample `n`.

    Attributes:
        dim: the dimension along which they lie.
        before: how often all of them come, one after the other.
        each: how many entries of each lie side by side.
    """

    dim: int
    before: int = 1
    each: int = 1


Label = Along | None  # None: a value that is the same whichever samples there are
Labels = dict[fx.Node, Label]


class Mixed(Exception):  # noqa: N818 - an answer, not an error
    """Samples may be mixed."""


def shape(node: Any) -> tuple[int, ...]:
    """Of a node that is a tensor."""
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        raise Mixed
    return tuple(value.shape)


def given(node: Any, place: int, name: str, default: Any) -> Any:
    """An argument, by its place or by its name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def only(node: Any, labels: Labels) -> Along:
    """The label of the first argument; no other has one."""
    first = node.args[0]
    found = labels.get(first) if isinstance(first, fx.Node) else None
    if found is None or any(labels[n] for n in node.all_input_nodes if n is not first):
        raise Mixed
    return found
