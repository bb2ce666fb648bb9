"""Zeros of any origin: attached and permanent masks, parametrizations, sparsifiers, checkpoints."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import excise
from excise.exact import merged, plain, unmerged
from tests.exact.network import Attention


class Net(nn.Module):
    """Convolutions with and without norm and bias, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        x = torch.relu(self.norm(self.b(torch.sigmoid(self.a(x)))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Heads(nn.Module):
    """An attention layer of torch's own, and a recurrent one."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cell = nn.GRU(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        x = x + self.attention(x, x, x, need_weights=False)[0]
        out: Tensor = self.head(self.cell(x)[0].mean(1))
        return out


class Mask(nn.Module):
    """A user's own mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Apply it."""
        out: Tensor = weight * self.get_buffer("mask")
        return out


def rows(module: nn.Module, name: str = "weight") -> Tensor:
    mask = torch.ones_like(getattr(module, name))
    mask[::2] = 0
    return mask


def structured(m: Net) -> None:
    prune.ln_structured(m.a, "weight", 0.5, n=2, dim=0)
    prune.random_structured(m.b, "weight", 0.5, dim=0)
    prune.ln_structured(m.head, "weight", 0.25, n=1, dim=1)


def unstructured(m: Net) -> None:
    prune.l1_unstructured(m.a, "weight", 0.5)
    prune.random_unstructured(m.b, "weight", 0.5)


def everywhere(m: Net) -> None:
    parameters = [(m.a, "weight"), (m.b, "weight"), (m.head, "weight")]
    prune.global_unstructured(parameters, prune.L1Unstructured, amount=0.8)


def custom(m: Net) -> None:
    prune.custom_from_mask(m.a, "weight", rows(m.a))
    prune.custom_from_mask(m.a, "bias", rows(m.a, "bias"))
    prune.custom_from_mask(m.b, "weight", rows(m.b))


def several(m: Net) -> None:
    prune.l1_unstructured(m.b, "weight", 0.3)
    prune.ln_structured(m.b, "weight", 0.5, n=2, dim=0)
    prune.random_structured(m.b, "weight", 2, dim=1)
    prune.l1_unstructured(m.a, "bias", 3)
    prune.ln_structured(m.a, "weight", 0.5, n=2, dim=0)


def permanent(m: Net) -> None:
    custom(m)
    for layer in (m.a, m.b):
        prune.remove(layer, "weight")
    prune.remove(m.a, "bias")


def parametrized(m: Net) -> None:
    parametrize.register_parametrization(m.a, "weight", Mask(rows(m.a)))
    parametrize.register_parametrization(m.b, "weight", Mask(rows(m.b)))


def sparsifier(m: Net) -> None:
    made = import_module("torch.ao.pruning").WeightNormSparsifier(
        sparsity_level=0.5, sparse_block_shape=(5, 1), zeros_per_block=5
    )
    made.prepare(m, [{"tensor_fqn": "head.weight"}])
    made.step()


def pruner(m: Net) -> None:
    made = import_module("torch.ao.pruning._experimental.pruner").SaliencyPruner({})
    made.prepare(m, [{"tensor_fqn": "a.weight", "sparsity_level": 0.5}])
    made.enable_mask_update = True
    made.step()


ORIGINS: tuple[Callable[[Any], None], ...] = (
    structured, unstructured, everywhere, custom, several, permanent, parametrized, sparsifier,
    pruner,
)  # fmt: skip


def masked(origin: Callable[[Any], None]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    model = Net()
    with torch.no_grad():
        assert isinstance(model.norm.running_mean, Tensor)
        model.norm.running_mean.normal_()
        model.norm.bias.normal_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        origin(model)
    return model.eval(), torch.randn(2, 3, 10, 10)


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "hooks": [dict(m._forward_pre_hooks) | dict(m._forward_hooks) for m in model.modules()],
        "names": [sorted(vars(m)) for m in model.modules()],
        "modes": [m.training for m in model.modules()],
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    tensors = a["state"].keys() == b["state"].keys() and all(
        torch.equal(a["state"][k], b["state"][k]) for k in a["state"]
    )
    return tensors and all(a[k] == b[k] for k in ("hooks", "names", "modes"))


@pytest.mark.parametrize("origin", ORIGINS, ids=lambda f: f.__name__)
def test_any_mask(origin: Callable[[Any], None]) -> None:
    model, x = masked(origin)
    wanted = model(x)  # a structured pruner writes into its own bias when it first runs
    before = snapshot(model)
    small, report = excise.shrink(model, x, latency=False)
    assert same(before, snapshot(model))
    assert type(small) is type(Net())
    assert set(small.state_dict()) - {"head.bias"} == set(Net().state_dict())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in small.modules())
    torch.testing.assert_close(small(x), wanted, rtol=1e-5, atol=1e-6)
    if origin not in {unstructured, everywhere}:
        assert report.diagnosis.removed_params > 0
        assert report.bought.after.file_bytes < report.bought.before.file_bytes


@pytest.mark.parametrize("layer", ["attention", "out", "cell"])
def test_masks_inside_torch_layers(layer: str) -> None:
    torch.manual_seed(2)
    model = Heads()
    if layer == "attention":
        prune.ln_structured(model.attention, "in_proj_weight", 0.5, n=2, dim=0)
    elif layer == "out":
        prune.ln_structured(model.attention.out_proj, "weight", 0.5, n=2, dim=1)
    else:
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            mask = torch.ones_like(getattr(model.cell, name)).unflatten(0, (3, 6))
            mask[:, ::2] = 0
            prune.custom_from_mask(model.cell, name, mask.flatten(0, 1))
    model.eval()
    x = torch.randn(2, 5, 8)
    before, wanted = snapshot(model), model(x)
    small, report = excise.shrink(model, x, latency=False)
    assert same(before, snapshot(model))
    torch.testing.assert_close(small(x), wanted, rtol=1e-5, atol=1e-6)
    if layer == "cell":
        assert getattr(small.cell, "hidden_size", 0) == 3
        assert (0, 2, 4) in report.plan.removed.values()


def empty_heads(layer: nn.Module, name: str) -> None:
    """Take away the values of the first of two heads."""
    for kind in ("weight", "bias"):
        tensor = layer.get_parameter(f"{name}{kind}").data.unflatten(0, (3, 2, -1))
        tensor[2, 0] = 0


def test_heads_that_torchs_own_attention_cannot_lose_are_named() -> None:
    torch.manual_seed(2)
    model = Heads().eval()
    empty_heads(model.attention, "in_proj_")
    found = excise.explain(model, torch.randn(2, 5, 8))
    says = {layer.name: layer.says for layer in found.layers}["attention.in_proj_weight"]
    assert says.startswith("4 empty filters stay: nn.MultiheadAttention takes its head size from")
    assert "write the attention with projections and sizes of its own" in says


@pytest.mark.parametrize("fused", [True, False])
def test_the_same_heads_go_from_an_attention_with_sizes_of_its_own(*, fused: bool) -> None:
    """And what the text above says to do is enough: the weights fit, and so do the outputs."""
    torch.manual_seed(2)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    empty_heads(theirs, "in_proj_")
    ours = Attention(8, 2, 4, fused=fused, bias=True).eval()
    ours.qkv.load_state_dict({"weight": theirs.in_proj_weight, "bias": theirs.in_proj_bias})
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    model, x = nn.Sequential(ours), torch.randn(2, 5, 8)
    small, report = excise.shrink(model, x, latency=False)
    assert list(report.plan.removed.values()) == [(0,)]
    assert getattr(small[0], "heads", 0) == 1  # type: ignore[index]
    wanted = theirs(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(small(x), wanted, rtol=1e-4, atol=1e-6)


def test_a_mask_that_is_not_multiplied_in_is_seen() -> None:
    """Meta-test: the comparison above fails if unpacking forgets the mask."""
    model, x = masked(custom)
    broken = plain(model)
    with torch.no_grad():
        weight = broken.get_parameter("a.weight")
        weight.copy_(model.get_parameter("a.weight_orig"))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(broken(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("origin", ORIGINS[:-2], ids=lambda f: f.__name__)
def test_a_checkpoint_with_masks_fits_the_plain_model(origin: Callable[[Any], None]) -> None:
    model, x = masked(origin)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    fresh = Net().eval()
    fresh.load_state_dict(merged(state))
    torch.testing.assert_close(fresh(x), model(x))


@pytest.mark.parametrize("origin", [sparsifier, pruner], ids=lambda f: f.__name__)
def test_a_checkpoint_without_its_masks_is_told_apart(origin: Callable[[Any], None]) -> None:
    """torch.ao.pruning saves the weights as they were before it masked them."""
    model, _ = masked(origin)
    name = "head.weight" if origin is sparsifier else "a.weight"
    assert unmerged(model.state_dict()) == [name]
    for other in ORIGINS[:-2]:
        assert not unmerged(masked(other)[0].state_dict())


def test_training_mode_and_users_hooks_are_kept() -> None:
    model, x = masked(structured)
    model.train()
    model.norm.eval()  # type: ignore[union-attr]
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    small, _ = excise.shrink(model, x, latency=False)
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    count = len(calls)
    small(x)
    assert len(calls) == count + 1


def test_a_copied_mask_shares_nothing() -> None:
    model, x = masked(structured)
    small, _ = excise.shrink(model, x, latency=False)
    owned = {t.data_ptr() for t in model.state_dict().values()}
    assert not any(t.data_ptr() in owned for t in small.state_dict().values() if t.numel())
    del copy.deepcopy(small).a
