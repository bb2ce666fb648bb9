"""Law: what is saved is what is loaded, bit for bit."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import pytest
import torch

import excise
from excise.files.save import distinct
from tests.laws.cut import Cut, cut, outputs, same, state
from tests.laws.test_silence import PLAIN


def holds(found: Cut) -> None:
    """Built anew with other weights, the loaded model has this one's tensors, ties and outputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        excise.save(found.small, found.plan, path)
        again = excise.load(path, build=lambda: found.request.network.build(found.request.seed + 1))
    assert same(state(again), state(found.small))
    assert ties(again) == ties(found.small)
    for a, b in zip(
        outputs(again.eval(), found.args, found.kwargs),
        outputs(found.small, found.args, found.kwargs),
        strict=True,
    ):
        assert torch.equal(a, b)


def ties(model: torch.nn.Module) -> set[frozenset[str]]:
    """Which names are one and the same parameter."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {frozenset(group) for group in names.values() if len(group) > 1}


def test_a_changed_tensor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta-test: one number is lost on the way to the file."""
    found = cut(PLAIN)
    holds(found)
    module = importlib.import_module("excise.files.save")  # `excise.files.save` is the function

    def lossy(tensors: dict[str, torch.Tensor]) -> object:
        stored, tied = distinct(tensors)
        next(iter(stored.values())).view(-1)[0] += 1e-6
        return stored, tied

    monkeypatch.setattr(module, "distinct", lossy)
    with pytest.raises(AssertionError):
        holds(found)
