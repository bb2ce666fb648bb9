"""Law: the original stays as it was, bit for bit, and so does everything around it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.laws.cut import Cut, cut, fingerprint
from tests.laws.test_silence import PLAIN


def holds(found: Cut) -> None:
    """Tracing, planning, cutting and proving leave no trace; hooks and gradients are carried on."""
    assert found.verdict is not None
    after = fingerprint(found.model)
    changed = [key for key in after if after[key] != found.before.get(key)]
    assert not changed, changed
    assert after.keys() == found.before.keys()
    carried(found)


def carried(found: Cut) -> None:
    """The small model has its own tensors, and the original's hooks, mode and gradients."""
    ours = dict(found.model.named_parameters())
    for name, parameter in found.small.named_parameters():
        assert parameter is not ours[name]
        assert parameter.data_ptr() != ours[name].data_ptr()
        assert (parameter.grad is None) == (ours[name].grad is None)
        assert parameter.grad is None or parameter.grad.shape == parameter.shape
    for name, module in found.small.named_modules():
        old = found.model.get_submodule(name)
        assert module.training == old.training
        assert len(module._forward_hooks) == len(old._forward_hooks)


def _weight(model: nn.Module) -> None:
    next(model.parameters()).data.view(-1)[0] += 1e-6


def _statistic(model: nn.Module) -> None:
    next(b for n, b in model.named_buffers() if n.endswith("running_mean")).add_(1e-6)


def _mode(model: nn.Module) -> None:
    next(model.children()).train()


def _hook(model: nn.Module) -> None:
    next(model.children()).register_forward_hook(lambda *_: None)


def _gradient(model: nn.Module) -> None:
    next(model.parameters()).grad = None if next(model.parameters()).grad is not None else (
        torch.zeros_like(next(model.parameters()))
    )  # fmt: skip


def _attribute(model: nn.Module) -> None:
    vars(model)["features"] += 1


def _random(_model: nn.Module) -> None:
    torch.rand(1)


def _frozen(model: nn.Module) -> None:
    next(model.parameters()).requires_grad_(False)  # noqa: FBT003 - torch's own spelling


@pytest.mark.parametrize(
    "damage", [_weight, _statistic, _mode, _hook, _gradient, _attribute, _random, _frozen]
)
def test_damage_is_seen(damage: Callable[[nn.Module], None]) -> None:
    """Meta-test: each kind of trace that could be left behind."""
    found = cut(PLAIN)
    holds(found)
    damage(found.model)
    with pytest.raises(AssertionError):
        holds(found)
