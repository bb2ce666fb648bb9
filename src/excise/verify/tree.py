"""Tensors in nested arguments and outputs: taken out, put back, compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr

from excise.trace import Ref
from excise.trace.output import output_leaves


def flatten(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts, in order, repeats included."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, (tuple, list)):
        return [t for item in tree for t in flatten(item)]
    if isinstance(tree, dict):
        return [t for item in tree.values() for t in flatten(item)]
    return []


def refill(tree: Any, tensors: Any) -> Any:
    """Put tensors back where the trace has references, in order."""
    if type(tree) is Ref:
        return next(tensors)
    if isinstance(tree, (tuple, list)):
        return type(tree)(refill(v, tensors) for v in tree)
    if isinstance(tree, dict):
        return {k: refill(v, tensors) for k, v in tree.items()}
    return tree


def differences(wanted: Any, found: Any) -> list[tuple[str, float]]:
    """The largest difference of each output, relative to the largest value of the wanted one."""
    out = []
    for (path, a), (_, b) in zip(output_leaves(wanted), output_leaves(found), strict=True):
        name = keystr(path) or "output"
        if a.shape != b.shape:
            out.append((name, float("inf")))
        elif not a.is_floating_point() and not a.is_complex():
            out.append((name, 0.0 if torch.equal(a, b) else float("inf")))
        elif a.numel():
            scale = float(a.abs().max())
            out.append((name, float((a - b).abs().max()) / (scale or 1.0)))
    return out


def flat_outputs(outputs: Any) -> bool:
    """Whether every output is zero everywhere, as from a zero-initialised head."""
    return all(not bool(t.any()) for _, t in output_leaves(outputs))
